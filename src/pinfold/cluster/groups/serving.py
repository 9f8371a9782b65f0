"""A led group at work: changes wait, become entries, and are answered once committed.

While entries are in flight further changes wait, in fair turns of their rows, and share the next
one, so the busier a group, the larger its entries. Reads wait for a confirmation and see everything
committed before it.

What is answered: a success when its entry is committed; a conflict when everything it was judged
by is committed and a majority has confirmed the view after that (else a primary that was replaced
without knowing could refuse a change by rows that never existed). A change that was sent before is
refused by an entry: see `results`.

The rows looked at may have to come from a disk, on the event loop: a turn ends after `TURN_S`, so
that a cold cache makes a group slow and not its node deaf.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import structlog

from pinfold.cluster.api import Change, Changed
from pinfold.cluster.groups.checks import refused_check
from pinfold.cluster.groups.confirm import Confirmed
from pinfold.cluster.groups.entries import VERSION_SHIFT
from pinfold.cluster.groups.ledger import Batch, Ledger
from pinfold.cluster.groups.pace import Pace
from pinfold.cluster.groups.replica import Replica
from pinfold.cluster.groups.scan import RowRange
from pinfold.cluster.groups.turns import WAITING_PER_ROW, Turns, row_of
from pinfold.env.api import Clock
from pinfold.model.errors import Busy, Conflict, DeadlineExceeded, PinfoldError, Unavailable
from pinfold.model.limits import ENTRY_CHANGES, MIB
from pinfold.rpc.api import Reply

_log: Final = structlog.get_logger("pinfold.groups")

PIPELINE_ENTRIES: Final = 4
"""Entries in flight: enough to hide a flush, few enough that entries grow under load."""

WAITING_CHANGES: Final = 8_192
WAITING_BYTES: Final = 32 * MIB
"""Changes waiting in one group; with more it answers Busy."""

WAITING_READS: Final = 16_384
"""Reads waiting for a confirmation in one group; with more it answers Busy."""

TURN_S: Final = 0.02
"""How long changes, and how long reads, are evaluated before the loop does other work."""

Answering = asyncio.Future[Reply]


class _Work(NamedTuple):
    """A change that waits."""

    change: Change
    size: int
    deadline: float
    again: bool
    """It was sent before, and nobody knows what became of that."""
    answer: Answering


_Outcome = Changed | Conflict
_Read = tuple[Answering, Callable[[], Reply], float]


class Serving:
    """The queue and ledger of one group, from the view's first commit to the view's end."""

    def __init__(
        self,
        replica: Replica,
        get: Callable[[bytes], bytes | None],
        scan: RowRange,
        clock: Clock,
        *,
        name_within_ms: int,
        results_max: int,
        waiting: "WaitingBytes",
        now_ms: Callable[[], int],
        known_since: Callable[[int], float],
        grows: Callable[[], bool],
        confirm: Callable[[Confirmed], None],
        ready: Callable[["Serving"], None],
    ) -> None:
        self._replica = replica
        self._ledger = Ledger(get, scan, name_within_ms, results_max)
        self._clock = clock
        self._now_ms = now_ms
        self._known_since = known_since
        self._grows = grows
        self._confirm = confirm
        self._ready = ready
        self._waiting: Turns[_Work] = Turns()
        self._waiting_bytes = 0
        self._waiting_here = waiting
        self._removals: deque[tuple[Sequence[bytes], Answering]] = deque()
        self._in_flight: deque[tuple[int, list[tuple[Answering, _Outcome]]]] = deque()
        self._later: list[tuple[int, Answering, _Outcome]] = []
        """Answers known already that wait for the commit of an op."""
        self._unconfirmed: list[tuple[Answering, Conflict]] = []
        self._judged = 0
        """Answers in `_later` and `_unconfirmed`, and those being confirmed."""
        self._reads: list[_Read] = []
        self._confirming: dict[int, list[_Read]] = {}
        self._reads_waiting = 0
        self._rounds = 0
        self._pace = Pace()
        self._looking: deque[_Read] = deque()
        """Reads that are confirmed and wait for a turn."""
        self._scheduled = False
        self._closed: PinfoldError | None = None
        self._schedule()  # to load results

    @property
    def moves(self) -> int:
        """See `Ledger.moves`: it begins anew with every view."""
        return self._ledger.moves

    @property
    def crowded(self) -> bool:
        """Whether the results of as many changes are remembered as may be: no more is taken."""
        return self._ledger.results.room(self._clock.monotonic()) <= 0

    def blobs_in_flight(self) -> Iterator[bytes]:
        """See `Ledger.blobs_in_flight`."""
        return self._ledger.blobs_in_flight()

    def change(
        self, change: Change, size: int, deadline: float = math.inf, *, again: bool = False
    ) -> Answering:
        """Apply a change; the reply's body is [version, stamp_ms].

        Busy at the limits, and at once when its turn would come behind the deadline. What waited
        until then all the same is dropped. With `again`, a refusal is one of earlier attempts too.
        """
        row = row_of(change)
        self._demand_result(change)
        if self._waiting or self._judged:
            self._demand_room(row, size, deadline)
        answer = self._new_answer()
        self._waiting_here.take(size)
        self._waiting.put(row, _Work(change, size, deadline, again, answer))
        self._waiting_bytes += size
        self._schedule()
        return answer

    def _demand_result(self, change: Change) -> None:
        """Busy unless the result may be remembered, or is."""
        results = self._ledger.results
        if results.room(self._clock.monotonic()) <= len(self._waiting) and not results.known(
            change.op_id
        ):
            raise Busy("this group remembers the results of too many changes")

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
        """Do what this tick has collected, for a turn."""
        self._scheduled = False
        if self._closed is not None:
            return
        now = self._clock.monotonic()
        if not self._ledger.results.loaded:
            self._load()
        elif self._work_left:
            self._propose_until(now + TURN_S)
        if self._looking:
            self._look_until(now + TURN_S)
        if self._reads or self._unconfirmed:
            self._ask()

    def _load(self) -> None:
        """Load some results. If their rows are rotten another member will have to lead."""
        try:
            self._ledger.results.load(self._known_since)
        except PinfoldError as error:
            _log.error("group not served", group=self._replica.state.group, reason=error.message)
            self.close(error)
        else:
            self._schedule()

    @property
    def _work_left(self) -> bool:
        """Whether there is something to propose, and room in the pipeline."""
        waits = bool(self._waiting or self._removals)
        return waits and len(self._in_flight) < PIPELINE_ENTRIES

    def _propose_until(self, end: float) -> None:
        while self._work_left:
            self._propose(end)
            if self._clock.monotonic() >= end:
                if self._work_left:
                    self._schedule()
                return

    def on_committed(self, op: int) -> None:
        """Entries up to `op` are committed and applied."""
        self._ledger.on_applied(op)
        entries = 0
        while self._in_flight and self._in_flight[0][0] <= op:
            entries += 1
            for answer, outcome in self._in_flight.popleft()[1]:
                _tell(answer, outcome)
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
        answers = [work.answer for work in self._waiting]
        self._waiting_here.give(self._waiting_bytes)
        self._waiting_bytes = 0
        answers += [answer for _, answer in self._removals]
        answers += [answer for answer, _ in self._unconfirmed]
        answers += [answer for answer, _, _ in self._reads]
        answers += [answer for reads in self._confirming.values() for answer, _, _ in reads]
        answers += [answer for answer, _, _ in self._looking]
        self._confirming.clear()
        self._looking.clear()
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

    def _propose(self, end: float) -> None:
        """Evaluate what waits into the next entry, if any of it changes anything."""
        replica, waiting = self._replica, self._waiting
        monotonic = self._clock.monotonic
        now = monotonic()
        next_op = replica.state.last_op + 1
        batch = self._ledger.begin(next_op, self._now_ms(), now, grows=self._grows())
        done: list[tuple[Answering, _Outcome]] = []
        judged: list[tuple[int, Answering, _Outcome]] = []
        while waiting and not batch.full:
            work = waiting.take()
            self._waiting_bytes -= work.size
            self._waiting_here.give(work.size)
            if work.deadline <= now:
                _fail(work.answer, DeadlineExceeded("the change waited until its deadline"))
            elif not work.answer.done():
                self._evaluate(batch, work, done, judged)
                if monotonic() >= end:
                    break
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
        work: _Work,
        done: list[tuple[Answering, _Outcome]],
        judged: list[tuple[int, Answering, _Outcome]],
    ) -> None:
        """One change: done in this entry, or judged by entries up to an op."""
        change, answer = work.change, work.answer
        known = batch.known(change.op_id)
        latest_op = batch.op if done else batch.op - 1
        if isinstance(known, Changed):
            judged.append((known.version >> VERSION_SHIFT, answer, known))
            return
        if known is not None:
            judged.append((latest_op, answer, batch.refusal(change, known)))
            return
        try:
            done.append((answer, batch.add(change)))
        except Conflict as conflict:
            if work.again:
                batch.refuse(change, refused_check(conflict))
                done.append((answer, conflict))
            else:
                judged.append((latest_op, answer, conflict))
        except PinfoldError as error:
            _fail(answer, error)

    def _answer_after(self, op: int, answer: Answering, outcome: _Outcome) -> None:
        if op > self._replica.state.commit_op:
            self._later.append((op, answer, outcome))
        elif isinstance(outcome, Conflict):
            self._unconfirmed.append((answer, outcome))
        else:
            self._judged -= 1
            _tell(answer, outcome)

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
        confirmed = self._confirming.pop(number, ())
        if error is not None:
            for answer, _, _ in confirmed:
                _fail(answer, error)
            return
        self._looking.extend(confirmed)
        self._look_until(self._clock.monotonic() + TURN_S)

    def _look_until(self, end: float) -> None:
        """Answer reads that are confirmed."""
        while self._looking:
            answer, look, deadline = self._looking.popleft()
            if answer.done():
                continue
            now = self._clock.monotonic()
            if now >= end:
                self._looking.appendleft((answer, look, deadline))
                self._schedule()
                return
            if deadline <= now:
                _fail(answer, DeadlineExceeded("the read waited until its deadline"))
                continue
            try:
                answer.set_result(look())
            except PinfoldError as failure:
                answer.set_exception(failure)


class WaitingBytes:
    """Bytes of changes that wait in all the groups of a process together."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.taken = 0

    def take(self, size: int) -> None:
        """Busy when no more fit; a single change always does."""
        if self.taken and self.taken + size > self._maximum:
            raise Busy("too many changes wait on this node")
        self.taken += size

    def give(self, size: int) -> None:
        """These wait no more."""
        self.taken -= size


def _raiser(conflict: Conflict) -> Callable[[], Reply]:
    def look() -> Reply:
        raise conflict

    return look


def _tell(answer: Answering, outcome: _Outcome) -> None:
    if answer.done():
        return
    if isinstance(outcome, Conflict):
        answer.set_exception(outcome)
    else:
        answer.set_result(Reply((outcome.version, outcome.stamp_ms)))


def _fail(answer: Answering, error: PinfoldError) -> None:
    if not answer.done():
        answer.set_exception(error)
