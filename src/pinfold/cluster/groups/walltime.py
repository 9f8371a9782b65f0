"""The time of day that most nodes show: one wrong clock decides nothing.

Nodes tell their wall clocks in their pings. Each is remembered as its distance from our own
monotonic clock, which does not jump when somebody sets the time. Of an even number the lower one in
the middle counts, so of two clocks that differ the one behind: stamps from the past harm less. What
a node told that is away now still counts; it drifts by seconds in a month.
"""

from pinfold.env.api import Clock
from pinfold.model.ids import NodeName


class WallTime:
    """See the module."""

    def __init__(self, clock: Clock, node: NodeName) -> None:
        self._clock = clock
        self._node = node
        self._ahead: dict[NodeName, float] = {}
        """Seconds by which each node's wall clock is ahead of our monotonic one."""

    def own_ms(self) -> int:
        """What to tell the others."""
        return int(self._clock.wall() * 1000)

    def heard(self, node: NodeName, wall_ms: int) -> None:
        """A node's wall clock shows this; how long that travelled does not matter.

        Nodes with several devices tell themselves too: no clock counts twice.
        """
        if node != self._node:
            self._ahead[node] = wall_ms / 1000 - self._clock.monotonic()

    def now_ms(self) -> int:
        """Unix milliseconds by the clock in the middle."""
        now = self._clock.monotonic()
        ahead = sorted((*self._ahead.values(), self._clock.wall() - now))
        return int((now + ahead[(len(ahead) - 1) // 2]) * 1000)
