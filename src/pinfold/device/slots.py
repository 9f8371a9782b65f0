"""Which slots of the arena are free: rows of the index, changed with the rows that name slots.

A chunk is 1,024 slots. Its row in the table of free slots has a bit for each that no extent names;
no row means that none is free, and chunks from `chunks` on were never used. A slot is free from the
commit that drops its last name, in the same transaction: a crash forgets nothing.

A free slot is *held* while it may still take space on disk; a second table has those. They are
given back in pieces (`reclaim`), and only then handed out again: a slot that is handed out holds
nothing, and nobody reads it any more. What a pass hands out may hold something before its commit
names it. Therefore it takes slots only from chunks that the last commit calls *open*, or has never
heard of: after a crash the free slots of the open ones are held, and the file is cut behind the
last chunk.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.codec.names import successor
from pinfold.device.index import Index

CHUNK_SLOTS: Final = 1024

SLOTS: Final = b"ms"
"""Index key of `Numbers`."""

OPEN_SLOTS: Final = 2_048
"""Free slots that the open chunks should have (128 MiB), as long as there are old ones."""

OPEN_CHUNKS: Final = 64
"""Chunks open at one time, and looked at to find more."""

PIECE_CHUNKS: Final = 16
"""Chunks of which slots are given back in one piece: 1 GiB at most."""

_FREE_TABLE: Final = b"a"
_HELD_TABLE: Final = b"u"
_CHUNK_KEY: Final = struct.Struct(">cI")
_CHUNK_BYTES: Final = CHUNK_SLOTS // 8
_ALL: Final = (1 << CHUNK_SLOTS) - 1
# version, chunks, used, held
_NUMBERS: Final = struct.Struct(">BIQQ")
_VERSION: Final = 1

Run = tuple[int, int]
"""A slot, and how many neighbours with it."""


class Numbers(NamedTuple):
    """What the index remembers beside the chunks' rows."""

    chunks: int = 0
    """Chunks that have been used."""
    used: int = 0
    """Slots that extents name."""
    held: int = 0
    """Free slots that may take space."""
    open: tuple[int, ...] = ()
    """Chunks that the passes until the next commit may take slots from, but new ones."""


class _Chunk:
    """A chunk's bits: slots that are free, and of these the held ones."""

    __slots__ = ("free", "held", "stored")

    def __init__(self, free: int, held: int) -> None:
        self.free = free
        self.held = held
        self.stored = (free, held)
        """What its rows say."""


