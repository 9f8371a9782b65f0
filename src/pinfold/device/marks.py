"""The extents of a volume that no holder has declared stable: who wrote each last, and when.

Kept in the order of writing, so that a declaration costs what it makes stable and no more. The
index has the same marks, as of its last commit.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from pinfold.codec.decoding import decodes
from pinfold.codec.names import successor
from pinfold.device.index import Index

_TABLE: Final = b"d"
_KEY: Final = struct.Struct(">cQI")
_LIFE_END: Final = 9
"""Table and life lie in the first bytes of a key."""
_MARK: Final = struct.Struct(">QQQ")


class Dirty(NamedTuple):
    """The last write of an extent."""

    token: int
    sequence: int
    """The holder's running number; lower than before when a write was sent again."""
    epoch: int


class Marks:
    """The marks of one life of a volume."""

    def __init__(self, life: int) -> None:
        self._life = life
        self._of: dict[int, Dirty] = {}
        self._written: dict[int, dict[int, int]] = {}
        """By token: extent -> the highest sequence of any extent when it was written, ascending. A
        write that comes late stays dirty for too long rather than not long enough."""
        self._changed: dict[int, None] = {}
        self._sorted: list[int] | None = None
        """The extents in order, while none comes or goes."""

    def __len__(self) -> int:
        return len(self._of)

    def get(self, extent: int) -> Dirty | None:
        """An extent's mark; None when it is clean."""
        return self._of.get(extent)

    def mark(self, extent: int, token: int, epoch: int, sequence: int) -> None:
        """Written under these."""
        before = self._of.get(extent)
        if before is None:
            self._sorted = None
        else:
            self._unlist(extent, before.token)
            if before.epoch > epoch:
                epoch = before.epoch
        written = self._written.get(token)
        if written is None:
            written = self._written[token] = {}
        newest = next(reversed(written.values()), 0)
        written[extent] = max(newest, sequence)
        self._of[extent] = Dirty(token, sequence, epoch)
        self._changed[extent] = None

    def stable(self, token: int, sequence: int) -> None:
        """Clear the marks of writes under `token` up to `sequence`."""
        stable = []
        for extent, written in self._written.get(token, {}).items():
            if written > sequence:
                break
            stable.append(extent)
        for extent in stable:
            self._unlist(extent, token)
            del self._of[extent]
        if stable:
            self._sorted = None
            self._changed.update(dict.fromkeys(stable))

    def page(self, after: int, limit: int) -> list[tuple[int, Dirty]]:
        """At most `limit` marks of extents with an index > after, ascending."""
        if self._sorted is None:
            self._sorted = sorted(self._of)
        start = bisect_right(self._sorted, after)
        return [(extent, self._of[extent]) for extent in self._sorted[start : start + limit]]

    def settle(self, index: Index) -> None:
        """Put what changed into the index."""
        for extent in self._changed:
            mark = self._of.get(extent)
            key = _KEY.pack(_TABLE, self._life, extent)
            index.put(key, None if mark is None else encode_mark(mark))
        self._changed.clear()

    def restore(self, marks: list[tuple[int, Dirty]]) -> None:
        """Take over what the index has, before anything else."""
        for extent, dirty in sorted(marks, key=lambda one: one[1].sequence):
            self.mark(extent, dirty.token, dirty.epoch, dirty.sequence)
        self._changed.clear()

    def _unlist(self, extent: int, token: int) -> None:
        written = self._written[token]
        del written[extent]
        if not written:
            del self._written[token]


def stored_marks(index: Index) -> Iterator[tuple[int, int, Dirty]]:
    """(life, extent, mark) of all that the index has, ascending."""
    for key, value in index.scan(_TABLE, successor(_TABLE)):
        yield *mark_of_key(key), decode_mark(value)


def mark_keys(index: Index, life: int) -> Iterator[bytes]:
    """The keys of all marks of a life."""
    prefix = _KEY.pack(_TABLE, life, 0)[:_LIFE_END]
    return index.keys(prefix, successor(prefix))


def mark_of_key(key: bytes) -> tuple[int, int]:
    """(life, extent) of a mark's key."""
    _, life, extent = _KEY.unpack(key)
    return life, extent


def encode_mark(mark: Dirty) -> bytes:
    """A mark's value."""
    return _MARK.pack(*mark)


@decodes("the index's mark of an extent")
def decode_mark(value: bytes) -> Dirty:
    """The inverse of `encode_mark`."""
    return Dirty(*_MARK.unpack(value))
