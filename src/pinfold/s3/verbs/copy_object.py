"""CopyObject."""

import msgspec

from pinfold.model.limits import PUT_BYTES
from pinfold.objects import digests
from pinfold.objects.bucket import Bucket
from pinfold.objects.conditions import PreconditionFailed
from pinfold.objects.objects import Found
from pinfold.objects.records import Checksum, ObjectRecord, Pairs
from pinfold.s3 import acl, xml
from pinfold.s3.acl import Permission
from pinfold.s3.body import known_algorithm
from pinfold.s3.call import Call, xml_response
from pinfold.s3.copying import Source, copy_source, demand_source_conditions
from pinfold.s3.describe import (
    checksum_element,
    checksum_text,
    checksum_type,
    conditions_of,
    demand_standard_class,
    kept_headers,
    metadata_of,
)
from pinfold.s3.errors import Refused
from pinfold.s3.request import Response
from pinfold.s3.times import iso_date


async def copy_object(call: Call) -> Response:
    """Make the key's object of another object's bytes, with its or with new metadata."""
    headers = call.request.headers
    bucket = await call.bucket(Permission.WRITE)
    name = call.new_name
    demand_standard_class(headers)
    canned = acl.canned(headers, acl.OBJECT_CANNED) or acl.PRIVATE
    replaces = _replaces_metadata(headers)
    source_name, found = await copy_source(call)
    if found.bucket.name == bucket.name and source_name == name:
        if not replaces:
            raise Refused(
                "InvalidRequest", "an object cannot be copied to itself without any change"
            )
        return await _describe_anew(call, bucket, canned)
    kept, metadata = _described(headers, found, replaces=replaces)
    if found.record.size > PUT_BYTES:
        raise Refused("InvalidRequest", "the copy source is larger than 5 GiB")
    algorithm = _algorithm(headers, found)
    source = Source(call.store.objects.copied(found, 0, found.record.size))
    try:
        staged = await call.store.staging.stage(source, found.record.size, (algorithm,))
    finally:
        await source.close()
    record = ObjectRecord(
        staged.sums[digests.MD5].hex(),
        staged.size,
        call.who.user,
        kept,
        metadata,
        acl=canned,
        checksum=Checksum(algorithm, staged.sums[algorithm]),
    )
    changed = await call.store.objects.put(bucket, name, record, staged, conditions_of(headers))
    return _answer(record, changed.stamp_ms)


async def _describe_anew(call: Call, bucket: Bucket, canned: str) -> Response:
    """Copy an object to itself: the same bytes under a new description, and the caller's.

    Only of a version that the caller may read: it is theirs afterwards.
    """
    headers = call.request.headers
    conditions = conditions_of(headers)
    kept, metadata = kept_headers(headers), metadata_of(headers)

    def edit(current: Found) -> ObjectRecord:
        call.demand_of(current, Permission.READ)
        demand_source_conditions(call, current)
        if conditions.verdict(current.record.etag, current.modified_ms) != "go":
            raise PreconditionFailed("the precondition does not hold")
        return msgspec.structs.replace(
            current.record,
            owner=call.who.user,
            headers=kept,
            metadata=metadata,
            acl=canned,
            modified_ms=0,
        )

    described = await call.store.objects.rewrite(bucket, call.name, edit)
    return _answer(described.record, described.modified_ms)


def _replaces_metadata(headers: dict[str, str]) -> bool:
    directive = headers.get("x-amz-metadata-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise Refused("InvalidArgument", "x-amz-metadata-directive should be COPY or REPLACE")
    if headers.get("x-amz-tagging-directive", "COPY").upper() != "COPY":
        raise Refused("NotImplemented", "tags are not implemented")
    return directive == "REPLACE"


def _described(headers: dict[str, str], found: Found, *, replaces: bool) -> tuple[Pairs, Pairs]:
    if replaces:
        return kept_headers(headers), metadata_of(headers)
    return found.record.headers, found.record.metadata


def _algorithm(headers: dict[str, str], found: Found) -> str:
    asked = headers.get("x-amz-checksum-algorithm")
    if asked is not None:
        return known_algorithm(asked)
    checksum = found.record.checksum
    return digests.DEFAULT_ALGORITHM if checksum is None else checksum.algorithm


def _answer(record: ObjectRecord, modified_ms: int) -> Response:
    writer = xml.Writer("CopyObjectResult")
    writer.leaf("LastModified", iso_date(modified_ms))
    writer.leaf("ETag", f'"{record.etag}"')
    if record.checksum is not None:
        writer.leaf("ChecksumType", checksum_type(record.checksum))
        writer.leaf(checksum_element(record.checksum.algorithm), checksum_text(record.checksum))
    return xml_response(writer.document())
