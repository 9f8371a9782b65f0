"""What a device may hold after a crash, given what it was asked and what it acknowledged.

The workers of `test_crashes` call the device and this model side by side; `check` compares a
reopened device with it and takes over what it found, so that the next life starts from there.
"""

import asyncio
import random
from collections.abc import Sequence

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.env.api import Buffer
from pinfold.model.errors import NotFound
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId

UNIT = 512
AREA_UNITS = 64
"""Only the first 32 KiB of an extent are used: enough for blocks to be overwritten often."""


async def whole(answer: list[Buffer] | asyncio.Future[list[Buffer]]) -> bytes:
    """A read's bytes, however they come."""
    return b"".join(answer if isinstance(answer, list) else await answer)


class BlobModel:
    """Blobs by id: certain ones, and ones whose put or delete was never acknowledged."""

    def __init__(self) -> None:
        self.held: dict[BlobId, bytes] = {}
        self.unsure: dict[BlobId, bytes] = {}
        self.gone: dict[BlobId, None] = {}

    async def put(self, device: Device, blob: BlobId, payload: bytes) -> None:
        self.unsure[blob] = payload
        if len(payload) <= 1 << 16:
            await device.blobs.put(blob, memoryview(payload), checks_of(payload))
        else:
            stream = device.blobs.begin(blob, len(payload), checks_of(payload))
            for start in range(0, len(payload), 50_000):
                await stream.write(payload[start : start + 50_000])
            await stream.commit()
        self.held[blob] = self.unsure.pop(blob)

    async def delete(self, device: Device, blobs: Sequence[BlobId]) -> None:
        for blob in blobs:
            self.unsure[blob] = self.held.pop(blob)
        await device.blobs.delete(blobs)
        for blob in blobs:
            del self.unsure[blob]
            self.gone[blob] = None

    async def check(self, device: Device) -> None:
        for blob, payload in self.held.items():
            assert await whole(device.blobs.read(blob, 0, len(payload))) == payload
        for blob, payload in list(self.unsure.items()):
            try:
                found = await whole(device.blobs.read(blob, 0, len(payload)))
            except NotFound:
                self.gone[blob] = None
            else:
                assert found == payload
                self.held[blob] = payload
        self.unsure.clear()
        for blob in self.gone:
            assert device.blobs.state(blob) is None
        listed = device.blobs.scan(b"", 1 << 20)
        assert listed == sorted((blob, len(payload)) for blob, payload in self.held.items())
        assert device.status().blobs == len(self.held)
        assert device.status().blob_bytes == sum(map(len, self.held.values()))


def writes_of(body: bytes) -> list[tuple[bytes, bytes | None]]:
    """The row changes that an entry's body stands for."""
    rng = random.Random(body)
    return [
        (b"row-%d" % rng.randrange(20), None if rng.random() < 0.3 else body[:20])
        for _ in range(rng.randrange(5))
    ]


class LogModel:
    """One group: every state its log went through since the last that was acknowledged."""

    def __init__(self, group: GroupId) -> None:
        self.group = group
        self.states: list[dict[int, Entry]] = [{}]
        self.certain = 0
        """States before this one are over."""
        self.applied: list[bytes] = []
        self.view = 0
        self.view_asked = 0

    @property
    def entries(self) -> dict[int, Entry]:
        return self.states[-1]

    async def append(self, device: Device, entries: list[Entry]) -> None:
        state = {op: entry for op, entry in self.entries.items() if op < entries[0].op}
        # A long append is several records, and a crash may come between them.
        for entry in entries:
            state = state | {entry.op: entry}
            self.states.append(state)
        mine = len(self.states) - 1
        await device.log.append(self.group, entries)
        self.certain = max(self.certain, mine)

    def apply(self, device: Device) -> None:
        op = len(self.applied) + 1
        body = self.entries[op].body
        device.log.apply(self.group, op, writes_of(body))
        self.applied.append(body)

    async def set_view(self, device: Device, view: int) -> None:
        self.view_asked = view
        await device.log.set_view(self.group, view, b"voted %d" % view)
        self.view = view

    def rows(self, applied: int) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        for body in self.applied[:applied]:
            for key, value in writes_of(body):
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
        return rows

    def check(self, device: Device) -> None:
        state = device.log.state(self.group)
        assert self.view <= state.view <= max(self.view_asked, self._highest_view())
        if state.view == self.view_asked and state.voted:
            assert state.voted == b"voted %d" % self.view_asked
        assert state.applied_op <= len(self.applied)
        tail = device.log.tail(self.group, state.first_op, 1 << 30)
        found = {entry.op: entry for entry in tail}
        assert sorted(found) == list(range(state.first_op, state.last_op + 1))
        assert state.first_op <= state.applied_op + 1
        possible = [
            known
            for known in self.states[self.certain :]
            if max(known, default=0) == state.last_op
            and all(known[op] == entry for op, entry in found.items())
        ]
        assert possible, "the log is in no state that it may be in"
        assert dict(device.rows.scan(self.group, b"", None)) == self.rows(state.applied_op)
        backwards = list(device.rows.scan(self.group, b"", None, reverse=True))
        assert backwards == sorted(self.rows(state.applied_op).items(), reverse=True)
        self.states, self.certain = [possible[0]], 0
        del self.applied[state.applied_op :]
        self.view = self.view_asked = state.view
        while len(self.applied) < min(state.last_op, state.applied_op + 3):
            self.apply(device)

    def _highest_view(self) -> int:
        return max((e.view for known in self.states for e in known.values()), default=0)


