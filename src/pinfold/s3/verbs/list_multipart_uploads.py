"""ListMultipartUploads."""

from pinfold.objects import keys
from pinfold.objects.listing import Entry, Query
from pinfold.objects.records import UploadRecord, decode
from pinfold.s3 import acl, xml
from pinfold.s3.acl import Identity
from pinfold.s3.call import Call, xml_response
from pinfold.s3.errors import Refused
from pinfold.s3.paging import encoding_of, page_size
from pinfold.s3.request import Response
from pinfold.s3.times import iso_date
from pinfold.s3.xml import encoded_name


async def list_multipart_uploads(call: Call) -> Response:
    """The bucket's open uploads, by name and then by when they began; only the owner may know."""
    query = call.request.query
    bucket = await call.owned_bucket()
    encoding = encoding_of(query)
    limit = page_size(query, "max-uploads")
    listing = await call.store.listings.page(bucket, _query(query, limit), keys.UPLOADS)
    writer = xml.Writer("ListMultipartUploadsResult")
    writer.leaf("Bucket", bucket.name)
    for element, parameter in (
        ("KeyMarker", "key-marker"),
        ("Prefix", "prefix"),
        ("Delimiter", "delimiter"),
    ):
        text = query.get(parameter, "")
        if text or element == "KeyMarker":
            writer.raw(f"<{element}>{encoded_name(text, encoding)}</{element}>")
    writer.leaf("UploadIdMarker", query.get("upload-id-marker", ""))
    if encoding:
        writer.leaf("EncodingType", encoding)
    if listing.next_position is not None:
        last = listing.entries[-1]
        name = encoded_name(last.name.decode(), encoding)
        writer.raw(f"<NextKeyMarker>{name}</NextKeyMarker>")
        if last.row is not None:
            writer.leaf("NextUploadIdMarker", keys.upload_id(last.key).hex())
    writer.leaf("MaxUploads", limit)
    writer.flag("IsTruncated", value=listing.next_position is not None)
    for entry in listing.entries:
        if entry.row is not None:
            record = decode(UploadRecord, entry.row.body)
            owner = await call.owner(record.owner)
            _write_upload(writer, owner, entry, record, encoding)
    for entry in listing.entries:
        if entry.row is None:
            name = encoded_name(entry.name.decode(), encoding)
            writer.raw(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
    return xml_response(writer.document())


def _query(query: dict[str, str], limit: int) -> Query:
    marker = query.get("key-marker", "").encode()
    upload = query.get("upload-id-marker", "")
    position = b""
    if marker and upload:
        try:
            after = bytes.fromhex(upload)
        except ValueError:
            raise Refused("InvalidArgument", "upload-id-marker is no upload id") from None
        position = keys.upload_position(marker, after) + b"\x00"
    return Query(
        prefix=query.get("prefix", "").encode(),
        delimiter=query.get("delimiter", "").encode(),
        after=marker,
        position=position,
        limit=limit,
    )


def _write_upload(
    writer: xml.Writer, owner: Identity, entry: Entry, record: UploadRecord, encoding: str
) -> None:
    assert entry.row is not None
    with writer.inside("Upload"):
        name = encoded_name(entry.name.decode(), encoding)
        writer.raw(f"<Key>{name}</Key>")
        writer.leaf("UploadId", keys.upload_id(entry.key).hex())
        acl.write_owner(writer, "Initiator", owner)
        acl.write_owner(writer, "Owner", owner)
        writer.leaf("StorageClass", "STANDARD")
        writer.leaf("Initiated", iso_date(record.begun_ms or entry.row.stamp_ms))
        if record.algorithm:
            writer.leaf("ChecksumAlgorithm", record.algorithm.upper())
            writer.leaf("ChecksumType", "COMPOSITE" if record.composite else "FULL_OBJECT")
