"""Decide one replicated write from its answers, in whatever order they come.

The rule of this file: no I/O and no clock. The idea of handoffs is Dynamo's and Swift's: a copy
that its primary cannot take goes to the next device of the ring, so that a write has W copies as
long as any W devices live.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pinfold.model.ids import DeviceId


class Verdict(Enum):
    """What an answer led to."""

    WAIT = "wait"
    DONE = "done"
    """W devices hold the blob durably: answer the client now."""
    LOST = "lost"
    """W can no longer be reached."""


@dataclass(slots=True)
class WriteTally:
    """One write's state.

    Invariants: one decision at most, and never DONE without `quorum` durable acknowledgements
    from different devices.
    """

    quorum: int
    handoffs: Iterator[DeviceId]
    waiting: int
    """Sends not answered yet."""
    acknowledged: list[DeviceId] = field(default_factory=list)
    decided: bool = False

    @classmethod
    def start(
        cls, quorum: int, primaries: Sequence[DeviceId], handoffs: Iterator[DeviceId]
    ) -> "WriteTally":
        """The caller sends to every primary at once."""
        assert 0 < quorum <= len(primaries), "a quorum within the copies"
        return cls(quorum=quorum, handoffs=handoffs, waiting=len(primaries))

    def on_ack(self, device: DeviceId) -> Verdict:
        """A device holds the blob durably."""
        assert device not in self.acknowledged, "a device counts once"
        self.waiting -= 1
        self.acknowledged.append(device)
        if not self.decided and len(self.acknowledged) >= self.quorum:
            self.decided = True
            return Verdict.DONE
        return Verdict.WAIT

    def on_failure(self) -> tuple[Verdict, DeviceId | None]:
        """A device failed: (verdict, the handoff to send to instead, if any).

        A handoff is named also after DONE, so that a missing copy is made up for at once.
        """
        self.waiting -= 1
        handoff = next(self.handoffs, None)
        if handoff is not None:
            self.waiting += 1
            return Verdict.WAIT, handoff
        if not self.decided and len(self.acknowledged) + self.waiting < self.quorum:
            self.decided = True
            return Verdict.LOST, None
        return Verdict.WAIT, None
