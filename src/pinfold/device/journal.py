"""The one sequential file behind every acknowledgement: appends now, flushes shared.

`append` queues a record and gives it its sequence; `flush` returns a future for everything
appended before it. One coroutine writes: all that waits goes out in one write and one fdatasync,
and while that runs the next batch gathers. A failed write or flush stops the device; nothing is
ever retried on top of it.

The invariant: `flushed` never exceeds what the disk has confirmed, and futures resolve in the
order they were asked for.
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
)
from pinfold.device.health import Health
from pinfold.device.room import NO_ROOM, RETRY_S
from pinfold.device.segments import Recovered, Segment, create_segment
from pinfold.env.api import Buffer, Disk, File, Offload
from pinfold.model.errors import Busy, Full
from pinfold.model.settings import DeviceSettings

SPARES_MAX: Final = 2
"""Recycled segments kept; more are removed so that a burst does not hold its space for ever."""

_ZEROES: Final = memoryview(bytes(PAGE_BYTES))


class _Queued(NamedTuple):
    kind: int
    length: int
    sequence: int
    buffers: Sequence[Buffer]


class Journal:
    """See the module. Everything but `run` is called on the loop and returns at once."""

    def __init__(
        self,
        disk: Disk,
        lane: Offload,
        fill_lane: Offload,
        directory: str,
        uuid: bytes,
        boot: int,
        settings: DeviceSettings,
        health: Health,
        found: Recovered,
    ) -> None:
        self._disk = disk
        self._lane = lane
        self._fill_lane = fill_lane
        self._directory = directory
        self._uuid = uuid
        self._boot = boot
        self._settings = settings
        self._health = health
        self._segments = deque(found.live)
        self._spares = deque(found.spare)
        self._next_slot = found.next_slot
        self._next_number = found.live[-1].number + 1 if found.live else 0
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._preparing: asyncio.Future[None] | None = None
        """Done when `_prepared` has dealt with the segment being made, never before."""
        self._no_room = False
        """Whether the last attempt to make a segment found no room."""
        self._closing = False
        self._leaving = False
        self.appended = found.next_sequence - 1
        """Sequence of the newest record."""
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
    def unapplied_bytes(self) -> int:
        """Journal whose effect lives in memory only."""
        return self.appended_bytes - self.applied_bytes

    @property
    def retained_bytes(self) -> int:
        """Size of the segments that hold records."""
        return len(self._segments) * self._settings.segment_bytes

    def admit(self, length: int) -> None:
        """Whether a payload may be appended: Busy over the limit, Full without a next segment."""
        self._health.check()
        if self.unapplied_bytes + length > self._settings.unapplied_bytes:
            raise Busy(f"{self.unapplied_bytes} bytes of journal wait to be applied")
        if self.no_room:
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

    def flush(self) -> asyncio.Future[None]:
        """A future that is done when everything appended so far is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._health.reason:
            future.set_exception(self._health.error())
        elif self.flushed >= self.appended:
            future.set_result(None)
        else:
            self._waiters.append((self.appended, future))
            self._wake.set()
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
        """Write batches until `close`; the device's only writer of the journal."""
        try:
            self.keep_spare()
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    await self._write_batch()
                if self._closing:
                    break
            if self._preparing is not None:
                await self._preparing
        except OSError as error:
            self._health.stop(f"journal: {error}")

    def leave(self) -> None:
        """From now on stop the device rather than wait for room."""
        self._leaving = True

    def close(self) -> None:
        """Let `run` return once the queue is empty."""
        self._closing = True
        self._wake.set()

    def close_files(self) -> None:
        """Close every segment; nothing may run any more."""
        for segment in (*self._segments, *self._spares):
            segment.file.close()

    async def _write_batch(self) -> None:
        segment = await self._segment_for(HEADER_BYTES + self._queue[0].length)
        start = segment.position
        prefix: list[Buffer] = []
        if segment.last_sequence < segment.first_sequence and start == PAGE_BYTES:
            header = SegmentHeader(self._uuid, segment.number, segment.first_sequence, self._boot)
            prefix, start = [encode_segment_header(header)], 0
        buffers, last = self._take(segment, prefix)
        await self._lane(_write_and_flush, segment.file, buffers, start)
        segment.last_sequence = last
        self.flushed = last
        self._resolve()

    def _take(self, segment: Segment, buffers: list[Buffer]) -> tuple[list[Buffer], int]:
        """(what to write, its last sequence): records in order while they fit, and padding."""
        room = min(
            self._settings.segment_bytes - segment.position,
            max(self._settings.batch_bytes, HEADER_BYTES + self._queue[0].length),
        )
        size, last = 0, 0
        queue, boot, flushed = self._queue, self._boot, self.flushed
        while queue and size + HEADER_BYTES + queue[0].length <= room:
            kind, length, last, payload = queue.popleft()
            buffers.append(encode_header(kind, length, last, flushed, boot, checksum(payload)))
            buffers.extend(payload)
            size += HEADER_BYTES + length
        self._queued_bytes -= size
        padded = page_end(size)
        if padded > size:
            buffers.append(_ZEROES[: padded - size])
        segment.position += padded
        return buffers, last

    def _resolve(self) -> None:
        waiters, flushed = self._waiters, self.flushed
        while waiters and waiters[0][0] <= flushed:
            future = waiters.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _fail_waiters(self, error: Exception) -> None:
        self._queue.clear()
        while self._waiters:
            future = self._waiters.popleft()[1]
            if not future.done():
                future.set_exception(error)
                # Nobody may be left to hear of it; the device's own status tells.
                future.exception()

    async def _segment_for(self, length: int) -> Segment:
        """The segment that takes a record of `length` next, with its position set."""
        if self._segments:
            segment = self._segments[-1]
            if self._settings.segment_bytes - segment.position >= length:
                return segment
        while not self._spares:
            try:
                await self._prepare()
            except OSError as error:
                if self._leaving or error.errno not in NO_ROOM:
                    raise
                await asyncio.sleep(RETRY_S)  # until somebody frees some, or a segment is let go
        segment = self._spares.popleft()
        segment.number = self._next_number
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


def _write_and_flush(file: File, buffers: list[Buffer], offset: int) -> None:
    file.pwritev(buffers, offset)
    file.datasync()
