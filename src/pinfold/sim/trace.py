"""What happened in a run, as one number: equal seeds must give equal traces.

A trace that differs between two runs of one seed means that something outside `env` reached the
code (a clock, the order of a set, a memory address), and every other result of the seed is worth
nothing until it is found. `keep` makes the lines themselves available for that search.
"""

from collections import deque
from typing import Final

from xxhash import xxh3_64

_BATCH: Final = 256
"""Events hashed at a time."""


class Trace:
    """A running hash over the events of a world, and the last of them as text."""

    def __init__(self, *, keep: int = 0) -> None:
        self._hash = xxh3_64()
        self.count = 0
        self.lines: deque[str] = deque(maxlen=keep)
        """The last `keep` events."""
        self._keep = keep > 0
        self._unhashed: list[str] = []

    def add(self, when: float, node: str, event: str) -> None:
        """One event at a world time."""
        self._unhashed.append(f"{when:.9f} {node} {event}\n")
        self.count += 1
        if len(self._unhashed) == _BATCH:
            self._settle()

    def digest(self) -> str:
        """The hash so far."""
        self._settle()
        return self._hash.hexdigest()

    def _settle(self) -> None:
        if self._keep:
            self.lines.extend(map(str.rstrip, self._unhashed))
        self._hash.update("".join(self._unhashed).encode())
        self._unhashed.clear()
