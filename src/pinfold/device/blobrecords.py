"""What a device writes about blobs into its journal, and how it counts them. No I/O here."""

import struct
from collections.abc import Sequence
from typing import Final

import msgpack

from pinfold.codec.decoding import decodes, require
from pinfold.model.ids import BlobId
from pinfold.model.limits import BLOB_CHECK_BYTES, JOURNAL_BLOB_BYTES

COUNTS: Final = b"mb"
"""Index key of how many blobs there are."""

ID_BYTES: Final = 16

_PUT: Final = struct.Struct(">16sI")


def encode_put(blob: BlobId, checks: Sequence[int]) -> bytes:
    """What stands before the payload in the record of a small blob."""
    return _PUT.pack(blob, len(checks)) + struct.pack(f">{len(checks)}Q", *checks)


@decodes("a record of a small blob")
def decode_put(record: memoryview) -> tuple[BlobId, tuple[int, ...], memoryview]:
    """(blob, checks, payload) of a small blob's record."""
    blob, count = _PUT.unpack_from(record)
    checks = struct.unpack_from(f">{count}Q", record, _PUT.size)
    payload = record[_PUT.size + 8 * count :]
    require(
        count == -(-len(payload) // BLOB_CHECK_BYTES) and len(payload) <= JOURNAL_BLOB_BYTES,
        "a record of a small blob has another length than its checks say",
    )
    return BlobId(blob), checks, payload


def decode_ids(record: memoryview) -> list[BlobId]:
    """The ids in a record of deleted or quarantined blobs. Raises Corrupt."""
    require(len(record) % ID_BYTES == 0, "a record of blob ids has another length")
    starts = range(0, len(record), ID_BYTES)
    return [BlobId(bytes(record[start : start + ID_BYTES])) for start in starts]


def encode_counts(count: int, payload_bytes: int, quarantined: int) -> bytes:
    """How many blobs there are, for the index."""
    packed: bytes = msgpack.packb((count, payload_bytes, quarantined))
    return packed


@decodes("the index's count of blobs")
def decode_counts(record: bytes | None) -> tuple[int, int, int]:
    """(blobs, their bytes, quarantined); the inverse of `encode_counts`, zeroes without one."""
    if record is None:
        return 0, 0, 0
    count, payload_bytes, quarantined = msgpack.unpackb(record)
    require(
        all(isinstance(number, int) for number in (count, payload_bytes, quarantined)),
        "the index's count of blobs is made of numbers",
    )
    return count, payload_bytes, quarantined