class VolumeModel:
    """One volume: for every 512 bytes, what a read may find there after a crash."""

    def __init__(self, volume: VolumeId) -> None:
        self.volume = volume
        self.token = Token(0)
        self.sequence = 0
        self.now: dict[tuple[int, int], bytes] = {}
        self.allowed: dict[tuple[int, int], list[bytes]] = {}
        """Unflushed units: the flushed content and every one written since."""
        self.written: dict[int, int] = {}
        """Sequence of the last write of an extent that was flushed."""
        self.unflushed: dict[int, int] = {}
        self.declared = 0

    async def claim(self, device: Device) -> list[int]:
        self.token = Token(self.token + 1)
        await device.extents.claim(self.volume, self.token)
        marks = device.extents.marks(self.volume, self.token, -1, 1 << 20, dirty=True)
        return [mark.extent for mark in marks]

    def write(self, device: Device, ops: list[ExtentOp], payload: bytes) -> None:
        """Nothing has changed when the device refuses it."""
        view = memoryview(payload)
        device.extents.write(self.volume, self.token, 7, self.sequence + 1, ops, view)
        self.sequence += 1
        position = 0
        for op in ops:
            for start in range(op.offset, min(op.offset + op.length, AREA_UNITS * UNIT), UNIT):
                content = bytes(UNIT)
                if op.kind == 0:
                    content = payload[position : position + UNIT]
                    position += UNIT
                unit = (op.extent, start // UNIT)
                before = self.now.get(unit, bytes(UNIT))
                self.allowed.setdefault(unit, [before]).append(content)
                self.now[unit] = content
            self.unflushed[op.extent] = self.sequence

    async def flush(self, device: Device) -> None:
        covered = {unit: len(contents) for unit, contents in self.allowed.items()}
        marks = dict(self.unflushed)
        await device.extents.flush(self.volume, self.token)
        for unit, count in covered.items():
            if unit in self.allowed:
                self.allowed[unit] = self.allowed[unit][count - 1 :]
        self.written.update(marks)

    def declare(self, device: Device, sequence: int) -> None:
        device.extents.stable(self.volume, self.token, sequence)
        self.declared = sequence

    def expected(self, index: int, first: int, units: int) -> bytes:
        return b"".join(
            self.now.get((index, unit), bytes(UNIT)) for unit in range(first, first + units)
        )

    async def check(self, device: Device) -> None:
        dirty = await self.claim(device)
        for index, sequence in self.written.items():
            assert index in dirty or sequence <= self.declared
        for index in {index for index, _ in self.now}:
            span = [(index, 0, AREA_UNITS * UNIT)]
            found = await whole(device.extents.read(self.volume, self.token, span))
            for number in range(AREA_UNITS):
                unit = (index, number)
                content = found[number * UNIT : (number + 1) * UNIT]
                if unit in self.allowed:
                    assert content in self.allowed[unit]
                else:
                    assert content == self.now.get(unit, bytes(UNIT))
                self.now[unit] = content
        self.allowed.clear()
        self.written.clear()
        self.unflushed.clear()
        self.declared = self.sequence = 0
