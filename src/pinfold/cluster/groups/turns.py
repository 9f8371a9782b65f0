"""Changes that wait, in fair turns: one of each row before the second of any.

A row that thousands write at once so takes its share of every entry and no more: whoever writes
another row waits behind one change of the hot one, not behind them all. Changes of one row keep
their order; those of different rows are concurrent and have none to keep.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from pinfold.cluster.api import Change

WAITING_PER_ROW: Final = 1_024
"""Changes of one row that may wait, an eighth of all: a hot row cannot use up the queue."""

T = TypeVar("T")


def row_of(change: Change) -> bytes:
    """The row whose turn a change takes: the first that it names."""
    if change.puts:
        return change.puts[0][0]
    if change.deletes:
        return change.deletes[0]
    if change.checks:
        return change.checks[0].key
    return change.delete_ranges[0][0] if change.delete_ranges else b""


class Turns(Generic[T]):
    """The queue. Not bounded by itself: its owner asks `waiting` and `len`."""

    __slots__ = ("_count", "_rows", "_turn")

    def __init__(self) -> None:
        self._rows: dict[bytes, deque[T]] = {}
        self._turn: deque[bytes] = deque()
        """Rows with something waiting, the next one first."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self, row: bytes) -> int:
        """How many of a row wait."""
        queue = self._rows.get(row)
        return len(queue) if queue else 0

    def ahead(self, row: bytes) -> int:
        """How many will be taken before one of this row that comes now, at most."""
        return min(self._count, (self.waiting(row) + 1) * len(self._turn))

    def put(self, row: bytes, work: T) -> None:
        """Take a change in."""
        queue = self._rows.get(row)
        if queue is None:
            self._rows[row] = deque((work,))
            self._turn.append(row)
        else:
            queue.append(work)
        self._count += 1

    def take(self) -> T:
        """The change whose turn it is; there is one."""
        row = self._turn.popleft()
        queue = self._rows[row]
        work = queue.popleft()
        if queue:
            self._turn.append(row)
        else:
            del self._rows[row]
        self._count -= 1
        return work

    def __iter__(self) -> Iterator[T]:
        """All that wait, in no useful order."""
        for queue in self._rows.values():
            yield from queue
