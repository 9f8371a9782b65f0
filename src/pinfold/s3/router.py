"""Which operation a request asks for: one table of everything S3 has, implemented or not. Pure.

The rule: nothing that would change a request's meaning is ever ignored. A sub-resource, method or
x-amz- header that is not implemented is refused with 501 and the name of what is missing.
"""

from typing import Final

from pinfold.s3.errors import Refused
from pinfold.s3.request import Request

SERVICE, BUCKET, OBJECT = "service", "bucket", "object"

_BUCKET_SUBRESOURCES: Final[dict[str, dict[str, str]]] = {
    "": {
        "GET": "ListObjects",
        "HEAD": "HeadBucket",
        "PUT": "CreateBucket",
        "DELETE": "DeleteBucket",
        "POST": "PostObject",
        "OPTIONS": "PreflightCors",
    },
    "abac": {"GET": "GetBucketAbac", "PUT": "PutBucketAbac"},
    "accelerate": {
        "GET": "GetBucketAccelerateConfiguration",
        "PUT": "PutBucketAccelerateConfiguration",
    },
    "acl": {"GET": "GetBucketAcl", "PUT": "PutBucketAcl"},
    "analytics": {
        "GET": "GetBucketAnalyticsConfiguration",
        "PUT": "PutBucketAnalyticsConfiguration",
        "DELETE": "DeleteBucketAnalyticsConfiguration",
    },
    "cors": {"GET": "GetBucketCors", "PUT": "PutBucketCors", "DELETE": "DeleteBucketCors"},
    "delete": {"POST": "DeleteObjects"},
    "encryption": {
        "GET": "GetBucketEncryption",
        "PUT": "PutBucketEncryption",
        "DELETE": "DeleteBucketEncryption",
    },
    "intelligent-tiering": {
        "GET": "GetBucketIntelligentTieringConfiguration",
        "PUT": "PutBucketIntelligentTieringConfiguration",
        "DELETE": "DeleteBucketIntelligentTieringConfiguration",
    },
    "inventory": {
        "GET": "GetBucketInventoryConfiguration",
        "PUT": "PutBucketInventoryConfiguration",
        "DELETE": "DeleteBucketInventoryConfiguration",
    },
    "lifecycle": {
        "GET": "GetBucketLifecycleConfiguration",
        "PUT": "PutBucketLifecycleConfiguration",
        "DELETE": "DeleteBucketLifecycle",
    },
    "location": {"GET": "GetBucketLocation"},
    "logging": {"GET": "GetBucketLogging", "PUT": "PutBucketLogging"},
    "metadataConfiguration": {
        "GET": "GetBucketMetadataConfiguration",
        "POST": "CreateBucketMetadataConfiguration",
        "DELETE": "DeleteBucketMetadataConfiguration",
    },
    "metadataInventoryTable": {"PUT": "UpdateBucketMetadataInventoryTableConfiguration"},
    "metadataJournalTable": {"PUT": "UpdateBucketMetadataJournalTableConfiguration"},
    "metadataTable": {
        "GET": "GetBucketMetadataTableConfiguration",
        "POST": "CreateBucketMetadataTableConfiguration",
        "DELETE": "DeleteBucketMetadataTableConfiguration",
    },
    "metrics": {
        "GET": "GetBucketMetricsConfiguration",
        "PUT": "PutBucketMetricsConfiguration",
        "DELETE": "DeleteBucketMetricsConfiguration",
    },
    "notification": {
        "GET": "GetBucketNotificationConfiguration",
        "PUT": "PutBucketNotificationConfiguration",
    },
    "object-lock": {"GET": "GetObjectLockConfiguration", "PUT": "PutObjectLockConfiguration"},
    "ownershipControls": {
        "GET": "GetBucketOwnershipControls",
        "PUT": "PutBucketOwnershipControls",
        "DELETE": "DeleteBucketOwnershipControls",
    },
    "policy": {"GET": "GetBucketPolicy", "PUT": "PutBucketPolicy", "DELETE": "DeleteBucketPolicy"},
    "policyStatus": {"GET": "GetBucketPolicyStatus"},
    "publicAccessBlock": {
        "GET": "GetPublicAccessBlock",
        "PUT": "PutPublicAccessBlock",
        "DELETE": "DeletePublicAccessBlock",
    },
    "replication": {
        "GET": "GetBucketReplication",
        "PUT": "PutBucketReplication",
        "DELETE": "DeleteBucketReplication",
    },
    "requestPayment": {"GET": "GetBucketRequestPayment", "PUT": "PutBucketRequestPayment"},
    "session": {"GET": "CreateSession"},
    "tagging": {
        "GET": "GetBucketTagging",
        "PUT": "PutBucketTagging",
        "DELETE": "DeleteBucketTagging",
    },
    "uploads": {"GET": "ListMultipartUploads"},
    "versioning": {"GET": "GetBucketVersioning", "PUT": "PutBucketVersioning"},
    "versions": {"GET": "ListObjectVersions"},
    "website": {
        "GET": "GetBucketWebsite",
        "PUT": "PutBucketWebsite",
        "DELETE": "DeleteBucketWebsite",
    },
}

