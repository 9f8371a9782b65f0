"""Blobs larger than the journal takes: streamed into a pack while their checks are verified.

Bytes go to a reserved range as they come. A commit waits for the pack's flush, which all commits
waiting at that moment share, and then for the journal record that names the blob.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import xxhash

from pinfold.codec.packs import Location, encode_head, head_bytes, record_bytes
from pinfold.device.health import Health, Space
from pinfold.device.journal import Journal
from pinfold.device.packs import Pack, Packs
from pinfold.device.room import NoRoom, room
from pinfold.env.api import Buffer, Offload
from pinfold.model.errors import Corrupt, Full, Invalid, PinfoldError
from pinfold.model.ids import BlobId
from pinfold.model.limits import BLOB_CHECK_BYTES, SEGMENT_BYTES


class Streams:
    """Starts streams, and flushes packs for the ones that commit."""

    def __init__(
        self,
        journal: Journal,
        packs: Packs,
        lane: Offload,
        space: Space,
        health: Health,
        wants: "Callable[[Stream], bool]",
        name: "Callable[[Stream], None]",
    ) -> None:
        self._journal = journal
        self._wants = wants
        self._name_blob = name
        self._packs = packs
        self._lane = lane
        self._space = space
        self._health = health
        self._waiting: list[Stream] = []
        self._flushing = False
        self._open: dict[Stream, None] = {}
        health.on_stop(self._fail)

    def begin(
        self, blob: BlobId, length: int, checks: Sequence[int], moves: Location | None = None
    ) -> "Stream":
        """See `BlobStore.begin`; `moves` is what a blob leaves that is here already.

        Raises Invalid, Full, Unavailable.
        """
        self._health.check()
        if not 0 <= length <= SEGMENT_BYTES:
            raise Invalid(f"a blob has at most {SEGMENT_BYTES} bytes, not {length}")
        if len(checks) != -(-length // BLOB_CHECK_BYTES):
            raise Invalid(f"{len(checks)} checks do not cover {length} bytes")
        size = record_bytes(length, len(checks))
        self._space.promise(size)
        pack, start = self._packs.reserve(size, stream=True)
        stream = Stream(self, blob, length, tuple(checks), pack, start, moves)
        self._open[stream] = None
        return stream

    def write(self, pack: Pack, buffers: list[Buffer], offset: int) -> asyncio.Future[None]:
        """Write in the streams' lane, in the order of the calls."""
        self._health.check()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane(self._write, pack, buffers, offset).add_done_callback(
            partial(self._written, future)
        )
        return future

    def commit(self, stream: "Stream") -> None:
        """Flush the stream's pack, with everybody who waits, then name the blob."""
        self._waiting.append(stream)
        if not self._flushing:
            self._flush()

    def give_back(self, stream: "Stream") -> None:
        """The stream's range will not be named: free it, behind its writes that still wait."""
        self._open.pop(stream, None)
        self._space.kept(record_bytes(stream.length, len(stream.checks)))
        if self._health.reason:
            return  # nothing is freed any more
        self._lane(_nothing).add_done_callback(partial(self._written_off, stream))

    def _written_off(self, stream: "Stream", done: asyncio.Future[None]) -> None:
        if not done.cancelled():
            size = record_bytes(stream.length, len(stream.checks))
            self._packs.give_back(stream.pack, stream.start, size)
            self._journal.activity.set()  # nothing else may come that needs a pass

    def _write(self, pack: Pack, buffers: list[Buffer], offset: int) -> None:
        file = self._packs.created(pack)
        with room():
            file.pwritev(buffers, offset)

    def _written(self, future: asyncio.Future[None], done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, NoRoom):
            error = Full(f"pack: {error}")
        if isinstance(error, OSError):
            self._health.stop(f"pack: {error}")
            error = self._health.error()
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
            future.exception()  # the writer may have gone
        else:
            future.set_result(None)

    def _flush(self) -> None:
        streams, self._waiting = self._waiting, []
        packs = {stream.pack.number: stream.pack for stream in streams}
        self._flushing = True
        done = self._lane(self._flush_packs, list(packs.values()))
        done.add_done_callback(partial(self._flushed, streams))

    def _flush_packs(self, packs: list[Pack]) -> None:
        for pack in packs:
            self._packs.created(pack).datasync()

    def _flushed(self, streams: "list[Stream]", done: asyncio.Future[None]) -> None:
        self._flushing = False
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, NoRoom):  # a pack that was to be made for an empty blob
            for stream in streams:
                stream.fail(Full(f"pack: {error}"))
                self.give_back(stream)
        elif error is not None:
            self._health.stop(f"pack: {error}")
            return
        else:
            self._name_all(streams)
        if self._waiting and not self._health.reason:
            self._flush()

    def _name_all(self, streams: "list[Stream]") -> None:
        for stream in streams:
            self._name(stream)

    def _name(self, stream: "Stream") -> None:
        if self._health.reason:
            return
        if self._wants(stream):
            self._open.pop(stream, None)
            size = record_bytes(stream.length, len(stream.checks))
            self._space.kept(size)
            self._packs.keep(stream.pack, size, stream_at=stream.start)
            self._name_blob(stream)
        else:
            self.give_back(stream)
        self._journal.flush().add_done_callback(stream.finish)

    def _fail(self, error: PinfoldError) -> None:
        for stream in self._open:
            stream.fail(error)


