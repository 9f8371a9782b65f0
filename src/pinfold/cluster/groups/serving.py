"""A led group at work: changes wait, become entries, and are answered once committed.

While entries are in flight further changes wait, in fair turns of their rows, and share the next
one, so the busier a group, the larger its entries. Reads wait for a confirmation and see everything
committed before it.

What is answered: a success when its entry is committed; a conflict when everything it was judged
by is committed and a majority has confirmed the view after that (else a primary that was replaced
without knowing could refuse a change by rows that never existed).
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pinfold.cluster.api import Change, Changed
from pinfold.cluster.groups.confirm import Confirmed
from pinfold.cluster.groups.entries import VERSION_SHIFT
from pinfold.cluster.groups.ledger import Batch, Ledger
from pinfold.cluster.groups.pace import Pace
from pinfold.cluster.groups.replica import Replica
from pinfold.cluster.groups.scan import RowIterator
from pinfold.cluster.groups.turns import WAITING_PER_ROW, Turns, row_of
from pinfold.env.api import Clock
from pinfold.model.errors import Busy, Conflict, DeadlineExceeded, PinfoldError, Unavailable
from pinfold.model.limits import ENTRY_CHANGES, MIB
from pinfold.rpc.api import Reply

PIPELINE_ENTRIES: Final = 4
"""Entries in flight: enough to hide a flush, few enough that entries grow under load."""

WAITING_CHANGES: Final = 8_192
WAITING_BYTES: Final = 32 * MIB
"""Changes waiting in one group; with more it answers Busy."""

WAITING_READS: Final = 16_384
"""Reads waiting for a confirmation in one group; with more it answers Busy."""

Answering = asyncio.Future[Reply]
_Work = tuple[Change, int, float, Answering]
_Read = tuple[Answering, Callable[[], Reply], float]


class Serving:
    """The queue and ledger of one group, from the view's first commit to the view's end."""

    def __init__(
        self,
        replica: Replica,
        get: Callable[[bytes], bytes | None],
        scan: Callable[[bytes, bytes | None], RowIterator],
        clock: Clock,
        *,
        name_within_ms: int,
        confirm: Callable[[Confirmed], None],
        ready: Callable[["Serving"], None],
    ) -> None:
        self._replica = replica
        self._ledger = Ledger(get, scan, name_within_ms, clock.monotonic())
        self._clock = clock
        self._confirm = confirm
        self._ready = ready
        self._waiting: Turns[_Work] = Turns()
        self._waiting_bytes = 0
        self._removals: deque[tuple[Sequence[bytes], Answering]] = deque()
        self._in_flight: deque[tuple[int, list[tuple[Answering, Changed]]]] = deque()
        self._later: list[tuple[int, Answering, Changed | Conflict]] = []
        """Answers known already that wait for the commit of an op."""
        self._unconfirmed: list[tuple[Answering, Conflict]] = []
        self._judged = 0
        """Answers in `_later` and `_unconfirmed`, and those being confirmed."""
        self._reads: list[_Read] = []
        self._confirming: dict[int, list[_Read]] = {}
        self._reads_waiting = 0
        self._rounds = 0
        self._pace = Pace()
        self._scheduled = False
        self._closed: PinfoldError | None = None

    @property
    def moves(self) -> int:
        """See `Ledger.moves`: it begins anew with every view."""
        return self._ledger.moves

    def blobs_in_flight(self) -> Iterator[bytes]:
        """See `Ledger.blobs_in_flight`."""
        return self._ledger.blobs_in_flight()

    def change(self, change: Change, size: int, deadline: float = math.inf) -> Answering:
        """Apply a change; the reply's body is [version, stamp_ms].

        Busy at the limits, and at once when its turn would come behind the deadline. What waited
        until then all the same is dropped.
        """
        row = row_of(change)
        if self._waiting or self._judged:
            self._demand_room(row, size, deadline)
        answer = self._new_answer()
        self._waiting.put(row, (change, size, deadline, answer))
        self._waiting_bytes += size
        self._schedule()
        return answer

    def _demand_room(self, row: bytes, size: int, deadline: float) -> None:
        """Busy unless one more change of the row may wait."""
        waiting = len(self._waiting)
        if waiting + self._judged >= WAITING_CHANGES or self._waiting_bytes + size > WAITING_BYTES:
            raise Busy("too many changes wait in this group")
        of_row = self._waiting.waiting(row)
        crowded = self._waiting_bytes > WAITING_BYTES // 2 and of_row
        if crowded or of_row >= WAITING_PER_ROW:
            raise Busy("too many changes of this row wait")
        if waiting < ENTRY_CHANGES:
            return
        ahead = self._waiting.ahead(row)
        if self._pace.wait_s(ahead) > deadline - self._clock.monotonic():
            raise Busy(f"{ahead} changes wait in this group, too many to be in time")

    def remove(self, keys: Sequence[bytes]) -> Answering:
        """Delete rows of the group's own."""
        answer = self._new_answer()
        self._removals.append((keys, answer))
        self._schedule()
        return answer

    def read(self, look: Callable[[], Reply], deadline: float = math.inf) -> Answering:
        """Answer with `look()` once a majority has confirmed the view after this call.

        Busy at the limit; DeadlineExceeded, without looking, when that comes too late.
        """
        if self._reads_waiting >= WAITING_READS:
            raise Busy("too many reads wait in this group")
        self._reads_waiting += 1
        answer = self._new_answer()
        self._reads.append((answer, look, deadline))
        self._schedule()
        return answer

    def pump(self) -> None:
        """Do what this tick has collected."""
        self._scheduled = False
        if self._closed is not None:
            return
        while (self._waiting or self._removals) and len(self._in_flight) < PIPELINE_ENTRIES:
            self._propose()
        if self._reads or self._unconfirmed:
            self._ask()

    def on_committed(self, op: int) -> None:
        """Entries up to `op` are committed and applied."""
        self._ledger.on_applied(op)
        entries = 0
        while self._in_flight and self._in_flight[0][0] <= op:
            entries += 1
            for answer, changed in self._in_flight.popleft()[1]:
                _succeed(answer, changed)
        idle = not (self._in_flight or self._waiting)
        self._pace.committed(entries, self._clock.monotonic(), idle=idle)
        if self._later:
            later, self._later = self._later, []
            for one in later:
                self._answer_after(*one)
        if self._waiting or self._removals or self._unconfirmed:
            self._schedule()

    def close(self, error: PinfoldError) -> None:
        """The view has ended: nobody here knows what becomes of the entries in flight."""
        self._closed = error
        unknown = [answer for _, done in self._in_flight for answer, _ in done]
        unknown += [answer for _, answer, _ in self._later]
        for answer in unknown:
            _fail(answer, Unavailable("the view ended before the change was known to be committed"))
        answers = [answer for _, _, _, answer in self._waiting]
        answers += [answer for _, answer in self._removals]
        answers += [answer for answer, _ in self._unconfirmed]
        answers += [answer for answer, _, _ in self._reads]
        answers += [answer for reads in self._confirming.values() for answer, _, _ in reads]
        self._confirming.clear()
        for answer in answers:
            _fail(answer, error)

    def _new_answer(self) -> Answering:
        if self._closed is not None:
            raise self._closed
        return asyncio.get_running_loop().create_future()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._ready(self)

    def _propose(self) -> None:
        """Evaluate what waits into the next entry, if any of it changes anything."""
        replica, waiting = self._replica, self._waiting
        now = self._clock.monotonic()
        wall_ms = int(self._clock.wall() * 1000)
        batch = self._ledger.begin(replica.state.last_op + 1, wall_ms, now)
        done: list[tuple[Answering, Changed]] = []
        judged: list[tuple[int, Answering, Changed | Conflict]] = []
        while waiting and not batch.full:
            change, size, deadline, answer = waiting.take()
            self._waiting_bytes -= size
            if deadline <= now:
                _fail(answer, DeadlineExceeded("the change waited until its deadline"))
            elif not answer.done():
                self._evaluate(batch, change, answer, done, judged)
        while self._removals:
            keys, answer = self._removals.popleft()
            batch.remove(keys)
            done.append((answer, Changed(0, 0)))
        if done:
            body, writes = batch.finish()
            try:
                replica.propose(body, writes)
            except PinfoldError as error:
                batch.undo()
                for answer in [one for one, _ in done] + [one for _, one, _ in judged]:
                    _fail(answer, error)
                return
            self._in_flight.append((batch.op, done))
            self._pace.proposed(now)
        self._judged += len(judged)
        for one in judged:
            self._answer_after(*one)

    def _evaluate(
        self,
        batch: Batch,
        change: Change,
        answer: Answering,
        done: list[tuple[Answering, Changed]],
        judged: list[tuple[int, Answering, Changed | Conflict]],
    ) -> None:
        """One change: done in this entry, or judged by entries up to an op."""
        known = batch.known(change.op_id)
        if known is not None:
            judged.append((known.version >> VERSION_SHIFT, answer, known))
            return
        try:
            done.append((answer, batch.add(change)))
        except Conflict as conflict:
            judged.append((batch.op if done else batch.op - 1, answer, conflict))
        except PinfoldError as error:
            _fail(answer, error)

    def _answer_after(self, op: int, answer: Answering, result: Changed | Conflict) -> None:
        if op > self._replica.state.commit_op:
            self._later.append((op, answer, result))
        elif isinstance(result, Conflict):
            self._unconfirmed.append((answer, result))
        else:
            self._judged -= 1
            _succeed(answer, result)

    def _ask(self) -> None:
        """One question for all the reads and conflicts of this tick."""
        reads, self._reads = self._reads, []
        count = len(reads)
        for answer, conflict in self._unconfirmed:
            reads.append((answer, _raiser(conflict), math.inf))
        conflicts = len(self._unconfirmed)
        self._unconfirmed.clear()
        self._rounds += 1
        number = self._rounds
        self._confirming[number] = reads
        self._confirm(lambda error: self._confirmed(number, count, conflicts, error))

    def _confirmed(
        self, number: int, reads: int, conflicts: int, error: PinfoldError | None
    ) -> None:
        self._reads_waiting -= reads
        self._judged -= conflicts
        now = self._clock.monotonic()
        for answer, look, deadline in self._confirming.pop(number, ()):
            if answer.done():
                continue
            if error is not None:
                answer.set_exception(error)
                continue
            if deadline <= now:
                _fail(answer, DeadlineExceeded("the read waited until its deadline"))
                continue
            try:
                answer.set_result(look())
            except PinfoldError as failure:
                answer.set_exception(failure)


def _raiser(conflict: Conflict) -> Callable[[], Reply]:
    def look() -> Reply:
        raise conflict

    return look


def _succeed(answer: Answering, changed: Changed) -> None:
    if not answer.done():
        answer.set_result(Reply((changed.version, changed.stamp_ms)))


def _fail(answer: Answering, error: PinfoldError) -> None:
    if not answer.done():
        answer.set_exception(error)
