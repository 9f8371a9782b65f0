"""Instants of a peer's monotonic clock, translated to our own. Pure.

Monotonic clocks of two hosts have nothing in common, and a message says when it was sent but not
how long it travelled. The least difference seen lately between arrival (our clock) and sending
(theirs) is what lies between the clocks, plus the shortest journey. So a translated instant is late
by that journey at most, and early only by what the clocks drift apart within two windows: 20 ms at
an extreme 0.2 %. Above all, what waits on the way (in an outbox, in a socket that a busy node does
not read) comes no nearer to its sender's deadline than it is.
"""

import math
from typing import Final

from pinfold.model.errors import Invalid

WINDOW_S: Final = 5.0
"""Differences are forgotten between one and two windows after they were seen: longer than a stall
during which nothing is read, short enough that drift does not matter."""


class PeerClock:
    """The clock of one peer, from what its frames tell."""

    def __init__(self) -> None:
        self._began = -math.inf
        self._least = self._least_before = math.inf

    def heard(self, sent: float, now: float) -> None:
        """A frame came `now` that left when the peer's clock showed `sent`."""
        ahead = now - sent
        if now - self._began >= WINDOW_S:
            self._began = now
            self._least_before, self._least = self._least, ahead
        elif ahead < self._least:
            self._least = ahead

    def ahead(self) -> float:
        """What to add to an instant of the peer's clock. Invalid before it has told its time."""
        ahead = self._least if self._least < self._least_before else self._least_before
        if ahead == math.inf:
            raise Invalid("session: a deadline before the first word on the peer's clock")
        return ahead
