"""One simulated connection: two transports and what is on the way between them.

Each transport obeys asyncio's contract: writes are buffered behind a window as a socket's would
be, the protocol is paused over its high mark, close sends what was written first, and callbacks
run in the context of the process that owns the end.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from pinfold.sim.loop import Process

if TYPE_CHECKING:
    from pinfold.sim.net import SimNet

_WINDOW_BYTES: Final = 256 * 1024
"""Bytes of one direction that are on the way or wait unread at the receiver: socket buffers."""

_HIGH_BYTES: Final = 64 * 1024
"""asyncio's own default high mark of a transport's buffer."""

_END: Final = b""
"""Stands in a stream for its end."""

Maker = asyncio.BaseProtocol | Callable[[], asyncio.BaseProtocol]


class Link:
    """A connection between two processes; `ends[0]` dialled."""

    def __init__(
        self, net: "SimNet", processes: tuple[Process, Process], makers: tuple[Maker, Maker]
    ) -> None:
        self.net = net
        self.processes = processes
        self.names = (processes[0].name, processes[1].name)
        self._accept = cast(Callable[[], asyncio.BaseProtocol], makers[1])
        self.ends = (SimTransport(self, 0), SimTransport(self, 1))
        self.ends[0].set_protocol(cast(asyncio.BaseProtocol, makers[0]))
        self.broken = False

    def start(self, made: asyncio.Future[None]) -> None:
        """Tell both protocols; `made` is done when the dialling one has heard."""
        soon = self.net.loop.call_soon
        soon(self._begin_accepted, context=self.processes[1].context)
        soon(self.ends[0].begin, context=self.processes[0].context)
        soon(_resolve, made, context=self.processes[0].context)

    def _begin_accepted(self) -> None:
        self.ends[1].set_protocol(self._accept())
        self.ends[1].begin()

    def reset(self) -> None:
        """Break it: each end hears after a latency, what has not arrived is lost."""
        if self.broken:
            return
        self.broken = True
        for end in self.ends:
            end.break_after(self.net.latency())
        self.ended()

    def bury(self, process: Process, *, silent: bool) -> None:
        """The process of one end has died; the other end hears a reset, or nothing at all."""
        end = self.ends[self.processes.index(process)]
        end.lost = True
        if silent:
            end.silenced = True
        else:
            self.reset()
        self.ended()

    def resume(self) -> None:
        """A cut may have healed: deliver what it kept back."""
        for end in self.ends:
            end.resume_delivery()

    def ended(self) -> None:
        """One end is gone for its protocol."""
        if all(end.lost for end in self.ends):
            self.net.forget(self)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class SimTransport(asyncio.Transport):
    """One end of a link; holds what it sends until the other end has taken it."""

    def __init__(self, link: Link, side: int) -> None:
        super().__init__()
        self._link = link
        self._side = side
        self._process = link.processes[side]
        self._protocol: asyncio.BaseProtocol | None = None
        self._begun = False
        self._outgoing: deque[bytes] = deque()
        """Written, behind the window."""
        self._outgoing_size = 0
        self._window_used = 0
        self._held: deque[bytes] = deque()
        """On the way, kept back by a cut."""
        self._transit: deque[bytes] = deque()
        """On the way, each with a timer."""
        self._last_arrival = 0.0
        self._incoming: deque[bytes] = deque()
        """Arrived here, not read."""
        self._high, self._low = _HIGH_BYTES, _HIGH_BYTES // 4
        self._writing_paused = False
        self._reading = True
        self._closing = False
        self._end_sent = False
        self.silenced = False
        self.lost = False

    @property
    def _peer(self) -> "SimTransport":
        return self._link.ends[1 - self._side]

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._link.net.loop.call_soon(callback, *args, context=self._process.context)

    def _after(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Call on this end's process after seconds of world time."""
        self._link.net.loop.after(delay, self._process, callback, *args)

    def begin(self) -> None:
        """Tell the protocol of its transport."""
        assert self._protocol is not None
        if self.lost:
            return
        self._begun = True
        self._protocol.connection_made(self)
        self._read()

    # sending

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        if self.lost:
            raise RuntimeError("written after connection_lost")
        if self._closing or not len(data):
            return
        self._outgoing.append(bytes(data))
        self._outgoing_size += len(data)
        self._pump()
        if self._outgoing_size > self._high and not self._writing_paused:
            self._writing_paused = True
            self._require_protocol().pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """See asyncio."""
        self.write(b"".join(list_of_data))

    def _pump(self) -> None:
        """Send what the window allows, cut where the seed wants."""
        room = _WINDOW_BYTES - self._window_used
        while self._outgoing and room > 0:
            piece = self._outgoing.popleft()
            if len(piece) > 1 and self._link.net.rng.random() < 0.25:
                size = min(room, self._link.net.rng.randrange(1, len(piece)))
            else:
                size = min(room, len(piece))
            if size < len(piece):
                self._outgoing.appendleft(piece[size:])
                piece = piece[:size]
            room -= size
            self._window_used += size
            self._outgoing_size -= size
            self._ship(piece)
        if self._closing and not self._outgoing and not self._end_sent:
            self._end_sent = True
            self._ship(_END)
            self._soon(self._finish, None)
        if self._writing_paused and self._outgoing_size <= self._low and not self._closing:
            self._writing_paused = False
            self._soon(self._resume_writing)

    def _resume_writing(self) -> None:
        if not self.lost and not self._writing_paused:
            self._require_protocol().resume_writing()

    def _ship(self, piece: bytes) -> None:
        """Put a piece on the way, behind all before it."""
        net = self._link.net
        if net.is_cut(self._process.name, self._peer._process.name):
            self._held.append(piece)
            return
        if net.faults.reset_chance and net.rng.random() < net.faults.reset_chance:
            self._link.reset()
            return
        arrival = max(net.loop.now + net.latency(), self._last_arrival)
        self._last_arrival = arrival
        self._transit.append(net.corrupted(piece))
        self._peer._after(arrival - net.loop.now, self._peer._arrive)

    def resume_delivery(self) -> None:
        """A cut has healed."""
        held, self._held = self._held, deque()
        for piece in held:
            self._ship(piece)

    # receiving

    def _arrive(self) -> None:
        piece = self._peer._transit.popleft()  # the next in order, whatever timers round to
        if self._link.broken or self._peer.silenced or self.silenced:
            return
        if self.lost:
            if piece:  # the kernel answers bytes for a closed socket with a reset
                self._link.reset()
            return
        self._incoming.append(piece)
        self._read()

    def _read(self) -> None:
        while self._incoming and self._reading and self._begun and not self._closing:
            piece = self._incoming.popleft()
            if not piece:
                self._read_end()
                return
            self._peer._taken(len(piece))
            self._hand_over(piece)

    def _hand_over(self, piece: bytes) -> None:
        protocol = self._require_protocol()
        net = self._link.net
        net.trace.add(net.loop.now, self._process.name, f"got {len(piece)}")
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(piece)
            return
        position = 0
        while position < len(piece) and not self.lost and not self._closing:
            buffer = memoryview(protocol.get_buffer(len(piece) - position)).cast("B")
            assert len(buffer) > 0, "get_buffer returned nothing to fill"
            size = min(len(buffer), len(piece) - position)
            buffer[:size] = piece[position : position + size]
            position += size
            protocol.buffer_updated(size)

    def _read_end(self) -> None:
        protocol = cast(asyncio.Protocol, self._require_protocol())
        if not protocol.eof_received():
            self.close()

    def _taken(self, size: int) -> None:
        """The receiver has read so much: the window opens again."""
        self._window_used -= size
        if self._outgoing:
            self._soon(self._pump)

    # ending

    def close(self) -> None:
        """See asyncio."""
        if not self._closing:
            self._closing = True
            self._pump()

    def abort(self) -> None:
        """See asyncio; the peer hears a reset."""
        if self.lost or self._end_sent:
            return
        self._closing = True
        self._end_sent = True
        self._outgoing.clear()
        self._outgoing_size = 0
        self._soon(self._finish, None)
        if not self._link.broken:
            self._link.broken = True
            self._peer.break_after(self._link.net.latency())

    def break_after(self, delay: float) -> None:
        """Lose the connection by a reset, once the news has arrived."""
        error = ConnectionResetError("connection reset by peer")
        self._after(delay, self._finish, error)

    def _finish(self, error: Exception | None) -> None:
        if self.lost:
            return
        self.lost = self._closing = True
        self._outgoing.clear()
        self._outgoing_size = 0
        self._link.ended()
        if self._begun:
            self._require_protocol().connection_lost(error)

    # the rest of asyncio's contract

    def _require_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._closing

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """See asyncio."""
        self._reading = False

    def resume_reading(self) -> None:
        """See asyncio."""
        if not self._reading:
            self._reading = True
            self._soon(self._read)

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._outgoing_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See asyncio."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""
        self._high = high if high is not None else _HIGH_BYTES if low is None else 4 * low
        self._low = low if low is not None else self._high // 4

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio."""
        return self._require_protocol()