def _nothing() -> None:
    """A job that only keeps its place in the order."""


class Stream:
    """The device's `BlobWriter`."""

    __slots__ = (
        "__weakref__",
        "_committed",
        "_digest",
        "_failure",
        "_over",
        "_received",
        "_streams",
        "_sums",
        "blob",
        "checks",
        "length",
        "moves",
        "pack",
        "start",
    )

    def __init__(
        self,
        streams: Streams,
        blob: BlobId,
        length: int,
        checks: tuple[int, ...],
        pack: Pack,
        start: int,
        moves: Location | None,
    ) -> None:
        self.blob = blob
        self.moves = moves
        """What the blob leaves; None for a new one."""
        self.length = length
        self.checks = checks
        self.pack = pack
        self.start = start
        self._streams = streams
        self._received = 0
        self._sums = 0
        self._digest = xxhash.xxh3_64()
        self._over = False
        self._failure: PinfoldError | None = None
        self._committed: asyncio.Future[None] | None = None

    def write(self, chunk: Buffer) -> asyncio.Future[None]:
        """See `BlobWriter.write`. Raises Corrupt or Invalid, and then the stream is aborted.

        The future fails with Full when there is no room; then abort.
        """
        self._check_failure()
        assert not self._over, "a stream that ended takes nothing"
        view = memoryview(chunk)
        if self._received + len(view) > self.length:
            self.abort()
            raise Invalid(f"more than {self.length} bytes came")
        offset = self.start + head_bytes(len(self.checks)) + self._received
        buffers: list[Buffer] = [view]
        if self._received == 0:
            buffers.insert(0, encode_head(self.blob, self.length, self.checks, self.pack.seed))
            offset = self.start
        self._verify(view)
        return self._streams.write(self.pack, buffers, offset)

    def commit(self) -> asyncio.Future[None]:
        """See `BlobWriter.commit`."""
        self._check_failure()
        assert not self._over, "a stream ends once"
        if self._received != self.length:
            self.abort()
            raise Invalid(f"{self._received} of {self.length} bytes came")
        self._over = True
        self._committed = asyncio.get_running_loop().create_future()
        self._streams.commit(self)
        return self._committed

    def abort(self) -> None:
        """See `BlobWriter.abort`. Idempotent; nothing after a commit."""
        if not self._over:
            self._over = True
            self._streams.give_back(self)

    @property
    def location(self) -> Location:
        """Where its payload lies."""
        offset = self.start + head_bytes(len(self.checks))
        return Location(self.pack.number, offset, self.length, 0, self.checks)

    def finish(self, flushed: asyncio.Future[None]) -> None:
        """The record that names the blob is durable, or the device has stopped."""
        assert self._committed is not None, "committed"
        if self._committed.done():
            return
        if flushed.cancelled():
            self._committed.cancel()
        elif (error := flushed.exception()) is not None:
            self._committed.set_exception(error)
        else:
            self._committed.set_result(None)

    def fail(self, error: PinfoldError) -> None:
        """The device has stopped, or has no room for it."""
        self._over, self._failure = True, error
        if self._committed is not None and not self._committed.done():
            self._committed.set_exception(error)

    def _check_failure(self) -> None:
        """Raise what ended the stream between two calls of its writer."""
        if self._failure is not None:
            raise self._failure

    def _verify(self, view: memoryview) -> None:
        """Take the bytes into the running check; Corrupt as soon as a unit differs."""
        position = 0
        while position < len(view):
            room = BLOB_CHECK_BYTES - self._received % BLOB_CHECK_BYTES
            part = view[position : position + room]
            self._digest.update(part)
            self._received += len(part)
            position += len(part)
            if self._received % BLOB_CHECK_BYTES == 0 or self._received == self.length:
                if self._digest.intdigest() != self.checks[self._sums]:
                    self.abort()
                    raise Corrupt(f"blob {self.blob.hex()} differs from its checks")
                self._sums += 1
                self._digest.reset()
