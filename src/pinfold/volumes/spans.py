"""Arithmetic of extents and blocks: where a range of a volume lies, and which blocks it touches.

A set of blocks of one extent is an integer with one bit per 4 KiB block: Python adds, tests and
merges such sets in one operation, whatever their size.
"""

from typing import Final

from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES

EXTENT_SHIFT: Final = EXTENT_BYTES.bit_length() - 1
EXTENT_MASK: Final = EXTENT_BYTES - 1
BLOCK_SHIFT: Final = BLOCK_BYTES.bit_length() - 1
assert 1 << EXTENT_SHIFT == EXTENT_BYTES
assert 1 << BLOCK_SHIFT == BLOCK_BYTES

ALL_BLOCKS: Final = (1 << (EXTENT_BYTES >> BLOCK_SHIFT)) - 1
"""Every block of an extent."""


def split(offset: int, length: int, piece_max: int = EXTENT_BYTES) -> list[tuple[int, int, int]]:
    """(extent, offset within it, length) pieces that tile the range, each at most `piece_max`."""
    within = offset & EXTENT_MASK
    if within + length <= EXTENT_BYTES and 0 < length <= piece_max:
        return [(offset >> EXTENT_SHIFT, within, length)]
    pieces = []
    end = offset + length
    while offset < end:
        within = offset & EXTENT_MASK
        size = min(EXTENT_BYTES - within, piece_max, end - offset)
        pieces.append((offset >> EXTENT_SHIFT, within, size))
        offset += size
    return pieces


def blocks(within: int, length: int) -> int:
    """The blocks that `length` > 0 bytes at `within` of an extent touch."""
    first = within >> BLOCK_SHIFT
    last = (within + length - 1) >> BLOCK_SHIFT
    return ((2 << (last - first)) - 1) << first


def extent_count(size: int) -> int:
    """Extents of a volume of `size` bytes."""
    return (size + EXTENT_MASK) >> EXTENT_SHIFT
