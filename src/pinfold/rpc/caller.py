"""The asking side of a connection: calls out, answers in."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

from pinfold.env.api import Buffer, Clock
from pinfold.model.errors import Busy, DeadlineExceeded, Invalid, PinfoldError, Unavailable
from pinfold.rpc.api import Answer, Body
from pinfold.rpc.calls import CallTable, fail_quietly
from pinfold.rpc.dispatch import revive
from pinfold.rpc.frames import (
    BEAT,
    Aborted,
    Answered,
    Asked,
    Beat,
    Chunk,
    Credit,
    Failed,
    Finished,
    Message,
    Opened,
    Told,
    encode_message,
)
from pinfold.rpc.handshake import CLOCKS_TOLD, PeerIdentity
from pinfold.rpc.limits import HEAD_BYTES, PAYLOAD_BYTES, STREAMS, RpcLimits
from pinfold.rpc.receiver import EMPTY
from pinfold.rpc.session import Session
from pinfold.rpc.streams import CreditedOutStream

_ASKED: Final = 10
assert encode_message((_ASKED, 1, "o", 2, None, 3)) == encode_message(Asked(1, "o", 2, None, 3))
_MESSAGE_BYTES: Final = HEAD_BYTES - 16
"""A message alone in its frame, beside the array's own bytes."""


class Caller:
    """Owner of one dialled session. Calls made before it is established fail Unavailable."""

    def __init__(
        self,
        clock: Clock,
        limits: RpcLimits,
        *,
        epoch_seen: Callable[[PeerIdentity, int], None],
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._epoch_seen = epoch_seen
        self._epoch = -1
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._calls = CallTable(clock)
        self._streams: dict[int, CreditedOutStream] = {}
        self._session: Session | None = None
        self._peer: PeerIdentity | None = None
        self._absolute = False
        self.up: asyncio.Future[PeerIdentity] = loop.create_future()
        """Done when the session is established; fails with the reason when it will not be."""
        self.down: asyncio.Future[PinfoldError] = loop.create_future()
        """Done when the session is lost, after every call has failed."""

    @property
    def connected(self) -> bool:
        """Whether calls go out at this moment."""
        return self._session is not None

    # asking

    def call(
        self,
        operation: str,
        body: Body,
        payload: Sequence[Buffer],
        deadline: float,
    ) -> asyncio.Future[Answer]:
        """See `Peers.call`."""
        session = self._session
        if session is None:
            return self._failed(Unavailable("no session with the node"))
        due_ms = self._due_ms(deadline)
        if due_ms <= 0:
            return self._failed(DeadlineExceeded("the deadline had passed before the call"))
        length = sum(map(len, payload)) if payload else 0
        if session.queued_bytes + length > self._limits.send_bytes:
            return self._failed(Busy(f"{session.queued_bytes} bytes wait to be sent to the node"))
        if len(self._calls) >= self._limits.calls:
            return self._failed(Busy(f"{len(self._calls)} calls to the node are not answered"))
        number, future = self._calls.add(deadline)
        try:
            message = encode_message((_ASKED, number, operation, due_ms, body, length))
        except BaseException:
            self._calls.fail(number, Invalid("the body cannot be encoded"))
            raise
        if length > PAYLOAD_BYTES or len(message) > _MESSAGE_BYTES:
            size = f"{len(message)} + {length} bytes"
            self._calls.fail(number, Invalid(f"{operation}: {size} are too many for a message"))
            return future
        session.send(message, payload, length)
        return future

    def tell(self, operation: str, body: Body) -> None:
        """See `Peers.tell`; dropped over the byte limit, too."""
        session = self._session
        if session is not None and session.queued_bytes < self._limits.send_bytes:
            session.send(encode_message(Told(operation, body)))

    def open(self, operation: str, body: Body, deadline: float) -> CreditedOutStream:
        """See `Peers.open`."""
        session = self._session
        if session is None:
            raise Unavailable("no session with the node")
        if len(self._streams) >= STREAMS or session.queued_bytes > self._limits.send_bytes:
            raise Busy(f"{len(self._streams)} streams are open to the node")
        due_ms = self._due_ms(deadline)
        if due_ms <= 0:
            raise DeadlineExceeded("the deadline had passed before the call")
        number, future = self._calls.add(deadline)
        stream = CreditedOutStream(_RemoteWire(session, number), future)
        self._streams[number] = stream
        future.add_done_callback(lambda _: self._streams.pop(number, None))
        session.send(encode_message(Opened(number, operation, due_ms, body)))
        return stream

    def _due_ms(self, deadline: float) -> int:
        """The deadline as this session's protocol tells it; 0 or less when it has passed."""
        now = self._clock.monotonic()
        if not self._absolute:
            return int((deadline - now) * 1000)
        return math.ceil(deadline * 1000) if deadline > now else 0

    def _failed(self, error: PinfoldError) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        fail_quietly(future, error)
        return future

    # the session's side

    def established(self, session: Session, peer: PeerIdentity) -> None:
        """See `SessionOwner`."""
        self._session = session
        self._peer = peer
        self._absolute = session.tells_clock = peer.protocol >= CLOCKS_TOLD
        session.send(BEAT)  # the peer knows our clock before any deadline, however large its frame
        if not self.up.done():  # else whoever waited has just given up, and will end the session
            self.up.set_result(peer)

    def sent(self) -> None:
        """See `SessionOwner`."""

    def lost(self, error: PinfoldError) -> None:
        """See `SessionOwner`."""
        self.drop(Unavailable(f"the session was lost: {error.message}"))
        if not self.up.done():
            self.up.set_exception(error)
        self.down.set_result(error)

    def drop(self, error: PinfoldError) -> None:
        """Fail every call, and every later one: the session is lost or not wanted any more."""
        self._session = None
        self._calls.fail_all(error)

    def received(
        self, messages: Sequence[Message], payload: memoryview, epoch: int, _head_length: int
    ) -> None:
        """See `SessionOwner`."""
        if epoch != self._epoch:
            assert self._peer is not None
            self._epoch = epoch
            self._epoch_seen(self._peer, epoch)
        succeed = self._calls.succeed
        start, end = 0, len(payload)
        for message in messages:
            if type(message) is Answered:
                stop = start + message.payload_length
                if stop > end:
                    raise Invalid(f"frame: payload of {end} bytes, messages name {stop}")
                part = payload[start:stop] if stop > start else EMPTY
                start = stop
                succeed(message.id, Answer(message.body, part))
            elif type(message) is Failed:
                error = revive(message.code, message.message, message.detail)
                self._calls.fail(message.id, error)
            elif type(message) is Credit:
                if (stream := self._streams.get(message.id)) is not None:
                    stream.grant(message.count)
            elif type(message) is not Beat:
                raise Invalid(f"session: {type(message).__name__} from the accepting side")
        if start != end:
            raise Invalid(f"frame: payload of {end} bytes, messages name {start}")


class _RemoteWire:
    """A stream's messages over a session."""

    __slots__ = ("_number", "_session")

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._number = number

    def chunk(self, view: memoryview) -> None:
        self._session.send(encode_message(Chunk(self._number, len(view))), (view,), len(view))

    def finish(self) -> None:
        self._session.send(encode_message(Finished(self._number)))

    def abort(self) -> None:
        self._session.send(encode_message(Aborted(self._number)))
