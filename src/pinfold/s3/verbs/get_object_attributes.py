"""GetObjectAttributes."""

from typing import Final

from pinfold.objects.records import Checksum, ObjectRecord
from pinfold.s3 import xml
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call, xml_response
from pinfold.s3.describe import checksum_element, checksum_text, checksum_type
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.paging import NUMBER_MAX, page_size
from pinfold.s3.request import Response
from pinfold.s3.times import http_date

_ATTRIBUTES: Final = {"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}


async def get_object_attributes(call: Call) -> Response:
    """What is known of an object, without its bytes."""
    call.demand_current_version()
    headers = call.request.headers
    asked = headers.get("x-amz-object-attributes", "").split(",")
    wanted = {name.strip() for name in asked if name.strip()}
    if not wanted or not wanted <= _ATTRIBUTES:
        raise Refused("InvalidArgument", "x-amz-object-attributes names no or unknown attributes")
    found = await call.found(Permission.READ)
    record = found.record
    writer = xml.Writer("GetObjectAttributesResponse")
    if "ETag" in wanted:
        writer.leaf("ETag", record.etag)
    if "Checksum" in wanted and record.checksum is not None:
        with writer.inside("Checksum"):
            element = checksum_element(record.checksum.algorithm)
            writer.leaf(element, checksum_text(record.checksum))
            writer.leaf("ChecksumType", checksum_type(record.checksum))
    if "ObjectParts" in wanted and record.parts:
        _write_parts(writer, record, headers)
    if "StorageClass" in wanted:
        writer.leaf("StorageClass", "STANDARD")
    if "ObjectSize" in wanted:
        writer.leaf("ObjectSize", record.size)
    modified = ("Last-Modified", http_date(found.modified_ms // 1000))
    return xml_response(writer.document(), modified)


def _write_parts(writer: xml.Writer, record: ObjectRecord, headers: dict[str, str]) -> None:
    limit = page_size(
        {name: headers[name] for name in headers.keys() & {"x-amz-max-parts"}}, "x-amz-max-parts"
    )
    marker = parse_number(headers.get("x-amz-part-number-marker", "0"), most=NUMBER_MAX)
    if marker is None:
        raise Refused("InvalidArgument", "x-amz-part-number-marker should be a number")
    rest = [part for part in record.parts if part.number > marker]
    shown = rest[:limit]
    with writer.inside("ObjectParts"):
        writer.leaf("PartsCount", len(record.parts))
        writer.leaf("PartNumberMarker", marker)
        writer.leaf("NextPartNumberMarker", shown[-1].number if shown else marker)
        writer.leaf("MaxParts", limit)
        writer.flag("IsTruncated", value=len(shown) < len(rest))
        for part in shown:
            with writer.inside("Part"):
                writer.leaf("PartNumber", part.number)
                writer.leaf("Size", part.size)
                if record.checksum is not None and record.checksum.parts:
                    checksum = Checksum(record.checksum.algorithm, part.checksum)
                    writer.leaf(checksum_element(checksum.algorithm), checksum_text(checksum))
