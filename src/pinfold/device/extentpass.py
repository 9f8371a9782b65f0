"""The extents' part of the applier's pass: from memory into the arena, and into the index's rows.

`seal` sets aside what was written; `apply` works it off in pieces: slots are given on the loop, a
lane writes and flushes, and the rows follow. Data goes in place where its sub-block has a slot,
else into a fresh one; a sub-block that holds nothing any more gives its slot up. Marks, slots and
some rows of dropped volumes are put with `settle`.

Without room for fresh slots everything else is carried out all the same, so that a full device
obeys a trim; the extents that lack room wait on.
"""

import asyncio
import struct
from itertools import islice
from typing import Final, NamedTuple

from pinfold.codec.decoding import require
from pinfold.codec.names import successor
from pinfold.device.arena import Arena
from pinfold.device.extentrows import (
    NO_SLOT,
    SLOT_BLOCKS,
    ExtentRows,
    Row,
    each_sub,
    subs_of,
)
from pinfold.device.index import Index
from pinfold.device.marks import Marks, mark_keys
from pinfold.device.room import NoRoom
from pinfold.device.slots import Slots, runs_of
from pinfold.device.volume import Unapplied, Volume
from pinfold.env.api import Buffer, Offload
from pinfold.model.limits import BLOCK_BYTES

PIECE_EXTENTS: Final = 256
"""Extents given slots, or put into the index, before the loop may turn to somebody else."""

PURGED_EXTENTS: Final = 256
"""Extents of dropped volumes that one pass removes: some milliseconds."""

HELD_SLOTS: Final = 131_072
"""With so many slots (8 GiB) waiting to be given back, dropped volumes wait too."""

_DROPPED: Final = b"z"
_DROPPED_KEY: Final = struct.Struct(">cQ")
_ZERO_BLOCK: Final = bytes(BLOCK_BYTES)


class _Plan(NamedTuple):
    """What becomes of one extent."""

    volume: Volume
    extent: int
    unapplied: Unapplied
    row: Row
    """What it has now."""
    after: Row
    fresh: list[int]
    """Slots that are taken for it."""
    freed: list[int]
    """Slots that it gives up."""


