"""Who uses a lone device: one of each store's callers, keeping to the rules of `device.api`.

What a client knows outlives the device's process, as a cluster does: ids of blobs, tokens. What it
cannot know after a crash (how far a log is) it asks.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from pinfold.codec.packs import checks_of
from pinfold.device.api import Device, Entry, ExtentOp
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import BlobId, ExtentIndex, GroupId, Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, KIB

Client = Callable[[Device, asyncio.TaskGroup], Awaitable[None]]
"""One step of a client; PinfoldError is an answer. What it does not wait for is for the group."""

_GROUPS: Final = 2
_KEYS: Final = 6
_EXTENTS: Final = 2
_BLOCKS: Final = 40
"""Of an extent: some sub-blocks."""

_SIZES: Final = (0, 100, 100, 700, 3 * KIB, 9 * KIB)
"""Of blobs."""

_WRITE, _ZERO, _TRIM = range(3)


async def _answer(found: Any) -> Any:
    """What a call answers that may have it at once."""
    return await found if isinstance(found, asyncio.Future) else found


class BlobClient:
    """Puts and reads blobs, and deletes most of them at once, which leaves packs sparse."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._payloads: dict[BlobId, bytes] = {}
        self._deleted: dict[BlobId, bytes] = {}
        """The last ones: a few are put again, as a repair does."""

    async def step(self, device: Device, group: asyncio.TaskGroup) -> None:
        """See `Client`."""
        rng, blobs = self._rng, device.blobs
        what = rng.random()
        if what < 0.45 or not self._payloads:
            puts = [self._put(device) for _ in range(rng.choice((1, 1, 8)))]
            await asyncio.gather(*puts)
        elif what < 0.75:
            for _ in range(rng.choice((1, 1, 12))):
                blob = rng.choice(list(self._payloads))
                length = len(self._payloads[blob])
                offset = rng.choice((0, 0, length // 2))
                reading = _answer(blobs.read(blob, offset, length - offset))
                group.create_task(_ignoring(reading))
        elif what < 0.9:
            await self._delete(device, rng.choice((0.15, 0.5)))
        else:
            await self._delete(device, 0.15)
            for _ in range(6):  # while packs are emptied
                await asyncio.sleep(rng.uniform(0.0, 0.006))
                await self._delete(device, 0.8)

    async def _delete(self, device: Device, kept: float) -> None:
        gone = [blob for blob in self._payloads if self._rng.random() > kept]
        self._deleted = {blob: self._payloads.pop(blob) for blob in gone}
        if gone:
            await device.blobs.delete(gone)

    async def _put(self, device: Device) -> None:
        rng, blobs = self._rng, device.blobs
        blob, payload = BlobId(rng.randbytes(16)), rng.randbytes(rng.choice(_SIZES))
        if self._deleted and rng.random() < 0.2:
            blob, payload = self._deleted.popitem()
        checks = checks_of(payload)
        self._payloads[blob] = payload
        if rng.random() < 0.6:
            await blobs.put(blob, memoryview(payload), checks)
            return
        writer, slow = blobs.begin(blob, len(payload), checks), rng.random() < 0.3
        middle = len(payload) // 2
        try:
            for chunk in (payload[:middle], payload[middle:]):
                await writer.write(chunk)
                if slow:
                    await asyncio.sleep(rng.uniform(0.0, 0.03))
            if rng.random() < 0.9:
                await writer.commit()
        finally:
            writer.abort()  # of no effect behind a commit


async def _ignoring(work: Awaitable[Any]) -> None:
    """Nobody waits for it; the auditor looks at what it brings."""
    with suppress(PinfoldError):
        await work


class VolumeClient:
    """Holds one volume: claims it in every life, writes, zeroes, trims, flushes, reads, drops."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._volume = VolumeId(rng.randbytes(16))
        self._token = Token(0)
        self._device: Device | None = None
        self._epoch = 1
        self._sequence = 0

    async def step(self, device: Device, group: asyncio.TaskGroup) -> None:
        """See `Client`."""
        rng, extents = self._rng, device.extents
        if self._device is not device or rng.random() < 0.02:
            await self._claim(device)
            return
        what = rng.random()
        if what < 0.55:
            await self._write(device)
        elif what < 0.75:
            await extents.flush(self._volume, self._token)
        elif what < 0.78:
            stable = self._sequence
            await extents.flush(self._volume, self._token)
            extents.stable(self._volume, self._token, stable)
        elif what < 0.8:
            self._device = None
            await extents.drop(self._volume)
        else:
            for _ in range(rng.choice((1, 1, 12))):
                extent, first, count = self._range()
                span = (extent, first * BLOCK_BYTES, count * BLOCK_BYTES)
                reading = _answer(extents.read(self._volume, self._token, [span]))
                group.create_task(_ignoring(reading))

    async def _claim(self, device: Device) -> None:
        self._device, self._token = None, Token(self._token + 1)
        claim = await device.extents.claim(self._volume, self._token)
        self._epoch += self._rng.choice((0, 1))
        self._device = device
        if claim.lost:
            for extent in range(_EXTENTS):
                await self._write(device, ExtentOp(_TRIM, extent, 0, _BLOCKS * BLOCK_BYTES))
            await device.extents.flush(self._volume, self._token)
            await device.extents.restored(self._volume, self._token)

    async def _write(self, device: Device, *given: ExtentOp) -> None:
        rng = self._rng
        self._sequence += 1
        ops = given or [self._op() for _ in range(rng.choice((1, 1, 3)))]
        blocks = [rng.randbytes(16) * 256 for op in ops if op.kind == _WRITE for _ in _each(op)]
        payload = memoryview(b"".join(blocks))
        await device.extents.write(
            self._volume, self._token, self._epoch, self._sequence, ops, payload
        )

    def _op(self) -> ExtentOp:
        kind = self._rng.choice((_WRITE, _WRITE, _WRITE, _ZERO, _TRIM, _TRIM))
        extent, first, count = self._range()
        if kind == _WRITE:
            count = min(count, 3)
        return ExtentOp(kind, extent, first * BLOCK_BYTES, count * BLOCK_BYTES)

    def _range(self) -> tuple[ExtentIndex, int, int]:
        """An extent, a block and how many: few, or a whole sub-block, or all."""
        rng = self._rng
        extent, shape = ExtentIndex(rng.randrange(_EXTENTS)), rng.random()
        if shape < 0.1:
            return extent, 0, _BLOCKS
        if shape < 0.3:
            return extent, rng.choice((0, 16)), 16
        first = rng.randrange(_BLOCKS)
        return extent, first, min(rng.choice((1, 1, 2, 5)), _BLOCKS - first)


def _each(op: ExtentOp) -> range:
    return range(op.length // BLOCK_BYTES)


class LogClient:
    """A member of some groups: appends, replaces, votes, applies, trims and takes copies.

    As in a cluster it applies only what stays as it is, and begins a copy that was cut short again.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._settled: dict[GroupId, int] = {}
        """Up to here entries are durable."""
        self._applied: dict[GroupId, int] = {}
        """Up to here they were applied, in this life of the device or an earlier one."""
        self._copying: dict[GroupId, int] = {}
        """The op of a copy that has begun."""

    async def step(self, device: Device, _group: asyncio.TaskGroup) -> None:
        """See `Client`."""
        rng, log = self._rng, device.log
        group = GroupId(rng.randrange(_GROUPS))
        if group not in log.groups():
            await log.create(group)
            return
        what, state = rng.random(), log.state(group)
        if group in self._copying:
            await self._install(device, group, self._copying[group] + 1, state.view)
        elif what < 0.5:
            await self._append(device, group, state.last_op + 1, state.view or 1)
        elif what < 0.6:
            first = rng.randint(self._applied.get(group, 0) + 1, state.last_op + 1)
            await self._append(device, group, first, state.view + 1)
        elif what < 0.7:
            await log.set_view(group, state.view + 1, rng.randbytes(4))
        elif what < (0.93 if group else 0.72):
            last = min(self._settled.get(group, 0), state.applied_op + rng.choice((1, 3)))
            for op in range(state.applied_op + 1, last + 1):
                log.apply(group, op, self._writes(log.tail(group, op, 1)[0]))
            self._applied[group] = max(self._applied.get(group, 0), last)
        elif what < (0.97 if group else 0.98):
            log.trim(group, state.applied_op + 1)
        else:
            await self._install(device, group, state.last_op + 1, state.view)

    async def _append(self, device: Device, group: GroupId, first: int, view: int) -> None:
        rng = self._rng
        sizes = rng.choices((8, 200, 2 * KIB), k=rng.choice((1, 1, 3)))
        entries = [
            Entry(op, view, rng.randbytes(size // 8) * 8) for op, size in enumerate(sizes, first)
        ]
        appended = device.log.append(group, entries)
        self._settled[group] = min(self._settled.get(group, 0), first - 1)
        await appended
        self._settled[group] = entries[-1].op

    def _writes(self, entry: Entry) -> list[tuple[bytes, bytes | None]]:
        key, deleted = entry.body[0] % _KEYS, entry.body[0] < 64
        return [(b"row %d" % key, None if deleted else bytes(entry.body[:100]))]

    async def _install(self, device: Device, group: GroupId, op: int, view: int) -> None:
        keys = sorted(self._rng.sample(range(_KEYS), 3))
        rows = [(b"row %d" % key, self._rng.randbytes(20)) for key in keys]
        self._copying[group] = op
        first = device.log.install(group, op, view, rows[:1], first=True, last=False)
        if self._rng.random() < 0.5:
            await first
        last = device.log.install(group, op, view, rows[1:], first=False, last=True)
        await asyncio.gather(first, last)
        del self._copying[group]
        self._settled[group] = self._applied[group] = op
