"""The operations that are implemented, one file for each or for each pair that is one thing."""

from typing import Final

from pinfold.s3.call import Handler
from pinfold.s3.verbs.abort_multipart_upload import abort_multipart_upload
from pinfold.s3.verbs.bucket_acl import get_bucket_acl, put_bucket_acl
from pinfold.s3.verbs.complete_multipart_upload import complete_multipart_upload
from pinfold.s3.verbs.copy_object import copy_object
from pinfold.s3.verbs.create_bucket import create_bucket
from pinfold.s3.verbs.create_multipart_upload import create_multipart_upload
from pinfold.s3.verbs.delete_bucket import delete_bucket
from pinfold.s3.verbs.delete_object import delete_object
from pinfold.s3.verbs.delete_objects import delete_objects
from pinfold.s3.verbs.get_bucket_location import get_bucket_location
from pinfold.s3.verbs.get_bucket_versioning import get_bucket_versioning
from pinfold.s3.verbs.get_object import get_object, head_object
from pinfold.s3.verbs.get_object_attributes import get_object_attributes
from pinfold.s3.verbs.head_bucket import head_bucket
from pinfold.s3.verbs.list_buckets import list_buckets
from pinfold.s3.verbs.list_multipart_uploads import list_multipart_uploads
from pinfold.s3.verbs.list_objects import (
    list_object_versions,
    list_objects,
    list_objects_v2,
)
from pinfold.s3.verbs.list_parts import list_parts
from pinfold.s3.verbs.object_acl import get_object_acl, put_object_acl
from pinfold.s3.verbs.preflight_cors import preflight_cors
from pinfold.s3.verbs.put_object import put_object
from pinfold.s3.verbs.upload_part import upload_part, upload_part_copy

HANDLERS: Final[dict[str, Handler]] = {
    "AbortMultipartUpload": abort_multipart_upload,
    "CompleteMultipartUpload": complete_multipart_upload,
    "CopyObject": copy_object,
    "CreateBucket": create_bucket,
    "CreateMultipartUpload": create_multipart_upload,
    "DeleteBucket": delete_bucket,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "GetBucketAcl": get_bucket_acl,
    "GetBucketLocation": get_bucket_location,
    "GetBucketVersioning": get_bucket_versioning,
    "GetObject": get_object,
    "GetObjectAcl": get_object_acl,
    "GetObjectAttributes": get_object_attributes,
    "HeadBucket": head_bucket,
    "HeadObject": head_object,
    "ListBuckets": list_buckets,
    "ListMultipartUploads": list_multipart_uploads,
    "ListObjectVersions": list_object_versions,
    "ListObjects": list_objects,
    "ListObjectsV2": list_objects_v2,
    "ListParts": list_parts,
    "PreflightCors": preflight_cors,
    "PutBucketAcl": put_bucket_acl,
    "PutObject": put_object,
    "PutObjectAcl": put_object_acl,
    "UploadPart": upload_part,
    "UploadPartCopy": upload_part_copy,
}
"""Operation to verb. What the router knows and this does not is 501."""

TAKE_A_BODY: Final = frozenset(
    {
        "CompleteMultipartUpload",
        "CreateBucket",
        "DeleteObjects",
        "PutBucketAcl",
        "PutObject",
        "PutObjectAcl",
        "UploadPart",
    }
)
"""Operations that read a body, and check it against what was signed before they do anything."""
