"""UploadPart and UploadPartCopy."""

from typing import Final

from pinfold.model.limits import PART_NUMBER_MAX, PUT_BYTES
from pinfold.objects.bucket import Bucket
from pinfold.objects.multipart import NoSuchUpload, Upload
from pinfold.s3 import xml
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call, xml_response
from pinfold.s3.copying import Source, copy_source
from pinfold.s3.describe import checksum_element, checksum_headers, checksum_text
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.ranges import parse_copy_range
from pinfold.s3.request import Response
from pinfold.s3.times import iso_date
from pinfold.s3.verbs.put_object import stage

_UPLOAD_ID_HEX: Final = 32


async def upload_part(call: Call) -> Response:
    """Store the body as a part of an open upload, in place of a former one of its number."""
    number = part_number(call)
    upload = await open_upload(call)
    payload = call.payload()
    declared = payload.declared.algorithm
    if upload.record.algorithm and declared and declared != upload.record.algorithm:
        raise Refused(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.record.algorithm}, "
            f"actual checksum Type: {declared}",
        )
    staged, checksum = await stage(call, payload, upload.algorithm)
    part = await call.store.multipart.put_part(upload, number, staged)
    headers = [("ETag", f'"{part.etag}"'), *checksum_headers(checksum)[:1]]
    return Response(200, headers)


async def upload_part_copy(call: Call) -> Response:
    """Store a range of another object as a part of an open upload."""
    number = part_number(call)
    upload = await open_upload(call)
    _, found = await copy_source(call)
    start, stop = 0, found.record.size
    wanted = call.request.headers.get("x-amz-copy-source-range")
    if wanted is not None:
        start, stop = parse_copy_range(wanted, found.record.size)
    if stop - start > PUT_BYTES:
        raise Refused("InvalidRequest", "the range is larger than 5 GiB")
    source = Source(call.store.objects.copied(found, start, stop))
    try:
        staged = await call.store.staging.stage(source, stop - start, (upload.algorithm,))
    finally:
        await source.close()
    part = await call.store.multipart.put_part(upload, number, staged)
    writer = xml.Writer("CopyPartResult")
    writer.leaf("LastModified", iso_date(part.modified_ms))
    writer.leaf("ETag", f'"{part.etag}"')
    if part.record.checksum is not None:
        element = checksum_element(part.record.checksum.algorithm)
        writer.leaf(element, checksum_text(part.record.checksum))
    return xml_response(writer.document())


async def open_upload(call: Call) -> Upload:
    """The upload that the request names, if it is the caller's to go on with."""
    bucket = await call.bucket(Permission.WRITE, fresh=True)
    upload = await call.store.multipart.find(bucket, call.name, upload_id(call))
    demand_upload(call, upload.bucket, upload.record.owner)
    return upload


def demand_upload(call: Call, bucket: Bucket, initiator: str) -> None:
    """Refused(AccessDenied) but for the upload's initiator and the bucket's owner."""
    call.demand(call.owns(initiator) or call.owns(bucket.owner))


def upload_id(call: Call) -> bytes:
    """The request's upload id; NoSuchUpload when it cannot be one of ours."""
    text = call.request.query["uploadId"]
    try:
        upload = bytes.fromhex(text)
    except ValueError:
        upload = b""
    if len(text) != _UPLOAD_ID_HEX or not upload:
        raise NoSuchUpload("no such upload")
    return upload


def part_number(call: Call) -> int:
    """The request's part number."""
    number = parse_number(call.request.query.get("partNumber", ""), most=PART_NUMBER_MAX)
    if not number:
        raise Refused(
            "InvalidArgument", f"Part number must be an integer between 1 and {PART_NUMBER_MAX}"
        )
    return number
