"""`LogStore` and `RowStore` in memory, where durable is what a flush has reached.

Every write is made twice: at once to what the process sees, and in the same order, when `flush`
gets there, to what survives `crash`. So what survives is always a prefix of the writes, except
that what was applied and trimmed follows later still, with `index`, as on a device.
"""

import asyncio
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sortedcontainers import SortedDict

from pinfold.codec.digests import RowDigest, chosen
from pinfold.device.api import EVERYTHING, Entry, LogState, Part
from pinfold.model.errors import NotFound, PinfoldError, Unavailable
from pinfold.model.ids import GroupId


class _Group:
    def __init__(self, group: GroupId) -> None:
        self.id = group
        self.view = 0
        self.voted = b""
        self.entries: dict[int, Entry] = {}
        self.first_op = 1
        self.last_op = 0
        self.last_view = 0
        self.applied_op = 0
        self.applied_view = 0
        self.rows: SortedDict[bytes, bytes] = SortedDict()
        self.incomplete = False
        self.rotten = False
        self.digest = RowDigest(group)

    def set_view(self, view: int, voted: bytes) -> None:
        assert view >= self.view
        self.view, self.voted = view, voted

    def append(self, entries: Sequence[Entry]) -> None:
        first = entries[0].op
        assert self.applied_op < first <= self.last_op + 1, (self.applied_op, first, self.last_op)
        for op in range(first, self.last_op + 1):
            del self.entries[op]
        for index, entry in enumerate(entries):
            assert entry.op == first + index
            self.entries[entry.op] = entry
        self.last_op, self.last_view = entries[-1].op, entries[-1].view
        self.view = max(self.view, self.last_view)

    def apply(self, op: int, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        assert op == self.applied_op + 1 <= self.last_op
        self.applied_view = self.entries[op].view
        self.applied_op = op
        for key, value in writes:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self.digest.add(op, writes)

    def trim(self, before_op: int) -> None:
        assert before_op <= self.applied_op + 1
        for op in range(self.first_op, before_op):
            del self.entries[op]
        self.first_op = max(self.first_op, before_op)

    def install(
        self,
        base: tuple[int, int],
        rows: Sequence[tuple[bytes, bytes | None]],
        first: bool,
        last: bool,
        digest: bytes,
        part: Part,
    ) -> None:
        within = chosen(part.buckets, self.id)
        if first:
            self.incomplete = True
            if not part.buckets:
                self.rows.clear()
                self.rotten = False
            self.entries.clear()
            self.first_op, self.last_op, self.last_view = 1, 0, 0
            self.applied_op, self.applied_view = 0, 0
        assert self.incomplete
        if part.buckets and not part.named:
            for key in list(self.rows.irange(part.start, part.end or None, (True, False))):
                if within(key):
                    del self.rows[key]
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        if last:
            self.incomplete = False
            self.first_op = base[0] + 1
            self.last_op = self.applied_op = base[0]
            self.last_view = self.applied_view = base[1]
            self.digest = RowDigest(self.id, digest)


class MemoryLog:
    """The stores of one device, synchronous. `durable=False` keeps no second copy."""

    def __init__(self, *, durable: bool = True) -> None:
        self._seen: dict[GroupId, _Group] = {}
        self._durable: dict[GroupId, _Group] | None = {} if durable else None
        self._pending: list[tuple[GroupId, str, tuple[Any, ...], Callable[[], None] | None]] = []
        self._behind: list[tuple[GroupId, str, tuple[Any, ...]]] = []

    @property
    def pending(self) -> int:
        return len(self._pending)

    def write(
        self,
        group: GroupId,
        method: str,
        *arguments: Any,
        done: Callable[[], None] | None = None,
    ) -> None:
        self._do(self._seen, group, method, arguments)
        self._pending.append((group, method, arguments, done))

    def _do(
        self, groups: dict[GroupId, _Group], group: GroupId, method: str, arguments: Any
    ) -> None:
        if method == "create":
            groups.setdefault(group, _Group(group))
        else:
            getattr(groups[group], method)(*arguments)

    def flush(self, count: int | None = None) -> None:
        """Make the first writes durable, in order, then say so; without `count` the index too."""
        everything = count is None
        count = len(self._pending) if count is None else count
        flushed, self._pending = self._pending[:count], self._pending[count:]
        if self._durable is not None:
            for group, method, arguments, _ in flushed:
                if method in ("apply", "trim"):
                    self._behind.append((group, method, arguments))
                    continue
                if method == "install":
                    self.index()
                self._do(self._durable, group, method, arguments)
            if everything:
                self.index()
        for _, _, _, done in flushed:
            if done is not None:
                done()

    def index(self) -> None:
        """What was applied and trimmed, as far as it was flushed, survives from now on."""
        assert self._durable is not None
        behind, self._behind = self._behind, []
        for group, method, arguments in behind:
            self._do(self._durable, group, method, arguments)

    def crash(self) -> None:
        """Forget what no flush has reached."""
        assert self._durable is not None
        self._pending.clear()
        self._behind.clear()
        for state in self._durable.values():
            if state.incomplete:
                fresh = _Group(state.id)
                fresh.view, fresh.voted = state.view, state.voted
                state.__dict__.update(fresh.__dict__)
        self._seen = copy.deepcopy(self._durable)

    def full(self) -> bool:
        return False

    def rotten(self, group: GroupId) -> bool:
        return self._seen[group].rotten

    def groups(self) -> list[GroupId]:
        return sorted(self._seen)

    def seen(self, group: GroupId) -> _Group:
        return self._seen[group]

    def durable(self, group: GroupId) -> _Group:
        assert self._durable is not None
        return self._durable[group]

    def state(self, group: GroupId) -> LogState:
        one = self._seen[group]
        return LogState(
            one.view,
            one.voted,
            one.first_op,
            one.last_op,
            one.last_view,
            one.applied_op,
            one.applied_view,
        )

    def view_at(self, group: GroupId, op: int) -> int | None:
        one = self._seen[group]
        entry = one.entries.get(op)
        if entry is not None:
            return entry.view
        return one.applied_view if op == one.applied_op else None

    def tail(self, group: GroupId, first_op: int, max_bytes: int) -> list[Entry]:
        one = self._seen[group]
        if first_op < one.first_op:
            raise NotFound("trimmed")
        entries: list[Entry] = []
        while (entry := one.entries.get(first_op)) is not None:
            max_bytes -= len(entry.body)
            if entries and max_bytes < 0:
                break
            entries.append(entry)
            first_op += 1
        return entries

    def digest(self, group: GroupId) -> bytes:
        return self._seen[group].digest.to_bytes()

    def get(self, group: GroupId, key: bytes) -> bytes | None:
        found: bytes | None = self._seen[group].rows.get(key)
        return found

    def scan(
        self, group: GroupId, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = self._seen[group].rows
        for key in rows.irange(start, end, (True, False), reverse=reverse):
            yield key, rows[key]


class AsyncLog:
    """A `MemoryLog` as the futures of `LogStore`; a flush takes `flush_s` of the loop's time."""

    def __init__(self, memory: MemoryLog, flush_s: float) -> None:
        self.memory = memory
        self._flush_s = flush_s
        self._flushing = False
        self.stopped = False
        self.refusal: PinfoldError | None = None
        """Raised by every append and install: a device that is full or busy."""
        self.groups = memory.groups
        self.state = memory.state
        self.view_at = memory.view_at
        self.tail = memory.tail
        self.digest = memory.digest
        self.rotten = memory.rotten
        self.full = memory.full
        self.get = memory.get
        self.scan = memory.scan

    def _write(self, group: GroupId, method: str, *arguments: Any) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self.stopped:
            future.set_exception(Unavailable("the device has stopped"))
            return future

        def done() -> None:
            if not future.done():
                future.set_result(None)

        self.memory.write(group, method, *arguments, done=done)
        self._arm(loop)
        return future

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._flushing:
            self._flushing = True
            loop.call_later(self._flush_s, self._flush, self.memory.pending)

    def _flush(self, _count: int) -> None:
        self._flushing = False
        if self.stopped:
            return
        self.memory.flush()
        if self.memory.pending:
            self._arm(asyncio.get_running_loop())

    def create(self, group: GroupId) -> "asyncio.Future[None]":
        return self._write(group, "create")

    def append(self, group: GroupId, entries: Sequence[Entry]) -> "asyncio.Future[None]":
        if self.refusal is not None:
            raise self.refusal
        return self._write(group, "append", list(entries))

    def set_view(self, group: GroupId, view: int, voted: bytes = b"") -> "asyncio.Future[None]":
        return self._write(group, "set_view", view, voted)

    def apply(self, group: GroupId, op: int, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        self.memory.write(group, "apply", op, writes)

    def trim(self, group: GroupId, before_op: int) -> None:
        self.memory.write(group, "trim", before_op)

    def install(
        self,
        group: GroupId,
        applied_op: int,
        applied_view: int,
        rows: Sequence[tuple[bytes, bytes]],
        *,
        first: bool,
        last: bool,
        digest: bytes = b"",
        part: Part = EVERYTHING,
    ) -> "asyncio.Future[None]":
        if self.refusal is not None:
            raise self.refusal
        base = (applied_op, applied_view)
        return self._write(group, "install", base, list(rows), first, last, digest, part)
