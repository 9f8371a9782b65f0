"""The arena: one file of 64 KiB slots for volumes, and beside it an xxh3 for every 4 KiB block.

Blocking, and ignorant of volumes: places and blocks in, verified bytes out. A *place* is the number
of a block in the file of slots; the file of sums has its sum at the same number. Sums start from a
seed that is a secret of the volume's life, so that what a slot held for another never verifies.
Writers (one lane) give whole blocks and flush both files; a crash in between leaves blocks whose
sums do not match, which the journal's redo writes again.
"""

import struct
from collections.abc import Sequence
from typing import Final

import xxhash

from pinfold.codec.seeds import seed_of
from pinfold.device.room import room
from pinfold.device.slots import CHUNK_SLOTS, Run, neighbours
from pinfold.env.api import Buffer, Disk
from pinfold.model.limits import BLOCK_BYTES, SLOT_BYTES

_SUM: Final = struct.Struct(">Q")
_SUM_BYTES: Final = _SUM.size
_SUMS_TOGETHER: Final = 1024
"""Places of which one write takes the sums: 8 KiB, those of an extent that lies in one piece."""
_SUMS_OF_SLOT_BYTES: Final = SLOT_BYTES // BLOCK_BYTES * _SUM_BYTES
_MAGIC: Final = b"PFar"


class BlockCorrupt(Exception):
    """A block differs from its sum."""

    def __init__(self, place: int) -> None:
        super().__init__(f"place {place} fails its checksum")
        self.place = place


class Arena:
    """See the module. Everything may raise OSError."""

    def __init__(self, disk: Disk, path: str, salt: bytes, *, read_only: bool = False) -> None:
        self._salt = salt
        self._slots = disk.open(f"{path}/slots", create=not read_only)
        self._sums = disk.open(f"{path}/sums", create=not read_only)
        if not read_only:
            disk.sync_dir(path)

    def seed(self, life: int) -> int:
        """What the sums of one life of a volume start from."""
        return seed_of(self._salt, _MAGIC, life)

    def cut(self, chunks: int) -> None:
        """Forget what lies behind so many chunks: a crash left it there, and nobody's it is."""
        slots_bytes = chunks * CHUNK_SLOTS * SLOT_BYTES
        if self._slots.size() > slots_bytes:
            self._slots.truncate(slots_bytes)
            self._sums.truncate(chunks * CHUNK_SLOTS * _SUMS_OF_SLOT_BYTES)

    def read_cached(self, place: int, count: int, seed: int) -> bytes | None:
        """Verified blocks if that needs no device I/O, else None. Raises BlockCorrupt."""
        sums = self._sums.pread_cached(count * _SUM_BYTES, place * _SUM_BYTES)
        if sums is None:
            return None
        found = self._slots.pread_cached(count * BLOCK_BYTES, place * BLOCK_BYTES)
        if found is not None:
            _verify(found, sums, place, seed)
        return found

    def read(self, place: int, count: int, seed: int) -> bytes:
        """Verified blocks. Raises BlockCorrupt."""
        sums = self._sums.pread(count * _SUM_BYTES, place * _SUM_BYTES)
        found = self._slots.pread(count * BLOCK_BYTES, place * BLOCK_BYTES)
        if len(sums) < count * _SUM_BYTES or len(found) < count * BLOCK_BYTES:
            raise BlockCorrupt(place)  # a file that lost its end
        _verify(found, sums, place, seed)
        return found

    def allocate(self, slots: Sequence[int]) -> None:
        """Reserve the space of slots that hold nothing. Raises NoRoom, with some reserved."""
        with room():
            for first, count in neighbours(sorted(slots)):
                self._slots.allocate(first * SLOT_BYTES, count * SLOT_BYTES)

    def write(
        self,
        places: Sequence[int],
        buffers: Sequence[Buffer],
        zeroes: Sequence[int],
        seed: int,
    ) -> None:
        """Put whole blocks in their places, ascending, neighbours in one write. No flush.

        `zeroes` are places that hold nothing: they get the sum of what they read as. Raises NoRoom:
        some blocks may be in place then, and the same call again is all it takes.
        """
        position = 0
        with room():
            for place, count in neighbours(places):
                self._slots.pwritev(buffers[position : position + count], place * BLOCK_BYTES)
                position += count
            self._put_sums(places, [xxhash.xxh3_64_intdigest(one, seed) for one in buffers])
            if zeroes:
                zero = xxhash.xxh3_64_intdigest(bytes(BLOCK_BYTES), seed)
                self._put_sums(zeroes, [zero] * len(zeroes))

    def _put_sums(self, places: Sequence[int], sums: Sequence[int]) -> None:
        start = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end] - places[start] >= _SUMS_TOGETHER:
                self._write_sums(places[start:end], sums[start:end])
                start = end

    def _write_sums(self, places: Sequence[int], sums: Sequence[int]) -> None:
        """One write for sums that are near each other: those in between stay what they are."""
        first, count = places[0], places[-1] - places[0] + 1
        if count == len(places):
            self._sums.pwritev([struct.pack(f">{count}Q", *sums)], first * _SUM_BYTES)
            return
        found = self._sums.pread(count * _SUM_BYTES, first * _SUM_BYTES)
        span = bytearray(found.ljust(count * _SUM_BYTES, b"\0"))
        for place, check in zip(places, sums, strict=True):
            _SUM.pack_into(span, (place - first) * _SUM_BYTES, check)
        self._sums.pwritev([span], first * _SUM_BYTES)

    def flush(self) -> None:
        """Make every write so far durable, blocks and sums."""
        self._slots.datasync()
        self._sums.datasync()

    def punch(self, runs: Sequence[Run]) -> None:
        """Give the space of slots back."""
        for first, count in runs:
            self._slots.punch(first * SLOT_BYTES, count * SLOT_BYTES)

    def close(self) -> None:
        """Close both files."""
        self._slots.close()
        self._sums.close()


def _verify(found: bytes, sums: bytes, first: int, seed: int) -> None:
    if len(found) == BLOCK_BYTES:
        if xxhash.xxh3_64_intdigest(found, seed) != int.from_bytes(sums, "big"):
            raise BlockCorrupt(first)
        return
    view = memoryview(found)
    expected = struct.unpack(f">{len(sums) // _SUM_BYTES}Q", sums)
    for number, check in enumerate(expected):
        start = number * BLOCK_BYTES
        if xxhash.xxh3_64_intdigest(view[start : start + BLOCK_BYTES], seed) != check:
            raise BlockCorrupt(first + number)
