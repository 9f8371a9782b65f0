"""A simulated file's pages: what they hold, what a flush made durable, what a crash leaves."""

import random
from typing import Final

PAGE: Final = 4096
SECTOR: Final = 512
ZERO: Final = bytes(PAGE)


class Inode:
    """A file's pages, current and as last flushed."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}
        self.size = 0
        self.flushed: dict[int, bytes | None] = {}
        """What pages changed since the last flush held at that flush; None: nothing."""
        self.flushed_size = 0
        self.lost: dict[int, bytes | None] = {}
        """What the disk holds of pages that are clean, and that a failed flush did not write."""

    def change(self, number: int, content: bytes | None) -> None:
        """Set a page, or free it."""
        durable = self.lost.pop(number) if number in self.lost else self.pages.get(number)
        self.flushed.setdefault(number, durable)
        if content is None:
            self.pages.pop(number, None)
        else:
            self.pages[number] = content

    def flush(self) -> None:
        """Everything is durable."""
        self.flushed.clear()
        self.flushed_size = self.size

    def fail(self, rng: random.Random) -> None:
        """A flush has failed: as on Linux every page counts as clean, written or not.

        One that is not can mostly be read as it was to be, until the machine loses power; no later
        flush writes it. Or it is dropped at once, as clean pages may be.
        """
        for number, old in self.flushed.items():
            fate = rng.random()
            if fate < 0.4:
                self.lost[number] = old
            elif fate < 0.6:
                self._restore(number, old)
        self.flushed.clear()

    def crash(self, rng: random.Random) -> None:
        """Keep, drop or tear every page that was not flushed."""
        for number, old in self.lost.items():
            self._restore(number, old)
        self.lost.clear()
        for number, old in self.flushed.items():
            fate = rng.random()
            if fate < 0.4:
                self._restore(number, old)
            elif fate < 0.6:
                cut = SECTOR * rng.randrange(1, PAGE // SECTOR)
                new, before = self.pages.get(number, ZERO), old or ZERO
                self.pages[number] = new[:cut] + before[cut:]
        if self.size != self.flushed_size and rng.random() < 0.5:
            self.size = self.flushed_size
        for number in [n for n in self.pages if n * PAGE >= self.size]:
            del self.pages[number]  # no file system keeps what lies behind a file's end
        self.flush()

    def _restore(self, number: int, old: bytes | None) -> None:
        if old is None:
            self.pages.pop(number, None)
        else:
            self.pages[number] = old

    def read(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes."""
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        first, last = offset // PAGE, (end - 1) // PAGE
        content = b"".join([self.pages.get(n, ZERO) for n in range(first, last + 1)])
        return content[offset - first * PAGE : end - first * PAGE]

    def write(self, content: bytes, offset: int) -> None:
        """Put bytes, growing the file."""
        position, end = 0, len(content)
        while position < end:
            number, within = divmod(offset + position, PAGE)
            size = min(PAGE - within, end - position)
            piece = content[position : position + size]
            if size < PAGE:
                page = self.pages.get(number, ZERO)
                piece = page[:within] + piece + page[within + size :]
            self.change(number, piece)
            position += size
        self.size = max(self.size, offset + end)

    def clear(self, offset: int, length: int) -> None:
        """Make a range zeroes, freeing whole pages."""
        end = offset + length
        for number in range(offset // PAGE, -(-end // PAGE)):
            if number not in self.pages:
                continue
            low, high = max(offset - number * PAGE, 0), min(end - number * PAGE, PAGE)
            if high - low == PAGE:
                self.change(number, None)
            else:
                page = self.pages[number]
                self.change(number, page[:low] + bytes(high - low) + page[high:])
