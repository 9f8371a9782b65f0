"""Which member answers which read, and what happens when it does not.

A read goes to one live member per extent, spread by the extent's index, all of one tick to one
member in one message. Members take messages in order, so a read sees every write sent before it.
A member that fails, is silent or finds its bytes corrupt is replaced by another; what nobody can
answer now is parked until some member's standing changes.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pinfold.model.errors import Corrupt
from pinfold.model.ids import DeviceId
from pinfold.volumes.io import Io
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.routes import Route
from pinfold.volumes.spans import EXTENT_MASK, EXTENT_SHIFT, split

READ_PIECE_BYTES: Final = 1 << 20
"""Largest piece asked in one span: large reads then arrive from several messages at once."""

READ_MESSAGE_BYTES: Final = 2 << 20
"""Bytes at which a message to a member is sent and the next begun: bounds its answer."""

Piece = tuple[Io, int, int, int, int]
"""Request, index of the piece in it, extent, offset within, length."""


class ReadMessage:
    """Pieces asked of one member together."""

    __slots__ = ("abandoned", "lane", "length", "pieces", "sent", "slices")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.pieces: list[Piece] = []
        self.length = 0
        self.sent = 0.0
        self.abandoned = False
        """Asked again elsewhere: the answer means nothing any more."""

    def spans(self) -> bytes:
        """The pieces packed as `cluster.extents.SPAN`s."""
        flat: list[int] = []
        for piece in self.pieces:
            flat += piece[2:]
        return struct.pack(f"<{len(flat)}I", *flat)


class ReadWire(Protocol):
    """What carries messages to members."""

    def send_read(self, message: ReadMessage) -> None:
        """Send; the outcome comes back through `Reads.answered` or `Reads.failed`."""
        ...

    def corrupt(self, device: DeviceId, extent: int, within: int, length: int) -> None:
        """A member has no good bytes there; another is asked meanwhile."""
        ...


class Reads:
    """All reads in flight.

    `ready` gets each request whose bytes are complete (or whose `error` is set) exactly once.
    """

    def __init__(
        self,
        wire: ReadWire,
        route: Callable[[int], Route],
        ready: Callable[[Io], None],
        now: Callable[[], float],
    ) -> None:
        self._wire = wire
        self._route = route
        self._ready = ready
        self._now = now
        self._building: dict[DeviceId, ReadMessage] = {}
        self._parked: list[Piece] = []
        self._in_flight: dict[ReadMessage, None] = {}
        self._corrupt: dict[tuple[Io, int], tuple[DeviceId, ...]] = {}
        """By request and piece, the members that have no good bytes of it."""

    def take(self, io: Io) -> None:
        """Start a read; `send` lets it go."""
        offset = io.offset
        within = offset & EXTENT_MASK
        if within + io.length <= EXTENT_MASK + 1 and io.length <= READ_PIECE_BYTES:
            io.pending = 1
            io.parts = [b""]
            self._place((io, 0, offset >> EXTENT_SHIFT, within, io.length))
            return
        pieces = split(offset, io.length, READ_PIECE_BYTES)
        io.pending = len(pieces)
        io.parts = [b""] * len(pieces)
        for index, (extent, within, length) in enumerate(pieces):
            self._place((io, index, extent, within, length))

    def send(self) -> None:
        """Send what `take` has gathered."""
        if not self._building:
            return
        now = self._now()
        for message in self._building.values():
            message.sent = now
            self._in_flight[message] = None
        building, self._building = self._building, {}
        for message in building.values():
            self._wire.send_read(message)

    def retry(self) -> None:
        """Some member's standing has changed: place what was parked."""
        parked, self._parked = self._parked, []
        for piece in parked:
            self._place(piece)
        self.send()

    def answered(self, message: ReadMessage, payload: memoryview) -> None:
        """The bytes of a message's spans have come."""
        self._in_flight.pop(message, None)
        if message.abandoned:
            return
        if len(payload) != message.length:
            self.failed(message, Corrupt("a device answered with another length"))
            return
        position = 0
        for io, index, _extent, _within, length in message.pieces:
            end = position + length
            io.parts[index] = payload[position:end]
            position = end
            io.pending -= 1
            if not io.pending:
                self._finish(io)

    def failed(self, message: ReadMessage, error: Exception) -> None:
        """A member did not answer a message; its pieces are asked elsewhere."""
        self._in_flight.pop(message, None)
        if message.abandoned:
            return
        message.abandoned = True
        if isinstance(error, Corrupt):
            self._corrupted(message, error)
        else:
            for piece in message.pieces:
                self._place(piece)
        self.send()

    def hedge(self, before: float, until: float) -> None:
        """Ask elsewhere what was sent before `before`; the slow member rests until `until`."""
        late = [message for message in self._in_flight if message.sent < before]
        for message in late:
            if message.abandoned or not self._alternatives(message):
                continue
            message.abandoned = True
            message.lane.slow_until = until
            for piece in message.pieces:
                self._place(piece)
        self.send()

    def fail_all(self, error: Exception) -> list[Io]:
        """Nothing will be answered any more; the requests concerned, each once."""
        messages = [*self._in_flight, *self._building.values()]
        ios: dict[Io, None] = {}
        for message in messages:
            if not message.abandoned:
                ios.update(dict.fromkeys(piece[0] for piece in message.pieces))
                message.abandoned = True
        ios.update(dict.fromkeys(piece[0] for piece in self._parked))
        self._in_flight.clear()
        self._building.clear()
        self._parked.clear()
        return list(ios)

    def _alternatives(self, message: ReadMessage) -> bool:
        extent = message.pieces[0][2]
        return any(lane is not message.lane for lane in self._usable(self._route(extent)))

    def _usable(self, route: Route) -> Sequence[Lane]:
        """Members that have been sent everything; others would answer with the past."""
        now = self._now()
        usable = [lane for lane in route.readers if not lane.backlog]
        for lane in usable:
            if lane.slow_until <= now:
                lane.slow_until = 0.0
        return [lane for lane in usable if not lane.slow_until] or usable

    def _place(self, piece: Piece) -> None:
        extent = piece[2]
        route = self._route(extent)
        readers = route.readers
        lane: Lane | None = readers[extent % len(readers)] if readers else None
        if lane is None or lane.backlog or lane.slow_until or self._corrupt:
            lane = self._choose(piece, route)
            if lane is None:
                return
        message = self._building.get(lane.device)
        if message is None:
            message = self._building[lane.device] = ReadMessage(lane)
        message.pieces.append(piece)
        message.length += piece[4]
        if message.length >= READ_MESSAGE_BYTES:
            del self._building[lane.device]
            message.sent = self._now()
            self._in_flight[message] = None
            self._wire.send_read(message)

    def _choose(self, piece: Piece, route: Route) -> Lane | None:
        """A member for an unlucky piece; None when it was parked or has failed for good."""
        io, index, extent, _within, _length = piece
        corrupt = self._corrupt.get((io, index), ())
        usable = [lane for lane in self._usable(route) if lane.device not in corrupt]
        if usable:
            return usable[extent % len(usable)]
        if corrupt and all(device in corrupt for device in route.waiting):
            io.error = Corrupt(f"no member holds good bytes of extent {extent}")
            io.pending -= 1
            if not io.pending:
                self._finish(io)
            return None
        self._parked.append(piece)
        return None

    def _corrupted(self, message: ReadMessage, error: Corrupt) -> None:
        if len(message.pieces) > 1:  # whose bytes it was shows when each is asked alone
            for piece in message.pieces:
                alone = ReadMessage(message.lane)
                alone.pieces.append(piece)
                alone.length = piece[4]
                alone.sent = self._now()
                if message.lane.standing is Standing.LIVE:
                    self._in_flight[alone] = None
                    self._wire.send_read(alone)
                else:
                    self._place(piece)
            return
        piece = message.pieces[0]
        known = self._corrupt.get(piece[:2], ())
        self._corrupt[piece[:2]] = (*known, message.lane.device)
        self._wire.corrupt(message.lane.device, *piece[2:])
        self._place(piece)

    def _finish(self, io: Io) -> None:
        if self._corrupt:
            for index in range(len(io.parts)):
                self._corrupt.pop((io, index), None)
        self._ready(io)
