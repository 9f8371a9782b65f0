"""The index's rows of extents: where each sub-block of an extent lies in the arena.

An extent is 64 sub-blocks of 64 KiB, each in a slot of the arena or nowhere; a mask says which of
its 4 KiB blocks hold data. Whatever the masks leave out reads as zeroes, whatever a slot held
before. A sub-block has a slot exactly while it holds data, and an extent a row while any has.

Rows are values: a change makes another one. They stay in the index; of those used last a bounded
number is kept in memory.
"""

import struct
from array import array
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.codec.names import successor
from pinfold.device.index import Index
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES, SLOT_BYTES

BLOCKS: Final = EXTENT_BYTES // BLOCK_BYTES
"""Blocks in an extent."""

SUB_BLOCKS: Final = EXTENT_BYTES // SLOT_BYTES
SLOT_BLOCKS: Final = SLOT_BYTES // BLOCK_BYTES
"""Blocks in a slot."""

NO_SLOT: Final = (1 << 32) - 1
ALL_BLOCKS: Final = (1 << BLOCKS) - 1

ROWS_CACHED: Final = 16_384
"""Rows kept in memory, about 600 bytes each: those of 64 GiB."""

EXTENT_TABLE: Final = b"e"
_KEY: Final = struct.Struct(">cQIQ")
_LIFE_END: Final = 9
"""Table and life lie in the first bytes of a key."""
# version, epoch, sub-blocks owned
_HEAD: Final = struct.Struct(">BQQ")
_VERSION: Final = 1
_MASK_BYTES: Final = BLOCKS // 8
_ALL_OWNED: Final = (1 << SUB_BLOCKS) - 1
_LOWEST_OF_SUB: Final = sum(1 << sub * SLOT_BLOCKS for sub in range(SUB_BLOCKS))
_NO_SLOTS: Final = array("I", [NO_SLOT] * SUB_BLOCKS)


class Row(NamedTuple):
    """Where one extent's data is."""

    epoch: int
    """The resync epoch of the newest write that was applied."""
    data: int
    """Bit n: block n holds data."""
    subs: int
    """`subs_of(data)`: the sub-blocks that have slots."""
    slots: "array[int]"
    """By sub-block; `NO_SLOT` where it has none."""
    owned: int = _ALL_OWNED
    """Bit n: sub-block n, slot or hole, belongs to this row alone and may be changed in place. All
    do: the field is for rows that share slots with others."""


EMPTY: Final = Row(0, 0, 0, _NO_SLOTS)
"""What an extent without a row has."""


def subs_of(blocks: int) -> int:
    """The sub-blocks with any of these blocks: bit 16 n stands for sub-block n."""
    if blocks == ALL_BLOCKS or not blocks:
        return _LOWEST_OF_SUB if blocks else 0
    blocks |= blocks >> 8
    blocks |= blocks >> 4
    blocks |= blocks >> 2
    blocks |= blocks >> 1
    return blocks & _LOWEST_OF_SUB


def subs_between(start: int, end: int) -> int:
    """The sub-blocks with any of an extent's bytes from `start` to `end`, as `subs_of` has them."""
    first, last = start // SLOT_BYTES, (end - 1) // SLOT_BYTES
    if first == last:
        return 1 << first * SLOT_BLOCKS
    return (_LOWEST_OF_SUB >> (SUB_BLOCKS - 1 - last + first) * SLOT_BLOCKS) << first * SLOT_BLOCKS


def each_sub(subs: int) -> Iterator[int]:
    """Numbers of the sub-blocks in a set, ascending."""
    if subs == _LOWEST_OF_SUB:
        yield from range(SUB_BLOCKS)
        return
    while subs:
        lowest = subs & -subs
        yield lowest.bit_length() // SLOT_BLOCKS
        subs ^= lowest


