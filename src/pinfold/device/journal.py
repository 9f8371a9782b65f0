"""The one sequential file behind every acknowledgement: appends now, flushes shared.

`append` queues a record and gives it its sequence; `written` returns a future for everything
appended before it having reached the kernel, where it survives the death of every process;
`flush` one for having reached the disk. What one iteration of the loop wants written goes out in
one write at its end, on the loop itself while that is a copy of few pages. One coroutine does the
rest: larger writes, new segments, and flushes; while one runs the next batch gathers. A failed
write or flush stops the device; nothing is ever retried on top of it.

The invariant: `flushed` <= `reached` <= `appended`, the first never exceeds what the disk has
confirmed, and futures resolve in the order they were asked for. A segment is begun only when all
before it are flushed.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from pinfold.codec.records import (
    HEADER_BYTES,
    PAGE_BYTES,
    SegmentHeader,
    checksum,
    encode_header,
    encode_segment_header,
    page_end,
    record_seed,
)
from pinfold.device.health import Health
from pinfold.device.room import NO_ROOM, RETRY_S
from pinfold.device.segments import Recovered, Segment, create_segment
from pinfold.env.api import Buffer, Disk, File, Offload
from pinfold.model.errors import Busy, Full, Unavailable
from pinfold.model.settings import DeviceSettings

SPARES_MAX: Final = 2
"""Recycled segments kept; more are removed so that a burst does not hold its space for ever."""

_ZEROES: Final = memoryview(bytes(PAGE_BYTES))


class _Queued(NamedTuple):
    kind: int
    length: int
    sequence: int
    buffers: Sequence[Buffer]


class _Batch(NamedTuple):
    """Records to be written at once, with their padding."""

    file: File
    buffers: list[Buffer]
    offset: int
    size: int
    last: int
    """Sequence of the last record."""


_Waiters = deque[tuple[int, "asyncio.Future[None]"]]


class Journal:
    """See the module. Everything but `run` is called on the loop and returns at once."""

    def __init__(
        self,
        disk: Disk,
        lane: Offload,
        fill_lane: Offload,
        directory: str,
        salt: bytes,
        boot: int,
        settings: DeviceSettings,
        health: Health,
        found: Recovered,
    ) -> None:
        self._disk = disk
        self._lane = lane
        self._fill_lane = fill_lane
        self._directory = directory
        self._salt = salt
        self._boot = boot
        self._settings = settings
        self._health = health
        self._segments = deque(found.live)
        self._spares = deque(found.spare)
        self._next_slot = found.next_slot
        self._next_number = found.live[-1].number + 1 if found.live else 0
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._unwritten: _Waiters = deque()
        self._unflushed: _Waiters = deque()
        self._write_due = False
        """Whether `_write_waiting` is about to be called."""
        self._busy = False
        """Whether a write is under way in the lane: nothing may overtake it."""
        self._dirty_bytes = 0
        """Written and not flushed."""
        self._wake = asyncio.Event()
        self._preparing: asyncio.Future[None] | None = None
        """Done when `_prepared` has dealt with the segment being made, never before."""
        self._no_room = False
        """Whether the last attempt to make a segment found no room."""
        self._closing = False
        self._leaving = False
        self.appended = found.next_sequence - 1
        """Sequence of the newest record."""
        self.reached = self.appended
        """Everything up to this sequence is in the kernel."""
        self.flushed = self.appended
        """Everything up to this sequence is durable."""
        self.appended_bytes = 0
        """Bytes appended since opening: a running total to take differences of."""
        self.applied_bytes = 0
        """Of these, bytes whose effect is durable elsewhere."""
        self.activity = asyncio.Event()
        """Set by every append: the applier has something to do."""
        self.urgent = asyncio.Event()
        """Set when so much is unapplied that the applier should not wait any longer."""
        health.on_stop(self._fail_waiters)

    @property
    def no_room(self) -> bool:
        """Whether there is no next segment, made or let go by others: nothing is admitted then."""
        return self._no_room and not self._spares

    @property
    def wanted_bytes(self) -> int:
        """What the next segment will take on disk, while there is none."""
        return 0 if self._spares else self._settings.segment_bytes

    @property
    def unapplied_bytes(self) -> int:
        """Journal whose effect lives in memory only."""
        return self.appended_bytes - self.applied_bytes

    @property
    def retained_bytes(self) -> int:
        """Size of the segments that hold records."""
        return len(self._segments) * self._settings.segment_bytes

    def admit(self, length: int) -> None:
        """Whether a payload may be appended: Busy over the limit, Full without a next segment.

        A record without one waits for the segment: it may be what makes room, as deletions are.
        """
        self._health.check()
        if self.unapplied_bytes + length > self._settings.unapplied_bytes:
            raise Busy(f"{self.unapplied_bytes} bytes of journal wait to be applied")
        if length and self.no_room:
            raise Full("no room for another journal segment")

    def append(self, kind: int, buffers: Sequence[Buffer], length: int) -> int:
        """Queue a record of `length` bytes in `buffers`, kept by reference; its sequence.

        Records reach the disk in the order of these calls. Unavailable after a stop.
        """
        self._health.check()
        assert length <= self._settings.record_bytes, "a record fits in half a segment"
        self.appended += 1
        self._queue.append(_Queued(kind, length, self.appended, buffers))
        self._queued_bytes += length + HEADER_BYTES
        self.appended_bytes += length + HEADER_BYTES
        if self._queued_bytes >= self._settings.kick_bytes:
            self._wake.set()
        if self.appended_bytes - self.applied_bytes >= self._settings.apply_bytes:
            self.urgent.set()
        self.activity.set()
        return self.appended

    def written(self) -> asyncio.Future[None]:
        """A future that is done when everything appended so far survives this process."""
        future = self._reaching(self.reached, self._unwritten)
        if not (future.done() or self._write_due):
            self._write_due = True
            asyncio.get_running_loop().call_soon(self._write_waiting)
        return future

    def flush(self) -> asyncio.Future[None]:
        """A future that is done when everything appended so far is durable."""
        future = self._reaching(self.flushed, self._unflushed)
        if not future.done():
            self._wake.set()
        return future

    def _reaching(self, position: int, waiters: _Waiters) -> asyncio.Future[None]:
        """A future among the waiters, unless `position` has come to what was appended."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._health.reason:
            future.set_exception(self._health.error())
        elif position >= self.appended:
            future.set_result(None)
        else:
            waiters.append((self.appended, future))
        return future

    def last_of_oldest(self, excess_bytes: int, sequence: int) -> int:
        """Last sequence of the oldest segments that make up the excess and end by `sequence`.

        0 when there is none; never reaches into the segment being written.
        """
        last = 0
        for segment in islice(self._segments, len(self._segments) - 1):
            if excess_bytes <= 0 or segment.last_sequence > sequence:
                break
            excess_bytes -= self._settings.segment_bytes
            last = segment.last_sequence
        return last

    def release(self, kept_from: int) -> None:
        """Records before `kept_from` are not needed any more: recycle segments without others."""
        while len(self._segments) > 1 and self._segments[0].last_sequence < kept_from:
            self._spares.append(self._segments.popleft())

    def excess(self) -> Segment | None:
        """A spare too many, for the caller to close and unlink; None when there is none."""
        # The oldest goes first: what stays then never has a hole in its numbering.
        return self._spares.popleft() if len(self._spares) > SPARES_MAX else None

    async def run(self) -> None:
        """Write and flush until `close`."""
        try:
            self.keep_spare()
            while True:
                await self._wake.wait()
                self._wake.clear()
                while (self._queue or self._flush_due) and not self._health.reason:
                    await self._step()
                if self._closing:
                    break
            if self._preparing is not None:
                await self._preparing
        except (OSError, Unavailable) as error:
            self._health.stop(f"journal: {error}")

    def leave(self) -> None:
        """From now on stop the device rather than wait for room."""
        self._leaving = True

    def close(self) -> None:
        """Let `run` return once everything is flushed."""
        self._closing = True
        self._wake.set()

    def close_files(self) -> None:
        """Close every segment; nothing may run any more."""
        for segment in (*self._segments, *self._spares):
            segment.file.close()

    @property
    def _flush_due(self) -> bool:
        if self._unflushed or self._dirty_bytes >= self._settings.kick_bytes:
            return True
        return self._closing and self.flushed < self.reached

    def _write_waiting(self) -> None:
        """Have what waits written: here when it is little and has room, by `run` otherwise."""
        self._write_due = False
        if self._busy or self._health.reason:
            return  # whoever is busy goes on with what waits
        try:
            while self._fits_inline:
                self._write_inline(self._take(self._segments[-1]))
        except OSError as error:
            self._health.stop(f"journal: {error}")
        if self._queue or self._flush_due:
            self._wake.set()

    @property
    def _fits_inline(self) -> bool:
        return bool(
            self._queue
            and self._queued_bytes <= self._settings.inline_bytes
            and self._segments
            and self._has_room(self._segments[-1])
        )

    def _has_room(self, segment: Segment) -> bool:
        """Whether the segment takes the next record."""
        room = self._settings.segment_bytes - segment.position
        return room >= HEADER_BYTES + self._queue[0].length

    async def _step(self) -> None:
        """Write what waits, or as much as a batch carries, and flush if somebody waits for that."""
        batch = None
        if self._queue:
            batch = self._take(await self._segment_for_next())
            if batch.size <= self._settings.inline_bytes:
                self._write_inline(batch)
                batch = None
        if batch is None:
            if self._flush_due:
                await self._flush_file()
            return
        flushes = self._flush_due
        self._busy = True
        await self._lane(_write, batch.file, batch.buffers, batch.offset, flushes)
        self._busy = False
        self._has_reached(batch)
        if flushes:
            self._has_flushed(batch.last, 0)

    def _write_inline(self, batch: _Batch) -> None:
        batch.file.pwritev(batch.buffers, batch.offset)
        self._has_reached(batch)

    async def _flush_file(self) -> None:
        """Flush the newest segment, hence all of the journal; writes may go on meanwhile."""
        reached, dirty_bytes = self.reached, self._dirty_bytes
        await self._lane(self._segments[-1].file.datasync)
        self._has_flushed(reached, self._dirty_bytes - dirty_bytes)

    def _has_reached(self, batch: _Batch) -> None:
        self._dirty_bytes += batch.size
        self.reached = batch.last
        _resolve(self._unwritten, batch.last)

    def _has_flushed(self, last: int, dirty_bytes: int) -> None:
        self._dirty_bytes = dirty_bytes
        self.flushed = last
        _resolve(self._unflushed, last)

    def _take(self, segment: Segment) -> _Batch:
        """The next records, in order, while they fit, and padding."""
        start = segment.position
        buffers: list[Buffer] = []
        if segment.last_sequence < segment.first_sequence and start == PAGE_BYTES:
            header = SegmentHeader(segment.number, segment.first_sequence, self._boot)
            buffers, start = [encode_segment_header(header, self._salt)], 0
        room = min(
            self._settings.segment_bytes - segment.position,
            max(self._settings.batch_bytes, HEADER_BYTES + self._queue[0].length),
        )
        size, last = 0, 0
        queue, boot, flushed, seed = self._queue, self._boot, self.flushed, segment.seed
        while queue and size + HEADER_BYTES + queue[0].length <= room:
            kind, length, last, payload = queue.popleft()
            check = checksum(payload, seed)
            buffers.append(encode_header(kind, length, last, flushed, boot, check, seed))
            buffers.extend(payload)
            size += HEADER_BYTES + length
        self._queued_bytes -= size
        padded = page_end(size)
        if padded > size:
            buffers.append(_ZEROES[: padded - size])
        segment.position += padded
        segment.last_sequence = last
        return _Batch(segment.file, buffers, start, padded, last)

    def _fail_waiters(self, error: Exception) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        for waiters in (self._unwritten, self._unflushed):
            while waiters:
                future = waiters.popleft()[1]
                if not future.done():
                    future.set_exception(error)
                    # Nobody may be left to hear of it; the device's own status tells.
                    future.exception()

    async def _segment_for_next(self) -> Segment:
        """The segment that takes the next record, with its position set. Unavailable on a stop."""
        if self._segments and self._has_room(self._segments[-1]):
            return self._segments[-1]
        while not self._spares:
            try:
                await self._prepare()
            except OSError as error:
                if self._leaving or error.errno not in NO_ROOM:
                    raise
                await asyncio.sleep(RETRY_S)  # until somebody frees some, or a segment is let go
            self._health.check()
        if self.flushed < self.reached:
            await self._flush_file()
        self._health.check()
        segment = self._spares.popleft()
        segment.number = self._next_number
        segment.seed = record_seed(self._salt, segment.number)
        segment.first_sequence = self._queue[0].sequence
        segment.last_sequence = segment.first_sequence - 1
        segment.position = PAGE_BYTES
        self._next_number += 1
        self._segments.append(segment)
        self.keep_spare()
        return segment

    def keep_spare(self) -> None:
        """Have a segment made ahead of need; while that fails for lack of room, `admit` is Full."""
        if not self._spares and not self._closing:
            self._prepare()

    def _prepare(self) -> asyncio.Future[None]:
        """Have one segment made; done, or failed with its OSError, once `_prepared` has seen it.

        It is not the lane's own future: that one is done an iteration of the loop before
        `_prepared` sees it, and whoever asked in between would await what is done, which does not
        let the loop go on, and ask again, for ever.
        """
        if self._preparing is None:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
            preparing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._preparing = preparing
            self._fill_lane(
                create_segment, self._disk, self._directory, slot, self._settings.segment_bytes
            ).add_done_callback(partial(self._prepared, preparing))
        return self._preparing

    def _prepared(self, preparing: asyncio.Future[None], made: asyncio.Future[Segment]) -> None:
        self._preparing = None
        if made.cancelled():
            preparing.cancel()
            return
        error = made.exception()
        self._no_room = isinstance(error, OSError) and error.errno in NO_ROOM
        if error is None:
            self._spares.append(made.result())
        elif not self._no_room:
            self._health.stop(f"journal: {error}")
        if preparing.done():
            return  # whoever waited was cancelled
        if error is None:
            preparing.set_result(None)
        else:
            preparing.set_exception(error)
            # A segment made ahead of need has nobody waiting; `admit` and the health tell.
            preparing.exception()


def _write(file: File, buffers: list[Buffer], offset: int, flushes: bool) -> None:
    file.pwritev(buffers, offset)
    if flushes:
        file.datasync()


def _resolve(waiters: _Waiters, position: int) -> None:
    while waiters and waiters[0][0] <= position:
        future = waiters.popleft()[1]
        if not future.done():
            future.set_result(None)
