"""Slices of volumes: written to the journal, read through memory, applied in place behind.

A write is one journal record (or a few, when it is longer than one may be) of whole blocks; a
partial block is read, patched and journalled whole, so that redoing it never depends on what the
arena holds. The applier takes each extent's `active` blocks, writes them once the journal that
holds them is flushed, and drops them from memory when the arena has them.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

from pinfold.codec.decoding import require
from pinfold.codec.names import successor
from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.api import Claim, ExtentOp, Mark
from pinfold.device.arena import Arena
from pinfold.device.extentreads import ExtentReads, Part, locate
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.readers import Readers
from pinfold.device.volume import (
    NO_SLOT,
    TRIM,
    WRITE,
    ZERO,
    Extent,
    Volume,
    decode_extent,
    decode_stable,
    decode_token,
    decode_volume,
    decode_write,
    encode_stable,
    encode_token,
    encode_volume,
    encode_write,
    write_bytes,
)
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, Fenced, Invalid
from pinfold.model.ids import ExtentIndex, Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import DeviceSettings

_VOLUME_TABLE: Final = b"v"
_EXTENT_TABLE: Final = b"e"
_BLOCK_MASK: Final = BLOCK_BYTES - 1


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
        self._volumes: dict[VolumeId, Volume] = {}
        self._touched: dict[Extent, None] = {}
        self._changed: dict[Extent, None] = {}
        self._work: list[tuple[Extent, int, dict[int, Buffer | None], bool]] = []
        self._free_slots: list[int] = []
        self._next_slot = 0
        self._freed: list[int] = []
        self._sealed_freed: list[int] = []
        index.watch(_EXTENT_TABLE, self._lose_row)
        self._load()

    @property
    def slot_bytes(self) -> int:
        """Space taken by slots in use."""
        return (self._next_slot - len(self._free_slots)) * EXTENT_BYTES

    def claim(self, volume: VolumeId, token: Token) -> asyncio.Future[Claim]:
        """See `ExtentStore.claim`. From this call on lower tokens are refused."""
        self._health.check()
        known = self._volumes.get(volume)
        if known is not None and token < known.token:
            raise Fenced(f"token {token} is older than {known.token}", detail=known.token)
        record = encode_token(volume, token)
        self._journal.append(kinds.EXTENT_CLAIM, (record,), len(record))
        claim = Claim(self._claimed(volume, token).lost)
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

        Raises Busy over the limit of unapplied bytes, and Corrupt when a partly written block's
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
            for piece, content in self._pieces(known.extent(op.extent), op, part):
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
        if known.lost:
            detail = (spans[0][0], spans[0][1] // BLOCK_BYTES) if spans else None
            raise Corrupt(f"volume {volume.hex()} has lost extents here", detail=detail)
        parts: list[Part] = []
        for index, offset, length in spans:
            _check_range(offset, length)
            extent = known.extents.get(index)
            if extent is None:
                parts.append(bytes(length))
            else:
                locate(extent, offset, length, parts)
        again = partial(self.read, volume, token, spans, deadline=deadline)
        return self._reads.read(parts, again, deadline)

    def stable(self, volume: VolumeId, token: Token, sequence: int) -> None:
        """See `ExtentStore.stable`."""
        known = self._fenced(volume, token)
        record = encode_stable(volume, token, sequence)
        self._journal.append(kinds.EXTENT_STABLE, (record,), len(record))
        self._changed.update(dict.fromkeys(known.stable(token, sequence)))

    def marks(
        self, volume: VolumeId, token: Token, after: int, limit: int, *, dirty: bool
    ) -> list[Mark]:
        """See `ExtentStore.marks`."""
        extents = self._fenced(volume, token).extents
        chosen = (i for i in sorted(extents) if i > after and (extents[i].dirty or not dirty))
        return [
            Mark(i, extents[i].epoch, extents[i].token if extents[i].dirty else 0)
            for i in islice(chosen, limit)
        ]

    def allocated(
        self, volume: VolumeId, token: Token, index: ExtentIndex
    ) -> list[tuple[int, int]]:
        """See `ExtentStore.allocated`."""
        extent = self._fenced(volume, token).extents.get(index)
        return extent.runs() if extent is not None else []

    def restored(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """See `ExtentStore.restored`."""
        known = self._fenced(volume, token)
        if known.lost:
            record = encode_token(volume, token)
            self._journal.append(kinds.EXTENT_RESTORED, (record,), len(record))
            self._restore(known)
        return self._journal.flush()

    def drop(self, volume: VolumeId) -> asyncio.Future[None]:
        """See `ExtentStore.drop`."""
        self._health.check()
        if volume in self._volumes:
            self._journal.append(kinds.EXTENT_DROP, (volume,), len(volume))
            self._forget(volume)
        return self._journal.flush()

    def volumes(self, after: bytes, limit: int) -> list[VolumeId]:
        """See `ExtentStore.volumes`."""
        held = (v for v in sorted(self._volumes) if v > after and self._volumes[v].extents)
        return list(islice(held, limit))

    def suspect(self, volume: VolumeId, index: int) -> None:
        """Mark an extent dirty: the volume's next holder compares it with its other copies."""
        known = self._volumes[volume]
        extent = known.extents[index]
        mark = ExtentOp(WRITE, index, 0, 0)
        nothing = memoryview(b"")
        self._take(known, Token(extent.token), extent.epoch, extent.sequence, [mark], nothing)

    def tokens(self) -> dict[VolumeId, Token]:
        """The highest token seen of every volume."""
        return {volume: known.token for volume, known in self._volumes.items()}

    def present(self) -> Iterator[Extent]:
        """Every extent, in order."""
        for volume in sorted(self._volumes):
            extents = self._volumes[volume].extents
            yield from (extents[index] for index in sorted(extents))

    def redo(self, record: Record) -> None:
        """Take one record of an extent kind whose effect the arena may lack."""
        if record.kind == kinds.EXTENT_WRITE:
            volume, token, epoch, sequence, ops, payload = decode_write(record.payload)
            known = self._volumes.get(volume) or self._claimed(volume, Token(token))
            self._remember(known, token, epoch, sequence, ops, payload)
        elif record.kind == kinds.EXTENT_CLAIM:
            self._claimed(*decode_token(record.payload))
        elif record.kind == kinds.EXTENT_RESTORED:
            volume, token = decode_token(record.payload)
            known = self._claimed(volume, token)
            if record.sequence > known.lost_at:
                self._restore(known)
        elif record.kind == kinds.EXTENT_STABLE:
            volume, token, sequence = decode_stable(record.payload)
            if (found := self._volumes.get(volume)) is not None:
                self._changed.update(dict.fromkeys(found.stable(token, sequence)))
        else:
            assert record.kind == kinds.EXTENT_DROP, "an extent record"
            self._forget(VolumeId(bytes(record.payload)))

    def seal(self) -> None:
        """Set aside the blocks the applier writes next, and give their extents slots."""
        assert not self._work, "one pass at a time"
        for extent in self._touched:
            if extent.slot == NO_SLOT and extent.bitmap:
                extent.slot, extent.fresh = self._new_slot(), True
                self._changed[extent] = None
            extent.applying, extent.active = extent.active, {}
            extent.version += 1
            if extent.slot == NO_SLOT:
                extent.applying = {}  # all holes, and nothing was there
            else:
                self._work.append((extent, extent.slot, extent.applying, extent.fresh))
        self._touched.clear()

    def unseal(self) -> None:
        """What was sealed could not be written: it waits on, in memory and in the journal."""
        for extent, slot, blocks, fresh in self._work:
            extent.active = {**blocks, **extent.active}
            extent.applying = {}
            extent.version += 1
            if fresh and extent.slot == slot:
                extent.slot, extent.fresh = NO_SLOT, False
                self._free_slots.append(slot)
            known = self._volumes.get(extent.volume)
            if known is not None and known.extents.get(extent.index) is extent:
                self._touched[extent] = None
                self._changed[extent] = None
        self._work = []

    def apply(self) -> None:
        """In the applier's lane: write what was sealed and flush it. Raises NoRoom, OSError."""
        for _, slot, blocks, fresh in self._work:
            self._arena.write(slot, blocks, fresh=fresh)
        if self._work:
            self._arena.flush()

    def settle(self) -> None:
        """Put what was applied into the index, just before it is sealed."""
        for extent, _, _, _ in self._work:
            extent.applying = {}
            extent.fresh = False
            extent.version += 1
            if not extent.bitmap and not extent.active and extent.slot != NO_SLOT:
                self._release_slot(extent)
        self._work = []
        for extent in self._changed:
            extent.changed = False
            self._index.put(_extent_key(extent.volume, extent.index), extent.encode())
        self._changed.clear()
        self._sealed_freed, self._freed = self._freed, []

    def committed(self) -> list[int]:
        """What `settle` put is durable: the slots that are free now, to be punched."""
        freed, self._sealed_freed = self._sealed_freed, []
        self._free_slots.extend(freed)
        return freed

    def _load(self) -> None:
        for key, record in self._index.scan(_VOLUME_TABLE, successor(_VOLUME_TABLE)):
            volume = VolumeId(key[1:])
            token, lost_at = decode_volume(record)
            self._volumes[volume] = Volume(volume, token, lost_at=lost_at)
        used = set()
        for key, record in self._index.scan(_EXTENT_TABLE, successor(_EXTENT_TABLE)):
            volume, index = VolumeId(key[1:17]), int.from_bytes(key[17:], "big")
            extent = decode_extent(volume, index, record)
            require(volume in self._volumes, "index: an extent of no volume")
            self._volumes[volume].extents[index] = extent
            used.add(extent.slot)
        self._next_slot = max(used, default=NO_SLOT) + 1
        self._free_slots = [slot for slot in range(self._next_slot) if slot not in used]

    def _lose_row(self, key: bytes) -> bool:
        """An extent's row failed its checksum: which one it was is not known for certain."""
        known = self._volumes.get(VolumeId(key[1:17]))
        if known is None:
            return False
        known.lost_at = self._journal.appended
        self._put_volume(known)
        self._index.put(key, None)
        return True

    def _fenced(self, volume: VolumeId, token: Token) -> Volume:
        known = self._volumes.get(volume)
        if known is None or known.token != token:
            highest = None if known is None else known.token
            raise Fenced(f"token {token} is not the claimed {highest}", detail=highest)
        self._health.check()
        return known

    def _claimed(self, volume: VolumeId, token: Token) -> Volume:
        known = self._volumes.get(volume)
        if known is None:
            known = self._volumes[volume] = Volume(volume, token)
        known.token = max(known.token, token)
        self._put_volume(known)
        return known

    def _restore(self, known: Volume) -> None:
        known.lost_at = 0
        self._put_volume(known)

    def _put_volume(self, known: Volume) -> None:
        record = encode_volume(known.token, lost_at=known.lost_at)
        self._index.put(_VOLUME_TABLE + known.id, record)

    def _admit(self, known: Volume, ops: Sequence[ExtentOp], payload_bytes: int) -> bool:
        """Refuse what cannot be taken, before anything changes; whether all ops are aligned."""
        self._journal.admit(payload_bytes)
        edges = written = 0
        homeless: dict[Extent, None] = {}
        for kind, index, offset, length in ops:
            _check_range(offset, length)
            edges |= offset | length
            if kind == WRITE:
                written += length
            elif kind not in (ZERO, TRIM):
                raise Invalid(f"no extent op of kind {kind}")
            extent = known.extents.get(index) or known.extent(index)
            if not extent.promised and kind != TRIM and length:
                homeless[extent] = None
        if written != payload_bytes:
            raise Invalid(f"ops write {written} bytes, {payload_bytes} came")
        # The payload is counted too: a block that was trimmed takes its space again.
        self._space.take(len(homeless) * EXTENT_BYTES + payload_bytes)
        for extent in homeless:
            extent.promised = True
        return not edges & _BLOCK_MASK

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
            extent = known.extent(op.extent)
            position = extent.take(op, payload, position)
            extent.mark(token, epoch, sequence)
            self._touched[extent] = None
            self._changed[extent] = None

    def _pieces(
        self, extent: Extent, op: ExtentOp, content: memoryview
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
                yield self._patched(extent, op, position, stop, patch)
            else:
                stop = min(end & ~_BLOCK_MASK, position + limit)
                piece = op._replace(offset=position, length=stop - position)
                yield piece, content[position - op.offset : stop - op.offset]
            position = stop

    def _patched(
        self, extent: Extent, op: ExtentOp, start: int, stop: int, patch: memoryview
    ) -> tuple[ExtentOp, memoryview]:
        """A whole block with start:stop replaced; a mark alone when a hole stays a hole.

        The old content comes from memory or the page cache; only for a block in neither does the
        loop wait for one device read.
        """
        number = start // BLOCK_BYTES
        if op.kind != WRITE and not extent.bitmap >> number & 1:
            return op._replace(length=0), patch[:0]
        block = bytearray(self._reads.block(extent, number))
        within = start - number * BLOCK_BYTES
        block[within : within + stop - start] = patch if op.kind == WRITE else bytes(stop - start)
        piece = ExtentOp(WRITE, op.extent, number * BLOCK_BYTES, BLOCK_BYTES)
        return piece, memoryview(block)

    def _new_slot(self) -> int:
        if self._free_slots:
            return self._free_slots.pop()
        self._next_slot += 1
        return self._next_slot - 1

    def _release_slot(self, extent: Extent) -> None:
        self._freed.append(extent.slot)
        extent.slot, extent.promised = NO_SLOT, False
        extent.version += 1
        self._changed[extent] = None

    def _forget(self, volume: VolumeId) -> None:
        """Its token stays: see `ExtentStore.drop`."""
        known = self._volumes.get(volume)
        if known is None:
            return
        extents, known.extents = known.extents, {}
        known.lost_at = 0
        self._put_volume(known)
        for extent in extents.values():
            if extent.slot != NO_SLOT:
                self._release_slot(extent)
            self._touched.pop(extent, None)
            self._changed.pop(extent, None)
            self._index.put(_extent_key(volume, extent.index), None)


def _extent_key(volume: VolumeId, index: int) -> bytes:
    return _EXTENT_TABLE + volume + index.to_bytes(4, "big")


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