def encode_row(row: Row) -> bytes:
    """The value of an extent's row."""
    slots = [slot for slot in row.slots if slot != NO_SLOT]
    head = _HEAD.pack(_VERSION, row.epoch, row.owned)
    return b"".join(
        (head, row.data.to_bytes(_MASK_BYTES, "little"), struct.pack(f">{len(slots)}I", *slots))
    )


@decodes("the index's row of an extent")
def decode_row(value: bytes) -> Row:
    """The inverse of `encode_row`. Corrupt for an unknown version."""
    version, epoch, owned = _HEAD.unpack_from(value)
    require_version("index: the row of an extent", version, _VERSION)
    start = _HEAD.size + _MASK_BYTES
    data = int.from_bytes(value[_HEAD.size : start], "little")
    subs = subs_of(data)
    count = subs.bit_count()
    require(count > 0, "an extent with a row holds data")
    found = struct.unpack(f">{count}I", value[start:])
    if count == SUB_BLOCKS:
        return Row(epoch, data, subs, array("I", found), owned)
    slots = _NO_SLOTS[:]
    for sub, slot in zip(each_sub(subs), found, strict=True):
        slots[sub] = slot
    return Row(epoch, data, subs, slots, owned)


@decodes("the index's row of an extent")
def decode_epoch(value: bytes) -> int:
    """`Row.epoch` alone, at a fifth of the cost."""
    version, epoch, _ = _HEAD.unpack_from(value)
    require_version("index: the row of an extent", version, _VERSION)
    return int(epoch)


def row_key(life: int, extent: int) -> bytes:
    """Where the row of an extent is.

    The last field is the point in a volume's history that the row is for: its only one, 0.
    """
    return _KEY.pack(EXTENT_TABLE, life, extent, 0)


def of_key(key: bytes) -> tuple[int, int]:
    """(life, extent) of a row's key."""
    _, life, extent, _ = _KEY.unpack(key)
    return life, extent


class ExtentRows:
    """All rows of a device: read through the cache, changed in the index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._cached: dict[bytes, Row] = {}

    def get(self, life: int, extent: int) -> Row:
        """The row, `EMPTY` when there is none."""
        key = row_key(life, extent)
        row = self._cached.get(key)
        if row is None:
            value = self._index.get(key)
            row = EMPTY if value is None else decode_row(value)
            self._keep(key, row)
        return row

    def put(self, life: int, extent: int, row: Row) -> None:
        """Replace a row; one without data is removed."""
        key = row_key(life, extent)
        self._index.put(key, encode_row(row) if row.data else None)
        self._keep(key, row if row.data else EMPTY)

    def remove(self, life: int, extent: int) -> None:
        """Forget a row of a life that nobody asks for any more."""
        key = row_key(life, extent)
        self._index.put(key, None)
        self._cached.pop(key, None)

    def forget(self) -> None:
        """Read every row from the index when it is asked for next."""
        self._cached.clear()

    def page(self, life: int, limit: int) -> list[tuple[int, Row]]:
        """(extent, row) of the first rows of a life, ascending."""
        return [(of_key(key)[1], decode_row(value)) for key, value in self._some(life, -1, limit)]

    def epochs(self, life: int, after: int, limit: int) -> list[tuple[int, int]]:
        """At most `limit` (extent, epoch) of one life with an index > after, ascending."""
        found = self._some(life, after, limit)
        return [(of_key(key)[1], decode_epoch(value)) for key, value in found]

    def all(self) -> Iterator[tuple[int, int, Row]]:
        """(life, extent, row) of every row, ascending."""
        for key, value in self._index.scan(EXTENT_TABLE, successor(EXTENT_TABLE)):
            yield *of_key(key), decode_row(value)

    def _some(self, life: int, after: int, limit: int) -> Iterator[tuple[bytes, bytes]]:
        end = successor(row_key(life, 0)[:_LIFE_END])
        return islice(self._index.scan(row_key(life, after + 1), end), limit)

    def _keep(self, key: bytes, row: Row) -> None:
        self._cached[key] = row
        if len(self._cached) > ROWS_CACHED:
            del self._cached[next(iter(self._cached))]
