"""Objects: put, find, delete, and change what is said about them.

A put is one change of one row: it checks that the bucket lives and that the caller's conditions
hold, in the order of the log. Whoever reads a row sees bytes that were all there before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Changed, Check, Row, Rows
from pinfold.model.errors import Busy, Conflict, Invalid, PinfoldError, Unavailable
from pinfold.objects import keys
from pinfold.objects.buckets import Bucket, Buckets
from pinfold.objects.conditions import NONE, Conditions, NoSuchKey, PreconditionFailed, refusal
from pinfold.objects.reading import Chunks, Reading
from pinfold.objects.records import ObjectRecord, decode, encode
from pinfold.objects.staging import Staged, Staging

ATTEMPTS: Final = 16
"""Read-and-replace rounds before others' changes count as too many."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object's row, read."""

    row: Row
    record: ObjectRecord

    @property
    def modified_ms(self) -> int:
        """When its bytes were written."""
        return self.record.modified_ms or self.row.stamp_ms


class Objects:
    """The objects of all buckets."""

    def __init__(self, rows: Rows, buckets: Buckets, staging: Staging, reading: Reading) -> None:
        self._rows = rows
        self._buckets = buckets
        self._staging = staging
        self._reading = reading

    async def find(self, bucket: Bucket, name: bytes) -> Found:
        """The current object; NoSuchKey, or NoSuchBucket when the bucket is gone meanwhile.

        The bucket may be the cache's: a miss looks at the bucket's own row before it says so.
        """
        found = await self._find(bucket, name)
        if found is not None:
            return found
        current = await self._buckets.get(bucket.name)
        if current.shard != bucket.shard:
            found = await self._find(current, name)
            if found is not None:
                return found
        raise NoSuchKey(f"no object of this name in {bucket.name}")

    def chunks(self, found: Found, start: int, stop: int) -> Chunks:
        """The object's bytes start <= i < stop; see `Reading.chunks`."""
        return self._reading.chunks(found.row, found.record, start, stop)

    async def put(
        self,
        bucket: Bucket,
        name: bytes,
        record: ObjectRecord,
        staged: Staged,
        conditions: Conditions = NONE,
    ) -> Changed:
        """Name staged bytes. NoSuchBucket, PreconditionFailed, NoSuchKey (If-Match of nothing).

        The staged bytes are given back unless the row names them or may do so (Unavailable).
        """
        row = Row(
            encode(record),
            tag=record.etag.encode(),
            size=record.size,
            blobs=staged.blobs,
            payload=staged.inline,
        )

        def change(shard: bytes) -> Change:
            key = keys.object_key(shard, name)
            return Change(
                self._buckets.op_id(),
                checks=(
                    Check("absent", keys.seal_key(shard)),
                    *conditions.checks(key),
                ),
                puts=((key, row),),
                counter=keys.counter_key(shard),
            )

        try:
            return await self.change(bucket, change)
        except Unavailable:
            raise
        except PinfoldError:
            await self._staging.discard(staged)
            raise

    async def delete(self, bucket: Bucket, name: bytes, conditions: Conditions = NONE) -> None:
        """Make sure that there is no current object; NoSuchBucket.

        With conditions: PreconditionFailed when there is one for which they do not hold.
        """
        if conditions == NONE:
            await self._delete_blindly(bucket, name)
            return
        for _ in range(ATTEMPTS):
            try:
                found = await self.find(bucket, name)
            except NoSuchKey:
                return
            if not conditions.holds_for(found.record, found.modified_ms):
                raise PreconditionFailed("the precondition does not hold")
            try:
                await self._delete_version(bucket, name, found.row.version)
            except Conflict:
                bucket = await self._buckets.get(bucket.name)
                continue
            return
        raise Busy("others keep changing the object")

    async def rewrite(
        self, bucket: Bucket, name: bytes, edit: Callable[[Found], ObjectRecord]
    ) -> Found:
        """Change what is said about an object, keeping its bytes; what it was before.

        `edit` raises to refuse. Its record's `modified_ms` decides whether the object looks new.
        """
        for _ in range(ATTEMPTS):
            found = await self.find(bucket, name)
            record = edit(found)
            row = msgspec.structs.replace(
                found.row, body=encode(record), tag=record.etag.encode(), version=0, stamp_ms=0
            )
            key = keys.object_key(bucket.shard, name)
            change = Change(
                self._buckets.op_id(),
                checks=(bucket.unsealed(), Check("version", key, number=found.row.version)),
                puts=((key, row),),
                counter=keys.counter_key(bucket.shard),
            )
            try:
                await self._rows.change(bucket.place, change)
            except Conflict:
                bucket = await self._buckets.get(bucket.name)
                continue
            return found
        raise Busy("others keep changing the object")

    async def change(self, bucket: Bucket, make: Callable[[bytes], Change]) -> Changed:
        """Make a change of a shard whose first check is the seal's and whose others are conditions.

        A seal that the cache did not know of is looked into and the change made again in the
        bucket's next life, or NoSuchBucket.
        """
        for _ in range(ATTEMPTS):
            change = make(bucket.shard)
            try:
                return await self._rows.change(bucket.place, change)
            except Conflict as conflict:
                index, row = failed_check(conflict)
                if index > 0:
                    raise refusal(change.checks[index], row) from None
                bucket = await self._buckets.unsealed_again(bucket)
        raise Busy("the bucket keeps being deleted")

    async def _find(self, bucket: Bucket, name: bytes) -> Found | None:
        row = await self._rows.get(bucket.place, keys.object_key(bucket.shard, name))
        return None if row is None else Found(row, decode(ObjectRecord, row.body))

    async def _delete_blindly(self, bucket: Bucket, name: bytes) -> None:
        """Delete without conditions; nothing is sealed by it, but the bucket must be the real one.

        A delete through a cached bucket whose life is over would miss the object of the next life.
        """
        key = keys.object_key(bucket.shard, name)
        change = Change(
            self._buckets.op_id(),
            checks=(bucket.unsealed(),),
            deletes=(key,),
            counter=keys.counter_key(bucket.shard),
        )
        try:
            await self._rows.change(bucket.place, change)
        except Conflict:
            await self._delete_blindly(await self._buckets.unsealed_again(bucket), name)

    async def _delete_version(self, bucket: Bucket, name: bytes, version: int) -> None:
        key = keys.object_key(bucket.shard, name)
        change = Change(
            self._buckets.op_id(),
            checks=(Check("version", key, number=version),),
            deletes=(key,),
            counter=keys.counter_key(bucket.shard),
        )
        await self._rows.change(bucket.place, change)


def failed_check(conflict: Conflict) -> tuple[int, Row | None]:
    """(index of the check, current row) that a change's Conflict carries."""
    detail = conflict.detail
    if not (isinstance(detail, Sequence) and len(detail) == 2):
        raise Invalid("a conflict without its check") from conflict
    index, row = detail
    if row is not None and not isinstance(row, Row):
        row = msgspec.convert(row, Row)
    return int(index), row
