"""A disk in memory that loses what a real one may lose.

A write changes what later reads see; it is durable only after `datasync` of its file. A flush that
fails leaves pages that can be read and are not durable, and that no later flush writes. When the
node crashes, each 4 KiB page not flushed is kept, dropped or torn between sectors, page by page as
the seed has it, and of the directory changes not synced a prefix is kept. What was flushed stays,
unless a test damages it (`rot`).

Faults are set on `SimDisk.faults` by the world or a test; a crash may be armed for the n-th call
that changes anything, and then happens before or behind that call.
"""

import errno
import os.path
import random
from collections.abc import Callable, Sequence
from typing import Final

from pinfold.env.api import Buffer
from pinfold.sim.diskfaults import BadSectors, DiskFaults
from pinfold.sim.inode import PAGE, ZERO, Inode
from pinfold.sim.loop import NodeCrashed, Process

_Entry = Inode | None
"""What a path names: a file, or None for a directory."""

_ABSENT: Final = object()


class SimDisk:
    """One node's file system; it outlives the node's processes. `of` gives each its `Disk`."""

    def __init__(self, seed: int | str) -> None:
        self.faults = DiskFaults()
        self.rng = random.Random(f"{seed}/disk")
        self.names: dict[str, _Entry] = {"/": None}
        self._synced: dict[str, _Entry] = {"/": None}
        self._changes: list[str] = []
        """Paths whose entries changed since their directory was synced, in order."""
        self.bad = BadSectors()
        self.locks: dict[str, None] = {}
        self.cost_s = 0.0
        """Seconds that the calls since the last `take_cost` took."""
        self.on_crash: Callable[[], None] = lambda: None
        """Told when an armed crash happens, before it unwinds the code."""
        self.on_change: Callable[[str], None] = lambda _path: None
        """Told of every call that changes something, before it does."""
        self.on_failed_flush: Callable[[str], None] = lambda _path: None
        """Told of every file of which a flush failed: what it covered may be gone any time."""

    def of(self, process: Process) -> "ProcessDisk":
        """The disk as one process uses it."""
        return ProcessDisk(self, process)

    # faults

    def crash(self) -> None:
        """The node has died: settle what was not flushed."""
        kept = self.rng.randint(0, len(self._changes))
        for path in self._changes[:kept]:
            self._settle(path)
        self._changes.clear()
        self.names = dict(self._synced)
        self.locks.clear()
        for path in sorted(self.names):
            if (inode := self.names[path]) is not None:
                inode.crash(self.rng)
        self.faults.crash_after = -1

    def rot(self, path: str, offset: int, *, bit: int = 0) -> None:
        """Flip one bit of a file, as the medium may."""
        inode = self.file(path)
        number, within = divmod(offset, PAGE)
        page = bytearray(inode.pages.get(number, ZERO))
        page[within] ^= 1 << bit
        inode.pages[number] = bytes(page)

    def wipe(self) -> None:
        """Everything is gone: another, empty disk."""
        self.names = {"/": None}
        self._synced = {"/": None}
        self._changes.clear()
        self.locks.clear()

    def pull(self, path: str) -> dict[str, _Entry]:
        """Take everything below a directory out, as with the disk mounted there; for `plug`.

        The node is down: what it had not flushed is settled.
        """
        below = {name: entry for name, entry in self.names.items() if name.startswith(f"{path}/")}
        for name in below:
            del self.names[name]
            self._synced.pop(name, None)
        self._changes = [name for name in self._changes if name not in below]
        return below

    def plug(self, path: str, content: dict[str, _Entry]) -> None:
        """Put back what was pulled, in place of whatever is there now."""
        self.pull(path)
        self.names.update(content)
        self._synced.update(content)

    def restart(self) -> None:
        """The process has died and the machine has not: the page cache keeps everything."""
        self.locks.clear()
        self.faults.crash_after = -1

    # the calls' common ground

    def file(self, path: str) -> Inode:
        """The inode of a path; raises as `open` would."""
        entry = self.names.get(path, _ABSENT)
        if entry is _ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        if entry is None:
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        assert isinstance(entry, Inode)
        return entry

    def enter(self, path: str, entry: _Entry) -> None:
        """Make or replace a directory's entry, not durably."""
        self.names[path] = entry
        self._changes.append(path)

    def leave(self, path: str) -> None:
        """Remove an entry, not durably."""
        del self.names[path]
        self._changes.append(path)

    def sync_dir(self, path: str) -> None:
        """Make a directory's entries durable."""
        mine = [name for name in self._changes if os.path.dirname(name) == path]
        for name in mine:
            self._settle(name)
        self._changes = [name for name in self._changes if os.path.dirname(name) != path]

    def _settle(self, path: str) -> None:
        if path in self.names:
            self._synced[path] = self.names[path]
        else:
            self._synced.pop(path, None)

    def used_bytes(self) -> int:
        """Bytes in pages of files that have a name."""
        return PAGE * sum(len(inode.pages) for inode in self.names.values() if inode is not None)

    def require_room(self, inode: Inode, offset: int, length: int) -> None:
        """Raise ENOSPC when pages missing in a range do not fit."""
        numbers = range(offset // PAGE, -(-(offset + length) // PAGE))
        missing = sum(1 for number in numbers if number not in inode.pages)
        if missing and self.used_bytes() + missing * PAGE > self.faults.capacity_bytes:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        if missing and self.faults.room_ends():
            raise OSError(errno.ENOSPC, "no space left on the simulated disk, for now")

    def count_change(self, path: str) -> bool:
        """Count a changing call; whether the armed crash is due with it."""
        self.charge(self.faults.call_s)
        self.on_change(path)
        if self.faults.crash_after < 0 or self.faults.crash_in not in path:
            return False
        self.faults.crash_after -= 1
        return self.faults.crash_after < 0

    def charge(self, range_s: tuple[float, float]) -> None:
        """A call takes its time."""
        self.cost_s += self.rng.uniform(*range_s) * self.faults.slowness

    def die(self) -> None:
        """Carry an armed crash out."""
        self.on_crash()
        raise NodeCrashed

    def take_cost(self) -> float:
        """Seconds that calls took since this was last asked."""
        cost, self.cost_s = self.cost_s, 0.0
        return cost


class ProcessDisk:
    """The simulated `Disk` of one process; once that is dead, every call raises NodeCrashed."""

    def __init__(self, disk: SimDisk, process: Process) -> None:
        self.disk = disk
        self._process = process

    def reading(self, path: str, offset: int = 0, length: int = 0) -> SimDisk:
        """Before a call that changes nothing, but may read a range."""
        if not self._process.alive:
            raise NodeCrashed
        disk = self.disk
        disk.charge(disk.faults.call_s)
        if disk.faults.read_fails() or disk.bad.touch(path, offset, length):
            raise OSError(errno.EIO, "simulated read error")
        if disk.faults.read_error and path.startswith(disk.faults.under):
            raise OSError(disk.faults.read_error, "simulated read error")
        return disk

    def changing(
        self,
        path: str,
        change: Callable[[SimDisk], None],
        failing: Callable[[SimDisk], None] = lambda disk: None,
    ) -> None:
        """Make a change, dying before or behind it if that is due.

        `failing` is what a call that fails does to the file all the same.
        """
        if not self._process.alive:
            raise NodeCrashed
        disk = self.disk
        dies = disk.count_change(path)
        if dies and disk.rng.random() < 0.5:
            disk.die()
        try:
            if disk.faults.change_fails():
                failing(disk)
                raise OSError(errno.EIO, "simulated error of a changing call")
            if disk.faults.write_error and path.startswith(disk.faults.under):
                raise OSError(disk.faults.write_error, "simulated write error")
            change(disk)
        finally:
            if dies:  # behind a call that fails too: a crash that is due would be lost
                disk.die()

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> "SimFile":
        """See `Disk.open`."""
        disk = self.reading(path)
        if path not in disk.names and (create or exclusive):
            self._require_parent(path)
            self.changing(path, lambda disk: disk.enter(path, Inode()))
        elif exclusive:
            raise FileExistsError(errno.EEXIST, "exists", path)
        return SimFile(self, path, disk.file(path))

    def _require_parent(self, path: str) -> None:
        parent = self.disk.names.get(os.path.dirname(path), _ABSENT)
        if parent is _ABSENT:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        if parent is not None:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)

    def read_file(self, path: str) -> bytes:
        """See `Disk.read_file`."""
        inode = self.reading(path).file(path)
        return inode.read(inode.size, 0)

    def write_file(self, path: str, content: bytes) -> None:
        """See `Disk.write_file`."""

        def replace(disk: SimDisk) -> None:
            self._require_parent(path)
            if disk.names.get(path, _ABSENT) is None:
                raise IsADirectoryError(errno.EISDIR, "a directory", path)
            inode = Inode()
            disk.require_room(inode, 0, len(content))
            inode.write(content, 0)
            inode.flush()
            disk.enter(path, inode)
            disk.sync_dir(os.path.dirname(path))

        self.changing(path, replace)

    def exists(self, path: str) -> bool:
        """See `Disk.exists`."""
        return path in self.reading(path).names

    def list(self, path: str) -> list[str]:
        """See `Disk.list`."""
        names = self.reading(path).names
        if path not in names:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)
        prefix = path.rstrip("/") + "/"
        return sorted(os.path.basename(n) for n in names if os.path.dirname(n) == prefix[:-1])

    def mkdir(self, path: str) -> None:
        """See `Disk.mkdir`."""
        if path in self.disk.names:
            if self.disk.names[path] is not None:
                raise FileExistsError(errno.EEXIST, "a file", path)
            return
        parent = os.path.dirname(path)
        self.mkdir(parent)

        def make(disk: SimDisk) -> None:
            disk.enter(path, None)
            disk.sync_dir(parent)

        self.changing(path, make)

    def unlink(self, path: str) -> None:
        """See `Disk.unlink`."""
        if path in self.disk.names:
            self.changing(path, lambda disk: disk.leave(path))

    def lock(self, path: str) -> "SimLock":
        """See `Disk.lock`."""
        self.open(path, create=True)
        if path in self.disk.locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", path)
        self.disk.locks[path] = None
        return SimLock(self.disk, path)

    def sync_dir(self, path: str) -> None:
        """See `Disk.sync_dir`."""
        self.changing(path, lambda disk: disk.sync_dir(path))

    def free_bytes(self, path: str) -> int:
        """See `Disk.free_bytes`."""
        disk = self.reading(path)
        return max(disk.faults.capacity_bytes - disk.used_bytes(), 0)

    def total_bytes(self, path: str) -> int:
        """See `Disk.total_bytes`."""
        return self.reading(path).faults.capacity_bytes


