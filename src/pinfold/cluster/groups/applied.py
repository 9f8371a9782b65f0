"""When entries were applied here, so that the ages of results do not begin anew with a primary.

An entry was judged before any member applied it. So by the clock of any member, which need not be
right but only go on, it is at least as old as its application there.
"""

from collections import deque
from typing import Final

from pinfold.cluster.groups.results import KEPT_S
from pinfold.env.api import Clock

_STEP_S: Final = 1.0
"""Times are noted so far apart: some twenty of them are kept."""


class AppliedTimes:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        """(monotonic time, an op that was applied by then), both ascending."""

    def applied(self, op: int) -> None:
        """This entry is applied."""
        now, seen = self._clock.monotonic(), self._seen
        if seen and now - seen[-1][0] < _STEP_S:
            return
        seen.append((now, op))
        while len(seen) > 1 and seen[1][0] + KEPT_S < now:
            seen.popleft()

    def forget(self) -> None:
        """The rows are replaced, maybe by those of a group that was forced to go back."""
        self._seen.clear()

    def time_of(self, op: int) -> float:
        """When this entry was applied at the latest; now where that is not known."""
        return next((time for time, seen in self._seen if seen >= op), self._clock.monotonic())
