"""Decide one replicated write from its answers, in whatever order they come.

The rule of this file: no I/O and no clock. The idea of handoffs is Dynamo's and Swift's: a copy
that its primary cannot take goes to the next device of the ring, so that a write has W copies as
long as any W devices live.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pinfold.model.ids import DeviceId, NodeName


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

    Invariants: one decision at most, and never DONE without `quorum` durable acknowledgements from
    different devices, nor, where the ring gives each copy a node of its own, from fewer nodes.
    """

    quorum: int
    node_of: Callable[[DeviceId], NodeName | None]
    """None for a device that has left the cluster."""
    spread: int
    """Nodes that have to hold the blob."""
    handoffs: Iterator[DeviceId]
    waiting: list[DeviceId]
    """Sends not answered yet."""
    acknowledged: list[DeviceId] = field(default_factory=list)
    decided: bool = False
    _passed: list[DeviceId] = field(default_factory=list)
    """Handoffs on nodes that were asked already: for when there are no others."""

    @classmethod
    def start(
        cls,
        quorum: int,
        primaries: Sequence[DeviceId],
        handoffs: Iterator[DeviceId],
        node_of: Callable[[DeviceId], NodeName | None],
    ) -> "WriteTally":
        """The caller sends to every primary at once."""
        assert 0 < quorum <= len(primaries), "a quorum within the copies"
        nodes = [node for device in primaries if (node := node_of(device)) is not None]
        spread = quorum if quorum <= len(nodes) == len(set(nodes)) else 1
        return cls(quorum, node_of, spread, handoffs, list(primaries))

    def on_ack(self, device: DeviceId) -> Verdict:
        """A device holds the blob durably."""
        assert device not in self.acknowledged, "a device counts once"
        self.waiting.remove(device)
        self.acknowledged.append(device)
        return self._decide()

    def on_failure(self, device: DeviceId) -> tuple[Verdict, DeviceId | None]:
        """A device failed: (verdict, the handoff to send to instead, if any).

        A handoff is named also after DONE, so that a missing copy is made up for at once.
        """
        self.waiting.remove(device)
        handoff = self._next_handoff()
        if handoff is not None:
            self.waiting.append(handoff)
        return self._decide(), handoff

    def _decide(self) -> Verdict:
        """What it has come to. Whatever is still asked may help, and nothing else: a handoff on a
        further node is asked as soon as a device fails.
        """
        if self.decided:
            return Verdict.WAIT
        done = self._enough(self.acknowledged)
        self.decided = done or not self._enough([*self.acknowledged, *self.waiting])
        if not self.decided:
            return Verdict.WAIT
        return Verdict.DONE if done else Verdict.LOST

    def _enough(self, devices: Sequence[DeviceId]) -> bool:
        nodes = {self.node_of(device) for device in devices}
        return len(devices) >= self.quorum and len(nodes) >= self.spread

    def _next_handoff(self) -> DeviceId | None:
        """The next one in order; those on nodes that are asked already, or have it, come last."""
        asked = {self.node_of(device) for device in (*self.acknowledged, *self.waiting)}
        for at, handoff in enumerate(self._passed):
            if self.node_of(handoff) not in asked:
                return self._passed.pop(at)
        for handoff in self.handoffs:
            if self.node_of(handoff) not in asked:
                return handoff
            self._passed.append(handoff)
        return self._passed.pop(0) if self._passed else None
