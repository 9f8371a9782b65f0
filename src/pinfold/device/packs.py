"""The pack files: who writes where, which are open, and what is free in them.

Two packs take writes at a time, one for the applier's small blobs and one for streams, so that
each file has one writing lane. Ranges are handed out on the loop and never handed out again; a
range given back is put on a list in the index, becomes a hole (`packreclaim`) once that is durable,
and a sealed pack without live records goes. Holes are punched by jobs of the pack's own reader
lane: behind every read that could still want the bytes.

At most `open_packs` files stay open, but for those being written: whoever finds no room opens his
for himself, and the loop closes the one longest open for the next. A pack's file is kept by its
writing lane until it is sealed and nobody writes to it, and then by its reader lane.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Final, NamedTuple

import msgpack

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.codec.names import successor
from pinfold.codec.packs import NOWHERE, Location, encode_pack_header, pack_seed
from pinfold.codec.records import PAGE_BYTES, page_end
from pinfold.device.files import numbered_files
from pinfold.device.health import Health
from pinfold.device.index import Index
from pinfold.device.readers import Readers
from pinfold.device.room import room
from pinfold.env.api import Disk, File
from pinfold.model.errors import Corrupt
from pinfold.model.settings import DeviceSettings

_PACK_TABLE: Final = b"p"
_FREE_TABLE: Final = b"f"
_RECORD_VERSION: Final = 2
NEXT_PACK: Final = b"mp"
"""Index key of the number that the next pack gets."""


class Pack:
    """One pack file; `file` is opened in a lane when it is first needed."""

    __slots__ = (
        "changed",
        "end",
        "file",
        "live",
        "live_bytes",
        "made",
        "number",
        "path",
        "sealed",
        "seed",
        "stored_live",
        "writers",
    )

    def __init__(self, path: str, number: int, seed: int) -> None:
        self.path = path
        self.number = number
        self.seed = seed
        """Of its records' heads."""
        self.end = PAGE_BYTES
        """Where the next range starts: nothing behind it is in use."""
        self.live = 0
        """Records the index names."""
        self.live_bytes = 0
        """What they take."""
        self.stored_live = 0
        """`live` as the index has it, durably."""
        self.sealed = False
        self.writers = 0
        """Ranges handed out and neither committed nor given back."""
        self.changed = True
        self.made = True
        """Its file has a header and a durable name, as far as anybody relies on it."""
        self.file: File | None = None


class Freed(NamedTuple):
    """A range that nothing names any more, on the list in the index."""

    key: bytes
    pack: Pack | None
    """None when its file is gone already."""
    start: int
    size: int


