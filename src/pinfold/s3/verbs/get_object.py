"""GetObject and HeadObject: the same answer, with and without the bytes."""

from pinfold.model.limits import PART_NUMBER_MAX
from pinfold.objects.conditions import NotModified
from pinfold.objects.objects import Found
from pinfold.objects.records import Checksum, ObjectRecord
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call
from pinfold.s3.describe import checksum_headers, conditions_of, if_range, object_headers
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.ranges import parse_range
from pinfold.s3.request import Response
from pinfold.s3.times import http_date


async def get_object(call: Call) -> Response:
    """The object's bytes, or a range or part of them."""
    found, response, start, stop = await _answer(call)
    body = call.store.objects.inline(found, start, stop)
    if body is None:
        response.chunks = call.store.objects.chunks(found, start, stop)
    else:
        response.body = body
    return response


async def head_object(call: Call) -> Response:
    """What GetObject would answer, without the bytes."""
    _, response, _, _ = await _answer(call)
    return response


async def _answer(call: Call) -> tuple[Found, Response, int, int]:
    request = call.request
    headers, query = request.headers, request.query
    if query:
        call.demand_current_version()
    if call.who.anonymous and any(name.startswith("response-") for name in query):
        raise Refused("InvalidRequest", "response- parameters need a signed request")
    found = await call.found(Permission.READ)
    record = found.record
    _demand_conditions(headers, found)
    described = object_headers(found, query)
    status, start, stop = 200, 0, record.size
    checksum = record.checksum
    if "partNumber" in query:
        part = _part_number(query["partNumber"])
        start, stop, checksum = _part(record, part)
        status = 206 if start < stop else 200  # of no byte there is no Content-Range
        described.append(("x-amz-mp-parts-count", str(max(1, len(record.parts)))))
    elif "range" in headers and if_range(headers, record.etag, found.modified_ms):
        wanted = parse_range(headers["range"], record.size)
        if wanted is not None:
            (start, stop), status, checksum = wanted, 206, None
    if status == 206:
        described.append(("Content-Range", f"bytes {start}-{stop - 1}/{record.size}"))
    if headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
        described += checksum_headers(checksum, record.checksum)
    return found, Response(status, described, length=stop - start), start, stop


def _demand_conditions(headers: dict[str, str], found: Found) -> None:
    conditions = conditions_of(headers)
    try:
        conditions.demand(found.record.etag, found.modified_ms)
    except NotModified:
        told = (
            ("ETag", f'"{found.record.etag}"'),
            ("Last-Modified", http_date(found.modified_ms // 1000)),
        )
        raise Refused("NotModified", headers=told) from None


def _part_number(text: str) -> int:
    number = parse_number(text, most=PART_NUMBER_MAX)
    if not number:
        raise Refused("InvalidArgument", "partNumber should be 1 to 10,000")
    return number


def _part(record: ObjectRecord, number: int) -> tuple[int, int, Checksum | None]:
    """(start, stop, checksum) of one part; of an object that has none, part 1 is all of it."""
    if not record.parts:
        if number != 1:
            raise Refused("InvalidPartNumber")
        return 0, record.size, record.checksum
    start = 0
    for part in record.parts:
        if part.number == number:
            return start, start + part.size, _part_checksum(record, part.checksum)
        start += part.size
    raise Refused("InvalidPart")


def _part_checksum(record: ObjectRecord, value: bytes) -> Checksum | None:
    if record.checksum is None or not value:
        return None
    return Checksum(record.checksum.algorithm, value)
