"""The bodies of rows: what is known of buckets, objects, uploads and parts.

A body is one version byte and the msgpack array of its record. Fields are only ever appended, with
a default, so that a body written before them still decodes; another version byte is another form.
The log checksums rows; nothing is checked twice here.
"""

from typing import Final, TypeVar

import msgspec

from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Corrupt

VERSION: Final = b"\x02"

Pairs = tuple[tuple[str, str], ...]


class SplitRecord(msgspec.Struct, array_like=True, frozen=True):
    """A shard that is giving the upper part of its names to a new one; see `splitting`."""

    parent: bytes
    first: bytes
    """The parent's first name, under which the bucket's map has it."""
    child: bytes
    """Made for this split, so that it also tells it from any other."""
    until: bytes
    """It has given enough when it ends at this name or below."""
    rows: int
    """It has given enough when it has given so many objects."""


class BucketRecord(msgspec.Struct, array_like=True, frozen=True):
    """A bucket."""

    owner: str
    created_ms: int
    region: str
    acl: str
    life: bytes
    """Tells this bucket from others that had its name; its first shard's id. See `shardmap`."""
    split: SplitRecord | None = None
    """The split under way, one at a time."""
    deleting: bytes = b""
    """Which attempt to delete the bucket is under way; see `buckets`."""


class ShardRecord(msgspec.Struct, array_like=True, frozen=True):
    """A shard in a bucket's map; its key says at which name it begins."""

    id: bytes
    end: bytes
    """The first name of the next shard; empty: there is no next one."""


class BoundRecord(msgspec.Struct, array_like=True, frozen=True):
    """Where a shard ends for writes, or for reads."""

    limit: bytes = b""
    """The first name it has given up; empty: none."""
    deleting: bytes = b""
    """The attempt to delete the bucket that sealed it: meanwhile it takes no write at all."""
    closed: bytes = b""
    """The child of a split that seals nothing here any more: it is about to end, or has ended."""


class ReceivedRecord(msgspec.Struct, array_like=True, frozen=True):
    """How much a new shard has been given."""

    floor: bytes
    """The first name of the lowest range it was given, or is being given."""
    through: bytes
    """A section and a position: what is below it is there, of that range; empty: all of it is."""
    rows: int
    """Objects it was given in all."""


class BucketListRecord(msgspec.Struct, array_like=True, frozen=True):
    """An account's note of a bucket. A hint: the bucket's own row decides what exists."""

    live: bool
    """False while the bucket is being created."""
    life: bytes
    """Tells one life of the bucket's name from the next."""
    created_ms: int
    region: str


class Checksum(msgspec.Struct, array_like=True, frozen=True):
    """A checksum the client asked for, or the default one."""

    algorithm: str
    """One of `digests.ALGORITHMS`."""
    value: bytes
    parts: int = 0
    """How many part checksums it is a checksum of; 0: it is of the object's bytes."""


class Part(msgspec.Struct, array_like=True, frozen=True):
    """One part of an object that was uploaded in parts."""

    number: int
    size: int
    blobs: int
    """How many of the row's blobs, in order, are its."""
    checksum: bytes = b""
    """Of the object's checksum algorithm."""


class ObjectRecord(msgspec.Struct, array_like=True, frozen=True):
    """An object. Its bytes are the row's payload, or the row's blobs in order."""

    etag: str
    size: int
    owner: str
    headers: Pairs = ()
    """Headers that are returned as they came: content-type, cache-control and their like."""
    metadata: Pairs = ()
    """User metadata: names in lower case, without the protocol's prefix."""
    acl: str = ""
    checksum: Checksum | None = None
    parts: tuple[Part, ...] = ()
    upload: bytes = b""
    """The multipart upload it came from, so that a repeated Complete is recognised."""
    modified_ms: int = 0
    """When the bytes were written, where that is not the row's own stamp."""


class UploadRecord(msgspec.Struct, array_like=True, frozen=True):
    """An open multipart upload: what its object will be."""

    owner: str
    headers: Pairs = ()
    metadata: Pairs = ()
    acl: str = ""
    algorithm: str = ""
    """Checksum algorithm asked for; empty: the default one."""
    composite: bool = False
    """The object's checksum is one of its parts' checksums, not of its bytes."""
    begun_ms: int = 0
    """When it was opened, where that is not the row's own stamp."""


class PartRecord(msgspec.Struct, array_like=True, frozen=True):
    """A part that was uploaded."""

    md5: bytes
    size: int
    inline: bytes = b""
    checksum: Checksum | None = None
    modified_ms: int = 0
    """When it was stored, where that is not the row's own stamp."""


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_decoders: Final = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (
        BucketRecord,
        BucketListRecord,
        ShardRecord,
        BoundRecord,
        ReceivedRecord,
        ObjectRecord,
        UploadRecord,
        PartRecord,
    )
}


def encode(record: msgspec.Struct) -> bytes:
    """The body of a row."""
    return VERSION + _encoder.encode(record)


def decode(kind: type[T], body: bytes) -> T:
    """The record in a row's body; Corrupt when it is not one."""
    if body[:1] != VERSION:
        raise Corrupt(f"a {kind.__name__} of unknown version {body[:1].hex()}")
    try:
        record: T = _decoders[kind].decode(memoryview(body)[1:])  # type: ignore[index,assignment]
    except UNREADABLE as error:
        raise Corrupt(f"not a {kind.__name__}: {error}") from error
    return record
