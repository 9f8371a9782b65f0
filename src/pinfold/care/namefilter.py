"""Which blobs were named, in a few bits each: never "no" for one that was, seldom "yes" for others.

A Bloom filter (Bloom, 1970). A blob that it wrongly takes for named is kept until another filter,
with another seed, says better. The rule of this file: no I/O.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import xxhash

BITS_MIN: Final = 1 << 16
BITS_MAX: Final = 1 << 29
"""64 MiB: at ten bits a blob enough for 50 million. With more blobs, more orphans stay longer."""

BITS_PER_BLOB: Final = 10
"""One in 80 unnamed blobs is taken for named then."""

_PROBES: Final = 4


@dataclass(slots=True)
class NameFilter:
    """The blobs added so far."""

    bits: int
    seed: int
    count: int = 0
    """How many ids were added, one that is named twice counted twice."""
    _table: bytearray = field(init=False)

    def __post_init__(self) -> None:
        assert BITS_MIN <= self.bits <= BITS_MAX
        self._table = bytearray(self.bits // 8)

    def add(self, blobs: Iterable[bytes]) -> None:
        """These are named."""
        table = self._table
        for blob in blobs:
            self.count += 1
            for bit in self._positions(blob):
                table[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, blob: bytes) -> bool:
        """False only for a blob that was not added."""
        table = self._table
        return all(table[bit >> 3] & 1 << (bit & 7) for bit in self._positions(blob))

    def _positions(self, blob: bytes) -> list[int]:
        first, step = divmod(xxhash.xxh3_128_intdigest(blob, self.seed), 1 << 64)
        step |= 1
        return [(first + probe * step) % self.bits for probe in range(_PROBES)]


def bits_for(count: int) -> int:
    """The size of a filter that is to take so many."""
    return min(max(BITS_PER_BLOB * count // 8 * 8, BITS_MIN), BITS_MAX)
