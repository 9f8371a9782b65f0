"""Evaluate changes in log order, against applied rows and what entries in flight will make of them.

A `Ledger` belongs to a serving primary. `begin(op)` starts the next entry; `Batch.add` evaluates
one change after the other, each seeing the ones before it; `finish` gives the entry's body.

Invariants: a change takes effect as a whole or not at all; versions grow; stamps never decrease;
a counter equals the rows counted; an op id takes effect once as long as it is remembered.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from typing import Final

import msgspec

from pinfold.cluster.api import BlobRef, Change, Changed, Check, Counter, Row, blob_stamp_ms
from pinfold.cluster.groups.checks import failure, holds
from pinfold.cluster.groups.entries import (
    OP_ID_BYTES,
    RESERVED,
    RESULTS_RANGE,
    VERSION_SHIFT,
    Write,
    decode_results,
    decode_row,
    encode_body,
    encode_results,
    encode_row,
    free_writes,
    results_key,
    results_op,
)
from pinfold.cluster.groups.scan import RowIterator
from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Invalid
from pinfold.model.ids import BlobId
from pinfold.model.limits import (
    BLOB_ID_BYTES,
    CHANGE_BYTES,
    DELETE_RANGE_ROWS,
    ENTRY_BYTES,
    ENTRY_CHANGES,
    OBJECT_BYTES,
    ROW_BYTES,
    ROW_KEY_BYTES,
)

RESULTS_KEPT_S: Final = 600.0
"""How long an op id is remembered: far longer than any client retries. Each primary counts anew,
by its monotonic clock: wall clocks may jump by hours, within a view and from one to the next."""

RESULTS_MAX: Final = 32_768
"""Op ids remembered by a group (some 5 MiB): tens of seconds of a busy group's changes."""

_EXPIRE_PER_ENTRY: Final = 4
"""Entries of results forgotten with each new one: more than one, so that the rest shrinks."""

_Pending = tuple[int, Row | None]
"""(op of the entry in flight, the row as it leaves it)."""

_encode = msgspec.msgpack.Encoder().encode
_counter_decoder = msgspec.msgpack.Decoder(Counter)

_COUNTED_MAX: Final = 1 << 62
"""Beyond it a sum could not be encoded any more."""


