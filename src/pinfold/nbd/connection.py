"""One client's connection: bytes between the transport, the handshake and the transmission.

No task and no future per request: what one read from the socket brings goes to the volume as one
list, and what the volume answers in one loop tick leaves in one write. While the client's
unanswered requests exceed the limits, or it does not take its replies, it is not read.

Memory is taken from the window shared by all before it is allocated: for a large write when its
header has come, for the rest with the request. It is given back when the reply has left for the
client. A client that keeps it without getting on, while others wait for it, is dropped.
"""

import asyncio
from typing import Final, Protocol, cast

from pinfold.env.api import Buffer
from pinfold.model.errors import Fenced, PinfoldError, Unavailable
from pinfold.model.settings import NbdSettings
from pinfold.nbd.counters import Counters
from pinfold.nbd.handshake import (
    Action,
    Close,
    ExportFacts,
    Handshake,
    ListExports,
    Lookup,
    Send,
    Transmit,
    greeting,
)
from pinfold.nbd.transmission import (
    HEADER_BYTES,
    REQUEST_COST,
    ProtocolViolation,
    Transmission,
    extra_cost,
)
from pinfold.nbd.window import Window
from pinfold.volumes.io import READ, WRITE, Io, Owner

RECEIVE_BYTES: Final = 256 << 10
"""A receive buffer: what a client may have sent since the last tick, some 60 writes of 4 KiB."""

RECEIVE_AFTER_LARGE_BYTES: Final = 16 << 10
"""The buffer behind a large payload: the head of the next one is copied out of it."""

LARGE_BYTES: Final = 128 << 10
"""A request of this size gets a buffer of its own, received in place."""

COPY_BYTES: Final = RECEIVE_BYTES // 8
"""A payload up to this size is copied out of the buffer, which it would hold on to until it is
flushed, whatever else came with it: a write is kept with at most eight times its size."""

ROOM_LEAST_BYTES: Final = 8 << 10
"""A buffer with less room than this is given up for a fresh one."""

JOIN_BYTES: Final = 256 << 10
"""Replies up to this leave as one joined buffer: cheaper than a vector of small ones."""

PROGRESS_PART: Final = 8
"""Within `stall_patience_s` this part of a half-received write must come, and of what waits to be
sent must be taken: 3 Mbit/s at the defaults for the largest request."""

_ENDING: Final = (Fenced, Unavailable)
"""What requests fail with when the session under them ends."""


class Volume(Protocol):
    """Where a connection's requests go."""

    def submit(self, ios: list[Io]) -> None:
        """Take requests; each is answered through its owner."""
        ...

    def withdraw(self, owner: Owner) -> None:
        """Fail the owner's requests that were not begun; they never will be."""
        ...


