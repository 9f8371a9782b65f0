"""One client's connection: bytes between the transport, the handshake and the transmission.

No task and no future per request: what one read from the socket brings goes to the volume as one
list, and what the volume answers in one loop tick leaves in one write. While the client's
unanswered requests exceed the limits, or it does not take its replies, it is not read.
"""

import asyncio
from typing import Final, Protocol, cast

from pinfold.env.api import Buffer
from pinfold.model.errors import Fenced, Unavailable
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
from pinfold.nbd.transmission import HEADER_BYTES, REQUEST_COST, ProtocolViolation, Transmission
from pinfold.nbd.window import Window
from pinfold.volumes.io import CACHE, READ, WRITE, Io, Owner

RECEIVE_BYTES: Final = 256 << 10
"""A receive buffer: what a client may have sent since the last tick, some 60 writes of 4 KiB."""

RECEIVE_AFTER_LARGE_BYTES: Final = 16 << 10
"""The buffer behind a large payload: the head of the next one is copied out of it."""

LARGE_BYTES: Final = 128 << 10
"""A request of this size gets a buffer of its own, received in place."""

ROOM_LEAST_BYTES: Final = 8 << 10
"""A buffer with less room than this is given up for a fresh one."""

JOIN_BYTES: Final = 256 << 10
"""Replies up to this leave as one joined buffer: cheaper than a vector of small ones."""


_ENDING: Final = (Fenced, Unavailable)
"""What requests fail with when the session under them ends."""


class Volume(Protocol):
    """Where a connection's requests go."""

    def submit(self, ios: list[Io]) -> None:
        """Take requests; each is answered through its owner."""
        ...

    def withdraw(self, owner: Owner) -> None:
        """Forget the owner's requests that were not begun."""
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

    Invariant: `_held` is the payload and cost of exactly the requests submitted and unanswered.
    """

    def __init__(self, desk: Desk, *, refused: bool = False) -> None:
        self._desk = desk
        self._refused = refused
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
        self._reading = True
        self._writable = True
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._desk.counters.connections += 1
        if self._refused:
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
        self._desk.window.forget(self._go_on)
        if self._timer is not None:
            self._timer.cancel()
        if self._volume is not None:
            self._volume.withdraw(self)
        self._desk.gone(self)

    def pause_writing(self) -> None:
        """The client does not take its replies: read nothing more of it."""
        self._writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
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

    def _transmit(self, agreed: Transmit) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._handshake = None
        facts, rest = agreed.facts, agreed.rest
        self._transmission = Transmission(
            self,
            facts.size,
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

    def _take_requests(self) -> None:
        """Submit the whole requests received, as far as the limits allow."""
        transmission, volume, transport = self._transmission, self._volume, self._transport
        if transmission is None or volume is None or transport is None:
            return
        room = self._room()
        if room > 0:
            ios: list[Io] = []
            out: list[Buffer] = []
            try:
                self._start, self._needed = transmission.parse(
                    self._buffer, self._start, self._end, room, ios, out
                )
            except ProtocolViolation:
                transport.abort()
                return
            if out:
                transport.write(b"".join(out))
            if ios:
                self._hold(ios)
                volume.submit(ios)
            if transmission.disconnected:
                transport.close()
                return
        self._make_room()
        if self._room() <= 0:
            self._stop()

    def _room(self) -> int:
        """Bytes of requests that may be taken on now."""
        settings = self._desk.settings
        if not self._writable or self._desk.window.crowded:
            return 0
        return settings.connection_bytes - self._held

    def _hold(self, ios: list[Io]) -> None:
        size = 0
        for io in ios:
            kind = io.kind
            if kind in (READ, CACHE):
                size += io.length
            elif kind == WRITE:
                size += io.length
                self._pinned = True
        size += REQUEST_COST * len(ios)
        self._held += size
        self._desk.window.take(size)

    def _make_room(self) -> None:
        """See that the buffer has room for the rest of the request it ends with."""
        start, end, needed = self._start, self._end, self._needed
        if start == end and not self._pinned:
            self._start = self._end = 0
            return
        large = needed >= LARGE_BYTES
        left = len(self._buffer) - end
        if start + needed <= len(self._buffer) and left >= ROOM_LEAST_BYTES and not large:
            return
        if large and len(self._buffer) == needed and start == 0:
            return
        if large:
            size = needed
        else:
            size = (
                RECEIVE_BYTES if len(self._buffer) <= RECEIVE_BYTES else RECEIVE_AFTER_LARGE_BYTES
            )
        if size < end - start + ROOM_LEAST_BYTES and not large:
            size = end - start + RECEIVE_BYTES
        fresh = memoryview(bytearray(size))
        fresh[: end - start] = self._buffer[start:end]
        self._buffer = fresh
        self._start, self._end = 0, end - start
        self._pinned = False

    def _stop(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._desk.window.crowded:
            self._desk.window.stop(self._go_on)

    def _go_on(self) -> None:
        """There may be room again: first for what was received already."""
        if self._transport is None or self._room() <= 0:
            return
        self._take_requests()
        if not self._reading and self._room() > 0 and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

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
            elif io.kind == CACHE:
                size += io.length
        if transport is not None and not transport.is_closing():
            if carried <= JOIN_BYTES:
                transport.write(b"".join(out))
            else:
                transport.writelines(out)
        self._desk.counters.answered(ios, carried)
        size += carried
        self._held -= size
        self._desk.window.give(size)
        if not self._reading:
            self._go_on()

    def close(self) -> None:
        """End the connection when everything written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()
