"""Which requests wait for which flush: a pure queue by sequence."""

import heapq
from collections.abc import Iterable

from pinfold.volumes.io import Io
from pinfold.volumes.lane import Lane


def flushed_to(lanes: Iterable[Lane], sequence: int) -> int:
    """The sequence up to which all that are counted have flushed; `sequence` is the last given."""
    reached = sequence
    for lane in lanes:
        if lane.counted and lane.flushed < reached and not lane.clean:
            reached = lane.flushed
    return reached


class FlushQueue:
    """Requests that are answered when every member in sync has flushed up to a sequence."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Io]] = []
        self._count = 0
        self.goal = 0
        """The highest sequence that anybody has asked to be flushed."""

    def add(self, io: Io, need: int) -> None:
        """Answer `io` once everything up to `need` is flushed."""
        self._count += 1
        heapq.heappush(self._waiting, (need, self._count, io))
        self.goal = max(self.goal, need)

    def reach(self, sequence: int) -> list[Io]:
        """Requests that need no more than `sequence`, oldest need first."""
        ready = []
        waiting = self._waiting
        while waiting and waiting[0][0] <= sequence:
            ready.append(heapq.heappop(waiting)[2])
        return ready

    def drain(self) -> list[Io]:
        """Everybody, when there is no hope."""
        ready = [io for _need, _count, io in self._waiting]
        self._waiting.clear()
        return ready

    def __len__(self) -> int:
        return len(self._waiting)