class ExtentPass:
    """See the module. Everything is called by the applier, or while no pass is under way."""

    def __init__(self, index: Index, rows: ExtentRows, slots: Slots, arena: Arena) -> None:
        self._index = index
        self._rows = rows
        self._slots = slots
        self._arena = arena
        self._sealed: list[Volume] = []
        self._marked: dict[Marks, None] = {}

    def marked(self, marks: Marks) -> None:
        """Marks that the next `settle` puts."""
        self._marked[marks] = None

    def dropped(self, volume: Volume) -> None:
        """Remove a life of a volume, in passes to come: its rows, marks and slots."""
        volume.dropped = True
        self._marked.pop(volume.marks, None)
        self._index.put(_DROPPED_KEY.pack(_DROPPED, volume.life), b"")

    @property
    def purging(self) -> bool:
        """Whether dropped volumes wait to be removed, and may be."""
        return self._slots.held < HELD_SLOTS and self._doomed() is not None

    def seal(self, volumes: list[Volume]) -> None:
        """Set aside what these volumes have in memory."""
        assert not self._sealed, "one pass at a time"
        for volume in volumes:
            volume.applying, volume.active = volume.active, {}
        self._sealed = volumes

    def unseal(self) -> list[Volume]:
        """What is sealed still could not be written: it waits on, in memory and in the journal."""
        volumes = [volume for volume in self._sealed if volume.applying and not volume.dropped]
        for volume in volumes:
            for extent, older in volume.applying.items():
                newer = volume.active.get(extent)
                volume.active[extent] = older if newer is None else newer.above(older)
            volume.applying = {}
        self._sealed = []
        return volumes

    async def apply(self, lane: Offload) -> None:
        """Write what was sealed, flush it and put the rows; `unseal` what is left after NoRoom."""
        work = [(volume, extent) for volume in self._sealed for extent in volume.applying]
        done: list[_Plan] = []
        lacking = 0
        for start in range(0, len(work), PIECE_EXTENTS):
            plans = [
                self._plan(volume, extent)
                for volume, extent in work[start : start + PIECE_EXTENTS]
                if not volume.dropped
            ]
            written, unwritten = await lane(self._write, plans)
            done += written
            lacking += len(unwritten)
            for plan in unwritten:
                self._slots.free(plan.fresh)
        given = self._slots.to_flush()
        if done or given:
            await lane(self._arena.flush)
            self._slots.flushed(given)
        for start in range(0, len(done), PIECE_EXTENTS):
            for plan in done[start : start + PIECE_EXTENTS]:
                self._install(plan)
            await asyncio.sleep(0)
        if lacking:
            raise NoRoom(f"{lacking} extents need slots")
        self._sealed = []

    def settle(self) -> None:
        """Put the rest into the index, just before it is sealed."""
        for marks in self._marked:
            marks.settle(self._index)
        self._marked.clear()
        if self._slots.held < HELD_SLOTS and (life := self._doomed()) is not None:
            self._purge(life)
        self._slots.settle()

    def _plan(self, volume: Volume, extent: int) -> _Plan:
        row, unapplied = self._rows.get(volume.life, extent), volume.applying[extent]
        epoch = max(row.epoch, unapplied.epoch)
        data = unapplied.over(row.data)
        if data == row.data:
            after = row if epoch == row.epoch else row._replace(epoch=epoch)
            return _Plan(volume, extent, unapplied, row, after, [], [])
        subs, slots = subs_of(data), row.slots[:]
        fresh, freed = [], []
        if gone := row.subs & ~subs:
            for sub in each_sub(gone):
                freed.append(slots[sub])
                slots[sub] = NO_SLOT
        if new := subs & ~row.subs:
            for sub in each_sub(new):
                slots[sub] = self._slots.take()
                fresh.append(slots[sub])
        after = Row(epoch, data, subs, slots, row.owned)
        return _Plan(volume, extent, unapplied, row, after, fresh, freed)

    def _write(self, plans: list[_Plan]) -> tuple[list[_Plan], list[_Plan]]:
        """In the applier's lane: what was written, and what found no room."""
        written, unwritten = [], []
        try:
            self._arena.allocate([slot for plan in plans for slot in plan.fresh])
        except NoRoom:
            unwritten = [plan for plan in plans if plan.fresh]
            plans = [plan for plan in plans if not plan.fresh]
        for plan in plans:
            seed = self._arena.seed(plan.volume.life)
            try:
                self._arena.write(*_placed(plan), seed)
            except NoRoom:
                unwritten.append(plan)
            else:
                written.append(plan)
        return written, unwritten

    def _install(self, plan: _Plan) -> None:
        """What was planned is in the arena, durably: the row says so."""
        if plan.volume.dropped:
            self._slots.free(plan.fresh)
            return
        self._slots.free(plan.freed)
        if plan.after is not plan.row:
            self._rows.put(plan.volume.life, plan.extent, plan.after)
        del plan.volume.applying[plan.extent]

    def _doomed(self) -> int | None:
        """A dropped life of which something is left."""
        for key, _ in self._index.scan(_DROPPED, successor(_DROPPED)):
            return life_of_key(key)
        return None

    def _purge(self, life: int) -> None:
        """Remove some of what a dropped life had."""
        page = self._rows.page(life, PURGED_EXTENTS)
        for extent, row in page:
            self._slots.free([row.slots[sub] for sub in each_sub(row.subs)])
            self._rows.remove(life, extent)
        if len(page) == PURGED_EXTENTS:
            return
        keys = list(islice(mark_keys(self._index, life), PURGED_EXTENTS))
        for key in keys:
            self._index.put(key, None)
        if len(keys) < PURGED_EXTENTS:
            self._index.put(_DROPPED_KEY.pack(_DROPPED, life), None)


def is_dropped(index: Index, life: int) -> bool:
    """Whether what is left of a life is on its way out."""
    return index.get(_DROPPED_KEY.pack(_DROPPED, life)) is not None


def life_of_key(key: bytes) -> int:
    """The dropped life that a row is for."""
    require(len(key) == _DROPPED_KEY.size, "a dropped life has a number of 8 bytes")
    life: int = _DROPPED_KEY.unpack(key)[1]
    return life


def _placed(plan: _Plan) -> tuple[list[int], list[Buffer], list[int]]:
    """Where every block with content goes, in ascending places, and what goes there.

    The third are places of zeroes in fresh slots, which hold nothing: nothing is written there.
    """
    blocks, slots, zeroes = plan.unapplied.blocks, plan.after.slots, []
    if plan.unapplied.zeroed:
        blocks, fresh = dict(blocks), set(plan.fresh)
        for first, count in runs_of(plan.unapplied.zeroed, 0):
            for block in range(first, first + count):
                slot = slots[block // SLOT_BLOCKS]
                if slot in fresh:
                    zeroes.append(slot * SLOT_BLOCKS + block % SLOT_BLOCKS)
                else:
                    blocks[block] = _ZERO_BLOCK
    placed = sorted(
        [
            (slots[block // SLOT_BLOCKS] * SLOT_BLOCKS + block % SLOT_BLOCKS, block)
            for block in blocks
        ]
    )
    zeroes.sort()
    return [place for place, _ in placed], [blocks[block] for _, block in placed], zeroes
