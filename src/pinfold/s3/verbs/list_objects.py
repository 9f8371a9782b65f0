"""ListObjects, ListObjectsV2 and ListObjectVersions: a bucket's names, page by page."""

from pinfold.objects.listing import Entry, Query
from pinfold.objects.records import ObjectRecord, decode
from pinfold.s3 import xml
from pinfold.s3.acl import Identity, Permission
from pinfold.s3.call import Call, xml_response
from pinfold.s3.paging import decode_token, encode_token, encoding_of, page_size
from pinfold.s3.request import Response
from pinfold.s3.times import iso_date
from pinfold.s3.xml import encoded_name, escape


async def list_objects(call: Call) -> Response:
    """The first version, whose pages continue after a marker."""
    query = call.request.query
    bucket = await call.bucket(Permission.READ)
    encoding = encoding_of(query)
    limit = page_size(query, "max-keys")
    marker = query.get("marker", "")
    wanted = _query(query, after=marker, limit=limit)
    listing = await call.store.listings.page(bucket, wanted)
    writer = xml.Writer("ListBucketResult")
    writer.leaf("Name", bucket.name)
    _write_name(writer, "Prefix", query.get("prefix", ""), encoding)
    _write_name(writer, "Marker", marker, encoding)
    writer.leaf("MaxKeys", limit)
    _write_delimiter(writer, query, encoding)
    writer.flag("IsTruncated", value=listing.next_position is not None)
    if listing.next_position is not None and wanted.delimiter:
        _write_name(writer, "NextMarker", listing.entries[-1].name.decode(), encoding)
    await _write_entries(call, writer, listing.entries, encoding, with_owner=True)
    return xml_response(writer.document())


async def list_objects_v2(call: Call) -> Response:
    """The second version, whose pages continue at a token."""
    query = call.request.query
    bucket = await call.bucket(Permission.READ)
    encoding = encoding_of(query)
    limit = page_size(query, "max-keys")
    token = query.get("continuation-token")
    start_after = query.get("start-after", "")
    wanted = _query(
        query, after=start_after, limit=limit, position=decode_token(token) if token else b""
    )
    listing = await call.store.listings.page(bucket, wanted)
    writer = xml.Writer("ListBucketResult")
    writer.leaf("Name", bucket.name)
    _write_name(writer, "Prefix", query.get("prefix", ""), encoding)
    writer.leaf("MaxKeys", limit)
    _write_delimiter(writer, query, encoding)
    writer.leaf("KeyCount", len(listing.entries))
    writer.flag("IsTruncated", value=listing.next_position is not None)
    if token is not None:
        writer.leaf("ContinuationToken", token)
    if listing.next_position is not None:
        writer.leaf("NextContinuationToken", encode_token(listing.next_position))
    if start_after:
        _write_name(writer, "StartAfter", start_after, encoding)
    with_owner = query.get("fetch-owner", "").lower() == "true"
    await _write_entries(call, writer, listing.entries, encoding, with_owner=with_owner)
    return xml_response(writer.document())


async def list_object_versions(call: Call) -> Response:
    """Every object is its key's one version, `null`, as in buckets that never had versioning."""
    query = call.request.query
    bucket = await call.bucket(Permission.READ)
    encoding = encoding_of(query)
    limit = page_size(query, "max-keys")
    marker = query.get("key-marker", "")
    wanted = _query(query, after=marker, limit=limit)
    listing = await call.store.listings.page(bucket, wanted)
    writer = xml.Writer("ListVersionsResult")
    writer.leaf("Name", bucket.name)
    _write_name(writer, "Prefix", query.get("prefix", ""), encoding)
    _write_name(writer, "KeyMarker", marker, encoding)
    writer.leaf("VersionIdMarker", query.get("version-id-marker", ""))
    writer.leaf("MaxKeys", limit)
    _write_delimiter(writer, query, encoding)
    writer.flag("IsTruncated", value=listing.next_position is not None)
    if listing.next_position is not None:
        last = listing.entries[-1]
        _write_name(writer, "NextKeyMarker", last.name.decode(), encoding)
        if last.row is not None:
            writer.leaf("NextVersionIdMarker", "null")
    await _write_entries(call, writer, listing.entries, encoding, with_owner=True, as_versions=True)
    return xml_response(writer.document())


def _query(query: dict[str, str], *, after: str, limit: int, position: bytes = b"") -> Query:
    return Query(
        prefix=query.get("prefix", "").encode(),
        delimiter=query.get("delimiter", "").encode(),
        after=after.encode(),
        position=position,
        limit=limit,
    )


def _write_name(writer: xml.Writer, element: str, name: str, encoding: str) -> None:
    writer.raw(f"<{element}>{encoded_name(name, encoding)}</{element}>")


def _write_delimiter(writer: xml.Writer, query: dict[str, str], encoding: str) -> None:
    if query.get("delimiter"):
        _write_name(writer, "Delimiter", query["delimiter"], encoding)
    if encoding:
        writer.leaf("EncodingType", encoding)


async def _write_entries(
    call: Call,
    writer: xml.Writer,
    entries: list[Entry],
    encoding: str,
    *,
    with_owner: bool,
    as_versions: bool = False,
) -> None:
    """The objects, then the common prefixes."""
    element = "Version" if as_versions else "Contents"
    version = "<VersionId>null</VersionId><IsLatest>true</IsLatest>" if as_versions else ""
    prefixes: list[str] = []
    owners: dict[str, str] = {}
    for entry in entries:
        name = encoded_name(entry.name.decode(), encoding)
        if entry.row is None:
            prefixes.append(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
            continue
        record = decode(ObjectRecord, entry.row.body)
        modified = iso_date(record.modified_ms or entry.row.stamp_ms)
        algorithm = ""
        if record.checksum is not None:
            kind = "COMPOSITE" if record.checksum.parts else "FULL_OBJECT"
            algorithm = (
                f"<ChecksumAlgorithm>{record.checksum.algorithm.upper()}</ChecksumAlgorithm>"
                f"<ChecksumType>{kind}</ChecksumType>"
            )
        owner = ""
        if with_owner:
            if record.owner not in owners:
                owners[record.owner] = _owner_element(await call.owner(record.owner))
            owner = owners[record.owner]
        writer.raw(
            f"<{element}><Key>{name}</Key>{version}<LastModified>{modified}</LastModified>"
            f"<ETag>&quot;{record.etag}&quot;</ETag><Size>{record.size}</Size>{owner}{algorithm}"
            f"<StorageClass>STANDARD</StorageClass></{element}>"
        )
    for prefix in prefixes:
        writer.raw(prefix)


def _owner_element(owner: Identity) -> str:
    user, name = escape(owner.user), escape(owner.display_name)
    return f"<Owner><ID>{user}</ID><DisplayName>{name}</DisplayName></Owner>"
