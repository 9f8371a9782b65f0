"""Shards: key ranges of a bucket, and how one refuses what it does not hold any more.

Whoever routes a name may know an old map of the bucket's shards. So the shard itself says where it
ends, in rows that every change checks in log order and every read in its own confirmed instant: the
*bound* (for writes) and *moved* (for reads). What a shard answers is therefore true of the bucket;
what it refuses (`ShardRefused`) has moved, is moving, or is sealed while the bucket is deleted.

The rule of this file: nobody else builds checks of these two rows for names.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Changed, Check, Collapse, Page, Row, Rows
from pinfold.model.errors import Conflict, Invalid
from pinfold.objects import keys
from pinfold.objects.records import BoundRecord, decode, encode

_SEALED: Final = b""
"""The tag of a bound below every key."""


class Shard(msgspec.Struct, frozen=True):
    """A shard as some map of its bucket shows it."""

    bucket: str
    id: bytes
    first: bytes
    end: bytes | None
    """The first name of the next shard; None: there is no next one."""

    @property
    def place(self) -> bytes:
        """Placement of everything in the shard."""
        return keys.shard_place(self.id)

    def key_range(self, section: bytes) -> tuple[bytes, bytes]:
        """The keys of its names in a section."""
        _, end = keys.section_range(self.id, section)
        if self.end is not None:
            end = keys.prefix_key(self.id, section, self.end)
        return keys.prefix_key(self.id, section, self.first), end


class ShardRefused(Conflict):
    """The shard holds the range no longer, or takes no writes.

    `row` says why; a change that was refused stays refused, and by now another may be there, or
    none.
    """

    def __init__(self, shard: Shard, row: Row | None) -> None:
        super().__init__("the shard does not hold the name")
        self.shard = shard
        self.row = row

    @property
    def bound(self) -> BoundRecord:
        """Where the shard ends, or who sealed it."""
        return bound_of(self.row)


def bound_of(row: Row | None) -> BoundRecord:
    """What a bound row, or its absence, says."""
    if row is None:
        return BoundRecord()
    return decode(BoundRecord, row.body)


def bound_row(shard: bytes, bound: BoundRecord) -> Row:
    """The row that says so."""
    if bound.deleting:
        tag = _SEALED
    elif bound.limit:
        tag = keys.border(shard, keys.prefix_position(bound.limit))
    else:
        tag = keys.shard_range(shard)[1]
    return Row(encode(bound), tag=tag)


def unchanged(key: bytes, row: Row | None) -> Check:
    """Whether a row is still as it was read."""
    return Check("absent", key) if row is None else Check("version", key, number=row.version)


def failed_check(conflict: Conflict) -> tuple[int, Row | None]:
    """(index of the check, current row) that a Conflict of the row log carries."""
    detail = conflict.detail
    if not (isinstance(detail, Sequence) and len(detail) == 2):
        raise Invalid("a conflict without its check") from conflict
    index, row = detail
    if row is not None and not isinstance(row, Row):
        row = msgspec.convert(row, Row)
    return int(index), row


class ShardRows:
    """The row log as use cases see it: every operation names its shard and may be refused by it.

    `changed` hears of every change that a shard took.
    """

    def __init__(self, rows: Rows, changed: Callable[[Shard, bytes], None]) -> None:
        self._rows = rows
        self._changed = changed

    async def get(self, shard: Shard, key: bytes) -> Row | None:
        """A row of a name; ShardRefused."""
        checks = (_ends_behind(keys.moved_key(shard.id), keys.border_of(key + b"\x00")),)
        try:
            return await self._rows.get(shard.place, key, checks=checks)
        except Conflict as conflict:
            raise _refused(shard, conflict) from None

    async def scan(
        self,
        shard: Shard,
        start: bytes,
        end: bytes,
        limit: int,
        *,
        collapse: Collapse | None = None,
    ) -> Page:
        """A page of rows of names in one section, see `Rows.scan`; ShardRefused."""
        checks = (_ends_behind(keys.moved_key(shard.id), keys.border_of(end)),)
        try:
            return await self._rows.scan(
                shard.place, start, end, limit, collapse=collapse, checks=checks
            )
        except Conflict as conflict:
            raise _refused(shard, conflict) from None

    async def change(self, shard: Shard, name: bytes, change: Change) -> Changed:
        """Change rows of one name. ShardRefused; Conflict.detail counts only `change.checks`."""
        end = keys.border(shard.id, keys.behind_position(name))
        bound = _ends_behind(keys.bound_key(shard.id), end)
        guarded = msgspec.structs.replace(change, checks=(bound, *change.checks))
        try:
            changed = await self._rows.change(shard.place, guarded)
        except Conflict as conflict:
            index, row = failed_check(conflict)
            if index == 0:
                raise _refused(shard, conflict) from None
            raise Conflict(conflict.message, detail=(index - 1, row)) from None
        self._changed(shard, name)
        return changed


def _ends_behind(key: bytes, end: bytes) -> Check:
    """Whether the bound at `key`, if there is one, leaves all names below `end` to the shard."""
    return Check("tag-not-below", key, tags=(end,))


def _refused(shard: Shard, conflict: Conflict) -> ShardRefused:
    _, row = failed_check(conflict)
    return ShardRefused(shard, row)
