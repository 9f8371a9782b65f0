"""The pack files: who writes where, which are open, and what is free in them.

Two packs take writes at a time, one for the applier's small blobs and one for streams, so that
each file has one writing lane. Ranges are handed out on the loop and never handed out again; a
range given back becomes a hole, and a sealed pack without live records is unlinked. Holes are
punched by jobs of the pack's own reader lane: behind every read that could still want the bytes.

At most `open_packs` files stay open, but for those being written: whoever finds no room opens his
for himself, and the loop closes the one longest open for the next. A pack's file is kept by its
writing lane until it is sealed and nobody writes to it, and then by its reader lane.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Final

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
NEXT_PACK: Final = b"mp"
"""Index key of the number that the next pack gets."""


class Pack:
    """One pack file; `file` is opened in a lane when it is first needed."""

    __slots__ = (
        "changed",
        "end",
        "file",
        "live",
        "made",
        "number",
        "path",
        "sealed",
        "seed",
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
        self.sealed = False
        self.writers = 0
        """Ranges handed out and neither committed nor given back."""
        self.changed = True
        self.made = True
        """Its file has a header and a durable name, as far as anybody relies on it."""
        self.file: File | None = None


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
        self._freed: list[tuple[int, int, int]] = []
        self._sealed_frees: list[tuple[int, int, int]] = []
        self._next_number = int.from_bytes(index.get(NEXT_PACK) or b"\0", "big")
        self._load()

    def all(self) -> list[Pack]:
        """Every pack, by number."""
        return [self._packs[number] for number in sorted(self._packs)]

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
            self._index.put(_free_key(pack.number, start), size.to_bytes(8, "big"))
        return pack, start

    def keep(self, pack: Pack, *, stream_at: int | None = None) -> None:
        """A reserved range is now named by the index; a stream's says where it starts."""
        if stream_at is not None:
            self._index.put(_free_key(pack.number, stream_at), None)
        pack.writers -= 1
        pack.live += 1
        self._change(pack)
        self.limit_open()

    def redo(self, location: Location) -> None:
        """The journal says a record lies there."""
        pack = self._packs.get(location.pack)
        if pack is None:
            pack = self._add(location.pack)
            pack.sealed = True
        pack.end = max(pack.end, location.start + location.record_bytes)
        self._index.put(_free_key(location.pack, location.start), None)  # it was being written
        pack.live += 1
        self._change(pack)

    def drop(self, location: Location) -> None:
        """The index names a record no more: its space comes back once that is durable."""
        if location.pack == NOWHERE.pack:
            return
        pack = self._packs.get(location.pack)
        if pack is not None:
            pack.live -= 1
            self._change(pack)
        self._free(location.pack, location.start, location.record_bytes)

    def give_back(self, pack: Pack, start: int, size: int) -> None:
        """A reserved range was never named."""
        pack.writers -= 1
        self._free(pack.number, start, size)
        self.limit_open()

    def reclaim(self, number: int, start: int, size: int) -> None:
        """A range of a sealed pack that nothing names: free it."""
        assert self._packs[number].sealed, "nothing in it is on its way"
        self._free(number, start, size)

    def recount(self, number: int, live: int) -> None:
        """The index names so many records of a pack, whatever was counted."""
        pack = self._packs[number]
        pack.live = live
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
            self._index.put(_pack_key(pack.number), encode_pack(pack.end, pack.live, pack.sealed))
        if self._changed:
            self._index.put(NEXT_PACK, self._next_number.to_bytes(4, "big"))
        self._changed.clear()
        self._sealed_frees, self._freed = self._freed, []

    def committed(self) -> None:
        """What `settle` put is durable: give space back."""
        touched: dict[int, list[tuple[int, int]]] = {}
        for number, start, size in self._sealed_frees:
            touched.setdefault(number, []).append((start, size))
        self._sealed_frees = []
        for number, ranges in touched.items():
            pack = self._packs.get(number)
            if pack is None:
                self._forget_frees(number, ranges)
            elif pack.sealed and pack.live == 0 and pack.writers == 0:
                self._unlink(pack)
            else:
                job = partial(self._punch, pack, ranges)
                self._readers.submit(number, job).add_done_callback(
                    partial(self._punched, number, ranges)
                )

    def remove_strays(self) -> None:
        """In a lane, after the journal was redone: remove files that nothing names."""
        for number, path in numbered_files(self._disk, self._directory):
            if number not in self._packs:
                self._disk.unlink(path)

    def finish_redo(self) -> None:
        """After the journal was redone: seal what a crash left open, free what is to be freed."""
        for pack in list(self._packs.values()):
            if not pack.sealed:
                pack.sealed = True
                self._change(pack)
                self._cut(pack)
            if pack.live == 0:
                self._freed.append((pack.number, PAGE_BYTES, 0))
        for key, size in self._index.scan(_FREE_TABLE, successor(_FREE_TABLE)):
            number, start = int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:], "big")
            self._freed.append((number, start, int.from_bytes(size, "big")))

    def close_files(self) -> None:
        """Close every file; nothing may run any more."""
        for pack in self._packs.values():
            if pack.file is not None:
                pack.file.close()
                pack.file = None

    def _load(self) -> None:
        for key, record in self._index.scan(_PACK_TABLE, successor(_PACK_TABLE)):
            pack = self._add(int.from_bytes(key[1:], "big"))
            pack.end, pack.live, pack.sealed = decode_pack(record)
            pack.changed = False
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
        self._index.put(_free_key(number, start), size.to_bytes(8, "big"))
        self._freed.append((number, start, size))

    def _punch(self, pack: Pack, ranges: list[tuple[int, int]]) -> None:
        with suppress(FileNotFoundError), self.opened(pack) as file:
            # Not found: a crash came between the unlink and its commit.
            for start, size in ranges:
                if size:
                    file.punch(start, size)

    def _punched(
        self, number: int, ranges: list[tuple[int, int]], done: asyncio.Future[None]
    ) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        self._forget_frees(number, ranges)
        self.limit_open()

    def _forget_frees(self, number: int, ranges: list[tuple[int, int]]) -> None:
        for start, size in ranges:
            if size:
                self._index.put(_free_key(number, start), None)

    def _unlink(self, pack: Pack) -> None:
        """Remove an empty pack; its records in the index go once the file has."""
        file, pack.file = pack.file, None
        self._open.pop(pack.number, None)
        self._packs.pop(pack.number)
        self._changed.pop(pack.number, None)
        self._readers.submit(
            pack.number, partial(_remove, self._disk, file, pack.path)
        ).add_done_callback(partial(self._unlinked, pack.number))

    def _unlinked(self, number: int, done: asyncio.Future[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        self._index.put(_pack_key(number), None)
        for key in self._free_keys(number):
            self._index.put(key, None)

    def _free_keys(self, number: int) -> Iterator[bytes]:
        prefix = _FREE_TABLE + number.to_bytes(4, "big")
        return iter([key for key, _ in self._index.scan(prefix, successor(prefix))])

    def _close(self, pack: Pack) -> None:
        file, pack.file = pack.file, None
        if file is not None:
            self._readers.submit(pack.number, file.close)

    def _cut(self, pack: Pack) -> None:
        def cut() -> None:
            with suppress(FileNotFoundError), self.opened(pack) as file:
                file.truncate(page_end(pack.end))  # else never written: the crash came first

        self._readers.submit(pack.number, cut)


def encode_pack(end: int, live: int, sealed: bool) -> bytes:
    """A pack's record in the index."""
    record: bytes = msgpack.packb((1, end, live, sealed))
    return record


@decodes("the index's record of a pack")
def decode_pack(record: bytes) -> tuple[int, int, bool]:
    """(end, live records, sealed); the inverse of `encode_pack`."""
    version, end, live, sealed = msgpack.unpackb(record)
    require_version("index: the record of a pack", version, 1)
    require(
        isinstance(end, int) and end >= PAGE_BYTES and isinstance(live, int) and sealed in (0, 1),
        "index: the record of a pack makes no sense",
    )
    return end, live, bool(sealed)


def _remove(disk: Disk, file: File | None, path: str) -> None:
    if file is not None:
        file.close()
    disk.unlink(path)


def _pack_key(number: int) -> bytes:
    return _PACK_TABLE + number.to_bytes(4, "big")


def _free_key(number: int, start: int) -> bytes:
    return _FREE_TABLE + number.to_bytes(4, "big") + start.to_bytes(8, "big")