class Desk(Protocol):
    """What a connection needs of its service."""

    settings: NbdSettings
    window: Window
    counters: Counters

    def lookup(self, connection: "Connection", name: str) -> None:
        """Answer with `resolved`."""
        ...

    def list_exports(self, connection: "Connection") -> None:
        """Answer with `listed`."""
        ...

    def attach(self, connection: "Connection", facts: ExportFacts) -> Volume:
        """The client has entered the transmission phase."""
        ...

    def gone(self, connection: "Connection") -> None:
        """The connection has ended."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One client.

    Invariants: `_held` is what is taken from the window: payload and cost of the requests submitted
    and unanswered, `_reserved` and `_unsent`. While something is reserved the client is read: the
    rest of its write needs nothing that others could hold. Who has something reserved or unsent
    does not wait for the window, so that whoever waits is another.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.refused = False
        """Whether it is to end as soon as it is made."""
        self._transport: asyncio.Transport | None = None
        self._handshake: Handshake | None = Handshake()
        self._transmission: Transmission | None = None
        self._volume: Volume | None = None
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._start = 0
        self._end = 0
        self._needed = HEADER_BYTES
        self._pinned = False
        """Payloads in flight are slices of the buffer."""
        self._held = 0
        self._reserved = 0
        """Bytes of the buffer of a large write that has not come in full; the buffer is its own."""
        self._unsent = 0
        """Bytes of replies written since the transport last had none to send."""
        self._come: int | None = None
        self._taken: int | None = None
        """How much of the large write had come, and of the replies was taken, at the last look."""
        self._reading = True
        self._writable = True
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # tell of every reply that has to wait
        self._desk.counters.connections += 1
        if self.refused:
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(
            self._desk.settings.handshake_s, self.abort
        )
        self._transport.write(greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; what it had in flight ends by itself."""
        self._desk.counters.connections -= 1
        self._transport = None
        self._buffer = memoryview(b"")
        self._desk.window.forget(self._go_on)
        self._release()
        self._sent()
        if self._timer is not None:
            self._timer.cancel()
        if self._volume is not None:
            self._volume.withdraw(self)
        self._desk.gone(self)

    def pause_writing(self) -> None:
        """The client does not take its replies: read nothing more of it."""
        self._writable = False
        if self._handshake is not None:
            self._handshake.hold()
            self._pace()
        self._desk.window.forget(self._go_on)  # it waits for its client now, not for the others

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
        self._sent()
        if self._handshake is not None:
            self._act(self._handshake.go_on())
        else:
            self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for what comes next."""
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        if self._handshake is not None:
            data = bytes(self._buffer[:nbytes])
            self._act(self._handshake.receive(data))
            return
        self._end += nbytes
        self._take_requests()

    def eof_received(self) -> bool:
        """A client that has finished sending has left."""
        return False

    # Handshake

    def resolved(self, facts: ExportFacts | None, *, shutdown: bool = False) -> None:
        """The service's answer to `lookup`."""
        if self._handshake is not None and self._transport is not None:
            self._act(self._handshake.resolved(facts, shutdown=shutdown))

    def listed(self, exports: list[str]) -> None:
        """The service's answer to `list_exports`."""
        if self._handshake is not None and self._transport is not None:
            self._act(self._handshake.listed(exports))

    def _act(self, actions: list[Action]) -> None:
        transport = self._transport
        if transport is None:
            return
        for action in actions:
            match action:
                case Send(data):
                    transport.write(data)
                case Lookup(name):
                    self._desk.lookup(self, name)
                case ListExports():
                    self._desk.list_exports(self)
                case Close():
                    transport.close()
                case Transmit():
                    self._transmit(action)
        self._pace()

    def _pace(self) -> None:
        """Read a client that haggles while nothing it asked is open and it takes its answers.

        What else it sent would be kept, and answered, without bound.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._handshake is None:
            if not self._reading:
                self._go_on()
            return
        reading = self._writable and not self._handshake.waiting
        if reading != self._reading:
            self._reading = reading
            if reading:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def _transmit(self, agreed: Transmit) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._handshake = None
        facts, rest = agreed.facts, agreed.rest
        self._transmission = Transmission(
            self,
            facts.told.size,
            structured=agreed.structured,
            read_only=facts.read_only,
            allocation=agreed.allocation,
        )
        self._volume = self._desk.attach(self, facts)
        if rest:
            if len(rest) > len(self._buffer):
                self._buffer = memoryview(bytearray(len(rest) + ROOM_LEAST_BYTES))
            self._buffer[: len(rest)] = rest
            self._end = len(rest)
            self._take_requests()

    # Requests

    def _take_requests(self) -> bool:
        """Submit the whole requests received, as far as the limits allow.

        Returns whether the client may be read on; it is stopped otherwise.
        """
        transmission, volume, transport = self._transmission, self._volume, self._transport
        if transmission is None or volume is None or transport is None:
            return False
        room = 1 if self._reserved else self._room()
        if room > 0:
            ios: list[Io] = []
            out: list[Buffer] = []
            try:
                self._start, self._needed = transmission.parse(
                    self._buffer, self._start, self._end, room, ios, out
                )
            except ProtocolViolation:
                transport.abort()
                return False
            if out:
                transport.write(b"".join(out))
            if ios:
                self._hold(ios)
            if self._reserved and self._start:
                self._pinned = True  # taken or refused, the buffer goes with its payload
                self._release()
            if ios:
                volume.submit(ios)
            if transmission.disconnected:
                transport.close()
                return False
        return self._make_room()

    def _share(self) -> int:
        """Bytes of requests that this client may still have taken on."""
        return self._desk.settings.connection_bytes - self._held if self._writable else 0

    def _room(self) -> int:
        """Bytes of requests that may be taken on now."""
        return min(self._share(), self._desk.window.room)

    def _hold(self, ios: list[Io]) -> None:
        size = REQUEST_COST * len(ios)
        for io in ios:
            kind = io.kind
            if kind == READ:
                size += io.length
            elif kind == WRITE:
                size += io.length
                if io.length > COPY_BYTES:
                    self._pinned = True
                else:
                    io.payload = bytes(io.payload)
            else:
                size += extra_cost(io)
        self._held += size
        self._desk.window.take(size)

    def _make_room(self) -> bool:
        """See that the buffer has room for the rest of the request it ends with, or stop."""
        if self._reserved:
            return True
        if self._room() <= 0:
            self._stop(1)
            return False
        start, end, needed = self._start, self._end, self._needed
        if start == end and not self._pinned:
            self._start = self._end = 0
        elif needed >= LARGE_BYTES:
            if not self._desk.window.fits(needed):
                self._stop(needed)
                return False
            self._reserve(needed)
            self._renew(needed)
        elif start + needed > len(self._buffer) or len(self._buffer) - end < ROOM_LEAST_BYTES:
            spent = len(self._buffer)
            self._renew(RECEIVE_BYTES if spent <= RECEIVE_BYTES else RECEIVE_AFTER_LARGE_BYTES)
        return True

    def _renew(self, size: int) -> None:
        """Go on in a fresh buffer, with what was not taken out of the one before."""
        start, end = self._start, self._end
        fresh = memoryview(bytearray(size))
        fresh[: end - start] = self._buffer[start:end]
        self._buffer = fresh
        self._start, self._end = 0, end - start
        self._pinned = False

    def _reserve(self, size: int) -> None:
        self._reserved = size
        self._held += size
        self._desk.window.take(size)
        self._come = None
        self._watch()

    def _release(self) -> None:
        size, self._reserved = self._reserved, 0
        self._held -= size
        self._desk.window.give(size)

    def _stop(self, size: int) -> None:
        """Do not read until there is room: for `size` bytes in the window, if that is the cause."""
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._share() > 0:
            self._desk.window.stop(self._go_on, size)

    def _go_on(self) -> None:
        """There may be room again: first for what was received already."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._share() <= 0:
            return
        if self._take_requests() and not self._reading and not transport.is_closing():
            self._reading = True
            transport.resume_reading()

    # Patience

    def _watch(self) -> None:
        """Look after a while whether the client gets on; one timer, not one per request."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self._desk.settings.stall_patience_s, self._look
            )

    def _look(self) -> None:
        self._timer = None
        transport = self._transport
        if transport is None or not (self._reserved or self._unsent):
            return
        if self._stalled(transport) and self._desk.window.wanted:
            transport.abort()
        else:
            self._watch()

    def _stalled(self, transport: asyncio.Transport) -> bool:
        """Whether too little has moved since the last look, which is over with this one."""
        stalled = False
        come_before, self._come = self._come, self._end
        if self._reserved and come_before is not None:
            stalled = (self._end - come_before) * PROGRESS_PART < self._reserved
        waiting = transport.get_write_buffer_size()
        taken_before, self._taken = self._taken, self._unsent - waiting
        if self._unsent and taken_before is not None:
            stalled |= (self._taken - taken_before) * PROGRESS_PART < waiting
        return stalled

    # Replies

    def finished(self, ios: list[Io]) -> None:
        """Send the replies to requests that have their answers; see `Owner`."""
        transmission, transport = self._transmission, self._transport
        assert transmission is not None
        if any(isinstance(io.error, _ENDING) for io in ios if io.error is not None):
            # Said as an error it would reach the guest; unanswered, the client asks again.
            self.abort()
            transport = None
        out: list[Buffer] = []
        size = REQUEST_COST * len(ios)
        carried = 0
        reply = transmission.reply
        for io in ios:
            reply(io, out)
            if io.kind == READ or io.kind == WRITE:
                carried += io.length
            else:
                size += extra_cost(io)
        if transport is not None and not transport.is_closing():
            if carried <= JOIN_BYTES:
                transport.write(b"".join(out))
            else:
                transport.writelines(out)
        self._desk.counters.answered(ios, carried)
        size += carried
        if transport is not None and not self._writable:
            self._unsent += self._queued(out)
        self._held -= size
        self._desk.window.give(size)
        if not self._reading:
            self._go_on()

    def _queued(self, out: list[Buffer]) -> int:
        """Replies have to wait for the client: they are held on."""
        size = sum(map(len, out))
        self._held += size
        self._desk.window.take(size)
        if not self._unsent:
            self._taken = None
            self._watch()
        return size

    def _sent(self) -> None:
        """The transport has nothing more to send."""
        size, self._unsent = self._unsent, 0
        self._held -= size
        self._desk.window.give(size)

    def ended(self, reason: PinfoldError) -> None:
        """See `volumes.sessions.User`."""
        self.close()

    def close(self) -> None:
        """End the connection when everything written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()
