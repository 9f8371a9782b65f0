"""Copies: the source that a request names, read as a client would read it."""

from pinfold.env.api import Buffer
from pinfold.model.limits import OBJECT_NAME_BYTES
from pinfold.objects.conditions import NotModified, PreconditionFailed
from pinfold.objects.objects import Found
from pinfold.objects.reading import Chunks
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call
from pinfold.s3.describe import conditions_of
from pinfold.s3.errors import Refused
from pinfold.s3.request import unquoted_path

SOURCE_PREFIX = "x-amz-copy-source-"


class Source:
    """The bytes of an object's range (`Objects.copied`), as something to be staged. Close it."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._pieces: list[Buffer] = []

    async def read(self) -> Buffer:
        """The next piece; empty at the end."""
        while not self._pieces:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return b""
            self._pieces = [piece for piece in reversed(chunk) if len(piece)]
        return self._pieces.pop()

    async def close(self) -> None:
        """Stop reading."""
        await self._chunks.aclose()


async def copy_source(call: Call) -> tuple[bytes, Found]:
    """(name, object) that x-amz-copy-source names, conditions and permission checked."""
    headers = call.request.headers
    bucket_name, key = source_name(headers["x-amz-copy-source"])
    expected = headers.get("x-amz-source-expected-bucket-owner")
    bucket = await call.store.buckets.lookup(
        bucket_name, lambda bucket: expected is None or expected == bucket.owner
    )
    found = await call.found_in(bucket, key, Permission.READ)
    demand_source_conditions(call, found)
    return key, found


def demand_source_conditions(call: Call, found: Found) -> None:
    """Refuse a source that is not as the request demands."""
    conditions = conditions_of(call.request.headers, SOURCE_PREFIX)
    try:
        conditions.demand(found.record.etag, found.modified_ms)
    except NotModified:
        raise PreconditionFailed("the copy source is what you have") from None


def source_name(header: str) -> tuple[str, bytes]:
    """(bucket, name) in an x-amz-copy-source; Refused when it names none, or a version."""
    path, found, version = header.partition("?versionId=")
    if found and version != "null":
        raise Refused("NoSuchVersion")
    path = path.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    bucket, _, key = unquoted_path(path).removeprefix("/").partition("/")
    name = key.encode()
    if not bucket or not name:
        raise Refused("InvalidArgument", "x-amz-copy-source should be /BUCKET/KEY")
    if len(name) > OBJECT_NAME_BYTES:
        raise Refused("KeyTooLongError")
    return bucket, name
