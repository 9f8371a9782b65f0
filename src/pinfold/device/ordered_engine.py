"""The index in memory, beside a log of its commits: the same contract as LMDB without mmap.

Every commit is one checksummed frame appended and flushed; opening replays the frames, stops at
the first torn one, and rewrites a log that has grown well past what it describes. Everything
goes through `env.disk`, so this engine lives (and crashes) in a simulated world.

Frames hold clients' bytes, and what a crash has torn stays behind the log's end. Each checksum
starts from the one before it, so that no bytes among them pass for the next frame.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgpack
import xxhash
from sortedcontainers import SortedDict

from pinfold.codec.decoding import decodes, require
from pinfold.device.index import Change, open_row
from pinfold.device.room import NoRoom, room
from pinfold.env.api import Disk, File

_FRAME: Final = struct.Struct(">4sIQ")
"""Magic (with the format's number), length, xxh3 of both and the body that follows."""
_MAGIC: Final = b"PFi2"

_REWRITE_BYTES: Final = 1 << 20
"""A log shorter than this is not worth rewriting."""
_REWRITE_RATIO: Final = 4
"""Bytes logged for each byte alive before the log is rewritten."""


class OrderedEngine:
    """The in-memory `Engine`. Constructing it reads the log: do that in a lane.

    Only the loop touches the map: a commit in a lane hands its changes over through a deque.
    """

    def __init__(self, disk: Disk, path: str, *, read_only: bool = False) -> None:
        self.verify: Callable[[bytes, bytes], object] = open_row
        self._disk = disk
        self._path = f"{path}/log"
        self._rows: SortedDict[bytes, bytes] = SortedDict()
        if not read_only:
            disk.mkdir(path)
        if not read_only and not disk.exists(self._path):
            disk.write_file(self._path, b"")
        self._file: File = disk.open(self._path)
        self._committed: deque[Sequence[Change]] = deque()
        self._check = 0
        """Of the last frame."""
        log = self._file.pread(self._file.size(), 0)
        last, self._position = self._replay(log)
        if not read_only:
            # A flush of the last frame may have failed, and the kernel shows it all the same.
            self._file.pwritev([log[last : self._position]], last)
            self._file.datasync()
            self._rewrite_if_worth()

    def get(self, key: bytes) -> bytes | None:
        """See `Engine.get`."""
        self._catch_up()
        found: bytes | None = self._rows.get(key)
        if found is None:
            self._prove(self._rows.irange(None, key, reverse=True))
            self._prove(self._rows.irange(key, None))
        return found

    def scan(
        self, start: bytes, end: bytes | None, reverse: bool, *, proved: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Engine.scan`. Keys are where the map put them, and yet neighbours are held against
        `verify`, so that what hangs on them is the same with either engine.
        """
        self._catch_up()
        rows = self._rows
        before = rows.irange(None, start, inclusive=(True, False), reverse=True)
        behind = iter(()) if end is None else rows.irange(end, None)
        if proved:
            self._prove(behind if reverse else before)
        for key in rows.irange(start, end, inclusive=(True, False), reverse=reverse):
            yield key, rows[key]
        if proved:
            self._prove(before if reverse else behind)

    def commit(self, changes: Sequence[Change]) -> None:
        """See `Engine.commit`."""
        frame, check = _frame(changes, self._check)
        with room():
            self._file.pwritev([frame], self._position)
        self._file.datasync()
        self._position += len(frame)
        self._check = check
        self._committed.append(changes)

    def grow(self) -> bool:
        """Never needed."""
        return True

    def spare_bytes(self) -> int:
        """None: its log only grows, until it is rewritten at an opening."""
        return 0

    def close(self) -> None:
        """Close the log. Idempotent."""
        self._file.close()

    def _prove(self, keys: Iterator[bytes]) -> None:
        """Hold the first of these rows, if there is one, against `verify`. Raises Rotten."""
        key = next(keys, None)
        if key is not None:
            self.verify(key, self._rows[key])

    def _catch_up(self) -> None:
        while self._committed:
            self._apply(self._committed.popleft())

    def _apply(self, changes: Sequence[Change]) -> None:
        for key, value in changes:
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value

    def _replay(self, log: bytes) -> tuple[int, int]:
        """(where the last frame starts, where it ends)."""
        last = position = 0
        while (found := _body(log, position, self._check)) is not None:
            body, self._check = found
            self._apply(_changes(body))
            last, position = position, position + _FRAME.size + len(body)
        return last, position

    def _rewrite_if_worth(self) -> None:
        alive_bytes = sum(len(key) + len(value) for key, value in self._rows.items())
        if self._position < max(_REWRITE_BYTES, _REWRITE_RATIO * alive_bytes):
            return
        frame, check = _frame(list(self._rows.items()), 0)
        try:
            with room():
                self._disk.write_file(self._path, frame)
        except NoRoom:
            return  # another time
        self._file.close()
        self._file = self._disk.open(self._path)
        self._position, self._check = len(frame), check


def _frame(changes: Sequence[Change], before: int) -> tuple[bytes, int]:
    """(a frame, its checksum), behind the frame with the checksum `before`."""
    body: bytes = msgpack.packb(changes)
    check = _check_of(_MAGIC, body, before)
    return _FRAME.pack(_MAGIC, len(body), check) + body, check


def _check_of(magic: bytes, body: bytes, before: int) -> int:
    digest = xxhash.xxh3_64(magic + len(body).to_bytes(4, "big"), seed=before)
    digest.update(body)
    return digest.intdigest()


@decodes("a frame of the index's log")
def _changes(body: bytes) -> list[Change]:
    changes = []
    for key, value in msgpack.unpackb(body, use_list=False):
        require(isinstance(key, bytes), "a key is bytes")
        require(value is None or isinstance(value, bytes), "a value is bytes")
        changes.append((key, value))
    return changes


def _body(log: bytes, position: int, before: int) -> tuple[bytes, int] | None:
    """(body, checksum) of the frame at `position`, or None where the log ends or is torn."""
    start = position + _FRAME.size
    if start > len(log):
        return None
    magic, length, check = _FRAME.unpack_from(log, position)
    body = log[start : start + length]
    if len(body) != length or check != _check_of(magic, body, before):
        return None
    require(
        magic == _MAGIC,
        f"the index's log has the format {magic!r}, this program knows {_MAGIC!r}: "
        "a newer program has written it",
    )
    return body, check