class Ledger:
    """The state behind evaluation: rows pending in flight, remembered results, the last stamp."""

    def __init__(
        self,
        get: Callable[[bytes], bytes | None],
        scan: Callable[[bytes, bytes | None], RowIterator],
        name_within_ms: int,
        now_s: float,
    ) -> None:
        self.name_within_ms = name_within_ms
        self.moves = 0
        """How often an old blob's name came to stand in another row; see `Batch._judge_names`."""
        self._get = get
        self._scan = scan
        self._pending: dict[bytes, _Pending] = {}
        self._touched: deque[tuple[int, list[bytes]]] = deque()
        self._versions: dict[bytes, int] = {}
        self._results: deque[tuple[int, float, list[bytes]]] = deque()
        """(op, since when it is remembered here, op ids)."""
        self._stamps: dict[int, int] = {}
        self.stamp_ms = 0
        self._now_s = now_s
        for key, value in scan(*RESULTS_RANGE):
            self._remember(results_op(key), *decode_results(value))

    def row(self, key: bytes) -> Row | None:
        """The row as the next change will see it."""
        pending = self._pending.get(key)
        if pending is not None:
            return pending[1]
        value = self._get(key)
        return None if value is None else decode_row(value)

    def rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, Row]]:
        """The rows of a range as the next change will see them, in order."""
        over = sorted(key for key in self._pending if start <= key < end)
        pending = ((key, 0, self._pending[key][1]) for key in over)
        applied = ((key, 1, decode_row(value)) for key, value in self._scan(start, end))
        both = merge(pending, applied, key=lambda one: one[:2])
        for key, same in groupby(both, key=lambda one: one[0]):
            row = next(same)[2]
            if row is not None:
                yield key, row

    def blobs_in_flight(self) -> Iterator[bytes]:
        """Ids of blobs that rows of entries in flight name."""
        for _, row in self._pending.values():
            if row is not None:
                for blob in row.blobs:
                    yield blob.id

    def known(self, op_id: bytes) -> Changed | None:
        """The result of a change made before (its entry may still be in flight)."""
        version = self._versions.get(op_id)
        if version is None:
            return None
        return Changed(version, self._stamps[version >> VERSION_SHIFT])

    def begin(self, op: int, now_ms: int, now_s: float) -> "Batch":
        """Start the entry `op`; every earlier one has been finished.

        `now_ms` is what the wall clock shows, `now_s` the monotonic one.
        """
        self._now_s = now_s
        self.stamp_ms = max(self.stamp_ms, now_ms)
        return Batch(self, op, self.stamp_ms)

    def put_pending(
        self, op: int, row_by_key: dict[bytes, Row | None], before: dict[bytes, _Pending | None]
    ) -> None:
        """Rows as entry `op` leaves them; None: deleted. `before` takes what `undo` needs."""
        pending = self._pending
        for key, row in row_by_key.items():
            if key not in before:
                before[key] = pending.get(key)
            pending[key] = (op, row)

    def undo(self, before: dict[bytes, _Pending | None], op_ids: Iterable[bytes]) -> None:
        """The entry finished last will not be: forget it.

        Results it was to forget stay stored until the group changes its primary; that is all.
        """
        for key, pending in before.items():
            if pending is None:
                self._pending.pop(key, None)
            else:
                self._pending[key] = pending
        op, _ = self._touched.pop()
        if self._stamps.pop(op, None) is not None:
            self._results.pop()
        for op_id in op_ids:
            self._versions.pop(op_id, None)

    def finish(self, op: int, stamp_ms: int, keys: list[bytes], op_ids: list[bytes]) -> list[Write]:
        """Entry `op` is complete; returns the writes that remember and forget results."""
        self._touched.append((op, keys))
        if not op_ids:
            return []
        self._remember(op, stamp_ms, op_ids)
        writes: list[Write] = [(results_key(op), encode_results(stamp_ms, op_ids))]
        for _ in range(_EXPIRE_PER_ENTRY):
            oldest = self._results[0]
            aged = oldest[1] + RESULTS_KEPT_S < self._now_s
            if oldest[0] == op or not (aged or len(self._versions) > RESULTS_MAX):
                break
            self._forget_oldest()
            writes.append((results_key(oldest[0]), None))
        return writes

    def on_applied(self, op: int) -> None:
        """Entries up to `op` are in the rows."""
        pending = self._pending
        while self._touched and self._touched[0][0] <= op:
            done, keys = self._touched.popleft()
            for key in keys:
                found = pending.get(key)
                if found is not None and found[0] == done:
                    del pending[key]

    def _remember(self, op: int, stamp_ms: int, op_ids: list[bytes]) -> None:
        self.stamp_ms = max(self.stamp_ms, stamp_ms)
        self._results.append((op, self._now_s, op_ids))
        self._stamps[op] = stamp_ms
        base = op << VERSION_SHIFT
        for index, op_id in enumerate(op_ids):
            self._versions[op_id] = base + index

    def _forget_oldest(self) -> None:
        op, _, op_ids = self._results.popleft()
        del self._stamps[op]
        for op_id in op_ids:
            if self._versions[op_id] >> VERSION_SHIFT == op:
                del self._versions[op_id]


