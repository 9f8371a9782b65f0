"""Seals: shards that take no write at all while it is decided whether their bucket is deleted.

A seal carries the id of the attempt that set it. It stands for as long as the bucket's row says
that this attempt is under way; whoever meets a seal of any other attempt lifts it. So a seal is
read first, then the bucket's row, and only that very seal is lifted.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Check, Row, Rows
from pinfold.model.errors import Busy, Conflict
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.shards import bound_of, bound_row, failed_check, unchanged

ATTEMPTS: Final = 16
"""Rounds of reading a bound before its changing meanwhile counts as too much."""


class Seals:
    """Sets and lifts them."""

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
        """Lift the seal that a bound row was read with, unless it has changed since."""
        bound = bound_of(row)
        assert bound.deleting
        key = keys.bound_key(shard)
        before = (Check("version", key, number=row.version),)
        if bound.limit or bound.closed:
            restored = bound_row(shard, msgspec.structs.replace(bound, deleting=b""))
            change = Change(self._op_id(), before, puts=((key, restored),))
        else:
            change = Change(self._op_id(), before, deletes=(key,))
        try:
            await self._rows.change(keys.shard_place(shard), change)
        except Conflict:
            return  # somebody else has lifted it

    async def lift_of(self, shard: bytes, attempt: bytes) -> None:
        """Lift an attempt's seal, if the shard has it."""
        row = await self._rows.get(keys.shard_place(shard), keys.bound_key(shard))
        if row is not None and bound_of(row).deleting == attempt:
            await self.lift(shard, row)
