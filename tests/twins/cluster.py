"""`Rows` and `Blobs` in memory, with the whole contract of `pinfold.cluster.api`.

One ordered map stands for all groups: a change is applied at once, so it is linearizable. What the
twin adds for tests: every `change` can be made to fail before or after it was applied.
"""

import heapq
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count, islice

import msgspec
from sortedcontainers import SortedDict

from pinfold.cluster.api import (
    BlobRef,
    Change,
    Changed,
    Check,
    Collapse,
    Counter,
    Page,
    Row,
)
from pinfold.codec import names
from pinfold.env.api import Buffer, Clock
from pinfold.model.errors import Conflict, Invalid, NotFound, PinfoldError
from pinfold.model.limits import MIB, SEGMENT_BYTES

ROW_BYTES = 1 * MIB
CHANGE_BYTES = 4 * MIB
OPS_KEPT = 10_000
FREE_DELAY_S = 30.0

_encode = msgspec.msgpack.Encoder().encode


class MemoryRows:
    """The row log as one map. `freed` is called with blobs that no row names any more."""

    def __init__(self, clock: Clock, freed: Callable[[Sequence[BlobRef]], None]) -> None:
        self._clock = clock
        self._freed = freed
        self._rows: SortedDict[bytes, Row] = SortedDict()
        self._results: dict[bytes, Changed | PinfoldError] = {}
        self._versions = count(1)
        self._stamp_ms = 0
        self.rows_looked_at_max = 5000
        """A scan ends its page after this many rows, as the real one bounds its work."""
        self.before_change: Callable[[Change], None] | None = None
        """A test's hook: raise here and nothing happens."""
        self.after_change: Callable[[Change], None] | None = None
        """A test's hook: raise here and the caller does not learn that it happened."""
        self.turn: Callable[[], Awaitable[None]] | None = None
        """A test's scheduler: awaited before every operation and again before its answer."""

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[bytes]:
        """The row keys, in order."""
        return iter(list(self._rows))

    def blobs_of(self, key: bytes) -> list[bytes]:
        """The blobs that a row names."""
        return [blob.id for blob in self._rows[key].blobs]

    async def get(self, place: bytes, key: bytes, *, checks: tuple[Check, ...] = ()) -> Row | None:
        await self._turn()
        self._demand(checks)
        row = self._rows.get(key)
        await self._turn()
        return row

    async def scan(
        self,
        place: bytes,
        start: bytes,
        end: bytes | None,
        limit: int,
        *,
        collapse: Collapse | None = None,
        reverse: bool = False,
        payloads: bool = False,
        checks: tuple[Check, ...] = (),
    ) -> Page:
        await self._turn()
        self._demand(checks)
        page = self._scan(start, end, limit, collapse, reverse)
        await self._turn()
        if payloads:
            return page
        items = tuple((key, row and _without_payload(row)) for key, row in page.items)
        return Page(items, page.next_start)

    def _scan(
        self,
        start: bytes,
        end: bytes | None,
        limit: int,
        collapse: Collapse | None,
        reverse: bool,
    ) -> Page:
        assert limit > 0
        if reverse:
            assert collapse is None, "the twin collapses forward only"
            return self._scan_backward(start, end, limit)
        return self._scan_forward(start, end, limit, collapse)

    async def _turn(self) -> None:
        if self.turn is not None:
            await self.turn()

    def _demand(self, checks: tuple[Check, ...]) -> None:
        for index, check in enumerate(checks):
            assert check.kind != "empty", "no check of a read"
            if not self._holds(check):
                current = self._rows.get(check.key)
                found = current and _without_payload(current)
                raise Conflict(f"check {check.kind} failed", detail=(index, found))

    def _scan_backward(self, start: bytes, end: bytes | None, limit: int) -> Page:
        keys = self._rows.irange(start, end, (True, False), reverse=True)
        picked = list(islice(keys, limit + 1))
        items = tuple((key, self._rows[key]) for key in picked[:limit])
        return Page(items, picked[limit - 1] if len(picked) > limit else None)

    def _scan_forward(
        self,
        start: bytes,
        end: bytes | None,
        limit: int,
        collapse: Collapse | None,
    ) -> Page:
        items: list[tuple[bytes, Row | None]] = []
        position, looked_at = start, 0
        while True:
            key = next(self._rows.irange(position, end, (True, False)), None)
            if key is None:
                return Page(tuple(items), None)
            if len(items) == limit or looked_at == self.rows_looked_at_max:
                return Page(tuple(items), key)
            looked_at += 1
            position = key + b"\x00"
            rolled = _rolled_up(key, collapse) if collapse else None
            if rolled is None:
                items.append((key, self._rows[key]))
            else:
                items.append((rolled, None))
                behind = names.successor(rolled)
                assert behind is not None
                position = behind

    async def change(self, place: bytes, change: Change) -> Changed:
        assert len(change.op_id) == 16
        await self._turn()
        if self.before_change:
            self.before_change(change)
        result = self._results.get(change.op_id)
        if result is None:
            result = self._evaluate(change)
            self._results[change.op_id] = result
            if len(self._results) > OPS_KEPT:
                del self._results[next(iter(self._results))]
        if self.after_change:
            self.after_change(change)
        await self._turn()
        if isinstance(result, PinfoldError):
            raise result
        return result

    def _evaluate(self, change: Change) -> Changed | PinfoldError:
        if len(_encode(change)) > CHANGE_BYTES:
            return Invalid("the change is too large")
        for key, row in change.puts:
            assert key[:1] != b"\x00", "reserved for the log"
            if row.payload is None:
                return Invalid("the row's payload was left out")
            if len(_encode(row)) > ROW_BYTES:
                return Invalid("the row is too large")
        for index, check in enumerate(change.checks):
            if not self._holds(check):
                current = self._rows.get(check.key)
                found = current and _without_payload(current)
                return Conflict(f"check {check.kind} failed", detail=(index, found))
        return self._apply(change)

    def _apply(self, change: Change) -> Changed:
        self._stamp_ms = max(self._stamp_ms, int(self._clock.wall() * 1000))
        version = next(self._versions)
        gone: list[Row] = []
        for key in change.deletes:
            self._remove(key, gone)
        for start, end in change.delete_ranges:
            for key in list(self._rows.irange(start, end, (True, False))):
                self._remove(key, gone)
        put: list[Row] = []
        for key, row in change.puts:
            self._remove(key, gone)
            row = msgspec.structs.replace(row, version=version, stamp_ms=self._stamp_ms)
            self._rows[key] = row
            put.append(row)
        if change.counter:
            self._count(change.counter, put, gone, version)
        named = {blob.id for row in put for blob in row.blobs}
        freed = [blob for row in gone for blob in row.blobs if blob.id not in named]
        if freed and not change.keep_blobs:
            self._freed(freed)
        return Changed(version, self._stamp_ms)

    def _remove(self, key: bytes, gone: list[Row]) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            gone.append(row)

    def _count(self, key: bytes, put: list[Row], gone: list[Row], version: int) -> None:
        old = self._rows.get(key)
        counter = msgspec.msgpack.decode(old.body, type=Counter) if old else Counter(0, 0)
        added = [row.size for row in put if row.size >= 0]
        taken = [row.size for row in gone if row.size >= 0]
        body = _encode(
            Counter(
                counter.rows + len(added) - len(taken),
                counter.size + sum(added) - sum(taken),
            )
        )
        self._rows[key] = Row(body, version=version, stamp_ms=self._stamp_ms)

    def _holds(self, check: Check) -> bool:
        if check.kind == "empty":
            return next(self._rows.irange(check.key, check.end, (True, False)), None) is None
        row = self._rows.get(check.key)
        if check.kind == "absent":
            return row is None
        if check.kind == "tag-not-in":
            return row is None or row.tag not in check.tags
        if check.kind == "tag-not-below":
            return row is None or not any(row.tag < tag for tag in check.tags)
        if row is None:
            return False
        match check.kind:
            case "present":
                return True
            case "version":
                return row.version == check.number
            case "tag-in":
                return row.tag in check.tags
            case "unmodified-since":
                return row.stamp_ms <= check.number
            case "modified-since":
                return row.stamp_ms > check.number
        raise AssertionError(f"unknown check {check.kind}")


