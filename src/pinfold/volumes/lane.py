"""What a holder knows of each member: its standing, its stream, and what it has taken.

Synchronous state only; the sequencer decides with it and the session's shell carries out.
"""

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

from pinfold.model.ids import Boot, DeviceId, DeviceUuid

if TYPE_CHECKING:
    from pinfold.volumes.batch import Batch


class Standing(enum.Enum):
    """How a member stands. In sync (the row's `out` does not name it): DOWN and LIVE."""

    DOWN = "down"
    """In sync, with no open stream: everything sent since waits for it or for its exclusion."""
    LIVE = "live"
    """In sync, takes writes and serves reads."""
    OUT = "out"
    """Out of sync by the row: no write waits for it."""
    JOINING = "joining"
    """Out of sync, being brought back: gets the writes that it has room for, and nothing waits."""
    COUNTED = "counted"
    """Out of sync by the row, and waited for as if it were in sync: about to be taken in (R7)."""


JOINING_BATCHES: Final = 64
"""Batches sent to a joining member and not yet taken; what comes then it misses."""

FLAPPING: Final = 5
"""Failures in a row, each after a successful claim, before a member counts as unreachable."""


class Lane:
    """The way to one device.

    Invariant: `unacked` then `backlog`, in order, are exactly the batches for this device that it
    has not taken under the present boot, as far as answers tell; of a joining one, those whose
    extents are not in `missed`.
    """

    __slots__ = (
        "backlog",
        "boot",
        "device",
        "failures",
        "flushed",
        "flushing",
        "full_at",
        "last",
        "missed",
        "number",
        "slow_until",
        "stable",
        "standing",
        "stream",
        "unacked",
        "unacked_bytes",
        "unvouched",
        "uuid",
        "vouched",
        "whole_after",
    )

    def __init__(self, device: DeviceId) -> None:
        self.device = device
        self.standing = Standing.DOWN
        self.uuid = DeviceUuid(b"")
        self.boot = Boot(0)
        self.stream = 0
        """Number of the stream open or being opened; answers of an older one mean nothing."""
        self.number = 0
        """The next write message's."""
        self.backlog: deque[Batch] = deque()
        self.unacked: dict[Batch, None] = {}
        self.unacked_bytes = 0
        self.last = 0
        """Sequence of the last batch destined for it."""
        self.flushed = 0
        """Everything up to this sequence that concerns it is durable there."""
        self.flushing = False
        self.stable = 0
        """What it has been told of stability."""
        self.full_at = 0
        """Sequence of the batch it had no room for."""
        self.failures = 0
        self.slow_until = 0.0
        """Reads prefer others until then."""
        self.whole_after = 0
        """Resent batches end here; before they are taken its memory has gaps."""
        self.vouched = Boot(0)
        """The boot under which the row trusts it (R4)."""
        self.unvouched: dict[Batch, None] = {}
        """Taken under the present boot, which the row does not name yet: not answered for it."""
        self.missed: dict[int, None] = {}
        """Extents of batches that a joining member was not sent."""

    @property
    def in_sync(self) -> bool:
        """Whether the row counts on it, or will before anything else happens."""
        return self.standing is Standing.LIVE or self.standing is Standing.DOWN

    @property
    def counted(self) -> bool:
        """Whether answers and flushes wait for it."""
        return self.in_sync or self.standing is Standing.COUNTED

    @property
    def open(self) -> bool:
        """Whether a stream is open."""
        return self.standing not in (Standing.DOWN, Standing.OUT)

    @property
    def clean(self) -> bool:
        """Whether it has flushed everything that was ever meant for it."""
        return self.last <= self.flushed

    @property
    def whole(self) -> bool:
        """Whether it has, under the boot last seen, every write that was ever answered.

        Also while it is down: what it has not taken since has not been answered either.
        """
        if not self.in_sync or not self.boot:
            return False
        waiting = next(iter(self.unacked), None) or (self.backlog[0] if self.backlog else None)
        return waiting is None or waiting.sequence > self.whole_after

    def room(self, window_bytes: int) -> bool:
        """Whether a joining member can be sent more."""
        return self.unacked_bytes <= window_bytes and len(self.unacked) < JOINING_BATCHES

    def unsend(self, batch: "Batch") -> None:
        """The member has said that it took neither this batch nor what was sent behind it."""
        sent = list(self.unacked)
        for one in reversed(sent[sent.index(batch) :] if batch in self.unacked else ()):
            del self.unacked[one]
            self.unacked_bytes -= one.payload_bytes
            self.backlog.appendleft(one)

    def forget(self) -> None:
        """Drop everything unsent and untaken: the device is out of sync."""
        self.backlog.clear()
        self.unacked.clear()
        self.unacked_bytes = 0
        self.flushing = False
