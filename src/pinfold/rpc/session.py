"""One connection between two nodes: the asyncio shell around receiver, outbox and handshake.

A connection carries requests one way only, from the node that dialled; the answers come back on
it, and the other node's requests travel on the connection *it* dialled. So the side that answers
may stop reading when it holds too much without ever stopping the answers it waits for itself: two
loaded nodes cannot block each other.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from pinfold.env.api import Buffer, Clock
from pinfold.model.errors import Invalid, PinfoldError, Unavailable
from pinfold.model.limits import MIB
from pinfold.rpc.frames import BEAT, Message, encode_message
from pinfold.rpc.frames import Clock as ClockMessage
from pinfold.rpc.handshake import PAYLOADS_SUMMED, Handshake, PeerIdentity, refusal
from pinfold.rpc.limits import BEAT_S, HANDSHAKE_S, HEAD_S, SILENCE_S
from pinfold.rpc.outbox import Outbox
from pinfold.rpc.receiver import FrameReceiver

_CLOCK: Final = 20
assert encode_message((_CLOCK, 1)) == encode_message(ClockMessage(1))

_WRITE_HIGH_BYTES: Final = 1 * MIB
"""Unsent bytes in the transport at which the outbox keeps the rest: they then can be counted."""


class SessionOwner(Protocol):
    """What a session tells."""

    def established(self, session: "Session", peer: PeerIdentity) -> None:
        """The peer has proved who it is. The first call, if it ever comes."""
        ...

    def received(
        self, messages: Sequence[Message], payload: memoryview, epoch: int, head_length: int
    ) -> None:
        """A frame came. Raises Invalid when it makes no sense: the session is then lost."""
        ...

    def sent(self) -> None:
        """The outbox has given frames to the transport."""
        ...

    def lost(self, error: PinfoldError) -> None:
        """The last call, once for each connection made, established or not."""
        ...


class Session(asyncio.BufferedProtocol):
    """A connection from its first byte to its last."""

    def __init__(
        self, clock: Clock, owner: SessionOwner, handshake: Handshake, epoch: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._owner = owner
        self._handshake: Handshake | None = handshake
        self._epoch = epoch
        self._receiver = FrameReceiver()
        self._outbox = Outbox()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flush_due = False
        self._write_paused = False
        self._read_paused = False
        self._sent_at = self._heard_at = self._started_at = clock.monotonic()
        self._in_head_since = self._started_at
        """Of no meaning while no head is under way."""
        self._error: PinfoldError | None = None
        self._closing = False
        self.tells_clock = False
        """Whether every frame begins by saying when it left."""
        self._sums_payloads = False

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait here because the transport is full, or for the end of this tick."""
        return self._outbox.size

    def send(self, message: bytes, payload: Sequence[Buffer] = (), length: int = 0) -> None:
        """Queue a message; all of one loop tick leave together, in order."""
        self._outbox.put(message, payload, length)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading. The peer still hears beats and is not taken for silent."""
        if self._transport is None or reading != self._read_paused:
            return
        self._read_paused = not reading
        if reading:
            self._heard_at = self._in_head_since = self._clock.monotonic()
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def fail(self, error: PinfoldError) -> None:
        """Drop the connection at once; the owner hears the error as the reason of the loss."""
        if self._error is None:
            self._error = error
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Send what is queued, then close."""
        self._closing = True
        if self._transport is not None and not self._outbox:
            self._transport.close()

    def tick(self, now: float, stalled_s: float) -> None:
        """Beat when quiet, give the peer up when it is. `stalled_s`: this process slept so long."""
        self._heard_at += stalled_s
        self._in_head_since += stalled_s
        if self._handshake is not None:
            if now - self._started_at > HANDSHAKE_S:
                self.fail(Unavailable("the handshake did not end in time"))
            return
        reading = not self._read_paused
        if reading and now - self._heard_at > SILENCE_S:
            self.fail(Unavailable(f"nothing heard for {now - self._heard_at:.1f} s"))
        elif reading and self._receiver.in_head and now - self._in_head_since > HEAD_S:
            self.fail(Unavailable(f"a head that does not end for {HEAD_S:.0f} s"))
        elif now - self._sent_at >= BEAT_S and not self._write_paused:
            self.send(BEAT)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        # Not an isinstance: uvloop's transports do not derive from asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        if self._error is not None:  # given up while it was being connected
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        assert self._handshake is not None
        for message in self._handshake.start():
            self.send(message)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._receiver.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if self._error is not None:
            return
        self._heard_at = self._clock.monotonic()
        try:
            frames = self._receiver.received(nbytes)
            if frames or not self._receiver.in_head:
                self._in_head_since = self._heard_at
            for messages, payload, epoch, head_length in frames:
                if self._handshake is None:
                    self._owner.received(messages, payload, epoch, head_length)
                else:
                    self._shake(self._handshake, messages)
        except Invalid as error:
            self._reject(error)

    def eof_received(self) -> bool:
        """See `asyncio.BaseProtocol`: the connection closes."""
        return False

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._write_paused = False
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = None
        self._outbox.clear()
        reason = "the connection was closed" if error is None else f"the connection broke: {error}"
        if self._error is None:
            self._error = Unavailable(reason)
        self._owner.lost(self._error)

    # ours

    def _flush(self) -> None:
        self._flush_due = False
        transport = self._transport
        if transport is None or not self._outbox:
            return
        now = self._clock.monotonic()
        first = encode_message((_CLOCK, int(now * 1000))) if self.tells_clock else b""
        while self._outbox and not self._write_paused:
            buffers = self._outbox.take_frame(self._epoch(), first, summed=self._sums_payloads)
            if len(buffers) == 1:
                transport.write(buffers[0])
            else:
                transport.writelines(buffers)
        self._sent_at = now
        self._owner.sent()
        if self._closing and not self._outbox:
            transport.close()

    def _shake(self, handshake: Handshake, messages: Sequence[Message]) -> None:
        for message in messages:
            if self._handshake is None:
                raise Invalid("handshake: a message too many")
            for answer in handshake.received(message):
                self.send(answer)
            if handshake.peer is not None:
                self._handshake = None
                self._receiver.trust()
                self._sums_payloads = handshake.peer.protocol >= PAYLOADS_SUMMED
                self._owner.established(self, handshake.peer)

    def _reject(self, error: Invalid) -> None:
        """Close because of what the peer sent, telling a stranger why."""
        self._error = error
        if self._transport is None:
            return
        if self._handshake is None:
            self._transport.abort()
            return
        # Nothing more is taken, and the buffer may be full: a loop that reads several times before
        # it lets anybody else run would find no room in it and log a failure with its stack.
        self._transport.pause_reading()
        self._outbox.clear()
        self.send(refusal(error))
        self.close()
