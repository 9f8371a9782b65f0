"""Which nodes are believed alive, from when they were last heard.

Pure. Being wrong costs a needless view change, never safety. Time in which this process itself
did not run (a busy machine, a suspended one) is not held against the others.
"""

from typing import Final

from pinfold.model.ids import NodeName

SILENCE_S: Final = 1.0
"""A node not heard for so long is suspected: five pings lost, or a stall of a second."""

LOST_S: Final = 0.3
"""A node whose session broke and did not come back for so long is suspected."""

_STALL_S: Final = 0.1
"""A tick later than this means that this process was not running."""


class Liveness:
    """See the module. Nodes not heard of yet are believed alive for one silence."""

    def __init__(self, now: float) -> None:
        self._heard_at: dict[NodeName, float] = {}
        self._lost_at: dict[NodeName, float] = {}
        self._changed_at: dict[NodeName, float] = {}
        self._start = now
        self._now = now

    def heard(self, node: NodeName) -> None:
        """Something came from a node since the last tick."""
        self._heard_at[node] = self._now

    def session(self, node: NodeName, up: bool) -> None:
        """A session to a node was established or lost."""
        self._changed_at[node] = self._now
        if up:
            self._lost_at.pop(node, None)
            self._heard_at[node] = self._now
        else:
            self._lost_at.setdefault(node, self._now)

    def tick(self, now: float, interval_s: float) -> None:
        """Go to `now`; ticks are due every `interval_s`."""
        late_s = now - self._now - interval_s
        if late_s > _STALL_S:
            self._start += late_s
            for times in (self._heard_at, self._lost_at):
                for node in times:
                    times[node] += late_s
        self._now = now

    def steady(self, node: NodeName, seconds: float) -> bool:
        """Whether a node is alive and its session has neither begun nor ended for so long."""
        return self.alive(node) and self._now - self._changed_at.get(node, self._start) > seconds

    def alive(self, node: NodeName) -> bool:
        """Whether a node is believed alive."""
        lost_at = self._lost_at.get(node)
        if lost_at is not None and self._now - lost_at > LOST_S:
            return False
        return self._now - self._heard_at.get(node, self._start) <= SILENCE_S