_OBJECT_SUBRESOURCES: Final[dict[str, dict[str, str]]] = {
    "": {
        "GET": "GetObject",
        "HEAD": "HeadObject",
        "PUT": "PutObject",
        "DELETE": "DeleteObject",
        "POST": "PostObject",
        "OPTIONS": "PreflightCors",
    },
    "acl": {"GET": "GetObjectAcl", "PUT": "PutObjectAcl"},
    "annotation": {
        "GET": "GetObjectAnnotation",
        "PUT": "PutObjectAnnotation",
        "DELETE": "DeleteObjectAnnotation",
    },
    "append": {"POST": "AppendObject", "PUT": "AppendObject"},
    "attributes": {"GET": "GetObjectAttributes"},
    "encryption": {"PUT": "UpdateObjectEncryption"},
    "legal-hold": {"GET": "GetObjectLegalHold", "PUT": "PutObjectLegalHold"},
    "renameObject": {"PUT": "RenameObject"},
    "restore": {"POST": "RestoreObject"},
    "retention": {"GET": "GetObjectRetention", "PUT": "PutObjectRetention"},
    "select": {"POST": "SelectObjectContent"},
    "tagging": {
        "GET": "GetObjectTagging",
        "PUT": "PutObjectTagging",
        "DELETE": "DeleteObjectTagging",
    },
    "torrent": {"GET": "GetObjectTorrent"},
    "uploadId": {
        "GET": "ListParts",
        "PUT": "UploadPart",
        "POST": "CompleteMultipartUpload",
        "DELETE": "AbortMultipartUpload",
    },
    "uploads": {"POST": "CreateMultipartUpload"},
}

_SERVICE_SUBRESOURCES: Final[dict[str, dict[str, str]]] = {
    "": {"GET": "ListBuckets", "POST": "WriteGetObjectResponse", "OPTIONS": "PreflightCors"},
    "Action": {"GET": "IamAction", "POST": "IamAction"},
}

OPERATIONS: Final = {
    SERVICE: _SERVICE_SUBRESOURCES,
    BUCKET: _BUCKET_SUBRESOURCES,
    OBJECT: _OBJECT_SUBRESOURCES,
}
"""Scope to sub-resource to method to the operation's name."""

_SIGNING: Final = frozenset(
    {
        "X-Amz-Algorithm",
        "X-Amz-Content-Sha256",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "x-id",
    }
)

_PARAMETERS: Final[dict[str, frozenset[str]]] = {
    "ListBuckets": frozenset({"prefix", "continuation-token", "max-buckets", "bucket-region"}),
    "ListObjects": frozenset({"prefix", "delimiter", "marker", "max-keys", "encoding-type"}),
    "ListObjectsV2": frozenset(
        {
            "prefix",
            "delimiter",
            "max-keys",
            "encoding-type",
            "list-type",
            "continuation-token",
            "start-after",
            "fetch-owner",
        }
    ),
    "ListObjectVersions": frozenset(
        {"prefix", "delimiter", "max-keys", "encoding-type", "key-marker", "version-id-marker"}
    ),
    "ListMultipartUploads": frozenset(
        {"prefix", "delimiter", "max-uploads", "encoding-type", "key-marker", "upload-id-marker"}
    ),
    "ListParts": frozenset({"max-parts", "part-number-marker", "encoding-type"}),
    "GetObject": frozenset(
        {
            "versionId",
            "partNumber",
            "response-cache-control",
            "response-content-disposition",
            "response-content-encoding",
            "response-content-language",
            "response-content-type",
            "response-expires",
        }
    ),
    "DeleteObject": frozenset({"versionId"}),
    "GetObjectAttributes": frozenset({"versionId"}),
    "GetObjectAcl": frozenset({"versionId"}),
    "PutObjectAcl": frozenset({"versionId"}),
    "UploadPart": frozenset({"partNumber"}),
    "UploadPartCopy": frozenset({"partNumber"}),
}
_PARAMETERS["HeadObject"] = _PARAMETERS["GetObject"]

_CONDITIONS: Final = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}
)
_CONDITIONS_OF: Final[dict[str, frozenset[str]]] = {
    "GetObject": _CONDITIONS,
    "HeadObject": _CONDITIONS,
    "PutObject": frozenset({"if-match", "if-none-match"}),
    "CopyObject": frozenset({"if-match", "if-none-match"}),
    "CompleteMultipartUpload": frozenset({"if-match", "if-none-match"}),
    "DeleteObject": frozenset({"if-match"}),
}

_HEADERS: Final = frozenset(
    {
        "x-amz-api-version",
        "x-amz-cf-id",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-decoded-content-length",
        "x-amz-expected-bucket-owner",
        "x-amz-request-payer",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-te",
        "x-amz-trailer",
        "x-amz-user-agent",
    }
)
"""x-amz- headers that every operation takes."""

