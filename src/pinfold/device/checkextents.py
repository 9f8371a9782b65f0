"""The volumes' part of a check: every block that an extent holds, and every slot of the arena.

A slot is named by one extent, or free, and never both or neither. Two bits a slot are kept for
that: 4 MiB for a terabyte.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pinfold.device.arena import Arena, BlockCorrupt
from pinfold.device.extentrows import SLOT_BLOCKS, Row, each_sub
from pinfold.device.extents import Extents, Stored
from pinfold.device.slots import CHUNK_SLOTS, Run, runs_of
from pinfold.model.ids import VolumeId
from pinfold.model.limits import BLOCK_BYTES, MIB

_ALL: Final = (1 << CHUNK_SLOTS) - 1
_READ_BLOCKS: Final = MIB // BLOCK_BYTES
"""Read at a time."""


@dataclass(slots=True)
class Found:
    """What was found."""

    blocks: int = 0
    """Blocks that verify."""
    bad: list[tuple[VolumeId, int, int]] = field(default_factory=list)
    """(volume, extent, block) of those that do not."""
    nobodys: list[Run] = field(default_factory=list)
    """Slots that are neither free nor in use: those of rows that were lost."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(part, what is wrong): `extent`, or `index` for what cannot be served from."""


def stored_bytes(extents: Extents) -> int:
    """Bytes of data that `check_extents` would read."""
    return sum(one.row.data.bit_count() for one in extents.stored()) * BLOCK_BYTES


def check_extents(extents: Extents, arena: Arena, progress: Callable[[int], None]) -> Found:
    """Verify what the arena holds; `progress` is told the bytes that were read, as they are."""
    found = Found()
    named = [0] * extents.slots.chunks
    for stored in extents.stored():
        _name(stored, named, found)
        if stored.volume is not None:
            _verify(stored, stored.volume, arena, found)
        progress(stored.row.data.bit_count() * BLOCK_BYTES)
    for number, slots in enumerate(named):
        free = extents.slots.free_in(number)
        for first, count in runs_of(slots & free, number * CHUNK_SLOTS):
            found.problems.append(("index", f"{count} slots from {first} on are in use and free"))
        for first, count in runs_of(~(slots | free) & _ALL, number * CHUNK_SLOTS):
            found.problems.append(("extent", f"{count} slots from {first} on are nobody's"))
            found.nobodys.append((first, count))
    return found


def _name(stored: Stored, named: list[int], found: Found) -> None:
    """Count the slots that an extent names."""
    for sub in each_sub(stored.row.subs):
        number, within = divmod(stored.row.slots[sub], CHUNK_SLOTS)
        if number >= len(named):
            found.problems.append(("index", f"slot {stored.row.slots[sub]} was never used"))
        elif named[number] >> within & 1:
            found.problems.append(("index", f"slot {stored.row.slots[sub]} has two owners"))
        else:
            named[number] |= 1 << within


def _verify(stored: Stored, volume: VolumeId, arena: Arena, found: Found) -> None:
    """Read what the arena has of an extent and the journal does not replace."""
    blocks, seed = stored.row.data, arena.seed(stored.life)
    if stored.waiting is not None:
        blocks &= ~(stored.waiting.written | stored.waiting.zeroed | stored.waiting.trimmed)
    for block, place, count in _runs(stored.row, blocks):
        bad = _bad_places(arena, place, count, seed)
        found.blocks += count - len(bad)
        for one in bad:
            number = block + one - place
            found.bad.append((volume, stored.extent, number))
            where = f"volume {volume.hex()}, extent {stored.extent}, block {number}"
            found.problems.append(("extent", f"{where} fails its checksum"))


def _runs(row: Row, blocks: int) -> Iterator[tuple[int, int, int]]:
    """(block, place, count) of neighbours in one slot, or in slots one behind the other."""
    for first, length in runs_of(blocks, 0):
        block, end = first, first + length
        while block < end:
            place = _place(row, block)
            count = 1
            while (
                block + count < end
                and count < _READ_BLOCKS
                and _place(row, block + count) == place + count
            ):
                count += 1
            yield block, place, count
            block += count


def _place(row: Row, block: int) -> int:
    return row.slots[block // SLOT_BLOCKS] * SLOT_BLOCKS + block % SLOT_BLOCKS


def _bad_places(arena: Arena, place: int, count: int, seed: int) -> list[int]:
    """The places of a run whose blocks do not verify or cannot be read."""
    try:
        arena.read(place, count, seed)
    except (BlockCorrupt, OSError):
        if count == 1:
            return [place]
        half = count // 2
        return [
            *_bad_places(arena, place, half, seed),
            *_bad_places(arena, place + half, count - half, seed),
        ]
    return []
