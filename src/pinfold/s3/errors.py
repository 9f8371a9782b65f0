"""What S3 calls its errors: the one table of codes, and what our own errors are in it."""

from typing import Final

from pinfold.model.errors import (
    Busy,
    Conflict,
    Corrupt,
    Fenced,
    Full,
    Invalid,
    NotFound,
    PinfoldError,
    Unavailable,
    Unsupported,
)
from pinfold.objects.bucket import BucketExists, BucketNotEmpty, NoSuchBucket, NotAllowed
from pinfold.objects.conditions import NoSuchKey, NotModified, PreconditionFailed
from pinfold.objects.multipart import (
    NoSuchUpload,
    PartMissing,
    PartOrder,
    PartTooSmall,
    TooManyBlobs,
)

CODES: Final[dict[str, tuple[int, str]]] = {
    "AccessDenied": (403, "Access Denied"),
    "AccessForbidden": (403, "Forbidden"),
    "AuthorizationHeaderMalformed": (400, "The authorization header is malformed."),
    "AuthorizationQueryParametersError": (400, "The query string authorization is malformed."),
    "BadDigest": (400, "The checksum you specified did not match what we received."),
    "BadRequest": (400, "Bad Request"),
    "BucketAlreadyExists": (409, "The requested bucket name is not available."),
    "BucketAlreadyOwnedByYou": (409, "You already own a bucket of this name."),
    "BucketNotEmpty": (409, "The bucket you tried to delete is not empty."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed size."),
    "EntityTooSmall": (400, "A part other than the last is smaller than the minimum size."),
    "IllegalLocationConstraintException": (400, "The location constraint is not served here."),
    "IncompleteBody": (400, "Fewer bytes came than Content-Length announced."),
    "InsufficientStorage": (507, "The storage is full; reads still work."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The access key you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid argument."),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidChunkSizeError": (400, "Only the last chunk may have a size below 8192 bytes."),
    "InvalidDigest": (400, "The Content-MD5 you specified is not valid."),
    "InvalidLocationConstraint": (400, "The specified location constraint is not valid."),
    "InvalidPart": (400, "A part was not found, or its ETag or checksum differs."),
    "InvalidPartNumber": (416, "The requested part number is not satisfiable."),
    "InvalidPartOrder": (400, "The list of parts was not in ascending order."),
    "InvalidRange": (416, "The requested range is not satisfiable."),
    "InvalidRequest": (400, "Invalid request."),
    "InvalidStorageClass": (400, "The storage class you specified is not valid."),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "InvalidURI": (400, "The specified URI could not be parsed."),
    "KeyTooLongError": (400, "Your key is too long."),
    "MalformedACLError": (400, "The ACL you provided was not well-formed."),
    "MalformedXML": (400, "The XML you provided was not well-formed or not of our schema."),
    "MaxMessageLengthExceeded": (400, "Your request was too large."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed size."),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingSecurityHeader": (400, "Your request is missing a required header."),
    "NoSuchBucket": (404, "The specified bucket does not exist."),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchUpload": (404, "The specified multipart upload does not exist."),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NotImplemented": (501, "What you asked for is not implemented."),
    "NotModified": (304, "Not Modified"),
    "OperationAborted": (409, "A conflicting operation is in progress. Please try again."),
    "PreconditionFailed": (412, "A precondition you specified did not hold."),
    "RequestTimeTooSkewed": (403, "Your clock differs too much from the server's."),
    "RequestTimeout": (400, "Your connection sent nothing within the timeout period."),
    "ServiceUnavailable": (503, "Please try again."),
    "SignatureDoesNotMatch": (403, "The signature we calculated does not match yours."),
    "SlowDown": (503, "Please reduce your request rate."),
    "XAmzContentSHA256Mismatch": (400, "The x-amz-content-sha256 does not match the body."),
}
"""Code to (status, message). Nothing else is ever sent."""

RETRY_AFTER_S: Final = 1
"""What 503 tells clients to wait: the limits that answer it drain within that."""


class Refused(Invalid):
    """A request that S3 refuses under one of `CODES`."""

    def __init__(
        self,
        s3_code: str,
        message: str = "",
        *,
        extra: tuple[tuple[str, str], ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.status, standard = CODES[s3_code]
        super().__init__(message or standard)
        self.s3_code = s3_code
        self.extra = extra
        """Further elements of the error document."""
        self.headers = headers


_OURS: Final[tuple[tuple[type[PinfoldError], str], ...]] = (
    (NoSuchBucket, "NoSuchBucket"),
    (NoSuchKey, "NoSuchKey"),
    (NoSuchUpload, "NoSuchUpload"),
    (NotAllowed, "AccessDenied"),
    (BucketNotEmpty, "BucketNotEmpty"),
    (BucketExists, "BucketAlreadyExists"),
    (PreconditionFailed, "PreconditionFailed"),
    (NotModified, "NotModified"),
    (PartMissing, "InvalidPart"),
    (PartOrder, "InvalidPartOrder"),
    (PartTooSmall, "EntityTooSmall"),
    (TooManyBlobs, "EntityTooLarge"),
    (Busy, "SlowDown"),
    (Unavailable, "ServiceUnavailable"),
    (Fenced, "ServiceUnavailable"),
    (Full, "InsufficientStorage"),
    (Corrupt, "InternalError"),
    (Unsupported, "NotImplemented"),
    (Conflict, "OperationAborted"),
    (Invalid, "InvalidRequest"),
    (NotFound, "InternalError"),
    (PinfoldError, "InternalError"),
)
"""Our errors' codes; the first class that fits counts. A bare NotFound is not the client's: what
it can name has a class of its own, so this is a blob or row that should have been there."""

_TOLD: Final = (PartMissing, PartOrder, PartTooSmall, TooManyBlobs, Unsupported, Invalid)
"""Errors whose own message is meant for the client."""


def refusal_of(error: PinfoldError) -> Refused:
    """What the client is told of an error."""
    if isinstance(error, Refused):
        return error
    code = next(code for kind, code in _OURS if isinstance(error, kind))
    status = CODES[code][0]
    headers = (("Retry-After", str(RETRY_AFTER_S)),) if status == 503 else ()
    return Refused(code, error.message if isinstance(error, _TOLD) else "", headers=headers)
