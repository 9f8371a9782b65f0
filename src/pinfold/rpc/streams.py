"""Streams with credit: a sender never has more bytes under way than its receiver granted.

The two ends know nothing of connections: `OutStream` speaks to a `StreamWire`, `InStream` is fed
and calls back with credit, so a stream within one process is the two ends wired together.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from pinfold.env.api import Buffer
from pinfold.model.errors import DeadlineExceeded, Invalid, PinfoldError, Unavailable
from pinfold.rpc.api import Answer
from pinfold.rpc.limits import BATCH_PAYLOAD_BYTES, CREDIT_WINDOW_BYTES, JOIN_BYTES

_GRANT_BYTES: Final = CREDIT_WINDOW_BYTES // 4
"""Credit is given back in portions: one message for several chunks."""


class StreamWire(Protocol):
    """Where a stream's messages go."""

    def chunk(self, view: memoryview) -> None: ...  # noqa: D102

    def finish(self) -> None: ...  # noqa: D102

    def abort(self) -> None: ...  # noqa: D102


class CreditedOutStream:
    """The real `OutStream`. `answer` is the call's future, whose deadline is the stream's."""

    def __init__(self, wire: StreamWire, answer: asyncio.Future[Answer]) -> None:
        self._wire = wire
        self._answer = answer
        self._credit = CREDIT_WINDOW_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        answer.add_done_callback(self._wake)

    async def write(self, buffer: Buffer) -> None:
        """See `OutStream.write`."""
        assert not self._ended, "written after its end"
        view = memoryview(buffer)
        while len(view) and not self._answer.done():
            if self._credit == 0:
                await self._credited()
                continue
            length = min(len(view), self._credit, BATCH_PAYLOAD_BYTES)
            self._credit -= length
            self._wire.chunk(view[:length])
            view = view[length:]
        if self._answer.done():
            self._answer.result()

    async def finish(self) -> Answer:
        """See `OutStream.finish`."""
        if not self._ended:
            self._ended = True
            if not self._answer.done():
                self._wire.finish()
        return await self._answer

    def abort(self) -> None:
        """See `OutStream.abort`."""
        if not self._answer.done():
            self._ended = True
            self._wire.abort()
            self._answer.cancel()

    def grant(self, count: int) -> None:
        """The receiver takes `count` bytes more. Raises Invalid beyond the window.

        It is what bounds the bytes that wait here to be sent.
        """
        if self._credit + count > CREDIT_WINDOW_BYTES:
            raise Invalid(f"stream: credit of {count} bytes beside {self._credit}")
        self._credit += count
        self._wake()

    async def _credited(self) -> None:
        assert self._waiter is None, "a stream has one writer"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class InStream:
    """The receiving end: an async iterator over chunks for one consumer."""

    def __init__(self, grant: Callable[[int], None], deadline: float) -> None:
        self._grant = grant
        self._deadline = deadline
        self._chunks: deque[memoryview | bytearray] = deque()
        """What waits; a bytearray gathers small chunks, of which a window would hold a million,
        each with the frame that brought it."""
        self._window = CREDIT_WINDOW_BYTES
        """Bytes the sender may still send."""
        self._taken = 0
        self._ended = False
        self._error: PinfoldError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, chunk: memoryview) -> None:
        """The next bytes; raises Invalid beyond the credit given or after the end."""
        if self._ended or len(chunk) > self._window:
            raise Invalid(f"stream: {len(chunk)} bytes, credit {self._window}")
        self._window -= len(chunk)
        if len(chunk) >= JOIN_BYTES:
            self._chunks.append(chunk)
        elif self._chunks and isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += chunk
        elif len(chunk):
            self._chunks.append(bytearray(chunk))
        self._wake()

    def end(self) -> None:
        """All bytes have been fed."""
        self._ended = True
        self._wake()

    def fail(self, error: PinfoldError) -> None:
        """No more bytes will come and the consumer shall hear why; at once, not behind chunks."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._chunks.clear()
            self._wake()

    def __aiter__(self) -> "InStream":
        return self

    async def __anext__(self) -> memoryview:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._fed()
        chunk = memoryview(self._chunks.popleft())
        self._taken += len(chunk)
        if self._taken >= _GRANT_BYTES and not self._ended:
            self._window += self._taken
            self._grant(self._taken)
            self._taken = 0
        return chunk

    async def _fed(self) -> None:
        assert self._waiter is None, "a stream has one consumer"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._waiter
        except TimeoutError:
            raise DeadlineExceeded("the stream did not end before its deadline") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def sender_aborted() -> PinfoldError:
    """What a consumer hears when the sender gave up."""
    return Unavailable("the stream's sender gave it up")