def _without_payload(row: Row) -> Row:
    return msgspec.structs.replace(row, payload=None) if row.payload else row


def _rolled_up(key: bytes, collapse: Collapse) -> bytes | None:
    end = key.find(names.TERMINATOR, collapse.prefix_length)
    found = key.find(collapse.delimiter, collapse.prefix_length, end if end >= 0 else len(key))
    return None if found < 0 else key[: found + len(collapse.delimiter)]


class MemoryBlobs:
    """Blobs in a dict. What is freed stays readable for a while, as on devices."""

    def __init__(self, clock: Clock, randbytes: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._randbytes = randbytes
        self.payloads: dict[bytes, bytes] = {}
        self._due: list[tuple[float, bytes]] = []
        self.failures: list[PinfoldError] = []
        """A test's queue of errors: the next call raises the first of them."""

    async def put(self, payload: Sequence[Buffer]) -> BlobRef:
        self._raise_planned()
        content = b"".join(payload)
        assert 0 < len(content) <= SEGMENT_BYTES
        stamp = int(self._clock.wall() * 1000).to_bytes(6, "big")
        ref = BlobRef(stamp + self._randbytes(10), len(content), (1, 2, 3))
        self.payloads[ref.id] = content
        self._reap()
        return ref

    async def read(self, ref: BlobRef, offset: int, length: int) -> list[Buffer]:
        self._raise_planned()
        content = self.payloads.get(ref.id)
        if content is None:
            raise NotFound("no such blob")
        assert 0 <= offset <= offset + length <= len(content)
        return [memoryview(content)[offset : offset + length]]

    async def discard(self, refs: Sequence[BlobRef]) -> None:
        for ref in refs:
            self.payloads.pop(ref.id, None)

    def freed(self, refs: Sequence[BlobRef]) -> None:
        """Forget these blobs some time later."""
        due = self._clock.monotonic() + FREE_DELAY_S
        for ref in refs:
            heapq.heappush(self._due, (due, ref.id))
        self._reap()

    def named(self) -> set[bytes]:
        """Blobs that are kept and not about to be forgotten."""
        return set(self.payloads) - {blob for _, blob in self._due}

    def _reap(self) -> None:
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            self.payloads.pop(heapq.heappop(self._due)[1], None)

    def _raise_planned(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
