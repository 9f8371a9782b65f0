"""The seams between the system and the world, as protocols passed to constructors.

The rule of this file: nothing here does anything. `real.py` touches the machine and
`pinfold.sim` touches nothing; the same code runs on both.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")

OFFLOAD_JOBS: Final = 16_384
"""Functions waiting in one lane, in all: several seconds of the fastest disk; more is a stall."""


class Clock(Protocol):
    """Time. The asyncio loop owns timers; this is for stamps and deadlines."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary instant; never goes back. Same base as `loop.time()`."""
        ...

    def wall(self) -> float:
        """Unix time in seconds; may jump."""
        ...


class File(Protocol):
    """An open file. Calls block: make them inside `Offload` unless the method says otherwise."""

    def pread(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes; short only at the end of the file."""
        ...

    def pread_cached(self, length: int, offset: int) -> bytes | None:
        """Read exactly `length` bytes if that needs no device I/O, else None. Never blocks."""
        ...

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write all the buffers, one behind the other; return the bytes written (all of them)."""
        ...

    def datasync(self) -> None:
        """Return when every earlier write to this file is durable (fdatasync)."""
        ...

    def allocate(self, offset: int, length: int) -> None:
        """Reserve space; raises OSError(ENOSPC) when there is none."""
        ...

    def punch(self, offset: int, length: int) -> None:
        """Give a range's space back; it reads as zeroes and the size stays."""
        ...

    def truncate(self, length: int) -> None:
        """Set the file's size."""
        ...

    def size(self) -> int:
        """The file's size in bytes."""
        ...

    def close(self) -> None:
        """Close; does not flush."""
        ...


class Lock(Protocol):
    """A lock held; the system gives it back when the process ends, however it ends."""

    def close(self) -> None:
        """Give it back. Idempotent."""
        ...


class Disk(Protocol):
    """A file system. Paths are absolute strings; every call may raise OSError and may block."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> File:
        """Open for reading and writing."""
        ...

    def read_file(self, path: str) -> bytes:
        """A small file, whole."""
        ...

    def write_file(self, path: str, content: bytes) -> None:
        """Replace a small file atomically and durably: temp, fsync, rename, directory fsync."""
        ...

    def exists(self, path: str) -> bool: ...  # noqa: D102

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        ...

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; no error if it is there. Durable."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file; no error if it is absent."""
        ...

    def lock(self, path: str) -> Lock:
        """Take the exclusive lock on a file, made if absent; BlockingIOError when it is held.

        It excludes other processes and other holders within this one.
        """
        ...

    def sync_dir(self, path: str) -> None:
        """Make the directory's entries durable."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes an unprivileged writer may still take on the file system of `path`."""
        ...

    def total_bytes(self, path: str) -> int:
        """Size of that file system in bytes."""
        ...


class Net(Protocol):
    """Reliable byte streams. Addresses: `tcp://host:port` or `unix:///path`.

    Protocol factories make asyncio protocols (`Protocol` or `BufferedProtocol`); transports obey
    asyncio's contract for write, writelines, pause_reading, close and abort. Once `connection_lost`
    was called a transport must not be written to: uvloop raises RuntimeError, asyncio warns.
    """

    async def listen(self, address: str, factory: Callable[[], asyncio.BaseProtocol]) -> "Listener":
        """Accept connections, one fresh protocol for each.

        Raises OSError(EADDRINUSE) when somebody answers there; the socket file of a process that
        died is replaced.
        """
        ...

    async def connect(
        self, address: str, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect; raises OSError when nobody listens."""
        ...


class Listener(Protocol):
    """A listening address."""

    @property
    def address(self) -> str:
        """The address bound, with the real port."""
        ...

    def close(self) -> None:
        """Stop accepting; open connections live on."""
        ...


class Offload(Protocol):
    """Runs blocking functions off the loop. The function touches only what it is given."""

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> asyncio.Future[T]:
        """Run `function(*arguments)`; functions of one Offload run one at a time, in order.

        What it raises comes out of the future. Giving up on the future does not stop the function.
        Raises Busy at once, and runs nothing, when `OFFLOAD_JOBS` are waiting already.
        """
        ...

    def close(self) -> None:
        """Finish what was accepted and stop. Blocks until then: for the end of a process."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """Everything a node gets from the world."""

    clock: Clock
    rng: random.Random
    """The system's own generator in production: keys are drawn from it and challenges show it to
    strangers, so earlier outputs must not tell later ones. Seeded in the simulator."""
    disk: Disk
    net: Net
    new_offload: Callable[[str], Offload]
    """A fresh single-thread lane (named for debuggers): one per writer that must keep order."""
