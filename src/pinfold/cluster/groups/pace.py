"""How fast a group gets through its changes, to tell early which will not be in time.

Pure. A guess errs on the side of taking work on: a change that then waits too long is dropped
when its turn comes.
"""

from typing import Final

from pinfold.model.limits import ENTRY_CHANGES

WEIGHT: Final = 0.2
"""Of the latest entry in the average: some ten commits, less than a second under load."""


class Pace:
    """Seconds from one commit to the next while there is something to commit."""

    def __init__(self) -> None:
        self._entry_s: float | None = None
        self._since: float | None = None
        """When the last commit was, or the first entry behind a pause; None in a pause."""

    def proposed(self, now: float) -> None:
        """An entry is in flight."""
        if self._since is None:
            self._since = now

    def committed(self, entries: int, now: float, *, idle: bool) -> None:
        """So many entries were committed; `idle` says that nothing is in flight or waits."""
        if entries and self._since is not None:
            took_s = (now - self._since) / entries
            known_s = took_s if self._entry_s is None else self._entry_s
            self._entry_s = known_s + WEIGHT * (took_s - known_s)
            self._since = now
        if idle:
            self._since = None

    def wait_s(self, ahead: int) -> float:
        """How long a change waits behind `ahead` others: nothing if it shares their entry."""
        return (ahead // ENTRY_CHANGES) * (self._entry_s or 0.0)
