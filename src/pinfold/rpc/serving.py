"""The answering side of a connection: requests in, handlers called in order, answers out."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, cast

from pinfold.env import api as env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Busy, Invalid, PinfoldError, Unavailable
from pinfold.rpc.api import Reply, Request
from pinfold.rpc.clocks import PeerClock
from pinfold.rpc.dispatch import Operations, as_answer, describe, settle
from pinfold.rpc.frames import (
    Aborted,
    Answered,
    Asked,
    Beat,
    Chunk,
    Clock,
    Credit,
    Failed,
    Finished,
    Message,
    Opened,
    Told,
    encode_message,
)
from pinfold.rpc.handshake import CLOCKS_TOLD, PeerIdentity
from pinfold.rpc.limits import BATCH_PAYLOAD_BYTES, STREAMS, TELL_S, RpcLimits
from pinfold.rpc.receiver import EMPTY
from pinfold.rpc.session import Session
from pinfold.rpc.streams import InStream, sender_aborted

_ANSWERED: Final = 12
assert encode_message((_ANSWERED, 1, None, 0)) == encode_message(Answered(1, None, 0))
_REQUEST_BYTES: Final = 512
"""What a held request is taken to cost beside its body and payload."""


def _demand_part(start: int, stop: int, end: int) -> None:
    """Invalid unless payload[start:stop] is a message's part of a frame's payload of `end` bytes.

    A kept part keeps the whole alive, so no sender joins payloads beyond BATCH_PAYLOAD_BYTES.
    """
    if stop > end:
        raise Invalid(f"frame: payload of {end} bytes, messages name {stop}")
    if stop - start not in (0, end) and end > BATCH_PAYLOAD_BYTES:
        raise Invalid(f"frame: payload of {end} bytes for more than one message")


class UnderWay:
    """Counts requests that handlers have not answered yet, for a close that waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self.leaving = False
        """Set when the process wants to end: new requests are turned away."""
        self._idle: asyncio.Future[None] | None = None

    def end(self) -> None:
        """One request was answered."""
        self.count -= 1
        if self.count == 0 and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def drained(self, seconds: float) -> None:
        """Turn new requests away and wait for the others, at most so long."""
        self.leaving = True
        if self.count == 0:
            return
        self._idle = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._idle
        except TimeoutError:
            return


