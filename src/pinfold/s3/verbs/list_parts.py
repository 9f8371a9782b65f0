"""ListParts."""

from pinfold.s3 import acl, xml
from pinfold.s3.call import Call, xml_response
from pinfold.s3.describe import checksum_element, checksum_text
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.paging import NUMBER_MAX, encoding_of, page_size
from pinfold.s3.request import Response
from pinfold.s3.times import iso_date
from pinfold.s3.verbs.upload_part import open_upload


async def list_parts(call: Call) -> Response:
    """The parts of an open upload, by number."""
    query = call.request.query
    upload = await open_upload(call)
    encoding = encoding_of(query)
    limit = page_size(query, "max-parts")
    after = parse_number(query.get("part-number-marker") or "0", most=NUMBER_MAX)
    if after is None:
        raise Refused("InvalidArgument", "part-number-marker should be a number")
    parts, more = await call.store.multipart.parts(upload, after=min(after, 0xFFFE), limit=limit)
    writer = xml.Writer("ListPartsResult")
    writer.leaf("Bucket", upload.bucket.name)
    writer.raw(f"<Key>{xml.encoded_name(call.request.key, encoding)}</Key>")
    writer.leaf("UploadId", upload.id.hex())
    owner = await call.owner(upload.record.owner)
    acl.write_owner(writer, "Initiator", owner)
    acl.write_owner(writer, "Owner", owner)
    writer.leaf("StorageClass", "STANDARD")
    if upload.record.algorithm:
        writer.leaf("ChecksumAlgorithm", upload.record.algorithm.upper())
        writer.leaf("ChecksumType", "COMPOSITE" if upload.record.composite else "FULL_OBJECT")
    writer.leaf("PartNumberMarker", after)
    writer.leaf("NextPartNumberMarker", parts[-1].number if parts else after)
    writer.leaf("MaxParts", limit)
    writer.flag("IsTruncated", value=more)
    for part in parts:
        with writer.inside("Part"):
            writer.leaf("PartNumber", part.number)
            writer.leaf("LastModified", iso_date(part.modified_ms))
            writer.leaf("ETag", f'"{part.etag}"')
            writer.leaf("Size", part.record.size)
            if upload.record.algorithm and part.record.checksum is not None:
                element = checksum_element(part.record.checksum.algorithm)
                writer.leaf(element, checksum_text(part.record.checksum))
    return xml_response(writer.document())
