"""Writes that travel together: one message to each member, one completion for all.

A batch is what the sequencer made of the writes of one loop tick. It is kept until every member
in sync has flushed it, so that it can be sent again to a member that lost its memory.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pinfold.env.api import Buffer
from pinfold.model.ids import DeviceId
from pinfold.volumes.io import WRITE, Io
from pinfold.volumes.spans import blocks, split

if TYPE_CHECKING:
    from pinfold.volumes.routes import Route

BATCH_BYTES: Final = 1 << 20
"""Payload at which a batch is sent: large enough to amortise a message, small enough for a
device's journal record."""

BATCH_OPS: Final = 1024
"""Operations at which a batch is sent: bounds the work of one message."""

WRITE_PIECE_BYTES: Final = 1 << 20
"""Largest write in one operation: a device journals it as one record."""

PACKED_OP: Final = "BIII"
"""Kind, extent, offset, length, as `cluster.extents.OP`."""


class Batch:
    """One numbered set of operations and who has still to take it.

    Invariant: `waiting` names members in sync that have not taken it; empty means complete.
    """

    __slots__ = (
        "born",
        "done",
        "epoch",
        "ios",
        "masks",
        "ops",
        "packed",
        "payload",
        "payload_bytes",
        "readers",
        "routes",
        "sequence",
        "taken",
        "uniform",
        "waiting",
    )

    def __init__(self, sequence: int, epoch: int, born: float) -> None:
        self.sequence = sequence
        self.epoch = epoch
        self.born = born
        self.ops: list[tuple[int, int, int, int]] = []
        self.payload: list[Buffer] = []
        self.payload_bytes = 0
        self.ios: list[Io] = []
        """The request of each piece; internal batches have none."""
        self.routes: list[Route] = []
        self.uniform = True
        """All operations go to the same members."""
        self.waiting: set[DeviceId] = set()
        self.taken = False
        """Some member has it, or may have: it cannot be called off any more."""
        self.done = False
        self.readers: list[Io] = []
        """Reads that may have seen it and are answered when it is everywhere."""
        self.packed: bytes | None = None
        self.masks: dict[int, int] | None = None

    def add(
        self, route: "Route", op: tuple[int, int, int, int], payload: Buffer | None = None
    ) -> None:
        """Append an operation; `payload` is the bytes of a write."""
        if self.routes and self.routes[-1] is not route:
            self.uniform = False
        self.ops.append(op)
        self.routes.append(route)
        if payload is not None:
            self.payload.append(payload)
            self.payload_bytes += op[3]

    @property
    def full(self) -> bool:
        """Whether it should leave before it takes more."""
        return self.payload_bytes >= BATCH_BYTES or len(self.ops) >= BATCH_OPS

    def concerns(self, device: DeviceId) -> bool:
        """Whether any operation belongs on the device."""
        if self.uniform:
            return device in self.routes[0].members
        return any(device in route.members for route in self.routes)

    def extents(self, device: DeviceId) -> list[int]:
        """Those that it changes on the device, in order of their first change."""
        pairs = zip(self.routes, self.ops, strict=True)
        return list(dict.fromkeys(op[1] for route, op in pairs if device in route.members))

    def message(self, device: DeviceId) -> tuple[bytes, list[Buffer]]:
        """The packed operations for a member and their payload, in order."""
        if self.uniform:
            if self.packed is None:
                self.packed = pack(self.ops)
            return self.packed, self.payload
        ops = []
        payload = []
        buffers = iter(self.payload)
        for route, op in zip(self.routes, self.ops, strict=True):
            buffer = next(buffers) if op[0] == 0 and op[3] else None
            if device not in route.members:
                continue
            ops.append(op)
            if buffer is not None:
                payload.append(buffer)
        return pack(ops), payload

    def overlaps(self, offset: int, length: int) -> bool:
        """Whether it changes any block of the volume's range."""
        masks = self.masks
        if masks is None:
            masks = self.masks = {}
            for _kind, extent, within, size in self.ops:
                if size:
                    masks[extent] = masks.get(extent, 0) | blocks(within, size)
        for extent, within, size in split(offset, length):
            mask = masks.get(extent)
            if mask is not None and mask & blocks(within, size):
                return True
        return False


def pack(ops: Iterable[tuple[int, int, int, int]]) -> bytes:
    """Operations as they travel."""
    flat: list[int] = []
    for op in ops:
        flat += op
    return struct.pack("<" + PACKED_OP * (len(flat) // 4), *flat)


def operations(io: Io) -> Iterator[tuple[tuple[int, int, int, int], Buffer | None]]:
    """A request as operations on extents, each with the bytes that it writes."""
    if io.kind != WRITE:
        for piece in split(io.offset, io.length):
            yield (io.kind, *piece), None
        return
    pieces = split(io.offset, io.length, WRITE_PIECE_BYTES)
    if len(pieces) == 1:
        yield (WRITE, *pieces[0]), io.payload
        return
    view, position = memoryview(io.payload), 0
    for piece in pieces:
        yield (WRITE, *piece), view[position : position + piece[2]]
        position += piece[2]
