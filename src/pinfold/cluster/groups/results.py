"""What became of changes, by op id: whoever sends a change again gets the answer it had.

A change is sent again until its caller's deadline, `CHANGE_DEADLINE_S` behind the first time, and
the primary drops what arrives later. So a result that is kept for `KEPT_S`, twice as long, is never
missed. None is given up earlier: a group that would have to answers Busy instead. Ages are counted
by each primary with its own monotonic clock, from when it knew the result, and so err only by
keeping: wall clocks may jump by hours, within a view and from one to the next.

Refusals of changes that were sent before are results too. The first attempt may still be on its
way (in a socket, in a queue): without a result under its op id it could come to happen after its
caller heard that it never did, and gave back what it names.

At takeover the results of other views are loaded slice by slice, between which the event loop does
other work; no change is judged before all are there.

What it takes: an op id is 16 bytes in its entry, a reference to those of the entry's number in the
index, some 110 bytes in all. At 8,000 changes a second, which is what a group does, 20 s are
160,000 results and 17 MiB. Only primaries hold them in memory; their rows take 17 bytes a change.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from pinfold.cluster.api import Changed
from pinfold.cluster.groups.entries import (
    RESULTS_RANGE,
    VERSION_SHIFT,
    StoredResults,
    Write,
    decode_results,
    encode_results,
    results_key,
    results_op,
)
from pinfold.cluster.groups.scan import RowRange
from pinfold.model.limits import CHANGE_DEADLINE_S

KEPT_S: Final = 2 * CHANGE_DEADLINE_S
"""How long a result is remembered."""

RESULTS_MAX: Final = 163_840
"""Results that a group remembers: 8,000 changes a second for `KEPT_S`, with a little room."""

LOAD_RESULTS: Final = 2_048
"""Results loaded at a time: a millisecond, or five when each has a row of its own."""

_EXPIRE_PER_ENTRY: Final = 4
"""Rows of results deleted with each new one: more than one, so that the rest shrinks."""


class Refused(NamedTuple):
    """The change was refused, for good: it was sent again, and this check of it did not hold."""

    check: int


class _Kept(NamedTuple):
    """The results of one entry."""

    op: int
    since_s: float
    stored: StoredResults


class Results:
    """What one primary remembers; see the module."""

    def __init__(self, scan: RowRange, maximum: int = RESULTS_MAX) -> None:
        self._scan = scan
        self._maximum = maximum
        self._kept: deque[_Kept] = deque()
        """By op."""
        self._entries: dict[int, _Kept] = {}
        self._ops: dict[bytes, int] = {}
        """Op id to the op of its entry: the same int for all of one entry."""
        self._stale: deque[int] = deque()
        """Entries forgotten here whose rows are still stored."""
        self._load_from: bytes | None = RESULTS_RANGE[0]
        """Where loading goes on; None when all is there."""
        self.latest_stamp_ms = 0
        """Of the latest entry loaded."""

    @property
    def loaded(self) -> bool:
        """Whether the results of earlier views are all here: nothing is judged before."""
        return self._load_from is None

    def load(self, known_since: Callable[[int], float]) -> None:
        """Load some more; an entry's results have been known here since a time, at least."""
        assert self._load_from is not None, "there is more to load"
        end = len(self._ops) + LOAD_RESULTS
        for key, value in self._scan(self._load_from, RESULTS_RANGE[1]):
            if len(self._ops) >= end:
                self._load_from = key
                return
            stored = decode_results(value)
            self.latest_stamp_ms = stored.stamp_ms
            op = results_op(key)
            self._keep(_Kept(op, known_since(op), stored))
        self._load_from = None

    def room(self, now_s: float) -> int:
        """How many more results may be remembered now."""
        self._expire(now_s)
        return self._maximum - len(self._ops)

    def known(self, op_id: bytes) -> Changed | Refused | None:
        """What became of a change (its entry may still be in flight)."""
        op = self._ops.get(op_id)
        if op is None:
            return None
        stored = self._entries[op].stored
        check = stored.refused.get(op_id)
        if check is not None:
            return Refused(check)
        return Changed((op << VERSION_SHIFT) + stored.place(op_id), stored.stamp_ms)

    def remember(
        self,
        op: int,
        stamp_ms: int,
        op_ids: Sequence[bytes],
        refused: Mapping[bytes, int],
        now_s: float,
    ) -> list[Write]:
        """Entry `op` makes and refuses these changes; the writes that say so."""
        if not op_ids and not refused:
            return []
        self._expire(now_s)
        stored = StoredResults(stamp_ms, b"".join(op_ids), dict(refused))
        self._keep(_Kept(op, now_s, stored))
        writes: list[Write] = [(results_key(op), encode_results(stored))]
        for _ in range(min(len(self._stale), _EXPIRE_PER_ENTRY)):
            writes.append((results_key(self._stale.popleft()), None))
        return writes

    def undo(self, op: int) -> None:
        """Entry `op`, the latest one, will not be.

        Rows it was to delete stay until the group has another primary; that is all.
        """
        if op in self._entries:
            self._kept.pop()
            self._drop(op)

    def _keep(self, kept: _Kept) -> None:
        self._kept.append(kept)
        self._entries[kept.op] = kept
        for op_id in kept.stored.op_ids():
            self._ops[op_id] = kept.op

    def _expire(self, now_s: float) -> None:
        """Forget what nobody can come back for."""
        while self._kept and self._kept[0].since_s + KEPT_S < now_s:
            op = self._kept.popleft().op
            self._drop(op)
            self._stale.append(op)

    def _drop(self, op: int) -> None:
        for op_id in self._entries.pop(op).stored.op_ids():
            if self._ops.get(op_id) == op:
                del self._ops[op_id]