class SimLock:
    """The simulated `Lock`; a crash gives it back."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk = disk
        self._path: str | None = path

    def close(self) -> None:
        """See `Lock.close`."""
        if self._path is not None:
            self._disk.locks.pop(self._path, None)
            self._path = None


class SimFile:
    """The simulated `File`."""

    def __init__(self, owner: ProcessDisk, path: str, inode: Inode) -> None:
        self._owner = owner
        self._path = path
        self._inode = inode
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "closed")

    def pread(self, length: int, offset: int) -> bytes:
        """See `File.pread`."""
        self._open()
        disk = self._owner.reading(self._path, offset, length)
        disk.charge(disk.faults.read_s)
        return self._inode.read(length, offset)

    def pread_cached(self, length: int, offset: int) -> bytes | None:
        """See `File.pread_cached`."""
        self._open()
        disk = self._owner.disk
        if disk.bad.touch(self._path, offset, length):
            return None  # what cannot be read is in no memory
        disk = self._owner.reading(self._path)
        if disk.rng.random() >= disk.faults.cached_chance:
            return None
        content = self._inode.read(length, offset)
        return content if len(content) == length else None

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `File.pwritev`."""
        self._open()
        content = b"".join(buffers)

        def write(disk: SimDisk) -> None:
            disk.require_room(self._inode, offset, len(content))
            self._inode.write(content, offset)
            disk.bad.mend(self._path, offset, len(content))

        def write_some(disk: SimDisk) -> None:
            if disk.rng.random() < 0.5:
                self._inode.write(content[: len(content) // 2 // PAGE * PAGE], offset)

        self._owner.changing(self._path, write, write_some)
        return len(content)

    def datasync(self) -> None:
        """See `File.datasync`."""
        self._open()

        def flush(disk: SimDisk) -> None:
            faults = disk.faults
            disk.charge(faults.sync_s)
            fails = faults.lost_flush_chance and self._path.startswith(faults.under)
            if fails and disk.rng.random() < faults.lost_flush_chance:
                self._fail(disk)
                raise OSError(errno.EIO, "simulated flush error")
            self._inode.flush()

        self._owner.changing(self._path, flush, self._fail)

    def _fail(self, disk: SimDisk) -> None:
        self._inode.fail(disk.rng)
        disk.on_failed_flush(self._path)

    def allocate(self, offset: int, length: int) -> None:
        """See `File.allocate`."""
        self._open()

        def reserve(disk: SimDisk) -> None:
            disk.require_room(self._inode, offset, length)
            for number in range(offset // PAGE, -(-(offset + length) // PAGE)):
                if number not in self._inode.pages:
                    self._inode.change(number, ZERO)
            self._inode.size = max(self._inode.size, offset + length)

        self._owner.changing(self._path, reserve)

    def punch(self, offset: int, length: int) -> None:
        """See `File.punch`."""
        self._open()
        if length <= 0 or offset < 0:
            raise OSError(errno.EINVAL, "an empty range")
        self._owner.changing(self._path, lambda disk: self._inode.clear(offset, length))

    def truncate(self, length: int) -> None:
        """See `File.truncate`."""
        self._open()

        def cut(disk: SimDisk) -> None:
            inode = self._inode
            if length < inode.size:
                inode.clear(length, inode.size - length)
            inode.size = length

        self._owner.changing(self._path, cut)

    def size(self) -> int:
        """See `File.size`."""
        self._open()
        return self._inode.size

    def close(self) -> None:
        """See `File.close`."""
        self._closed = True
