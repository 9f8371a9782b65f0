"""The arena: one file of 4 MiB slots for extents, and beside it an xxh3 for every 4 KiB block.

Blocking, and ignorant of volumes: slots and blocks in, verified bytes out. The checksum file has
one 8 KiB stripe per slot; 0 there means never written. Writers (one lane) give whole blocks and
flush both files; a crash in between leaves blocks whose sums do not match, which the journal's
redo writes again.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import xxhash

from pinfold.device.room import room
from pinfold.env.api import Buffer, Disk
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES

BLOCKS: Final = EXTENT_BYTES // BLOCK_BYTES
"""Blocks in a slot."""

_SUM: Final = struct.Struct(">Q")
_SUM_BYTES: Final = _SUM.size
_STRIPE_BYTES: Final = BLOCKS * _SUM_BYTES


class BlockCorrupt(Exception):
    """A block differs from its sum."""

    def __init__(self, block: int) -> None:
        super().__init__(f"block {block} fails its checksum")
        self.block = block


class Arena:
    """See the module. Everything may raise OSError."""

    def __init__(self, disk: Disk, path: str, *, read_only: bool = False) -> None:
        self._slots = disk.open(f"{path}/slots", create=not read_only)
        self._sums = disk.open(f"{path}/sums", create=not read_only)
        if not read_only:
            disk.sync_dir(path)

    def read_cached(self, slot: int, block: int, count: int) -> bytes | None:
        """Verified blocks if that needs no device I/O, else None. Raises BlockCorrupt."""
        sums = self._sums.pread_cached(
            count * _SUM_BYTES, slot * _STRIPE_BYTES + block * _SUM_BYTES
        )
        if sums is None:
            return None
        found = self._slots.pread_cached(
            count * BLOCK_BYTES, slot * EXTENT_BYTES + block * BLOCK_BYTES
        )
        if found is not None:
            _verify(found, sums, block)
        return found

    def read(self, slot: int, block: int, count: int) -> bytes:
        """Verified blocks. Raises BlockCorrupt."""
        sums = self._sums.pread(count * _SUM_BYTES, slot * _STRIPE_BYTES + block * _SUM_BYTES)
        found = self._slots.pread(count * BLOCK_BYTES, slot * EXTENT_BYTES + block * BLOCK_BYTES)
        if len(sums) < count * _SUM_BYTES or len(found) < count * BLOCK_BYTES:
            raise BlockCorrupt(block)  # a file that lost its end
        _verify(found, sums, block)
        return found

    def write(self, slot: int, blocks: dict[int, Buffer | None], *, fresh: bool) -> None:
        """Put whole blocks in place (None: a hole), neighbours in one write. No flush.

        A fresh slot is allocated and forgets what it held before. Raises NoRoom: some blocks may be
        in place then, and the same call again is all it takes.
        """
        if fresh:
            with room():
                self._slots.allocate(slot * EXTENT_BYTES, EXTENT_BYTES)
            stripe = bytearray(_STRIPE_BYTES)
        else:
            found = self._sums.pread(_STRIPE_BYTES, slot * _STRIPE_BYTES)
            stripe = bytearray(found.ljust(_STRIPE_BYTES, b"\0"))
        base = slot * EXTENT_BYTES
        for first, buffers in _runs(blocks):
            if buffers[0] is None:
                self._slots.punch(base + first * BLOCK_BYTES, len(buffers) * BLOCK_BYTES)
            else:
                with room():
                    self._slots.pwritev(buffers, base + first * BLOCK_BYTES)
        for block, buffer in blocks.items():
            _SUM.pack_into(stripe, block * _SUM_BYTES, 0 if buffer is None else _sum_of(buffer))
        with room():
            self._sums.pwritev([stripe], slot * _STRIPE_BYTES)

    def flush(self) -> None:
        """Make every write so far durable, blocks and sums."""
        self._slots.datasync()
        self._sums.datasync()

    def punch(self, slots: Sequence[int]) -> None:
        """Give the space of whole slots back."""
        for slot in slots:
            self._slots.punch(slot * EXTENT_BYTES, EXTENT_BYTES)

    def close(self) -> None:
        """Close both files."""
        self._slots.close()
        self._sums.close()


def _runs(blocks: dict[int, Buffer | None]) -> Iterator[tuple[int, list[Any]]]:
    """(first block, neighbours) with buffers only or holes only in each run, ascending."""
    run: list[Buffer | None] = []
    first = previous = -2
    for block in sorted(blocks):
        buffer = blocks[block]
        if run and (block != previous + 1 or (buffer is None) is not (run[-1] is None)):
            yield first, run
            run = []
        if not run:
            first = block
        run.append(buffer)
        previous = block
    if run:
        yield first, run


def _sum_of(block: Buffer) -> int:
    """The block's sum, never the 0 that stands for a block never written."""
    return xxhash.xxh3_64_intdigest(block) or 1


def _verify(found: bytes, sums: bytes, first: int) -> None:
    if len(found) == BLOCK_BYTES:
        if _sum_of(found) != _SUM.unpack(sums)[0]:
            raise BlockCorrupt(first)
        return
    view = memoryview(found)
    for number, (expected,) in enumerate(_SUM.iter_unpack(sums)):
        start = number * BLOCK_BYTES
        if _sum_of(view[start : start + BLOCK_BYTES]) != expected:
            raise BlockCorrupt(first + number)
