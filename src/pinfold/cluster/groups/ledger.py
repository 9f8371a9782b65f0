"""Evaluate changes in log order, against applied rows and what entries in flight will make of them.

A `Ledger` belongs to a serving primary. `begin(op)` starts the next entry; `Batch.add` evaluates
one change after the other, each seeing the ones before it; `finish` gives the entry's body.

Invariants: a change takes effect as a whole or not at all; versions grow; a counter equals the rows
counted; an op id takes effect once, or is refused for good (`results` says for how long that is
remembered); a blob that waits to be given back is never named again.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from typing import Final

import msgspec

from pinfold.cluster.api import BlobRef, Change, Changed, Check, Counter, Row, blob_stamp_ms
from pinfold.cluster.groups.checks import failure, holds
from pinfold.cluster.groups.entries import (
    CHECK_MAX,
    OP_ID_BYTES,
    RESERVED,
    VERSION_SHIFT,
    Write,
    decode_row,
    dropped_key,
    encode_body,
    encode_row,
    free_writes,
)
from pinfold.cluster.groups.results import RESULTS_MAX, Refused, Results
from pinfold.cluster.groups.scan import RowRange
from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Conflict, Full, Invalid
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

STAMPS_AHEAD_MS: Final = 3_600_000
"""Stamps further ahead of the clock than this came from a wrong one, and are not held on to."""

CLOCKS_AGREE_MS: Final = 12 * 3_600_000
"""Wall clocks are trusted to agree so far (collection of blobs only)."""

_DROPPED_ROW: Final = Row(b"")
"""Stands in entries in flight for the row that says that a blob is dropped."""

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
        scan: RowRange,
        name_within_ms: int,
        results_max: int = RESULTS_MAX,
    ) -> None:
        self.name_within_ms = name_within_ms
        self.moves = 0
        """How often an old blob's name came to stand in another row; see `Batch._judge_names`."""
        self.results = Results(scan, results_max)
        """Nothing is evaluated before they are loaded."""
        self._get = get
        self._scan = scan
        self._pending: dict[bytes, _Pending] = {}
        self._touched: deque[tuple[int, list[bytes]]] = deque()
        self._stamp_ms = 0

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

    def dropped(self, blob: bytes) -> bool:
        """Whether a blob waits to be given back."""
        key = dropped_key(blob)
        return key in self._pending or self._get(key) is not None

    def begin(self, op: int, now_ms: int, now_s: float, *, grows: bool = True) -> "Batch":
        """Start the entry `op`; every earlier one has been finished. Unless it `grows`, no change
        may leave more in the rows than was there.

        `now_ms` is what wall clocks show, `now_s` the monotonic one. Stamps never decrease, but
        where clocks were wrong by far: else a group would follow the worst one for ever.
        """
        assert self.results.loaded, "a change may have a result"
        latest_ms = max(self._stamp_ms, self.results.latest_stamp_ms)
        ahead = latest_ms - now_ms > STAMPS_AHEAD_MS
        self._stamp_ms = now_ms if ahead else max(latest_ms, now_ms)
        self.results.latest_stamp_ms = 0
        return Batch(self, op, self._stamp_ms, now_s, grows=grows)

    def put_pending(
        self, op: int, row_by_key: dict[bytes, Row | None], before: dict[bytes, _Pending | None]
    ) -> None:
        """Rows as entry `op` leaves them; None: deleted. `before` takes what `undo` needs."""
        pending = self._pending
        for key, row in row_by_key.items():
            if key not in before:
                before[key] = pending.get(key)
            pending[key] = (op, row)

    def undo(self, before: dict[bytes, _Pending | None]) -> None:
        """The entry finished last will not be: forget it."""
        for key, pending in before.items():
            if pending is None:
                self._pending.pop(key, None)
            else:
                self._pending[key] = pending
        op, _ = self._touched.pop()
        self.results.undo(op)

    def finished(self, op: int, keys: list[bytes]) -> None:
        """Entry `op` is complete and writes these keys."""
        self._touched.append((op, keys))

    def on_applied(self, op: int) -> None:
        """Entries up to `op` are in the rows."""
        pending = self._pending
        while self._touched and self._touched[0][0] <= op:
            done, keys = self._touched.popleft()
            for key in keys:
                found = pending.get(key)
                if found is not None and found[0] == done:
                    del pending[key]


Effects = dict[bytes, tuple[Row | None, Row | None]]
"""By key, the row before a change and after it."""

_BOOKKEEPING_BYTES: Final = 256
"""What a change that counts no row may grow by where nothing should: the mark of a bucket that is
being deleted, the seals of its shards, a lease."""


def _grown(effects: Effects) -> int:
    """By how many bytes the rows have grown."""
    return sum(_weight(after) - _weight(before) for before, after in effects.values())


def _weight(row: Row | None) -> int:
    if row is None:
        return 0
    return len(row.body) + len(row.payload or b"") + BLOB_ID_BYTES * len(row.blobs)


def _slack(effects: Effects) -> int:
    """What a change may grow by all the same."""
    counts = any(after is not None and after.size >= 0 for _, after in effects.values())
    return 0 if counts else _BOOKKEEPING_BYTES


