"""What a worker has to do: each job once, the most urgent first, failed ones again later.

The rule of this file: no I/O and no clock.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

BACKOFF_MAX_S: Final = 60.0
"""Longest pause before a job is tried again: the time a restarted node needs, several times."""


class Job(Protocol):
    """One piece of work."""

    @property
    def key(self) -> Hashable:
        """Jobs with equal keys are the same work: it is on the agenda once."""
        ...

    @property
    def rank(self) -> int:
        """Lower ranks go first."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the job is expected to move."""
        ...


J = TypeVar("J", bound=Job)


@dataclass(slots=True)
class _Item(Generic[J]):
    job: J
    tries: int = 0


@dataclass(slots=True)
class Agenda(Generic[J]):
    """Jobs that wait, run, or wait to be tried again.

    Invariants: never more than `limit` jobs; of those ready the lowest rank goes first and among
    equals the oldest; a job is tried `tries_max` times at most.
    """

    limit: int
    tries_max: int
    backoff_s: float
    _ready: list[tuple[int, int, _Item[J]]] = field(default_factory=list)
    _later: list[tuple[float, int, _Item[J]]] = field(default_factory=list)
    _items: dict[Hashable, _Item[J]] = field(default_factory=dict)
    _sequence: int = 0
    queued_bytes: int = 0
    """Of all jobs on the agenda."""

    @property
    def queued(self) -> int:
        """Jobs on the agenda, those under way included."""
        return len(self._items)

    @property
    def room(self) -> int:
        """How many more jobs it takes."""
        return self.limit - len(self._items)

    def jobs(self) -> list[J]:
        """All of them, in the order in which they came."""
        return [item.job for item in self._items.values()]

    def offer(self, job: J) -> bool:
        """Put a job on the agenda; False when it is there already, or there is no room."""
        if job.key in self._items or not self.room:
            return False
        item = self._items[job.key] = _Item(job)
        self.queued_bytes += job.size
        self._push(item)
        return True

    def take(self, now: float) -> J | None:
        """The job to do now; `done` or `failed` must follow."""
        while self._later and self._later[0][0] <= now:
            self._push(heapq.heappop(self._later)[2])
        return heapq.heappop(self._ready)[2].job if self._ready else None

    def wait_s(self, now: float) -> float | None:
        """Until `take` has a job: 0 when it has one now, None when none waits."""
        if self._ready:
            return 0.0
        return max(0.0, self._later[0][0] - now) if self._later else None

    def done(self, job: J) -> None:
        """A job that was taken has succeeded."""
        self._drop(job)

    def failed(self, job: J, now: float) -> bool:
        """A job that was taken has failed; whether it will be tried again."""
        item = self._items[job.key]
        item.tries += 1
        if item.tries >= self.tries_max:
            self._drop(job)
            return False
        pause_s = min(self.backoff_s * 2.0 ** min(item.tries - 1, 32), BACKOFF_MAX_S)
        self._sequence += 1
        heapq.heappush(self._later, (now + pause_s, self._sequence, item))
        return True

    def _push(self, item: _Item[J]) -> None:
        self._sequence += 1
        heapq.heappush(self._ready, (item.job.rank, self._sequence, item))

    def _drop(self, job: J) -> None:
        del self._items[job.key]
        self.queued_bytes -= job.size
