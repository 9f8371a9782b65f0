"""What clients wrote to the cells of a volume, and what they were told of it.

A cell is a block or a sector, as clients write them. Contents begin with a token, so a few bytes
tell them apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

from pinfold.model.limits import BLOCK_BYTES
from pinfold.volumes.io import WRITE, Io
from pinfold.volumes.spans import EXTENT_MASK, EXTENT_SHIFT

TOLD_BYTES: Final = 48
"""As much of a cell as tells its content from all others."""

NOTHING: Final = bytes(TOLD_BYTES)

_SECTOR_BYTES: Final = 512

Place = tuple[int, int]
"""Extent and offset in it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A write that was answered, and no flush yet that covers it."""

    content: bytes
    began: float
    ended: float
    token: int
    keepers: dict[int, int]
    """Devices that had it then, and the boots at which they do."""


@dataclass(slots=True)
class Cell:
    """One cell's writes."""

    began: dict[bytes, float] = field(default_factory=dict)
    """By content, when the last write of it began."""
    ended: dict[bytes, float] = field(default_factory=lambda: {NOTHING: -1.0})
    """By content, when the last write of it was answered; inf while one may still happen."""
    open: dict[Io, bytes] = field(default_factory=dict)
    """Writes on their way and what they write here."""
    unknown: set[bytes] = field(default_factory=set)
    """Contents of writes that may happen at any time."""
    left: dict[bytes, int] = field(default_factory=dict)
    """By content, the token whose holder stopped before it answered the write: some members may
    have it and others not, until the next holder has settled it."""
    answered: list[Answered] = field(default_factory=list)
    flushed: float = -1.0
    """When the last write began that was answered, and so was a flush behind it."""

    def begin(self, io: Io, content: bytes, now: float) -> None:
        """A write was sent."""
        self.open[io] = content
        self.began[content], self.ended[content] = now, inf

    def end(self, io: Io, now: float, *, certain: bool) -> None:
        """It was answered; or nobody knows whether it will happen."""
        content = self.open.pop(io)
        if not certain:
            self.unknown.add(content)
        elif content not in self.unknown and content not in self.open.values():
            self.ended[content] = now

    def older(self, content: bytes | None, began: float) -> bool:
        """Whether it was written before a write that began then, and cannot be what is left."""
        return content is not None and self.ended.get(content, inf) < began

    def cut_off(self) -> None:
        """It is zeroed at some time, and nothing is owed of before."""
        self.unknown.add(NOTHING)
        self.ended[NOTHING], self.flushed, self.answered = inf, -1.0, []

    def cover(self, before: float, valid: Callable[[Answered], bool]) -> None:
        """A flush was answered that began then: what had been answered is durable."""
        covered = [one for one in self.answered if one.ended <= before]
        self.answered = [one for one in self.answered if one.ended > before]
        self.flushed = max([self.flushed, *(one.began for one in covered if valid(one))])


def cells_of(io: Io) -> Iterator[tuple[Place, bytes]]:
    """Each cell that a write changes, and what it has then."""
    aligned = not (io.offset | io.length) & (BLOCK_BYTES - 1)
    step = BLOCK_BYTES if aligned else _SECTOR_BYTES
    for at in range(0, io.length, step):
        offset = io.offset + at
        content = bytes(io.payload[at : at + TOLD_BYTES]) if io.kind == WRITE else NOTHING
        yield (offset >> EXTENT_SHIFT, offset & EXTENT_MASK), content