_STORING: Final = frozenset(
    {"x-amz-acl", "x-amz-storage-class", "x-amz-checksum-algorithm", "x-amz-tagging-directive"}
)
_COPYING: Final = frozenset(
    {
        "x-amz-copy-source",
        "x-amz-copy-source-if-match",
        "x-amz-copy-source-if-modified-since",
        "x-amz-copy-source-if-none-match",
        "x-amz-copy-source-if-unmodified-since",
        "x-amz-source-expected-bucket-owner",
    }
)
_BYPASS: Final = frozenset({"x-amz-bypass-governance-retention"})
"""Harmless where nothing can be locked: it only lifts what is not there."""

_HEADERS_OF: Final[dict[str, frozenset[str]]] = {
    "CreateBucket": frozenset({"x-amz-acl", "x-amz-bucket-object-lock-enabled"}),
    "PutBucketAcl": frozenset({"x-amz-acl"}),
    "PutObjectAcl": frozenset({"x-amz-acl"}),
    "PutObject": _STORING,
    "CreateMultipartUpload": _STORING | {"x-amz-checksum-type"},
    "CopyObject": _STORING | _COPYING | {"x-amz-metadata-directive"},
    "UploadPart": frozenset({"x-amz-checksum-algorithm"}),
    "UploadPartCopy": _COPYING | {"x-amz-copy-source-range"},
    "CompleteMultipartUpload": frozenset({"x-amz-checksum-type", "x-amz-mp-object-size"}),
    "GetObject": frozenset({"x-amz-checksum-mode"}),
    "HeadObject": frozenset({"x-amz-checksum-mode"}),
    "DeleteObject": _BYPASS | {"x-amz-if-match-last-modified-time", "x-amz-if-match-size"},
    "DeleteObjects": _BYPASS,
    "GetObjectAttributes": frozenset(
        {"x-amz-object-attributes", "x-amz-max-parts", "x-amz-part-number-marker"}
    ),
    "ListObjects": frozenset({"x-amz-optional-object-attributes"}),
    "ListObjectsV2": frozenset({"x-amz-optional-object-attributes"}),
    "ListObjectVersions": frozenset({"x-amz-optional-object-attributes"}),
}
_TAKES_CHECKSUM: Final = frozenset(
    {
        "PutObject",
        "UploadPart",
        "CompleteMultipartUpload",
        "DeleteObjects",
        "PutBucketAcl",
        "PutObjectAcl",
        "CreateBucket",
    }
)
_TAKES_METADATA: Final = frozenset({"PutObject", "CopyObject", "CreateMultipartUpload"})


def operation_of(request: Request) -> str:
    """The name of the operation a request asks for.

    Refused: MethodNotAllowed where S3 has no such method, NotImplemented for combinations S3 does
    not have. Whether the operation is implemented is the caller's to find out.
    """
    scope = OBJECT if request.key else BUCKET if request.bucket else SERVICE
    table = OPERATIONS[scope]
    found = [name for name in request.query if name and name in table]
    if len(found) > 1:
        raise Refused("NotImplemented", f"{' with '.join(found)} in one request")
    methods = table[found[0] if found else ""]
    operation = methods.get(request.method)
    if operation is None:
        raise Refused("MethodNotAllowed")
    return _refined(operation, request)


def _refined(operation: str, request: Request) -> str:
    if operation == "ListObjects" and request.query.get("list-type") == "2":
        return "ListObjectsV2"
    if "x-amz-copy-source" in request.headers:
        return {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}.get(operation, operation)
    return operation


def demand_understood(operation: str, request: Request) -> None:
    """Refuse a request with a parameter or header that would change what the operation means."""
    if request.query:
        _demand_parameters(operation, request)
    headers = request.headers
    for name in headers:
        if name.startswith("x-amz-"):
            if name not in _HEADERS:
                _demand_header(operation, name, headers[name])
        elif (
            name in _CONDITIONS
            and name not in _CONDITIONS_OF.get(operation, ())
            # Browsers and proxies revalidate what they GET, of any kind; that may be ignored.
            and request.method not in ("GET", "HEAD")
        ):
            raise Refused("NotImplemented", f"{name} is not implemented for {operation}")


def _demand_parameters(operation: str, request: Request) -> None:
    scope = OBJECT if request.key else BUCKET if request.bucket else SERVICE
    known = _PARAMETERS.get(operation, frozenset())
    everywhere = OPERATIONS[scope]
    for name, value in request.query.items():
        if name in known or name in everywhere or name in _SIGNING:
            continue
        if name == "X-Amz-Security-Token":
            raise Refused("InvalidToken", "there are no temporary credentials here")
        # A parameter without a value is how sub-resources look: one we have not heard of.
        if not value or any(name in parameters for parameters in _PARAMETERS.values()):
            raise Refused("NotImplemented", f"the parameter {name} is not implemented here")


def _demand_header(operation: str, name: str, value: str) -> None:
    if name.startswith("x-amz-meta-") and operation in _TAKES_METADATA:
        return
    if name in _HEADERS_OF.get(operation, ()):
        return
    if name.startswith("x-amz-checksum-") and operation in _TAKES_CHECKSUM:
        return
    if name.startswith("x-amz-meta-"):
        return  # says nothing where no object is made
    raise Refused("NotImplemented", f"the header {name} is not implemented for {operation}")
