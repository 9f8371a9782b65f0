"""What a simulated disk does wrong, and when: set by a world or a test, asked at every call."""

from dataclasses import dataclass

from pinfold.model.limits import GIB


@dataclass(slots=True)
class DiskFaults:
    """What the disk does to its users; change it at any time."""

    under: str = ""
    """Errors and failing flushes concern only paths that start so: one device of several."""
    slowness: float = 1.0
    """Every call takes so many times as long."""
    capacity_bytes: int = 64 * GIB
    write_error: int = 0
    """errno of every write, allocate and datasync from now on; 0: none."""
    read_error: int = 0
    """errno of every read from now on; 0: none."""
    lost_flush_chance: float = 0.0
    """That a datasync fails with EIO; what it covered then counts as clean, as on Linux."""
    cached_chance: float = 0.7
    """That `pread_cached` finds its bytes in memory."""
    sync_s: tuple[float, float] = (0.0002, 0.002)
    """What a flush costs."""
    call_s: tuple[float, float] = (0.000005, 0.0001)
    """What any other call costs."""
    read_s: tuple[float, float] = (0.0, 0.0)
    """What a read of bytes that are not in memory costs besides."""
    crash_after: int = -1
    """Changing calls until the node crashes; below 0: never."""
    crash_in: str = ""
    """Only changes of files whose paths contain this count for `crash_after`."""
    room_after: int = -1
    """Calls that take space until some find none (ENOSPC); below 0: never."""
    room_failures: int = -1
    """How many find none, before there is room again; below 0: all from then on."""
    reads_after: int = -1
    """Reading calls until some fail with EIO; below 0: never."""
    changes_after: int = -1
    """Changing calls until some fail with EIO, flushes as under `lost_flush_chance`; below 0:
    never."""
    failures: int = -1
    """How many reading or changing calls fail then; below 0: all from then on."""

    def room_ends(self) -> bool:
        """Count a call that takes space; whether it is one of those that find none."""
        if self.room_after < 0:
            return False
        if self.room_after > 0:
            self.room_after -= 1
            return False
        if not self.room_failures:
            self.room_after = -1
            return False
        self.room_failures -= 1
        return True

    def read_fails(self) -> bool:
        """Count a reading call; whether it is one of those that fail."""
        if self.reads_after < 0:
            return False
        self.reads_after, fails = self._due(self.reads_after)
        return fails

    def change_fails(self) -> bool:
        """Count a changing call; whether it is one of those that fail."""
        if self.changes_after < 0:
            return False
        self.changes_after, fails = self._due(self.changes_after)
        return fails

    def _due(self, after: int) -> tuple[int, bool]:
        """(calls until the next failure, whether this call fails)."""
        if after > 0:
            return after - 1, False
        if not self.failures:
            return -1, False
        self.failures -= 1
        return 0, True


class BadSectors:
    """Ranges of files that cannot be read until they are written."""

    def __init__(self) -> None:
        self._ranges: list[tuple[str, int, int]] = []

    def add(self, path: str, offset: int, length: int) -> None:
        """A read that touches this range is EIO from now on."""
        self._ranges.append((path, offset, offset + length))

    def touch(self, path: str, offset: int, length: int) -> bool:
        """Whether a read of a range touches a bad one."""
        return any(
            path == name and offset < end and start < offset + length
            for name, start, end in self._ranges
        )

    def mend(self, path: str, offset: int, length: int) -> None:
        """A write replaces the bad ranges that it covers."""
        self._ranges = [
            (name, start, end)
            for name, start, end in self._ranges
            if name != path or start < offset or end > offset + length
        ]
