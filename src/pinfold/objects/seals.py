"""Seals: bounds below what a shard holds, by those who need its writes or reads to stand still.

A seal of the whole shard, while it is decided whether its bucket is deleted, carries the attempt
that set it; a limit for a range that is on its way to another shard carries the split. Both stand
for as long as the bucket's row says that this attempt, or this split, is under way: one that was
set too late, or left behind, means nothing. Whoever meets a seal therefore reads it first, then the
bucket's row, and takes away only that very seal.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Check, Row, Rows
from pinfold.model.errors import Busy, Conflict
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.records import BoundRecord
from pinfold.objects.shards import (
    Shard,
    bound_of,
    bound_row,
    failed_check,
    rebound,
    unchanged,
)

ATTEMPTS: Final = 16
"""Rounds of reading a bound before its changing meanwhile counts as too much."""


class Seals:
    """Sets those of deletions, and takes both kinds away."""

    def __init__(self, rows: Rows, op_id: Callable[[], OpId]) -> None:
        self._rows = rows
        self._op_id = op_id

    async def seal(self, shard: bytes, attempt: bytes) -> bool:
        """Make a shard take no write if it has no row of any name; False when it has one."""
        assert attempt
        place, key = keys.shard_place(shard), keys.bound_key(shard)
        start, end = keys.shard_range(shard)
        for _ in range(ATTEMPTS):
            row = await self._rows.get(place, key)
            bound = bound_of(row)
            if bound.deleting == attempt:
                return True
            sealed = bound_row(shard, msgspec.structs.replace(bound, deleting=attempt))
            change = Change(
                self._op_id(),
                checks=(unchanged(key, row), Check("empty", start, end=end)),
                puts=((key, sealed),),
            )
            try:
                await self._rows.change(place, change)
            except Conflict as conflict:
                if failed_check(conflict)[0] > 0:
                    return False
                continue
            return True
        raise Busy("the shard's bound keeps changing")

    async def lift(self, shard: bytes, row: Row) -> None:
        """Lift a deletion's seal that a bound row was read with, unless it has changed since."""
        bound = bound_of(row)
        assert bound.deleting
        lifted = msgspec.structs.replace(bound, deleting=b"")
        await self._replace(shard, keys.bound_key(shard), row, lifted)

    async def lift_of(self, shard: bytes, attempt: bytes) -> None:
        """Lift an attempt's seal, if the shard has it."""
        row = await self._rows.get(keys.shard_place(shard), keys.bound_key(shard))
        if row is not None and bound_of(row).deleting == attempt:
            await self.lift(shard, row)

    async def undo(self, shard: Shard, key: bytes, row: Row) -> None:
        """Take back the limit of a split that has ended: the shard holds all that its map says.

        `key` is that of its bound for writes, or for reads. Nothing if the row has changed since.
        """
        held = msgspec.structs.replace(bound_of(row), limit=shard.end or b"", split=b"")
        await self._replace(shard.id, key, row, held)

    async def _replace(self, shard: bytes, key: bytes, row: Row, bound: BoundRecord) -> None:
        try:
            await self._rows.change(
                keys.shard_place(shard), rebound(shard, key, row, bound, self._op_id())
            )
        except Conflict:
            return  # somebody else has been there
