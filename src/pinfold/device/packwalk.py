"""A pack read from its beginning to its end: the records that the device wrote there, in order.

Heads verify under a seed that no client knows (`codec.packs.pack_seed`), so what a payload holds is
never taken for a record. A head that fails is passed page by page, as holes are.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pinfold.codec.decoding import require
from pinfold.codec.packs import (
    RECORD_MAGIC,
    Location,
    checks_of,
    decode_head,
    head_bytes,
)
from pinfold.codec.records import PAGE_BYTES
from pinfold.env.api import File
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId
from pinfold.model.limits import BLOB_CHECK_BYTES, MIB, SEGMENT_BYTES

READ_BYTES: Final = 1 * MIB
"""Read at a time: a disk's sequential rate, whatever the blobs' sizes. Whole units of checks."""

_HEAD_MAX_BYTES: Final = head_bytes(SEGMENT_BYTES // BLOB_CHECK_BYTES)

Record = tuple[BlobId, Location]
"""A location found by a walk has the journal sequence 0: heads do not tell when a blob came."""


def records(
    file: File, number: int, seed: int, start: int = PAGE_BYTES, end: int | None = None
) -> Iterator[Record]:
    """Every record of pack `number` whose head verifies and stands from `start` on, before `end`.

    Raises OSError.
    """
    end = file.size() if end is None else min(end, file.size())
    window, base = b"", start
    offset = start
    while offset < end:
        if offset + _HEAD_MAX_BYTES > base + len(window):
            window, base = file.pread(READ_BYTES, offset), offset
        found = _record(memoryview(window)[offset - base :], number, offset, seed)
        if found is None:
            offset += PAGE_BYTES
        else:
            yield found
            offset += found[1].record_bytes


def verifies(file: File, location: Location) -> bool:
    """Whether a record's payload is what its checks say. Raises OSError."""
    step = READ_BYTES // BLOB_CHECK_BYTES
    for first in range(0, len(location.checks), step):
        start = first * BLOB_CHECK_BYTES
        length = min(READ_BYTES, location.length - start)
        payload = file.pread(length, location.offset + start)
        if checks_of(payload) != location.checks[first : first + step] or len(payload) < length:
            return False
    return True


def _record(view: memoryview, number: int, offset: int, seed: int) -> Record | None:
    if bytes(view[: len(RECORD_MAGIC)]) != RECORD_MAGIC:
        return None
    with suppress(Corrupt):
        blob, length, checks = decode_head(view, seed)
        require(len(checks) == -(-length // BLOB_CHECK_BYTES), "its checks do not cover it")
        return BlobId(blob), Location(number, offset + head_bytes(len(checks)), length, 0, checks)
    return None
