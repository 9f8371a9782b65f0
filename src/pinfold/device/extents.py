"""Slices of volumes: written to the journal, read through memory, applied in place behind.

A write is one journal record (or a few, when it is longer than one may be) of whole blocks; a
partial block is read, patched and journalled whole, so that redoing it never depends on what the
arena holds. The applier takes what is `active`, writes it once the journal that holds it is
flushed, and drops it from memory when arena and rows have it.

What is here by volume lives in memory; what is there by extent lives in the index, but for the
extents that are dirty or have something unapplied. Both are bounded.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.api import Claim, ExtentOp, Mark
from pinfold.device.arena import Arena
from pinfold.device.extentpass import ExtentPass
from pinfold.device.extentreads import ExtentReads, Part, locate
from pinfold.device.extentrows import ExtentRows, Row, subs_between, subs_of
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.readers import Readers
from pinfold.device.room import NoRoom
from pinfold.device.slots import Slots, runs_of
from pinfold.device.volume import (
    TRIM,
    WRITE,
    ZERO,
    Unapplied,
    Volume,
    decode_stable,
    decode_token,
    decode_write,
    encode_stable,
    encode_token,
    encode_write,
    write_bytes,
)
from pinfold.device.volumes import Volumes, untold
from pinfold.env.api import Buffer, Offload
from pinfold.model.errors import Busy, Conflict, Corrupt, Fenced, Invalid
from pinfold.model.ids import ExtentIndex, Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES, MIB, SLOT_BYTES
from pinfold.model.settings import DeviceSettings

_VOLUME_TABLE: Final = b"v"
_BLOCK_MASK: Final = BLOCK_BYTES - 1

UNAPPLIED_EXTENTS: Final = 16_384
"""Extents with something in memory (some 10 MiB of it, beside the bytes), beyond which more is
Busy; a write that comes below the limit may exceed it."""

ZEROES_BYTES: Final = 256 * MIB
"""Zeroes to be written that wait, likewise: they take no memory, but a second or so of a pass."""

APPLY_EXTENTS: Final = 4_096
"""So many start the applier at once."""


_UNMARKED: Final = Mark(0, 0, 0, 0)


class Stored(NamedTuple):
    """An extent of which the arena holds something."""

    volume: VolumeId | None
    """None for one whose volume was dropped, on its way out."""
    life: int
    extent: int
    row: Row
    waiting: Unapplied | None
    """What the journal holds that is newer."""


class Extents:
    """The device's `ExtentStore`."""

    def __init__(
        self,
        journal: Journal,
        index: Index,
        arena: Arena,
        readers: Readers,
        space: Space,
        health: Health,
        settings: DeviceSettings,
    ) -> None:
        self._journal = journal
        self._index = index
        self._arena = arena
        self._reads = ExtentReads(arena, readers, health)
        self._space = space
        self._health = health
        self._settings = settings
        self._rows = ExtentRows(index)
        self.slots = Slots(index)
        self._pass = ExtentPass(index, self._rows, self.slots, arena)
        self._volumes = Volumes(index, self._rows, journal)
        self._touched: dict[Volume, None] = {}
        """Those with something active."""
        self._active = 0
        """Extents with something active, in all."""
        self._zeroes_bytes = 0
        """Zeroes among it."""

    @property
    def slot_bytes(self) -> int:
        """Space taken by slots in use."""
        return self.slots.used * SLOT_BYTES

    @property
    def purging(self) -> bool:
        """Whether passes are needed to remove what was dropped."""
        return self._pass.purging

    def claim(self, volume: VolumeId, token: Token) -> asyncio.Future[Claim]:
        """See `ExtentStore.claim`. From this call on lower tokens are refused."""
        self._health.check()
        known = self._volumes.get(volume)
        if known is not None and token < known.token:
            raise Fenced(f"token {token} is older than {known.token}", detail=known.token)
        record = encode_token(volume, token)
        sequence = self._journal.append(kinds.EXTENT_CLAIM, (record,), len(record))
        known = self._volumes.claimed(volume, token, sequence)
        known.told = True
        claim = Claim(known.lost)
        answer: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._journal.flush().add_done_callback(partial(_answer, answer, claim))
        return answer

    def write(
        self,
        volume: VolumeId,
        token: Token,
        epoch: int,
        sequence: int,
        ops: Sequence[ExtentOp],
        payload: memoryview,
    ) -> asyncio.Future[None]:
        """See `ExtentStore.write`. An op of length 0 only marks its extent.

        Raises Busy over the limits of what is unapplied, and Corrupt when a partly written block's
        old content does not verify; ops before that one are then taken.
        """
        known = self._fenced(volume, token)
        whole = self._admit(known, ops, len(payload))
        if whole and write_bytes(len(ops)) + len(payload) <= self._settings.record_bytes:
            self._take(known, token, epoch, sequence, ops, payload)
            return self._journal.written()
        position = 0
        for op in ops:
            length = op.length if op.kind == WRITE else 0
            part = payload[position : position + length]
            position += length
            for piece, content in self._pieces(known, op, part):
                self._take(known, token, epoch, sequence, [piece], content)
        return self._journal.written()

    def flush(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """See `ExtentStore.flush`."""
        self._fenced(volume, token)
        return self._journal.flush()

    def read(
        self,
        volume: VolumeId,
        token: Token,
        spans: Sequence[tuple[int, int, int]],
        *,
        deadline: float = math.inf,
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """See `ExtentStore.read`."""
        known = self._fenced(volume, token)
        parts: list[Part] = []
        for index, offset, length in spans:
            _check_range(offset, length)
            locate(known, index, self._rows.get(known.life, index), offset, length, parts)
        if known.lost:
            detail = (spans[0][0], spans[0][1] // BLOCK_BYTES) if spans else None
            raise _lost(known, detail)
        again = partial(self.read, volume, token, spans, deadline=deadline)
        return self._reads.read(parts, again, deadline)

    def stable(self, volume: VolumeId, token: Token, sequence: int) -> None:
        """See `ExtentStore.stable`."""
        known = self._fenced(volume, token)
        record = encode_stable(volume, token, sequence)
        self._journal.append(kinds.EXTENT_STABLE, (record,), len(record))
        self._stable(known, token, sequence)

    def marks(
        self, volume: VolumeId, token: Token, after: int, limit: int, *, dirty: bool
    ) -> list[Mark]:
        """See `ExtentStore.marks`."""
        known = self._fenced(volume, token)
        marks = {
            extent: Mark(extent, mark.epoch, mark.token, mark.sequence)
            for extent, mark in known.marks.page(after, limit)
        }
        if not dirty:
            for extent, epoch in self._rows.epochs(known.life, after, limit):
                marks.setdefault(extent, Mark(extent, epoch, 0, 0))
            for unapplied in (known.applying, known.active):
                for extent, one in unapplied.items():
                    if extent > after and not (mark := marks.get(extent, _UNMARKED)).token:
                        marks[extent] = Mark(extent, max(mark.epoch, one.epoch), 0, 0)
        if not known.told:
            raise untold(known)
        return [marks[extent] for extent in sorted(marks)[:limit]]

    def allocated(
        self, volume: VolumeId, token: Token, index: ExtentIndex
    ) -> list[tuple[int, int]]:
        """See `ExtentStore.allocated`."""
        known = self._fenced(volume, token)
        runs = runs_of(known.data(index, self._rows.get(known.life, index).data), 0)
        if known.lost:  # maybe found out by this very look
            raise _lost(known, (index, 0))
        return [(first * BLOCK_BYTES, count * BLOCK_BYTES) for first, count in runs]

    def check(self, volume: VolumeId, token: Token) -> None:
        """See `ExtentStore.check`."""
        self._fenced(volume, token)

    def restored(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """See `ExtentStore.restored`."""
        known = self._fenced(volume, token)
        if known.lost:
            record = encode_token(volume, token)
            self._journal.append(kinds.EXTENT_RESTORED, (record,), len(record))
            self._volumes.restored(known)
        return self._journal.flush()

    def drop(self, volume: VolumeId) -> asyncio.Future[None]:
        """See `ExtentStore.drop`."""
        self._health.check()
        if self._volumes.get(volume) is not None:
            sequence = self._journal.append(kinds.EXTENT_DROP, (volume,), len(volume))
            self._forget(volume, sequence)
        return self._journal.flush()

    def volumes(self, after: bytes, limit: int) -> list[VolumeId]:
        """See `ExtentStore.volumes`."""
        held = (v.id for v in self._volumes if v.id > after and self._has_extents(v))
        return list(islice(held, limit))

    def suspect(self, volume: VolumeId, index: int) -> None:
        """Mark an extent dirty: the volume's next holder compares it with its other copies."""
        known = self._volumes.get(volume)
        if known is not None and known.marks.get(index) is None:
            # Nobody writes under the token before the highest: its mark stays until it is settled.
            token = max(1, known.token - 1)
            mark = ExtentOp(WRITE, index, 0, 0)
            epoch = self._rows.get(known.life, index).epoch
            self._take(known, Token(token), epoch, 0, [mark], memoryview(b""))

    def tokens(self) -> dict[VolumeId, Token]:
        """The highest token seen of every volume."""
        return {known.id: known.token for known in self._volumes}

    def stored(self) -> Iterator[Stored]:
        """Every extent that the arena holds anything of, those of dropped volumes included."""
        for life, extent, row in self._rows.all():
            known = self._volumes.of_life(life)
            waiting = None if known is None else known.active.get(extent)
            yield Stored(None if known is None else known.id, life, extent, row, waiting)

    def redo(self, record: Record) -> None:
        """Take one record of an extent kind whose effect the arena may lack.

        One that is older than the life its volume has by now was for an earlier one.
        """
        if record.kind == kinds.EXTENT_WRITE:
            volume, token, epoch, sequence, ops, payload = decode_write(record.payload)
            known = self._volumes.claimed(volume, Token(token), record.sequence)
            if record.sequence >= known.life:
                self._remember(known, token, epoch, sequence, ops, payload)
        elif record.kind == kinds.EXTENT_CLAIM:
            self._volumes.claimed(*decode_token(record.payload), record.sequence)
        elif record.kind == kinds.EXTENT_RESTORED:
            volume, token = decode_token(record.payload)
            known = self._volumes.claimed(volume, token, record.sequence)
            if record.sequence > known.lost_at:
                self._volumes.restored(known)
        elif record.kind == kinds.EXTENT_STABLE:
            volume, token, sequence = decode_stable(record.payload)
            found = self._volumes.get(volume)
            if found is not None and record.sequence >= found.life:
                self._stable(found, token, sequence)
        else:
            assert record.kind == kinds.EXTENT_DROP, "an extent record"
            self._forget(VolumeId(bytes(record.payload)), record.sequence)

    def seal(self) -> None:
        """Set aside what the applier writes next."""
        self._pass.seal(list(self._touched))
        self._reads.overtake()
        self._touched.clear()
        self._active = self._zeroes_bytes = 0

    async def apply(self, lane: Offload) -> None:
        """Write what was sealed, through the applier's lane. Raises OSError, and NoRoom.

        What found no room waits on, in memory and in the journal.
        """
        try:
            await self._pass.apply(lane)
        except NoRoom:
            self._touched.update(dict.fromkeys(self._pass.unseal()))
            self._active = sum(len(volume.active) for volume in self._touched)
            raise

    def settle(self) -> None:
        """Put the rest of what was applied into the index, just before it is sealed."""
        self._pass.settle()

    def _fenced(self, volume: VolumeId, token: Token) -> Volume:
        self._health.check()
        return self._volumes.fenced(volume, token)

    def _stable(self, known: Volume, token: int, sequence: int) -> None:
        known.marks.stable(token, sequence)
        self._pass.marked(known.marks)

    def _has_extents(self, known: Volume) -> bool:
        if known.active or known.applying or known.marks:
            return True
        return bool(self._rows.epochs(known.life, -1, 1))

    def _admit(self, known: Volume, ops: Sequence[ExtentOp], payload_bytes: int) -> bool:
        """Refuse what cannot be taken, before anything changes; whether all ops are aligned."""
        self._journal.admit(payload_bytes)
        if self._active >= UNAPPLIED_EXTENTS or self._zeroes_bytes >= ZEROES_BYTES:
            raise Busy(f"{self._active} extents wait to be applied")
        edges = written = 0
        homeless: dict[int, int] = {}
        for kind, index, offset, length in ops:
            _check_range(offset, length)
            edges |= offset | length
            if kind == WRITE:
                written += length
            elif kind not in (ZERO, TRIM):
                raise Invalid(f"no extent op of kind {kind}")
            if kind != TRIM and length:
                lacking = self._homeless(known, index, subs_between(offset, offset + length))
                if lacking:
                    homeless[index] = homeless.get(index, 0) | lacking
        if written != payload_bytes:
            raise Invalid(f"ops write {written} bytes, {payload_bytes} came")
        if homeless:
            slots = sum(subs.bit_count() for subs in homeless.values())
            self._space.take(slots * SLOT_BYTES)
            for index, subs in homeless.items():
                self._unapplied(known, index).promised |= subs
        return not edges & _BLOCK_MASK

    def _homeless(self, known: Volume, index: int, subs: int) -> int:
        """Those of an extent's sub-blocks that have no slot, and no room counted for one."""
        active, applying = known.active.get(index), known.applying.get(index)
        if active is not None and active.promised:
            subs &= ~active.promised
            if not subs:
                return 0
        housed = self._rows.get(known.life, index).subs
        if applying is not None and (applying.promised or applying.trimmed):
            # What is being trimmed just now may lose its slot.
            housed = (housed | applying.promised) & ~subs_of(applying.trimmed)
        return subs & ~housed

    def _unapplied(self, known: Volume, index: int) -> Unapplied:
        """Where writes of an extent wait for the applier."""
        found = known.active.get(index)
        if found is None:
            found = known.active[index] = Unapplied()
            self._touched[known] = None
            self._active += 1
            if self._active >= APPLY_EXTENTS:
                self._journal.urgent.set()
        return found

    def _take(
        self,
        known: Volume,
        token: Token,
        epoch: int,
        sequence: int,
        ops: Sequence[ExtentOp],
        payload: memoryview,
    ) -> None:
        head = encode_write(known.id, token, epoch, sequence, ops)
        self._journal.append(kinds.EXTENT_WRITE, (head, payload), len(head) + len(payload))
        self._remember(known, token, epoch, sequence, ops, payload)

    def _remember(
        self,
        known: Volume,
        token: int,
        epoch: int,
        sequence: int,
        ops: Sequence[ExtentOp],
        payload: memoryview,
    ) -> None:
        position = 0
        for op in ops:
            unapplied = self._unapplied(known, op.extent)
            position = unapplied.take(op, payload, position)
            unapplied.epoch = max(unapplied.epoch, epoch)
            if op.kind == ZERO:
                self._zeroes_bytes += op.length
            known.marks.mark(op.extent, token, epoch, sequence)
        self._pass.marked(known.marks)

    def _pieces(
        self, known: Volume, op: ExtentOp, content: memoryview
    ) -> Iterator[tuple[ExtentOp, memoryview]]:
        """The op as ops on whole blocks, none longer than a record takes."""
        limit = (self._settings.record_bytes - write_bytes(1)) & ~_BLOCK_MASK
        position, end = op.offset, op.offset + op.length
        if position == end:
            yield op, content
        while position < end:
            within = position & _BLOCK_MASK
            if within or end - position < BLOCK_BYTES:
                stop = min(end, position - within + BLOCK_BYTES)
                patch = content[position - op.offset : stop - op.offset]
                yield self._patched(known, op, position, stop, patch)
            else:
                stop = min(end & ~_BLOCK_MASK, position + limit)
                piece = op._replace(offset=position, length=stop - position)
                yield piece, content[position - op.offset : stop - op.offset]
            position = stop

    def _patched(
        self, known: Volume, op: ExtentOp, start: int, stop: int, patch: memoryview
    ) -> tuple[ExtentOp, memoryview]:
        """A whole block with start:stop replaced; a mark alone when a hole stays a hole.

        The old content comes from memory or the page cache; only for a block in neither does the
        loop wait for one device read.
        """
        number = start // BLOCK_BYTES
        row = self._rows.get(known.life, op.extent)
        if op.kind != WRITE and not known.data(op.extent, row.data) >> number & 1:
            return op._replace(length=0), patch[:0]
        block = bytearray(self._reads.block(known, op.extent, row, number))
        within = start - number * BLOCK_BYTES
        block[within : within + stop - start] = patch if op.kind == WRITE else bytes(stop - start)
        piece = ExtentOp(WRITE, op.extent, number * BLOCK_BYTES, BLOCK_BYTES)
        return piece, memoryview(block)

    def _forget(self, volume: VolumeId, sequence: int) -> None:
        """Drop what a volume has, unless that was done when the index was last committed."""
        known = self._volumes.get(volume)
        if known is None or sequence <= known.life:
            return
        if known in self._touched:
            del self._touched[known]
            self._active -= len(known.active)
        self._pass.dropped(known)
        self._volumes.dropped(known, sequence)


def _lost(known: Volume, detail: tuple[int, int] | None) -> Conflict | Corrupt:
    """What a holder hears that asks for what may be lost."""
    if not known.told:
        return untold(known)
    return Corrupt(f"volume {known.id.hex()} has lost extents here", detail=detail)


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0 or offset + length > EXTENT_BYTES:
        raise Invalid(f"{offset}+{length} is outside an extent")


def _answer(answer: asyncio.Future[Claim], claim: Claim, flushed: asyncio.Future[None]) -> None:
    """The claim, once its token is flushed."""
    if answer.done():
        return
    if flushed.cancelled():
        answer.cancel()
    elif (error := flushed.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(claim)