class Serving:
    """Owner of one accepted session.

    Handlers are called in the order of the requests. What unanswered requests hold is bounded: at
    a limit the session stops reading until enough is answered and the answers are sent.
    """

    def __init__(
        self,
        clock: env.Clock,
        operations: Operations,
        scope: TaskScope,
        under_way: UnderWay,
        limits: RpcLimits,
        *,
        established: Callable[["Serving"], None],
        lost: Callable[["Serving", PinfoldError], None],
        epoch_seen: Callable[[PeerIdentity, int], None],
    ) -> None:
        self._clock = clock
        self._operations = operations
        self._scope = scope
        self._under_way = under_way
        self._limits = limits
        self._established = established
        self._lost = lost
        self._epoch_seen = epoch_seen
        self._answers_max = 2 * limits.send_bytes
        """Bytes of answers at which requests that had been read before reading stopped fail."""
        self._epoch = -1
        self._held_bytes = 0
        self._held_requests = 0
        self._held = False
        self._request_bytes = _REQUEST_BYTES
        """What each request of the frame at hand is taken to hold beside its payload."""
        self._streams: dict[int, InStream] = {}
        """Those that get more."""
        self._unanswered: set[int] = set()
        """Streams whose handlers run: one that was sent to its end may hold its window, too."""
        self._session: Session | None = None
        self._peer_clock = PeerClock()
        self._absolute = False
        self.peer: PeerIdentity | None = None

    def established(self, session: Session, peer: PeerIdentity) -> None:
        """See `SessionOwner`."""
        self._session = session
        self.peer = peer
        self._absolute = peer.protocol >= CLOCKS_TOLD
        self._established(self)

    def lost(self, error: PinfoldError) -> None:
        """See `SessionOwner`. Handlers under way go on; their answers go nowhere."""
        self._session = None
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(Unavailable(f"the stream's sender was lost: {error.message}"))
        self._lost(self, error)

    def received(
        self, messages: Sequence[Message], payload: memoryview, epoch: int, head_length: int
    ) -> None:
        """See `SessionOwner`."""
        # A message's part of the head stands for its body, whose values it is costly to count.
        self._request_bytes = _REQUEST_BYTES + head_length // max(1, len(messages))
        peer = self.peer
        assert peer is not None
        if epoch != self._epoch:
            self._epoch = epoch
            self._epoch_seen(peer, epoch)
        now = self._clock.monotonic()
        # The word on the peer's clock comes first in its frame, so all deadlines share one shift.
        shift: float | None = None
        start, end = 0, len(payload)
        for message in messages:
            if type(message) is Asked:
                if shift is None:
                    shift = self._shift(now)
                stop = start + message.payload_length
                _demand_part(start, stop, end)
                part = payload[start:stop] if stop > start else EMPTY
                start = stop
                request = Request(
                    peer.node,
                    peer.boot,
                    message.operation,
                    message.body,
                    part,
                    message.due_ms / 1000 + shift,
                    epoch,
                )
                self._serve(message.id, request, now)
            elif type(message) is Chunk:
                stop = start + message.payload_length
                _demand_part(start, stop, end)
                if (stream := self._streams.get(message.id)) is not None:
                    stream.feed(payload[start:stop])
                start = stop
            else:
                self._other(peer, message, now, epoch)
        if start != end:
            raise Invalid(f"frame: payload of {end} bytes, messages name {start}")

    def _other(self, peer: PeerIdentity, message: Message, now: float, epoch: int) -> None:
        match message:
            case Told(operation, body):
                deadline = now + TELL_S
                self._hear(Request(peer.node, peer.boot, operation, body, EMPTY, deadline, epoch))
            case Opened(number, operation, due_ms, body):
                deadline = due_ms / 1000 + self._shift(now)
                request = Request(peer.node, peer.boot, operation, body, EMPTY, deadline, epoch)
                self._open(number, request)
            case Finished(number):
                if (stream := self._streams.pop(number, None)) is not None:
                    stream.end()
            case Aborted(number):
                if (stream := self._streams.pop(number, None)) is not None:
                    stream.fail(sender_aborted())
            case Clock(sent_ms):
                self._peer_clock.heard(sent_ms / 1000, now)
            case Beat():
                return
            case _:
                raise Invalid(f"session: {type(message).__name__} from the dialling side")

    def _shift(self, now: float) -> float:
        """What to add to a deadline as it was told, for our own clock."""
        return self._peer_clock.ahead() if self._absolute else now

    # calls

    def _serve(self, number: int, request: Request, now: float) -> None:
        if self._under_way.leaving:
            self._fail(number, Unavailable("this node is leaving"))
            return
        if self._session is not None and self._session.queued_bytes > self._answers_max:
            # Reading has stopped already; these are the rest of what had been read by then.
            self._fail(number, Busy("too many bytes of answers wait for the asking node"))
            return
        result = self._operations.run(request, now)
        if type(result) is Reply:
            self._reply(number, request.operation, result)
        elif isinstance(result, PinfoldError):
            self._fail(number, result)
        else:
            self._defer(number, request, cast(Any, result))

    def _defer(
        self,
        number: int,
        request: Request,
        result: asyncio.Future[Reply] | Coroutine[Any, Any, Reply],
    ) -> None:
        size = len(request.payload) + self._request_bytes
        self._begin(size)
        done = partial(self._settled, number, request.operation, size)
        if isinstance(result, asyncio.Future):
            result.add_done_callback(done)
        else:
            work = settle(request.operation, result)
            self._scope.start(work, name=request.operation).add_done_callback(done)

    def _settled(
        self,
        number: int,
        operation: str,
        size: int,
        future: asyncio.Future[Any],
    ) -> None:
        self._end(size)
        result = self._operations.outcome(operation, future)
        if isinstance(result, PinfoldError):
            self._fail(number, result)
        else:
            self._reply(number, operation, result)

    def _hear(self, request: Request) -> None:
        """Run the handler of a message that wants no answer."""
        if self._under_way.leaving:
            return
        result = self._operations.run(request, self._clock.monotonic())
        if asyncio.iscoroutine(result):
            size = self._request_bytes
            self._begin(size)
            task = self._scope.start(settle(request.operation, result), name=request.operation)
            task.add_done_callback(lambda _: self._end(size))

    # streams

    def _open(self, number: int, request: Request) -> None:
        if self._under_way.leaving:
            self._fail(number, Unavailable("this node is leaving"))
            return
        if number in self._unanswered:
            raise Invalid(f"session: stream {number} is open already")
        if len(self._unanswered) >= STREAMS:
            self._fail(number, Busy(f"{STREAMS} streams are open"))
            return
        try:
            handler = self._operations.stream(request, self._clock.monotonic())
        except PinfoldError as error:
            self._fail(number, error)
            return
        stream = InStream(partial(self._grant, number), request.deadline)
        self._streams[number] = stream
        self._unanswered.add(number)
        size = self._request_bytes
        self._begin(size)
        work = settle(request.operation, handler(request, stream))
        task = self._scope.start(work, name=request.operation)
        task.add_done_callback(partial(self._stream_settled, number, request.operation, size))

    def _stream_settled(
        self, number: int, operation: str, size: int, task: asyncio.Task[Reply | PinfoldError]
    ) -> None:
        self._streams.pop(number, None)
        self._unanswered.discard(number)
        self._settled(number, operation, size, task)

    def _grant(self, number: int, count: int) -> None:
        if self._session is not None:
            self._session.send(encode_message(Credit(number, count)))

    # answers

    def _reply(self, number: int, operation: str, reply: Reply) -> None:
        session = self._session
        if session is None:
            return
        payload = reply.payload
        length = sum(map(len, payload)) if payload else 0
        try:
            message = encode_message((_ANSWERED, number, reply.body, length))
        except TypeError as error:
            self._fail(number, as_answer(operation, error))
            return
        session.send(message, payload, length)
        if session.queued_bytes > self._limits.send_bytes:
            self._balance()

    def _fail(self, number: int, error: PinfoldError) -> None:
        if self._session is not None:
            self._session.send(encode_message(Failed(number, *describe(error))))

    # back-pressure

    def _begin(self, size: int) -> None:
        self._under_way.count += 1
        self._held_requests += 1
        self._held_bytes += size
        self._balance()

    def _end(self, size: int) -> None:
        self._held_requests -= 1
        self._held_bytes -= size
        self._under_way.end()
        if self._held:
            self._balance()

    def sent(self) -> None:
        """See `SessionOwner`: room has become free in the outbox."""
        if self._held:
            self._balance()

    def _balance(self) -> None:
        """Read or do not read, by what is held and what waits to be sent."""
        if self._session is None:
            return
        limits = self._limits
        self._held = (
            self._held_bytes > limits.held_bytes
            or self._held_requests > limits.held_requests
            or self._session.queued_bytes > limits.send_bytes
        )
        self._session.hold(reading=not self._held)