class Batch:
    """One entry in the making."""

    __slots__ = ("_before", "_deltas", "_ledger", "_op_ids", "_writes", "op", "size", "stamp_ms")

    def __init__(self, ledger: Ledger, op: int, stamp_ms: int) -> None:
        self._ledger = ledger
        self.op = op
        self.stamp_ms = stamp_ms
        self.size = 0
        """Bytes of values written so far."""
        self._writes: dict[bytes, bytes | None] = {}
        self._deltas: dict[bytes, Counter] = {}
        self._before: dict[bytes, _Pending | None] = {}
        self._op_ids: dict[bytes, int] = {}

    @property
    def full(self) -> bool:
        """Whether the next change belongs into another entry."""
        return len(self._op_ids) >= ENTRY_CHANGES or self.size >= ENTRY_BYTES

    @property
    def empty(self) -> bool:
        """Whether nothing has changed so far."""
        return not self._writes

    def known(self, op_id: bytes) -> Changed | None:
        """The result of a change made earlier, in this entry too."""
        index = self._op_ids.get(op_id)
        if index is None:
            return self._ledger.known(op_id)
        return Changed((self.op << VERSION_SHIFT) + index, self.stamp_ms)

    def add(self, change: Change) -> Changed:
        """Evaluate a change that is not known yet.

        Raises Conflict with detail (index of the check, stored bytes of its row or None), or
        Invalid. Nothing has changed then.
        """
        self._verify(change)
        index = self._failed_check(change.checks)
        if index >= 0:
            check = change.checks[index]
            raise failure(index, check, self._row(check.key))
        if change.counter and change.counter not in self._deltas:
            self._counter(change.counter)
        version = (self.op << VERSION_SHIFT) + len(self._op_ids)
        effects, values = self._effects(change, version)
        if any(row.blobs for _, row in change.puts):
            self._judge_names(effects, carried=change.carried)
        if not change.keep_blobs:
            self._free(effects, version)
        if change.counter:
            self._count(change.counter, effects)
        after = {key: new for key, (_, new) in effects.items()}
        self._ledger.put_pending(self.op, after, self._before)
        self._writes.update(values)
        self._op_ids[change.op_id] = len(self._op_ids)
        return Changed(version, self.stamp_ms)

    def remove(self, keys: Sequence[bytes]) -> None:
        """Delete rows of the group's own, which no change can name."""
        for key in keys:
            self._writes[key] = None

    def finish(self) -> tuple[bytes, list[Write]]:
        """(body, writes) of the entry; the ledger goes on from here."""
        self._settle_counters()
        keys = list(self._writes)
        writes: list[Write] = list(self._writes.items())
        writes += self._ledger.finish(self.op, self.stamp_ms, keys, list(self._op_ids))
        return encode_body(writes), writes

    def undo(self) -> None:
        """The finished entry could not be appended: the ledger goes on as if it had not been."""
        self._ledger.undo(self._before, self._op_ids)

    def _verify(self, change: Change) -> None:
        if len(change.op_id) != OP_ID_BYTES:
            raise Invalid(f"an op id has {OP_ID_BYTES} bytes")
        keys = [key for key, _ in change.puts]
        keys += change.deletes
        keys += [start for start, _ in change.delete_ranges]
        if change.counter:
            keys.append(change.counter)
        for key in keys:
            if key[:1] == RESERVED or not 0 < len(key) <= ROW_KEY_BYTES:
                raise Invalid(f"a row key has 1 to {ROW_KEY_BYTES} bytes and starts above 00")
        if change.counter and change.counter in keys[:-1]:
            raise Invalid("a change does not both count in a row and replace it")
        for _, row in change.puts:
            if not -1 <= row.size <= OBJECT_BYTES:
                raise Invalid(f"a row counts {row.size} bytes")
            if any(len(blob.id) != BLOB_ID_BYTES for blob in row.blobs):
                raise Invalid(f"a blob's id has {BLOB_ID_BYTES} bytes")

    def _row(self, key: bytes) -> Row | None:
        if key in self._deltas:
            self._settle_counter(key)
        return self._ledger.row(key)

    def _effects(
        self, change: Change, version: int
    ) -> tuple[dict[bytes, tuple[Row | None, Row | None]], dict[bytes, bytes | None]]:
        """({key: (row before, row after)}, {key: value to write}). Puts come after deletes."""
        effects: dict[bytes, tuple[Row | None, Row | None]] = {}
        values: dict[bytes, bytes | None] = {}
        if change.delete_ranges:
            self._settle_counters()
        for start, end in change.delete_ranges:
            for key, row in self._ledger.rows(start, end):
                effects[key] = (row, None)
                values[key] = None
                if len(effects) > DELETE_RANGE_ROWS:
                    raise Invalid(f"a change deletes at most {DELETE_RANGE_ROWS} rows by range")
        for key in change.deletes:
            if key not in effects:
                effects[key] = (self._row(key), None)
            values[key] = None
        size = 0
        for key, row in change.puts:
            before = effects[key][0] if key in effects else self._row(key)
            if row.payload is None:
                raise Invalid("a row whose payload was left out cannot be put")
            after = Row(row.body, row.tag, row.size, row.blobs, version, self.stamp_ms, row.payload)
            value = encode_row(after)
            if len(value) > ROW_BYTES:
                raise Invalid(f"a row of {len(value)} bytes, the limit is {ROW_BYTES}")
            size += len(key) + len(value)
            effects[key] = (before, after)
            values[key] = value
        if size > CHANGE_BYTES:
            raise Invalid(f"a change of {size} bytes, the limit is {CHANGE_BYTES}")
        self.size += size
        return effects, values

    def _judge_names(
        self, effects: dict[bytes, tuple[Row | None, Row | None]], *, carried: bool
    ) -> None:
        """Refuse to name an old blob for the first time; count when its name changes the row.

        Since the rows that name an old blob only become fewer while `moves` stays the same, pages
        of rows read one after the other miss none of its names.
        """
        oldest_ms = self.stamp_ms - self._ledger.name_within_ms
        old = [
            (key, blob.id)
            for key, (_, after) in effects.items()
            if after is not None
            for blob in after.blobs
            if blob_stamp_ms(BlobId(blob.id)) < oldest_ms
        ]
        if not old:
            return
        named = {
            (key, blob.id)
            for key, (before, _) in effects.items()
            if before is not None
            for blob in before.blobs
        }
        anywhere = {blob for _, blob in named}
        for key, blob in old:
            if blob not in anywhere and not carried:
                raise Invalid(
                    f"blob {blob.hex()} was stored too long ago to be named now: the upload took "
                    "more than a day, or a clock is wrong"
                )
            if (key, blob) not in named:
                self._ledger.moves += 1

    def _free(self, effects: dict[bytes, tuple[Row | None, Row | None]], version: int) -> None:
        """Note blobs that rows named before and no row put by this change names now."""
        gone: list[BlobRef] = []
        named: set[bytes] = set()
        for before, after in effects.values():
            if before is not None and before.blobs:
                gone += before.blobs
            if after is not None and after.blobs:
                named.update(blob.id for blob in after.blobs)
        freed = [blob for blob in gone if blob.id not in named]
        if freed:
            writes = free_writes(self.stamp_ms, version, freed)
            self._writes.update(writes)
            self.size += sum(len(value or b"") for _, value in writes)

    def _count(self, counter: bytes, effects: dict[bytes, tuple[Row | None, Row | None]]) -> None:
        rows = size = 0
        for before, after in effects.values():
            if before is not None and before.size >= 0:
                rows -= 1
                size -= before.size
            if after is not None and after.size >= 0:
                rows += 1
                size += after.size
        if rows or size:
            delta = self._deltas.get(counter)
            if delta is not None:
                rows += delta.rows
                size += delta.size
            self._deltas[counter] = Counter(rows, size)

    def _settle_counters(self) -> None:
        for key in list(self._deltas):
            self._settle_counter(key)

    def _settle_counter(self, key: bytes) -> None:
        """Write a counter row; it waits until somebody looks or the entry ends."""
        delta = self._deltas.pop(key)
        total = self._counter(key)
        body = _encode(Counter(total.rows + delta.rows, total.size + delta.size))
        version = (self.op << VERSION_SHIFT) + max(len(self._op_ids) - 1, 0)
        row = Row(body, version=version, stamp_ms=self.stamp_ms)
        self._ledger.put_pending(self.op, {key: row}, self._before)
        self._writes[key] = encode_row(row)

    def _counter(self, key: bytes) -> Counter:
        """What a counter row says; Invalid when it is another kind of row."""
        row = self._ledger.row(key)
        if row is None:
            return Counter(0, 0)
        try:
            counter = _counter_decoder.decode(row.body)
        except UNREADABLE:
            raise Invalid("the row to count in is no counter") from None
        if max(abs(counter.rows), abs(counter.size)) > _COUNTED_MAX:
            raise Invalid("the row to count in is no counter: nothing is that many")
        return counter

    def _failed_check(self, checks: Sequence[Check]) -> int:
        for index, check in enumerate(checks):
            if not self._holds(check):
                return index
        return -1

    def _holds(self, check: Check) -> bool:
        if check.kind == "empty":
            self._settle_counters()
            return next(self._ledger.rows(check.key, check.end), None) is None
        return holds(check, self._row(check.key))
