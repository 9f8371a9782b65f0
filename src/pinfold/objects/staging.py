"""Bytes on their way in: cut into segments, hashed, stored as blobs that no row names yet.

Bytes are held only while there is room in the budget of the whole process, and at most two
segments of a request at once: one being filled while the one before is being stored. A segment that
a client fills slowly while others wait is cut short, so that memory is held for bytes that come.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import msgspec

from pinfold.cluster.api import BlobRef, Blobs
from pinfold.env.api import Buffer
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError
from pinfold.model.limits import INLINE_BYTES, MIB, SEGMENT_BYTES
from pinfold.model.settings import ObjectSettings
from pinfold.objects.budget import ByteBudget
from pinfold.objects.digests import MD5, Digests, Hashing, checksums_of

HASH_BATCH_BYTES: Final = 1 * MIB
"""Hashed at a time: about 2 ms of MD5, so that two hops between threads are lost in it."""


PIECES_MAX: Final = 1024
"""Pieces of a segment that are kept as they came: a client may send single bytes, and each would
cost a hundred times what it brings."""

SHORT_BYTES_MIN: Final = 64 << 10
"""Memory asked for after a segment was cut short, and given to those who wait behind slow ones:
`requests_in_flight_max` of these fit."""

SHORT_BLOBS_MAX: Final = 1000
"""Blobs of a body that may be cut short; a row has room for thousands."""


class ByteSource(Protocol):
    """Bytes that come from a client, in pieces of any size."""

    async def read(self) -> Buffer:
        """The next piece; empty at the end. Raises when less came than was announced."""
        ...


class Staged(msgspec.Struct, frozen=True, kw_only=True):
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
        self._filling: dict[_Cutter, float] = {}
        """Interruptible fills under way, by the time when they began, oldest first."""
        self._hurrying: asyncio.TimerHandle | None = None

    @property
    def memory_taken(self) -> int:
        """Bytes of bodies held now."""
        return self._budget.taken

    async def stage(
        self,
        source: ByteSource,
        size: int,
        algorithms: Sequence[str] = (),
        *,
        interruptible: bool = False,
    ) -> Staged:
        """Store exactly `size` bytes, with their MD5 and the checksums named.

        `interruptible` says that a read of `source` may be cancelled and loses nothing: so slow
        clients do not keep the memory that others wait for. Busy, Full or Unavailable when the
        bytes cannot be stored; whatever was is given back then.
        """
        if size <= INLINE_BYTES:
            inline = await _whole(source, size)
            return Staged(size=size, sums=checksums_of((MD5, *algorithms), inline), inline=inline)
        digests = self._hashing.digests((MD5, *algorithms))
        cutter = _Cutter(source, digests, interruptible=interruptible)
        if size > self._settings.segment_bytes:
            blobs = await self._stage_segments(cutter, size)
            return Staged(size=size, sums=digests.results(), blobs=blobs)
        payload, length = await self._fill(cutter, size)
        if length < size:
            blobs = await self._stage_segments(cutter, size, begun=(payload, length))
        else:
            blobs = (await self._put(payload, length),)
        return Staged(size=size, sums=digests.results(), blobs=blobs)

    async def store(self, payload: bytes) -> BlobRef:
        """Store bytes that are in memory anyway."""
        return await self._blobs.put((payload,))

    async def discard(self, staged: Staged) -> None:
        """Give back bytes that will never be named. Never when a row may name them after all.

        What some device does not give back now is collected: whoever asks is told why the bytes
        are not named, and not of that.
        """
        await self.give_back(staged.blobs)

    async def give_back(self, blobs: Sequence[BlobRef]) -> None:
        """Likewise, of blobs that were stored one by one."""
        if blobs:
            with contextlib.suppress(PinfoldError):
                await self._blobs.discard(blobs)

    async def _put(self, payload: "list[Buffer]", length: int) -> BlobRef:
        try:
            return await self._blobs.put(payload)
        finally:
            self._budget.give(length)

    async def _stage_segments(
        self, cutter: "_Cutter", size: int, *, begun: "tuple[list[Buffer], int] | None" = None
    ) -> tuple[BlobRef, ...]:
        """Segment by segment; `begun` is a first one that was cut short."""
        refs: list[BlobRef] = []
        segment_bytes = self._settings.segment_bytes
        left, wish = size, segment_bytes
        scope = TaskScope(_seen_by_whoever_awaits)
        previous: asyncio.Task[BlobRef] | None = None
        try:
            while left:
                payload, length = begun or await self._fill(cutter, min(wish, left))
                begun = None
                left -= length
                short = left and length < wish
                wish = min(segment_bytes, max(SHORT_BYTES_MIN, 2 * length) if short else 2 * wish)
                cutter.interruptible &= len(refs) < SHORT_BLOBS_MAX
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
            await self.give_back(refs)
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

    async def _fill(self, cutter: "_Cutter", length: int) -> "tuple[list[Buffer], int]":
        """The next `length` bytes, or fewer but some, and how many; their memory is taken."""
        while True:
            taken = await self._take(length, interruptible=cutter.interruptible)
            try:
                payload, filled = await self._cut(cutter, taken)
            except BaseException:
                self._budget.give(taken)
                raise
            self._budget.give(taken - filled)
            if filled:
                return payload, filled
            await cutter.wait()

    async def _cut(self, cutter: "_Cutter", length: int) -> "tuple[list[Buffer], int]":
        if not cutter.interruptible:
            return await cutter.cut(length)
        self._filling[cutter] = asyncio.get_running_loop().time()
        try:
            return await cutter.cut(length)
        finally:
            del self._filling[cutter]

    async def _take(self, count: int, *, interruptible: bool) -> int:
        if self._hurrying is None and (count > self._budget.free or self._budget.wanted):
            self._hurry_later()
        return await self._budget.take(
            count,
            timeout_s=self._settings.memory_timeout_s,
            least=SHORT_BYTES_MIN if interruptible else None,
        )

    def _hurry_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._hurrying = loop.call_later(self._settings.write_patience_s / 2, self._hurry)

    def _hurry(self) -> None:
        """While somebody waits for memory, cut short what has been filling for too long.

        Those who wait may be as slow: they get little to begin with. Otherwise the last of them
        waits as often for `write_patience_s` as whole segments do not fit.
        """
        self._hurrying = None
        if not self._budget.wanted:
            return
        began_by = asyncio.get_running_loop().time() - self._settings.write_patience_s
        slow = [cutter for cutter, began in self._filling.items() if began <= began_by]
        for cutter in slow:
            cutter.interrupt()
        if slow:
            self._budget.make_content()
        self._hurry_later()


async def _whole(source: ByteSource, size: int) -> bytes:
    """All of a source of a few bytes."""
    pieces: list[Buffer] = []
    while size:
        piece = await source.read()
        assert 0 < len(piece) <= size, "a source raises when it ends early, and knows its size"
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class _Cutter:
    """Cuts a source's pieces into lengths, hashing what goes by; copies only tiny ones."""

    def __init__(
        self, source: ByteSource, digests: Digests, *, interruptible: bool = False
    ) -> None:
        self._source = source
        self._digests = digests
        self._rest: Buffer = b""
        self.interruptible = interruptible
        self._reading: asyncio.Task[object] | None = None
        """Who waits in a read that may be interrupted."""
        self._interrupted = False

    def interrupt(self) -> None:
        """Let the `cut` under way end with what it has, if it waits for more."""
        if self._reading is not None and not self._interrupted:
            self._interrupted = True
            self._reading.cancel()

    async def wait(self) -> None:
        """Until there is something to cut."""
        self._rest = self._rest or await self._source.read()

    async def cut(self, length: int) -> "tuple[list[Buffer], int]":
        """The next `length` bytes, or fewer when interrupted; and how many."""
        payload: list[Buffer] = []
        hashed = 0  # buffers of the payload
        unhashed = 0  # bytes behind them
        missing = length
        while missing:
            piece = self._rest or await self._read()
            if piece is None:
                break
            assert len(piece), "a source raises when it ends early"
            self._rest = b""
            if len(piece) > missing:
                view = memoryview(piece)
                piece, self._rest = view[:missing], view[missing:]
            payload.append(piece)
            missing -= len(piece)
            unhashed += len(piece)
            if unhashed >= HASH_BATCH_BYTES or len(payload) - hashed >= PIECES_MAX:
                await self._digests.update(payload[hashed:], unhashed)
                if len(payload) - hashed >= PIECES_MAX:
                    payload[hashed:] = [b"".join(payload[hashed:])]
                hashed, unhashed = len(payload), 0
        if unhashed:
            await self._digests.update(payload[hashed:], unhashed)
        return payload, length - missing

    async def _read(self) -> Buffer | None:
        """The source's next piece, or None when interrupted."""
        if not self.interruptible:
            return await self._source.read()
        task = self._reading = asyncio.current_task()
        try:
            return await self._source.read()
        except asyncio.CancelledError:
            # Ours, unless somebody cancels the task besides.
            if not self._interrupted or task is None or task.uncancel():
                raise
            self._interrupted = False
            return None
        finally:
            self._reading = None


def segment_lengths(size: int, segment_bytes: int) -> list[int]:
    """How an object of `size` bytes is cut."""
    lengths = [segment_bytes] * (size // segment_bytes)
    return [*lengths, size % segment_bytes] if size % segment_bytes else lengths


def _seen_by_whoever_awaits(error: BaseException) -> None:
    """Failures of the scope's tasks are raised where the task is awaited."""
