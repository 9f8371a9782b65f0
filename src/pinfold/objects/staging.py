"""Bytes on their way in: cut into segments, hashed, stored as blobs that no row names yet.

Bytes are held only while there is room in the budget of the whole process, and at most two
segments of a request at once: one being filled while the one before is being stored.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from pinfold.cluster.api import BlobRef, Blobs
from pinfold.env.api import Buffer
from pinfold.env.tasks import TaskScope
from pinfold.model.limits import INLINE_BYTES, MIB, SEGMENT_BYTES
from pinfold.model.settings import ObjectSettings
from pinfold.objects.budget import ByteBudget
from pinfold.objects.digests import MD5, Digests, Hashing

HASH_BATCH_BYTES: Final = 1 * MIB
"""Hashed at a time: about 2 ms of MD5, so that two hops between threads are lost in it."""


class ByteSource(Protocol):
    """Bytes that come from a client, in pieces of any size."""

    async def read(self) -> Buffer:
        """The next piece; empty at the end. Raises when less came than was announced."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Bytes that are stored and that no row names."""

    size: int
    sums: dict[str, bytes]
    """Algorithm to checksum; MD5 is always among them."""
    inline: bytes = b""
    blobs: tuple[BlobRef, ...] = ()


class Staging:
    """Stores bodies as inline bytes or blobs."""

    def __init__(self, blobs: Blobs, hashing: Hashing, settings: ObjectSettings) -> None:
        assert 0 < settings.segment_bytes <= SEGMENT_BYTES
        assert settings.segment_bytes <= settings.write_memory_bytes
        self._blobs = blobs
        self._hashing = hashing
        self._settings = settings
        self._budget = ByteBudget(
            settings.write_memory_bytes, waiting_max=settings.memory_waiting_max
        )

    @property
    def memory_taken(self) -> int:
        """Bytes of bodies held now."""
        return self._budget.taken

    async def stage(self, source: ByteSource, size: int, algorithms: Sequence[str] = ()) -> Staged:
        """Store exactly `size` bytes, with their MD5 and the checksums named.

        Busy, Full or Unavailable when they cannot be stored; whatever was is given back then.
        """
        digests = self._hashing.digests((MD5, *algorithms))
        cutter = _Cutter(source, digests)
        if size <= INLINE_BYTES:
            inline = b"".join(await cutter.cut(size))
            return Staged(size=size, sums=digests.results(), inline=inline)
        if size <= self._settings.segment_bytes:
            await self._take(size)
            blobs: tuple[BlobRef, ...] = (await self._fill_and_put(cutter, size),)
        else:
            blobs = await self._stage_segments(cutter, size)
        return Staged(size=size, sums=digests.results(), blobs=blobs)

    async def store(self, payload: bytes) -> BlobRef:
        """Store bytes that are in memory anyway."""
        return await self._blobs.put((payload,))

    async def discard(self, staged: Staged) -> None:
        """Give back bytes that will never be named. Never when a row may name them after all."""
        if staged.blobs:
            await self._blobs.discard(staged.blobs)

    async def _take(self, count: int) -> None:
        await self._budget.take(count, timeout_s=self._settings.memory_timeout_s)

    async def _fill_and_put(self, cutter: "_Cutter", length: int) -> BlobRef:
        try:
            return await self._blobs.put(await cutter.cut(length))
        finally:
            self._budget.give(length)

    async def _stage_segments(self, cutter: "_Cutter", size: int) -> tuple[BlobRef, ...]:
        refs: list[BlobRef] = []
        scope = TaskScope(_seen_by_whoever_awaits)
        previous: asyncio.Task[BlobRef] | None = None
        try:
            for length in segment_lengths(size, self._settings.segment_bytes):
                payload = await self._fill(cutter, length)
                if previous is not None:
                    refs.append(await self._stored(previous, filled=length))
                previous = scope.start(self._blobs.put(payload))
                # Called however the task ends, even if it is cancelled before it began.
                previous.add_done_callback(partial(self._give_when_done, length))
            assert previous is not None
            refs.append(await previous)
        except BaseException:
            await scope.close()
            if previous is not None and not previous.cancelled() and not previous.exception():
                refs.append(previous.result())
            await self._blobs.discard(refs)
            raise
        return tuple(refs)

    async def _stored(self, put: asyncio.Task[BlobRef], *, filled: int) -> BlobRef:
        """The put's result; if it has none, the segment filled meanwhile is given up."""
        try:
            return await put
        except BaseException:
            self._budget.give(filled)
            raise

    def _give_when_done(self, length: int, put: asyncio.Task[BlobRef]) -> None:
        self._budget.give(length)

    async def _fill(self, cutter: "_Cutter", length: int) -> list[Buffer]:
        await self._take(length)
        try:
            return await cutter.cut(length)
        except BaseException:
            self._budget.give(length)
            raise


class _Cutter:
    """Cuts a source's pieces into lengths, hashing what goes by; copies nothing."""

    def __init__(self, source: ByteSource, digests: Digests) -> None:
        self._source = source
        self._digests = digests
        self._rest: Buffer = b""

    async def cut(self, length: int) -> list[Buffer]:
        """The next `length` bytes."""
        payload: list[Buffer] = []
        hashed = 0  # buffers of the payload
        unhashed = 0  # bytes behind them
        missing = length
        while missing:
            piece = self._rest or await self._source.read()
            assert len(piece), "a source raises when it ends early"
            self._rest = b""
            if len(piece) > missing:
                view = memoryview(piece)
                piece, self._rest = view[:missing], view[missing:]
            payload.append(piece)
            missing -= len(piece)
            unhashed += len(piece)
            if unhashed >= HASH_BATCH_BYTES:
                await self._digests.update(payload[hashed:], unhashed)
                hashed, unhashed = len(payload), 0
        if unhashed:
            await self._digests.update(payload[hashed:], unhashed)
        return payload


def segment_lengths(size: int, segment_bytes: int) -> list[int]:
    """How an object of `size` bytes is cut."""
    lengths = [segment_bytes] * (size // segment_bytes)
    return [*lengths, size % segment_bytes] if size % segment_bytes else lengths


def _seen_by_whoever_awaits(error: BaseException) -> None:
    """Failures of the scope's tasks are raised where the task is awaited."""
