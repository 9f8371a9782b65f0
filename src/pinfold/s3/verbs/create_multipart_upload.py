"""CreateMultipartUpload."""

from pinfold.objects import digests
from pinfold.objects.records import UploadRecord
from pinfold.s3 import acl, xml
from pinfold.s3.acl import Permission
from pinfold.s3.body import known_algorithm
from pinfold.s3.call import Call, xml_response
from pinfold.s3.describe import demand_standard_class, kept_headers, metadata_of
from pinfold.s3.errors import Refused
from pinfold.s3.request import Response


async def create_multipart_upload(call: Call) -> Response:
    """Begin an upload in parts."""
    headers = call.request.headers
    bucket = await call.bucket(Permission.WRITE, fresh=True)
    if call.who.anonymous:
        raise Refused("AccessDenied", "Anonymous users cannot initiate multipart uploads.")
    demand_standard_class(headers)
    algorithm, composite = _checksum(headers)
    record = UploadRecord(
        call.who.user,
        kept_headers(headers),
        metadata_of(headers),
        acl.canned(headers, acl.OBJECT_CANNED) or acl.PRIVATE,
        algorithm,
        composite,
    )
    upload = await call.store.multipart.open(bucket, call.new_name, record)
    writer = xml.Writer("InitiateMultipartUploadResult")
    writer.leaf("Bucket", bucket.name)
    writer.leaf("Key", call.request.key)
    writer.leaf("UploadId", upload.hex())
    told = []
    if algorithm:
        told.append(("x-amz-checksum-algorithm", algorithm.upper()))
        told.append(("x-amz-checksum-type", "COMPOSITE" if composite else "FULL_OBJECT"))
    return xml_response(writer.document(), *told)


def _checksum(headers: dict[str, str]) -> tuple[str, bool]:
    """(algorithm or empty, whether the object's checksum is one of checksums)."""
    asked, kind = headers.get("x-amz-checksum-algorithm"), headers.get("x-amz-checksum-type")
    if asked is None:
        if kind is not None:
            raise Refused("InvalidRequest", "a checksum type needs a checksum algorithm")
        return "", False
    algorithm = known_algorithm(asked)
    if kind not in (None, "COMPOSITE", "FULL_OBJECT"):
        raise Refused("InvalidRequest", "the checksum type is COMPOSITE or FULL_OBJECT")
    if kind is None:
        return algorithm, algorithm != digests.CRC64NVME
    if kind == "FULL_OBJECT" and not digests.combines(algorithm):
        raise Refused("InvalidRequest", f"{asked} has no FULL_OBJECT type for multipart uploads")
    if kind == "COMPOSITE" and algorithm == digests.CRC64NVME:
        raise Refused("InvalidRequest", "CRC64NVME has no COMPOSITE type")
    return algorithm, kind == "COMPOSITE"
