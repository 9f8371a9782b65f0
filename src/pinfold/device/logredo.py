"""Rebuilding the groups' logs from what the index and the journal kept.

The journal holds a suffix of its history. Folding that suffix gives every entry whose last write
is in it; entries written before it were durable in the index when their segment was released, so
what is missing lies at or below applied_op. Anything else means the device lost entries.
"""

from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.api import Entry
from pinfold.device.group import Group, decode_create, decode_entries, decode_install, decode_view
from pinfold.model.errors import Corrupt
from pinfold.model.ids import GroupId


class _Found:
    """One group's entries, as far as the journal has been read."""

    __slots__ = ("entries", "last")

    def __init__(self) -> None:
        self.entries: dict[int, tuple[Entry, int]] = {}
        """By op, with the sequence of the record that holds it now."""
        self.last = 0
        """Highest op; 0 without any."""

    def truncate(self, op: int) -> None:
        """Forget the entries from `op` on."""
        for gone in range(op, self.last + 1):
            self.entries.pop(gone, None)
        self.last = min(self.last, op - 1)


class LogRedo:
    """Takes the journal's records in order, then yields groups that satisfy their invariant."""

    def __init__(self, groups: dict[GroupId, Group]) -> None:
        self._groups = groups
        self._found: dict[GroupId, _Found] = {}
        self.dropped: list[tuple[GroupId, int]] = []
        """(group, generation) whose rows belong to nobody any more."""

    def redo(self, record: Record) -> None:
        """Take one record of a log kind."""
        if record.kind in (kinds.LOG_APPEND, kinds.LOG_CARRY):
            group_id, entries = decode_entries(record.payload)
            self._append(self._group(group_id), entries, record)
        elif record.kind == kinds.GROUP_VIEW:
            group_id, view, voted = decode_view(record.payload)
            group = self._group(group_id)
            if view >= group.view and record.sequence > group.base:
                group.view, group.voted, group.changed = view, voted, True
        elif record.kind == kinds.GROUP_INSTALL:
            group_id, generation = decode_install(record.payload)
            self._install(self._group(group_id), generation, record.sequence)
        else:
            assert record.kind == kinds.GROUP_CREATE, "a log record"
            self._group(decode_create(record.payload))

    def finish(self) -> dict[GroupId, Group]:
        """The groups, with their entries. Corrupt when an unapplied entry is missing."""
        for group in self._groups.values():
            if group.installing:
                self.dropped.append((group.id, group.generation))
                group.clear(group.generation + 1)
                group.installing, group.changed = False, True
            self._restore(group, self._found.get(group.id, _Found()))
        return self._groups

    def _group(self, group_id: GroupId) -> Group:
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = Group(group_id)
        return group

    def _append(self, group: Group, entries: list[Entry], record: Record) -> None:
        if record.sequence <= group.base:
            return
        found = self._found.setdefault(group.id, _Found())
        if record.kind == kinds.LOG_APPEND:
            found.truncate(entries[0].op)
        for entry in entries:
            found.entries[entry.op] = (entry, record.sequence)
            if entry.view > group.view:
                group.view, group.changed = entry.view, True
        found.last = max(found.last, entries[-1].op)

    def _install(self, group: Group, generation: int, sequence: int) -> None:
        if sequence <= group.base:
            return
        self.dropped.append((group.id, group.generation))
        group.clear(generation)
        group.base, group.installing, group.changed = sequence, True, True
        self._found.pop(group.id, None)

    def _restore(self, group: Group, found: _Found) -> None:
        last, entries = found.last, found.entries
        if not entries or last < group.applied_op:
            return
        first = last
        while first - 1 in entries:
            first -= 1
        if first > group.applied_op + 1:
            raise Corrupt(
                f"group {group.id} has applied {group.applied_op} and its log starts at {first}"
            )
        group.first_op, group.last_op = first, first - 1
        for op in range(first, last + 1):
            entry, sequence = entries[op]
            group.append(entry, sequence)
        group.settle(group.applied_op)
