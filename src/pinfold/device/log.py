"""The logs of a device's groups: entries in the journal, their recent tail in memory.

An entry stays in the journal until its effect is durable in the index, and in memory while the
tail's budget allows; one that is not applied stays in both whatever the budget says. When an old
segment is kept only for such entries they are carried into a new record, so that a group that
stands still never pins the journal.

`settle`, `committed`, `pinned` and `carry` are the applier's.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from pinfold.codec.digests import RowDigest, chosen
from pinfold.codec.names import successor
from pinfold.device import kinds
from pinfold.device.api import EVERYTHING, Entry, LogState, Part
from pinfold.device.group import (
    ENTRY_BYTES,
    GROUP_BYTES,
    ROWS_TABLE,
    Group,
    decode_group,
    encode_create,
    encode_entries,
    encode_install,
    encode_view,
    rows_prefix,
)
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.model.errors import Busy, Invalid, NotFound
from pinfold.model.ids import GroupId
from pinfold.model.settings import DeviceSettings

_GROUP_TABLE = b"g"
_PURGE_TABLE = b"x"
PURGE_ROWS = 2000
"""Rows of a dropped generation removed in one pass of the applier: a few milliseconds."""

_SWEEP_MIN: Final = 1024
"""Entries that may be gone and still be remembered, at least."""


ROWLESS_BYTES: Final = 32
"""Entries up to this change no row. They are taken even when rows are refused for lack of room: a
group whose devices are all full needs one to have a primary, hence to be read."""


class Log:
    """The device's `LogStore`. See the module."""

    def __init__(
        self,
        journal: Journal,
        index: Index,
        space: Space,
        health: Health,
        settings: DeviceSettings,
        groups: dict[GroupId, Group],
    ) -> None:
        self._journal = journal
        self._index = index
        self._space = space
        self._health = health
        self._settings = settings
        self._groups = groups
        self._changed: dict[GroupId, Group] = {g.id: g for g in groups.values() if g.changed}
        self._sealed: list[Group] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._installs: dict[GroupId, asyncio.Future[None]] = {}
        self._committing: list[asyncio.Future[None]] = []
        self._order: deque[tuple[Group, int]] = deque()
        """Entries held, oldest first, and until the next `_sweep` some that are gone."""
        self._sweep_at = _SWEEP_MIN
        self._installed_bytes = 0
        """Of pages that the next transaction will bring."""
        self._tail_bytes = 0
        self.purging = True
        """Rows of replaced generations remain: the applier should come again soon."""
        for group in groups.values():
            for op in range(group.first_op, group.last_op + 1):
                self._order.append((group, op))
                self._tail_bytes += len(group.entries[op][0].body)
        self._trim_tail()
        self._found_bytes = self._tail_bytes
        """What was not applied at opening. The limit does not count it: what it takes to apply it
        must find room, on all members of a group at once after a power cut."""
        health.on_stop(self._fail_installs)
        index.watch(ROWS_TABLE, self.lose_row)

    def groups(self) -> list[GroupId]:
        """See `LogStore.groups`."""
        return sorted(self._groups)

    def create(self, group: GroupId) -> asyncio.Future[None]:
        """See `LogStore.create`."""
        if group not in self._groups:
            self._journal.append(kinds.GROUP_CREATE, [encode_create(group)], 8)
            self._groups[group] = self._changed[group] = Group(group)
        return self._journal.flush()

    def state(self, group: GroupId) -> LogState:
        """See `LogStore.state`. NotFound for a group never created here."""
        return self.group(group).state()

    def view_at(self, group: GroupId, op: int) -> int | None:
        """See `LogStore.view_at`."""
        known = self.group(group)
        held = known.entries.get(op)
        if held is not None:
            return held[0].view
        if op == known.applied_op:
            return known.applied_view
        return None

    def tail(self, group: GroupId, first_op: int, max_bytes: int) -> list[Entry]:
        """See `LogStore.tail`."""
        known = self.group(group)
        if first_op < known.first_op:
            raise NotFound(f"entries of group {group} below {known.first_op} are trimmed")
        found: list[Entry] = []
        size = 0
        for op in range(first_op, known.last_op + 1):
            entry = known.entries[op][0]
            size += len(entry.body)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def append(self, group: GroupId, entries: Sequence[Entry]) -> asyncio.Future[None]:
        """See `LogStore.append`. Also Busy when what is unapplied exceeds its limits."""
        known = self.group(group)
        assert entries, "an append has entries"
        first = entries[0].op
        assert known.applied_op < first <= known.last_op + 1, "no gap, nothing applied replaced"
        size = sum(len(entry.body) for entry in entries)
        self._admit(entries, size)
        if first <= known.last_op:
            self._tail_bytes -= known.truncate(first)
        for part in self._parts(entries):
            buffers, length = encode_entries(group, part)
            sequence = self._journal.append(kinds.LOG_APPEND, buffers, length)
            for entry in part:
                assert entry.op == known.last_op + 1, "entries are consecutive"
                known.append(entry, sequence)
                self._order.append((known, entry.op))
        if known.last_view > known.view:
            known.view = known.last_view
            self._change(known)
        self._tail_bytes += size
        if len(self._order) > self._sweep_at:
            self._sweep()
        if self._tail_bytes > self._settings.log_tail_bytes:
            self._trim_tail()
        return self._durable(group)

    def set_view(self, group: GroupId, view: int, voted: bytes = b"") -> asyncio.Future[None]:
        """See `LogStore.set_view`."""
        known = self.group(group)
        assert view >= known.view, "views never go back"
        record = encode_view(group, view, voted)
        self._journal.append(kinds.GROUP_VIEW, [record], len(record))
        known.view, known.voted = view, voted
        self._change(known)
        return self._journal.flush()

    def apply(self, group: GroupId, op: int, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """See `LogStore.apply`."""
        known = self.group(group)
        assert op == known.applied_op + 1, "entries are applied in order"
        known.applied_view = known.entries[op][0].view
        known.applied_op = op
        self._change(known)
        put, prefix = self._index.put, known.rows_prefix
        for key, value in writes:
            put(prefix + key, value)
        if known.digest is not None:
            known.digest.add(op, writes)

    def digest(self, group: GroupId) -> bytes:
        """See `LogStore.digest`."""
        digest = self.group(group).digest
        return b"" if digest is None else digest.to_bytes()

    def full(self) -> bool:
        """See `LogStore.full`."""
        return self._space.full_for_rows

    def rotten(self, group: GroupId) -> bool:
        """See `LogStore.rotten`."""
        return self.group(group).rotten

    def lose_row(self, key: bytes) -> bool:
        """An applied row failed its checksum; whether nobody needs it."""
        group = GroupId(int.from_bytes(key[1:9], "big"))
        known = self._groups.get(group)
        if known is not None and key.startswith(known.rows_prefix):
            known.rotten = True
        elif self._index.get(_PURGE_TABLE + key[1 : len(rows_prefix(group, 0))]) is None:
            self._health.stop(f"the index is damaged: a row of no group, {key.hex()}")
        else:
            return True  # on its way out
        return False

    def trim(self, group: GroupId, before_op: int) -> None:
        """See `LogStore.trim`."""
        self._tail_bytes -= self.group(group).trim(before_op)

    def install(
        self,
        group: GroupId,
        applied_op: int,
        applied_view: int,
        rows: Sequence[tuple[bytes, bytes | None]],
        *,
        first: bool,
        last: bool,
        digest: bytes = b"",
        part: Part = EVERYTHING,
    ) -> asyncio.Future[None]:
        """See `LogStore.install`. Pages wait for the index, many for one transaction.

        Raises Full, and nothing has changed.
        """
        self._health.check()
        known = self.group(group)
        size = sum(len(key) + len(value or b"") for key, value in rows)
        self._space.take_copy(size)
        if first:
            self._start_install(known, keep_rows=bool(part.buckets))
        assert known.installing, "the first page comes first"
        if part.buckets and not part.named:
            self._clear_part(known, part)
        for key, value in rows:
            self._index.put(known.rows_prefix + key, value)
        if last:
            known.installing = False
            known.applied_op = known.last_op = applied_op
            known.applied_view = known.last_view = applied_view
            known.first_op = applied_op + 1
            known.digest = RowDigest(group, digest) if digest else None
        self._change(known)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._installs[group] = done
        self._committing.append(done)
        self._installed_bytes += size
        if self._installed_bytes >= self._settings.apply_bytes // 2:  # more come meanwhile
            self._journal.urgent.set()
        return done

    def settle(self) -> None:
        """Put every changed group's record into the index, just before it is sealed."""
        for group in self._changed.values():
            self._index.put(_group_key(group.id), group.encode())
            group.sealed_op, group.changed = group.applied_op, False
        self._sealed = list(self._changed.values())
        self._changed.clear()
        self._purge()
        self._waiting, self._committing = self._committing, []
        self._installed_bytes = 0

    def committed(self) -> None:
        """What `settle` put is durable."""
        for group in self._sealed:
            group.settle(group.sealed_op)
        for done in self._waiting:
            if not done.done():
                done.set_result(None)
        self._installs = {g: done for g, done in self._installs.items() if not done.done()}

    def pinned(self) -> float:
        """The oldest journal sequence that a crash would need; infinite when there is none."""
        pins = (seq for group in self._groups.values() for _, seq in group.unsettled)
        return min(pins, default=math.inf)

    def carry(self, sequence: int) -> None:
        """Write entries held by records up to `sequence` again, where they are not applied."""
        for group in self._groups.values():
            ops = [op for op, seq in group.unsettled if seq <= sequence and op > group.applied_op]
            for part in self._parts([group.entries[op][0] for op in ops]):
                buffers, length = encode_entries(group.id, part)
                moved = self._journal.append(kinds.LOG_CARRY, buffers, length)
                renewed = {entry.op for entry in part}
                for entry in part:
                    group.entries[entry.op] = (entry, moved)
                group.unsettled = deque(
                    (op, moved if op in renewed else seq) for op, seq in group.unsettled
                )

    def promises(self) -> dict[GroupId, tuple[int, bytes]]:
        """(view, vote) of every group."""
        return {group.id: (group.view, group.voted) for group in self._groups.values()}

    def group(self, group: GroupId) -> Group:
        """What is in memory of a group; NotFound for one never created here."""
        known = self._groups.get(group)
        if known is None:
            raise NotFound(f"group {group} is not on this device")
        return known

    def _change(self, group: Group) -> None:
        if not group.changed:
            group.changed = True
            self._changed[group.id] = group
            self._journal.activity.set()

    def _admit(self, entries: Sequence[Entry], size: int) -> None:
        limit = self._settings.record_bytes - GROUP_BYTES - ENTRY_BYTES
        if max(len(entry.body) for entry in entries) > limit:
            raise Invalid(f"an entry is longer than {limit} bytes")
        self._journal.admit(size)
        if self._tail_bytes > 2 * self._settings.log_tail_bytes:
            self._trim_tail()  # what has been applied meanwhile is in nobody's way
        if self._tail_bytes <= self._settings.log_tail_bytes:
            self._found_bytes = 0
        if self._tail_bytes > 2 * self._settings.log_tail_bytes + self._found_bytes:
            raise Busy(f"{self._tail_bytes} bytes of log entries wait to be applied")
        if any(len(entry.body) > ROWLESS_BYTES for entry in entries):
            self._space.take_entries(size)

    def _parts(self, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """The entries in runs that fit in a record."""
        limit = self._settings.record_bytes - GROUP_BYTES
        start = size = 0
        for position, entry in enumerate(entries):
            needed = ENTRY_BYTES + len(entry.body)
            if size + needed > limit:
                yield entries[start:position]
                start, size = position, 0
            size += needed
        if start < len(entries):
            yield entries[start:]

    def _durable(self, group: GroupId) -> asyncio.Future[None]:
        """The flush of what was just appended, and of the copy it builds on."""
        flushed = self._journal.flush()
        installed = self._installs.get(group)
        if installed is None or installed.done():
            return flushed
        return _both(flushed, installed)

    def _sweep(self) -> None:
        """Drop what is gone from the order; paid for by the appends since the last time."""
        self._order = deque((g, op) for g, op in self._order if g.first_op <= op <= g.last_op)
        self._sweep_at = 2 * len(self._order) + _SWEEP_MIN

    def _trim_tail(self) -> None:
        """Forget applied entries, oldest first, until the tail fits its budget."""
        for _ in range(len(self._order)):
            if self._tail_bytes <= self._settings.log_tail_bytes:
                return
            group, op = self._order.popleft()
            if op < group.first_op or op > group.last_op:
                continue  # gone already
            if op <= group.applied_op:
                self._tail_bytes -= group.trim(op + 1)
            else:
                self._order.append((group, op))

    def _start_install(self, group: Group, *, keep_rows: bool) -> None:
        """Begin a copy. A crash before it is complete empties the group, kept rows or not: the
        record says so until the index has the last page.
        """
        generation = group.generation + 1
        record = encode_install(group.id, generation)
        sequence = self._journal.append(kinds.GROUP_INSTALL, [record], len(record))
        if keep_rows:
            generation = group.generation
        else:
            self._index.put(_purge_key(group.id, group.generation), b"")
        self._tail_bytes -= sum(len(entry.body) for entry, _ in group.entries.values())
        rotten = group.rotten and keep_rows
        group.clear(generation)
        group.rotten = rotten
        group.base, group.installing = sequence, True

    def _clear_part(self, group: Group, part: Part) -> None:
        """Delete what a page replaces."""
        prefix, within = group.rows_prefix, chosen(part.buckets, group.id)
        end = prefix + part.end if part.end else successor(prefix)
        stale = [
            key for key in self._index.keys(prefix + part.start, end) if within(key[len(prefix) :])
        ]
        for key in stale:
            self._index.put(key, None)

    def _purge(self) -> None:
        """Remove some rows of generations that were replaced."""
        found = list(islice(self._index.scan(_PURGE_TABLE, successor(_PURGE_TABLE)), 1))
        self.purging = bool(found)
        if not found:
            return
        prefix = b"r" + found[0][0][1:]
        rows = list(islice(self._index.keys(prefix, successor(prefix)), PURGE_ROWS))
        for key in rows:
            self._index.put(key, None)
        if len(rows) < PURGE_ROWS:
            self._index.put(found[0][0], None)

    def _fail_installs(self, error: Exception) -> None:
        for done in (*self._waiting, *self._committing):
            if not done.done():
                done.set_exception(error)
                done.exception()  # nobody may be left to hear of it


def load_groups(index: Index) -> dict[GroupId, Group]:
    """The groups as the index remembers them, without entries."""
    groups = {}
    for key, record in index.scan(_GROUP_TABLE, successor(_GROUP_TABLE)):
        group = GroupId(int.from_bytes(key[1:], "big"))
        groups[group] = decode_group(group, record)
    return groups


def drop_rows(index: Index, dropped: Sequence[tuple[GroupId, int]]) -> None:
    """Have the rows of replaced generations removed, bit by bit."""
    for group, generation in dropped:
        index.put(_purge_key(group, generation), b"")


def _group_key(group: GroupId) -> bytes:
    return _GROUP_TABLE + group.to_bytes(8, "big")


def _purge_key(group: GroupId, generation: int) -> bytes:
    return _PURGE_TABLE + rows_prefix(group, generation)[1:]


def _both(first: asyncio.Future[None], second: asyncio.Future[None]) -> asyncio.Future[None]:
    """Done when both are; fails with the first failure."""
    joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def step(done: asyncio.Future[None]) -> None:
        if joined.done():
            return
        if done.cancelled():
            joined.cancel()
        elif (error := done.exception()) is not None:
            joined.set_exception(error)
        elif first.done() and second.done():
            joined.set_result(None)

    first.add_done_callback(step)
    second.add_done_callback(step)
    return joined