class Slots:
    """See the module. `free` and `take` belong to a pass, which ends with `settle`."""

    def __init__(self, index: Index) -> None:
        self._index = index
        found = self._stored = decode_numbers(index.get(SLOTS))
        self._chunks, self.used, self.held = found.chunks, found.used, found.held
        self._loaded: dict[int, _Chunk] = {}
        """Chunks that differ from their rows, and open ones."""
        self._fresh: dict[int, None] = {}
        """Chunks with slots that are held since the last commit: still named in what a crash
        would bring back."""
        self._open: list[int] = []
        self._looked_at = -1
        """The chunk up to which free slots to open were looked for."""
        self._given_to = -1
        """The chunk up to which slots were given back."""
        self._given: dict[int, int] = {}
        """Bits of held slots, by chunk, that were punched and not flushed since."""
        for number in found.open:
            chunk = self._chunk(number)
            self.held += (chunk.free & ~chunk.held).bit_count()
            chunk.held = chunk.free

    @property
    def chunks(self) -> int:
        """Chunks in use; whatever lies behind them in the arena's files is nobody's."""
        return self._chunks

    def take(self) -> int:
        """A free slot that holds nothing."""
        while self._open:
            number = self._open[0]
            chunk = self._chunk(number)
            ready = chunk.free & ~chunk.held
            if ready:
                lowest = ready & -ready
                chunk.free ^= lowest
                self.used += 1
                return number * CHUNK_SLOTS + lowest.bit_length() - 1
            del self._open[0]
        fresh = self._loaded[self._chunks] = _Chunk(0, 0)
        fresh.free = _ALL
        self._open.append(self._chunks)
        self._chunks += 1
        return self.take()

    def free(self, slots: Sequence[int]) -> None:
        """No extent names these any more, from the commit on that follows."""
        for first, count in neighbours(sorted(slots)):
            self._free(first, count)

    def _free(self, first: int, count: int) -> None:
        number, within = divmod(first, CHUNK_SLOTS)
        if within + count > CHUNK_SLOTS:
            self._free((number + 1) * CHUNK_SLOTS, within + count - CHUNK_SLOTS)
            count = CHUNK_SLOTS - within
        chunk = self._chunk(number)
        bits = ((1 << count) - 1) << within
        assert not chunk.free & bits, "a slot is freed once"
        chunk.free |= bits
        chunk.held |= bits
        self._fresh[number] = None
        self.used -= count
        self.held += count

    def settle(self) -> None:
        """Put what changed into the index, just before it is sealed, and open what is next."""
        if not self._loaded:
            return
        self._open_more()
        for number, chunk in self._loaded.items():
            free, held = chunk.stored
            if chunk.free != free:
                self._put(_FREE_TABLE, number, chunk.free)
            if chunk.held != held:
                self._put(_HELD_TABLE, number, chunk.held)
            chunk.stored = (chunk.free, chunk.held)
        numbers = Numbers(self._chunks, self.used, self.held, tuple(self._open))
        if numbers != self._stored:
            self._index.put(SLOTS, encode_numbers(numbers))
            self._stored = numbers
        self._loaded = {number: self._chunk(number) for number in self._open}

    def committed(self) -> None:
        """What was settled is durable."""
        self._fresh.clear()

    def piece(self) -> list[Run]:
        """Some held slots to be given back; [] when there are none that may be."""
        runs: list[Run] = []
        start = self._given_to + 1
        found = [*self._rows(_HELD_TABLE, start), *self._rows(_HELD_TABLE, 0, start)]
        ripe = (number for number in found if number not in self._fresh)
        for number in islice(ripe, PIECE_CHUNKS):
            held = self._chunk(number).held & ~self._given.get(number, 0)
            runs += runs_of(held, number * CHUNK_SLOTS)
            self._given_to = number
        return runs

    def given_back(self, runs: list[Run]) -> None:
        """These were punched, and nobody reads them any more."""
        for first, count in runs:
            number, within = divmod(first, CHUNK_SLOTS)
            bits = ((1 << count) - 1) << within
            self._given[number] = self._given.get(number, 0) | bits

    def to_flush(self) -> dict[int, int]:
        """Bits of slots, by chunk, that are no longer held once the arena is flushed.

        Until then no piece has them: one that is punched late would hit what was written since.
        """
        return self._given.copy()

    def flushed(self, given: dict[int, int]) -> None:
        """These (see `to_flush`) take no space any more, whatever happens."""
        for number, bits in given.items():
            self._chunk(number).held &= ~bits
            self.held -= bits.bit_count()
            if later := self._given.pop(number) & ~bits:
                self._given[number] = later

    def free_in(self, number: int) -> int:
        """The bits of a chunk's free slots, as the next commit would have them."""
        chunk = self._loaded.get(number)
        return self._bits(_FREE_TABLE, number) if chunk is None else chunk.free

    def _chunk(self, number: int) -> _Chunk:
        chunk = self._loaded.get(number)
        if chunk is None:
            free, held = self._bits(_FREE_TABLE, number), self._bits(_HELD_TABLE, number)
            chunk = self._loaded[number] = _Chunk(free, held)
        return chunk

    def _bits(self, table: bytes, number: int) -> int:
        found = self._index.get(_CHUNK_KEY.pack(table, number))
        return 0 if found is None else decode_chunk(found)

    def _put(self, table: bytes, number: int, bits: int) -> None:
        value = encode_chunk(bits) if bits else None
        self._index.put(_CHUNK_KEY.pack(table, number), value)

    def _rows(self, table: bytes, start: int, end: int | None = None) -> list[int]:
        """Numbers of some chunks that have a row there, ascending from `start`."""
        stop = successor(table) if end is None else _CHUNK_KEY.pack(table, end)
        found = self._index.scan(_CHUNK_KEY.pack(table, start), stop)
        return [chunk_of_key(key) for key, _ in islice(found, OPEN_CHUNKS)]

    def _open_more(self) -> None:
        """Open older chunks until `OPEN_SLOTS` are ready in all, as far as one look finds them."""
        self._open = [number for number in self._open if self._ready(number)]
        ready = sum(map(self._ready, self._open))
        if ready >= OPEN_SLOTS:
            return
        candidates = self._rows(_FREE_TABLE, self._looked_at + 1)
        for number in candidates:
            if ready >= OPEN_SLOTS or len(self._open) >= OPEN_CHUNKS:
                return
            self._looked_at = number
            if (found := self._ready(number)) and number not in self._open:
                self._open.append(number)
                ready += found
        if len(candidates) < OPEN_CHUNKS:
            self._looked_at = -1

    def _ready(self, number: int) -> int:
        """Slots of a chunk that can be handed out."""
        chunk = self._chunk(number)
        return (chunk.free & ~chunk.held).bit_count()


def runs_of(bits: int, base: int) -> Iterator[Run]:
    """The runs of set bits, ascending; `base` is what the lowest bit stands for."""
    for found in re.finditer("1+", format(bits, "b")[::-1]):
        yield base + found.start(), found.end() - found.start()


def neighbours(numbers: Sequence[int]) -> Iterator[Run]:
    """(first, how many) of the runs in ascending numbers."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            yield numbers[start], end - start
            start = end


def chunk_of_key(key: bytes) -> int:
    """The number of the chunk that a row is for."""
    number: int = _CHUNK_KEY.unpack(key)[1]
    return number


def encode_chunk(bits: int) -> bytes:
    """A row's value."""
    return bits.to_bytes(_CHUNK_BYTES, "little")


@decodes("the index's row of a chunk")
def decode_chunk(value: bytes) -> int:
    """The inverse of `encode_chunk`."""
    require(len(value) == _CHUNK_BYTES, "a chunk has 1,024 slots")
    return int.from_bytes(value, "little")


def encode_numbers(numbers: Numbers) -> bytes:
    """The value of `SLOTS`."""
    head = _NUMBERS.pack(_VERSION, numbers.chunks, numbers.used, numbers.held)
    return head + struct.pack(f">{len(numbers.open)}I", *numbers.open)


@decodes("the index's numbers of slots")
def decode_numbers(value: bytes | None) -> Numbers:
    """The inverse of `encode_numbers`; without one nothing has been used."""
    if value is None:
        return Numbers()
    version, chunks, used, held = _NUMBERS.unpack_from(value)
    require_version("index: the numbers of slots", version, _VERSION)
    rest = value[_NUMBERS.size :]
    found = struct.unpack(f">{len(rest) // 4}I", rest)
    require(all(number < chunks for number in found), "an open chunk was never used")
    return Numbers(chunks, used, held, found)