class Packs:
    """See the module. Called on the loop; `opened` and `created` run in lanes."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        salt: bytes,
        index: Index,
        readers: Readers,
        settings: DeviceSettings,
        health: Health,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._salt = salt
        self._index = index
        self._readers = readers
        self._settings = settings
        self._health = health
        self._packs: dict[int, Pack] = {}
        self._current: dict[bool, Pack | None] = {False: None, True: None}
        self._changed: dict[int, Pack] = {}
        self._open: dict[int, Pack] = {}
        """Those whose files are kept open, the longest open first."""
        self._opened: deque[Pack] = deque()
        """The same, by lanes that the loop has not heard of yet."""
        self._reserved: set[bytes] = set()
        """Keys of ranges that streams write to. They are on the list of what is free, for a crash
        to find them there."""
        self._redone: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        """By pack: where it ended for the index, and what the journal names behind that."""
        self._settled: list[tuple[Pack, int]] = []
        self._empty: dict[int, Pack] = {}
        self._next_number = int.from_bytes(index.get(NEXT_PACK) or b"\0", "big")
        self._load()

    def all(self) -> list[Pack]:
        """Every pack, by number."""
        return [self._packs[number] for number in sorted(self._packs)]

    def has(self, number: int) -> bool:
        """Whether there is a pack of this number."""
        return number in self._packs

    def get(self, number: int) -> Pack:
        """A pack by number; Corrupt when an index entry names one that is not there."""
        pack = self._packs.get(number)
        if pack is None:
            raise Corrupt(f"pack {number} is missing")
        return pack

    def reserve(self, size: int, *, stream: bool) -> tuple[Pack, int]:
        """A range of whole pages to write: (pack, where). Give it to `keep` or `give_back` later.

        A stream's is on the list of what is free until it is kept: a crash gives it back.
        """
        pack = self._current[stream]
        if pack is None or (pack.end + size > self._settings.pack_bytes and pack.end > PAGE_BYTES):
            if pack is not None:
                pack.sealed = True
                self._change(pack)
            pack = self._current[stream] = self._add(self._next_number)
            pack.writers = 0
            pack.made = False
        start = pack.end
        pack.end += size
        pack.writers += 1
        self._change(pack)
        if stream:
            key = _free_key(pack.number, start)
            self._reserved.add(key)
            self._index.put(key, size.to_bytes(8, "big"))
        return pack, start

    def keep(self, pack: Pack, size: int, *, stream_at: int | None = None) -> None:
        """A reserved range is now named by the index; a stream's says where it starts."""
        if stream_at is not None:
            key = _free_key(pack.number, stream_at)
            self._reserved.discard(key)
            self._index.put(key, None)
        pack.writers -= 1
        pack.live += 1
        pack.live_bytes += size
        self._change(pack)
        self.limit_open()

    def redo(self, location: Location) -> None:
        """The journal says a record lies there."""
        pack = self._packs.get(location.pack)
        if pack is None:
            pack = self._add(location.pack)
        end, named = self._redone.setdefault(pack.number, (pack.end, []))
        if location.start >= end:
            named.append((location.start, location.record_bytes))
        pack.end = max(pack.end, location.start + location.record_bytes)
        self._index.put(_free_key(location.pack, location.start), None)  # it was being written
        pack.live += 1
        pack.live_bytes += location.record_bytes
        self._change(pack)

    def drop(self, location: Location) -> None:
        """The index names a record no more: its space comes back once that is durable."""
        if location.pack == NOWHERE.pack:
            return
        pack = self._packs.get(location.pack)
        if pack is not None:
            pack.live -= 1
            pack.live_bytes -= location.record_bytes
            self._change(pack)
        self._free(location.pack, location.start, location.record_bytes)

    def give_back(self, pack: Pack, start: int, size: int) -> None:
        """A reserved range was never named."""
        pack.writers -= 1
        self._change(pack)
        self._free(pack.number, start, size)
        self.limit_open()

    def reclaim(self, number: int, start: int, size: int) -> None:
        """A range of a sealed pack that nothing names: free it."""
        assert self._packs[number].sealed, "nothing in it is on its way"
        self._free(number, start, size)

    def recount(self, number: int, live: int, live_bytes: int) -> None:
        """The index names so many records of a pack, whatever was counted."""
        pack = self._packs[number]
        pack.live, pack.live_bytes = live, live_bytes
        self._change(pack)

    @contextmanager
    def opened(self, pack: Pack) -> Iterator[File]:
        """In the pack's reader lane: its file, kept open if there is room for it."""
        file = pack.file
        if file is not None:
            yield file
            return
        file = self._disk.open(pack.path)
        if pack.sealed and len(self._open) + len(self._opened) < self._settings.open_packs:
            pack.file = file
            self._opened.append(pack)
            yield file
            return
        try:
            yield file
        finally:
            file.close()

    def created(self, pack: Pack) -> File:
        """In the pack's writing lane: its file, made durable with its header if it is new.

        Raises NoRoom, and may be called again, and OSError.
        """
        if pack.made and pack.file is not None:
            return pack.file
        with room():
            file = self._disk.open(pack.path, create=True)
        try:
            if not pack.made:
                with room():
                    file.pwritev([encode_pack_header(pack.number, self._salt)], 0)
                file.datasync()
                self._disk.sync_dir(self._directory)
        except BaseException:
            file.close()
            raise
        pack.made = True
        pack.file = file
        self._opened.append(pack)
        return file

    def limit_open(self, *, wanted: bool = False) -> None:
        """Close what is open beyond the limit; one more for a file that is `wanted`."""
        while self._opened:
            pack = self._opened.popleft()
            if pack.file is not None:
                self._open[pack.number] = pack
        excess = len(self._open) + wanted - self._settings.open_packs
        if excess <= 0:
            return
        idle = (pack for pack in self._open.values() if pack.sealed and not pack.writers)
        for pack in list(islice(idle, excess)):
            del self._open[pack.number]
            self._close(pack)

    def settle(self) -> None:
        """Put every changed pack's record into the index, just before it is sealed."""
        for pack in self._changed.values():
            pack.changed = False
            record = encode_pack(pack.end, pack.live, pack.live_bytes, pack.sealed)
            self._index.put(_pack_key(pack.number), record)
        if self._changed:
            self._index.put(NEXT_PACK, self._next_number.to_bytes(4, "big"))
        self._settled = [(pack, pack.live) for pack in self._changed.values()]
        self._changed.clear()

    def committed(self) -> None:
        """What `settle` put is durable: packs that it says are empty may go."""
        for pack, live in self._settled:
            pack.stored_live = live
            if live == 0:
                self._empty[pack.number] = pack
        self._settled = []

    def pop_empty(self) -> Pack | None:
        """A pack that the index names no record of, durably, and nobody writes to; now forgotten.

        Its file is still there: see `remove`.
        """
        while self._empty:
            number, pack = self._empty.popitem()
            ended = pack.sealed and not pack.writers and pack.live == pack.stored_live == 0
            if ended and self._packs.get(number) is pack:
                del self._packs[number]
                self._open.pop(number, None)
                self._changed.pop(number, None)
                return pack
        return None

    def remove(self, pack: Pack) -> None:
        """In the reader lane of a pack that was popped: remove its file."""
        file, pack.file = pack.file, None
        if file is not None:
            file.close()
        self._disk.unlink(pack.path)

    def removed(self, pack: Pack) -> None:
        """Its file is gone: the index need not know of it."""
        self._index.put(_pack_key(pack.number), None)

    def freed(self, after: bytes, limit: int) -> list[Freed]:
        """Ranges that nothing names, durably, in order behind the key `after`."""
        start = after + b"\0" if after else _FREE_TABLE
        listed = self._index.durable(start, successor(_FREE_TABLE))
        found = islice((one for one in listed if one[0] not in self._reserved), limit)
        return [
            Freed(
                key,
                self._packs.get(int.from_bytes(key[1:5], "big")),
                int.from_bytes(key[5:], "big"),
                int.from_bytes(size, "big"),
            )
            for key, size in found
        ]

    def punch(self, pack: Pack, ranges: Sequence[Freed]) -> None:
        """In the pack's reader lane, behind whoever could want the bytes: give them back."""
        with suppress(FileNotFoundError), self.opened(pack) as file:
            # Not found: a crash came between the unlink and its commit.
            for one in ranges:
                file.punch(one.start, one.size)
            file.datasync()  # before the list forgets them: a crash takes holes back

    def given_back(self, ranges: Sequence[Freed]) -> None:
        """These are holes now, or their packs are gone."""
        for one in ranges:
            self._index.put(one.key, None)
        self.limit_open()

    def remove_strays(self) -> None:
        """In a lane, after the journal was redone: remove files that nothing names, and what a
        crash left behind the end of those that were being written: durably, before a commit can
        call these sealed, since then nobody looks there again.
        """
        for number, path in numbered_files(self._disk, self._directory):
            if number not in self._packs:
                self._disk.unlink(path)
        for pack in self._packs.values():
            if not pack.sealed:
                self._cut(pack)

    def finish_redo(self) -> None:
        """After `remove_strays`: seal what a crash left open, free what is to be freed."""
        for number, (end, named) in self._redone.items():
            for start, size in sorted(named):
                if start > end:  # streams were writing there, and no commit has listed it
                    self._free(number, end, start - end)
                end = start + size
        self._redone.clear()
        for pack in list(self._packs.values()):
            if not pack.sealed:
                pack.sealed = True
                self._change(pack)
            if pack.live == 0:
                self._change(pack)  # the next commit will tell that it may go

    def close_files(self) -> None:
        """Close every file; nothing may run any more."""
        for pack in self._packs.values():
            if pack.file is not None:
                pack.file.close()
                pack.file = None

    def _load(self) -> None:
        for key, record in self._index.scan(_PACK_TABLE, successor(_PACK_TABLE)):
            pack = self._add(int.from_bytes(key[1:], "big"))
            pack.end, pack.live, pack.live_bytes, pack.sealed = decode_pack(record)
            pack.stored_live, pack.changed = pack.live, False
        self._changed.clear()

    def _add(self, number: int) -> Pack:
        seed = pack_seed(self._salt, number)
        pack = self._packs[number] = Pack(f"{self._directory}/{number:08d}", number, seed)
        self._next_number = max(self._next_number, number + 1)
        self._changed[number] = pack
        return pack

    def _change(self, pack: Pack) -> None:
        if not pack.changed:
            pack.changed = True
            self._changed[pack.number] = pack

    def _free(self, number: int, start: int, size: int) -> None:
        key = _free_key(number, start)
        self._reserved.discard(key)
        self._index.put(key, size.to_bytes(8, "big"))

    def _close(self, pack: Pack) -> None:
        file, pack.file = pack.file, None
        if file is not None:
            self._readers.submit(pack.number, file.close)

    def _cut(self, pack: Pack) -> None:
        with suppress(FileNotFoundError), self.opened(pack) as file:
            file.truncate(page_end(pack.end))  # else never written: the crash came first
            file.datasync()


def encode_pack(end: int, live: int, live_bytes: int, sealed: bool) -> bytes:
    """A pack's record in the index."""
    record: bytes = msgpack.packb((_RECORD_VERSION, end, live, live_bytes, sealed))
    return record


@decodes("the index's record of a pack")
def decode_pack(record: bytes) -> tuple[int, int, int, bool]:
    """(end, live records, their bytes, sealed); the inverse of `encode_pack`."""
    version, *fields = msgpack.unpackb(record)
    require_version("index: the record of a pack", version, _RECORD_VERSION, oldest=_RECORD_VERSION)
    end, live, live_bytes, sealed = fields
    require(
        all(isinstance(number, int) for number in (end, live, live_bytes))
        and end >= PAGE_BYTES
        and sealed in (0, 1),
        "index: the record of a pack makes no sense",
    )
    return end, live, live_bytes, bool(sealed)


def _pack_key(number: int) -> bytes:
    return _PACK_TABLE + number.to_bytes(4, "big")


def _free_key(number: int, start: int) -> bytes:
    return _FREE_TABLE + number.to_bytes(4, "big") + start.to_bytes(8, "big")
