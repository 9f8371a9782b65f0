"""A pack's bytes: one page of header, then self-describing records on page boundaries.

A record is a head (magic, version, blob id, length, the blob's checks, xxh3 of all that), the
payload right behind it, and zeroes to the next page. The payload is verified by the checks.
Checksums of headers and heads are seeded by the device's salt and the pack's number: payloads hold
what clients sent, and none of it must pass for a record. Layouts are big-endian; key ids are 0
until payloads can be encrypted.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import xxhash

from pinfold.codec.checks import payload_checks
from pinfold.codec.decoding import decodes, require, require_version
from pinfold.codec.records import PAGE_BYTES, Buffer, page_end
from pinfold.codec.seeds import seed_of
from pinfold.model.errors import Corrupt
from pinfold.model.limits import BLOB_CHECK_BYTES

_VERSION: Final = 2
_PACK_MAGIC: Final = b"PFpk"
RECORD_MAGIC: Final = b"PFbl"
"""What every record of a pack starts with."""

_PACK: Final = struct.Struct(">4sHHI")
_HEAD: Final = struct.Struct(">4sHH16sQI")
_LOCATION: Final = struct.Struct(">IQQQ")
_CHECK: Final = struct.Struct(">Q")


class Location(NamedTuple):
    """Where a blob's payload lies, and what it must hash to."""

    pack: int
    offset: int
    """Of the payload; its record starts `head_bytes` before it."""
    length: int
    sequence: int
    """Journal sequence of the record that brought the blob: an older delete is not its delete."""
    checks: tuple[int, ...]

    @property
    def start(self) -> int:
        """Where the record begins."""
        return self.offset - head_bytes(len(self.checks))

    @property
    def record_bytes(self) -> int:
        """Whole pages the record takes."""
        return record_bytes(self.length, len(self.checks))


NOWHERE: Final = Location((1 << 32) - 1, PAGE_BYTES + _HEAD.size + _CHECK.size, 0, 0, ())
"""The location of a quarantined blob whose own was lost."""


def checks_of(payload: Buffer) -> tuple[int, ...]:
    """xxh3_64 of each started 64 KiB of a payload: none for an empty one."""
    return tuple(payload_checks([payload])) if len(payload) else ()


def head_bytes(checks: int) -> int:
    """Length of a record's head."""
    return _HEAD.size + _CHECK.size * (checks + 1)


def record_bytes(length: int, checks: int) -> int:
    """Length of a whole record: a multiple of the page."""
    return page_end(head_bytes(checks) + length)


def pack_seed(salt: bytes, number: int) -> int:
    """Where the checksums of heads in the pack of this number start."""
    return seed_of(salt, RECORD_MAGIC, number)


def encode_pack_header(number: int, salt: bytes) -> bytes:
    """A pack's first page."""
    packed = _PACK.pack(_PACK_MAGIC, _VERSION, 0, number)
    return (packed + _CHECK.pack(_header_check(packed, salt))).ljust(PAGE_BYTES, b"\0")


@decodes("a pack's header")
def decode_pack_header(page: Buffer, salt: bytes) -> int:
    """The number in a pack's first page; Corrupt when this device did not write it."""
    magic, version, key, number = _PACK.unpack_from(page)
    require(magic == _PACK_MAGIC, "a pack does not start with its header")
    (check,) = _CHECK.unpack_from(page, _PACK.size)
    require(
        check == _header_check(memoryview(page)[: _PACK.size], salt),
        "a pack's header fails its checksum, or another device wrote it",
    )
    require_version("a pack's header", version, _VERSION, oldest=_VERSION)
    require(key == 0, "a pack needs a key, which this version does not know")
    return int(number)


def _header_check(packed: Buffer, salt: bytes) -> int:
    return xxhash.xxh3_64_intdigest(packed, seed_of(salt, _PACK_MAGIC, 0))


def encode_head(blob: bytes, length: int, checks: Sequence[int], seed: int) -> bytes:
    """What stands before a payload."""
    packed = _HEAD.pack(RECORD_MAGIC, _VERSION, 0, blob, length, len(checks)) + _sums(checks)
    return packed + _CHECK.pack(xxhash.xxh3_64_intdigest(packed, seed))


@decodes("a pack record's head")
def decode_head(record: Buffer, seed: int) -> tuple[bytes, int, tuple[int, ...]]:
    """(blob, length, checks) of a record; Corrupt when its head does not verify."""
    if len(record) < _HEAD.size:
        raise Corrupt("a pack record is shorter than its head")
    magic, version, key, blob, length, count = _HEAD.unpack_from(record)
    end = _HEAD.size + _CHECK.size * count
    require(magic == RECORD_MAGIC, "there is no pack record")
    require(len(record) >= end + _CHECK.size, "a pack record is shorter than its head")
    (check,) = _CHECK.unpack_from(record, end)
    if check != xxhash.xxh3_64_intdigest(memoryview(record)[:end], seed):
        raise Corrupt("a pack record's head fails its checksum")
    require_version("a pack record", version, _VERSION, oldest=_VERSION)
    require(key == 0, "a pack record needs a key, which this version does not know")
    return blob, length, struct.unpack_from(f">{count}Q", record, _HEAD.size)


def encode_location(location: Location) -> bytes:
    """A blob's index entry."""
    return _LOCATION.pack(*location[:4]) + _sums(location.checks)


@decodes("the index's record of a blob")
def decode_location(entry: Buffer) -> Location:
    """The inverse of `encode_location`."""
    pack, offset, length, sequence = _LOCATION.unpack_from(entry)
    count = (len(entry) - _LOCATION.size) // _CHECK.size
    require(
        count == -(-length // BLOB_CHECK_BYTES)
        and len(entry) == _LOCATION.size + count * _CHECK.size
        and offset >= PAGE_BYTES + head_bytes(count),
        "index: the record of a blob makes no sense",
    )
    checks = struct.unpack_from(f">{count}Q", entry, _LOCATION.size)
    return Location(pack, offset, length, sequence, checks)


def _sums(checks: Sequence[int]) -> bytes:
    return struct.pack(f">{len(checks)}Q", *checks)