class Batch:
    """One entry in the making."""

    __slots__ = (
        "_before",
        "_deltas",
        "_grows",
        "_ledger",
        "_now_s",
        "_op_ids",
        "_refused",
        "_writes",
        "op",
        "size",
        "stamp_ms",
    )

    def __init__(
        self, ledger: Ledger, op: int, stamp_ms: int, now_s: float, *, grows: bool
    ) -> None:
        self._ledger = ledger
        self._grows = grows
        self._now_s = now_s
        self.op = op
        self.stamp_ms = stamp_ms
        self.size = 0
        """Bytes of values written so far."""
        self._writes: dict[bytes, bytes | None] = {}
        self._deltas: dict[bytes, Counter] = {}
        self._before: dict[bytes, _Pending | None] = {}
        self._op_ids: dict[bytes, int] = {}
        self._refused: dict[bytes, int] = {}

    @property
    def full(self) -> bool:
        """Whether the next change belongs into another entry."""
        changes = len(self._op_ids) + len(self._refused)
        return changes >= ENTRY_CHANGES or self.size >= ENTRY_BYTES

    @property
    def empty(self) -> bool:
        """Whether nothing has changed so far, nor been refused for good."""
        return not self._writes and not self._refused

    def known(self, op_id: bytes) -> Changed | Refused | None:
        """What became of a change that came earlier, in this entry too."""
        index = self._op_ids.get(op_id)
        if index is not None:
            return Changed((self.op << VERSION_SHIFT) + index, self.stamp_ms)
        check = self._refused.get(op_id)
        return self._ledger.results.known(op_id) if check is None else Refused(check)

    def refuse(self, change: Change, check: int) -> None:
        """Have this check refuse the change for good: another attempt may be on its way."""
        self._refused[change.op_id] = min(check, CHECK_MAX)

    def refusal(self, change: Change, refused: Refused) -> Conflict:
        """What the caller hears of a change that was refused for good."""
        if refused.check >= len(change.checks):  # another change under the same op id
            return Conflict("the change was refused before", detail=(refused.check, None))
        check = change.checks[refused.check]
        return failure(refused.check, check, self._row(check.key))

    def add(self, change: Change) -> Changed:
        """Evaluate a change that is not known yet.

        Raises Conflict with detail (index of the check, stored bytes of its row or None), Invalid,
        or Full for a change that grows where none may. Nothing has changed then.
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
        if not self._grows and _grown(effects) > _slack(effects):
            raise Full("the group's devices have no room for more rows")
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
        writes += self._ledger.results.remember(
            self.op, self.stamp_ms, list(self._op_ids), self._refused, self._now_s
        )
        self._ledger.finished(self.op, keys)
        return encode_body(writes), writes

    def undo(self) -> None:
        """The finished entry could not be appended: the ledger goes on as if it had not been."""
        self._ledger.undo(self._before)

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

    def _effects(self, change: Change, version: int) -> tuple[Effects, dict[bytes, bytes | None]]:
        """({key: (row before, row after)}, {key: value to write}). Puts come after deletes."""
        effects: Effects = {}
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

    def _judge_names(self, effects: Effects, *, carried: bool) -> None:
        """Refuse to name a blob for the first time that is old, from the future, or dropped; count
        when an old one's name changes the row.

        Since the rows that name an old blob only become fewer while `moves` stays the same, pages
        of rows read one after the other miss none of its names.
        """
        named = {
            (key, blob.id)
            for key, (before, _) in effects.items()
            if before is not None
            for blob in before.blobs
        }
        anywhere = {blob for _, blob in named}
        oldest_ms = self.stamp_ms - self._ledger.name_within_ms
        for key, (_, after) in effects.items():
            for blob in after.blobs if after is not None else ():
                stamp_ms = blob_stamp_ms(BlobId(blob.id))
                if blob.id not in anywhere:
                    self._judge_first_name(blob.id, stamp_ms, oldest_ms, carried=carried)
                if stamp_ms < oldest_ms and (key, blob.id) not in named:
                    self._ledger.moves += 1

    def _judge_first_name(
        self, blob: bytes, stamp_ms: int, oldest_ms: int, *, carried: bool
    ) -> None:
        if self._ledger.dropped(blob):
            raise Invalid(f"blob {blob.hex()} is about to be given back")
        if carried:
            return
        if stamp_ms < oldest_ms:
            raise Invalid(
                f"blob {blob.hex()} was stored too long ago to be named now: the upload took "
                "more than a day, or a clock is wrong"
            )
        if stamp_ms > self.stamp_ms + CLOCKS_AGREE_MS:
            raise Invalid(f"blob {blob.hex()} is from the future: a clock is wrong")

    def _free(self, effects: Effects, version: int) -> None:
        """Note blobs that rows named before and no row put by this change names now."""
        gone: dict[bytes, BlobRef] = {}
        named: set[bytes] = set()
        for before, after in effects.values():
            if before is not None and before.blobs:
                gone.update((blob.id, blob) for blob in before.blobs)
            if after is not None and after.blobs:
                named.update(blob.id for blob in after.blobs)
        freed = [blob for blob in gone.values() if blob.id not in named]
        if freed:
            writes = free_writes(version, freed)
            self._writes.update(writes)
            self.size += sum(len(value or b"") for _, value in writes)
            marks: dict[bytes, Row | None] = {dropped_key(one.id): _DROPPED_ROW for one in freed}
            self._ledger.put_pending(self.op, marks, self._before)

    def _count(self, counter: bytes, effects: Effects) -> None:
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
