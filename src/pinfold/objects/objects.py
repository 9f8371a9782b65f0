"""Objects: put, find, delete, and change what is said about them.

A put is one change of one row: it checks that the bucket lives and that the caller's conditions
hold, in the order of the log. Whoever reads a row sees bytes that were all there before it.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Changed, Check, Row
from pinfold.model.errors import Busy, Conflict, PinfoldError, Unavailable
from pinfold.objects import keys
from pinfold.objects.bucket import Bucket
from pinfold.objects.buckets import Buckets
from pinfold.objects.conditions import NONE, Conditions, NoSuchKey, PreconditionFailed, refusal
from pinfold.objects.reading import Chunks, Reading
from pinfold.objects.records import ObjectRecord, decode, encode
from pinfold.objects.shards import Shard, ShardRefused, ShardRows, failed_check
from pinfold.objects.staging import Staged, Staging

ATTEMPTS: Final = 16
"""Read-and-replace rounds before others' changes count as too many."""


class Found(msgspec.Struct, frozen=True):
    """An object's row, read."""

    bucket: Bucket
    """The bucket that it is in."""
    shard: Shard
    """Where it was found."""
    row: Row
    record: ObjectRecord

    @property
    def modified_ms(self) -> int:
        """When its bytes were written."""
        return self.record.modified_ms or self.row.stamp_ms


class Objects:
    """The objects of all buckets."""

    def __init__(
        self, rows: ShardRows, buckets: Buckets, staging: Staging, reading: Reading
    ) -> None:
        self._rows = rows
        self._buckets = buckets
        self._staging = staging
        self._reading = reading

    async def find(self, bucket: Bucket, name: bytes) -> Found:
        """The current object; NoSuchKey, or NoSuchBucket when the bucket is gone meanwhile.

        The bucket may be the cache's: a miss looks at the bucket's own row before it says so.
        NotAllowed when what has the bucket's name by now does not allow its holder what it did.
        """
        found = await self._find(bucket, name)
        if found is not None:
            return found
        current = await self._buckets.again(bucket)
        if current.life != bucket.life:
            found = await self._find(current, name)
            if found is not None:
                return found
        raise NoSuchKey(f"no object of this name in {bucket.name}")

    def inline(self, found: Found, start: int, stop: int) -> bytes | None:
        """The object's bytes start <= i < stop if they came with its row."""
        return self._reading.inline(found.row, found.record, start, stop)

    def chunks(self, found: Found, start: int, stop: int) -> Chunks:
        """The object's bytes start <= i < stop; see `Reading.chunks`."""
        return self._reading.chunks(found.row, found.record, start, stop)

    def copied(self, found: Found, start: int, stop: int) -> Chunks:
        """The same to be staged again; see `Reading.copied`."""
        return self._reading.copied(found.row, found.record, start, stop)

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
                checks=conditions.checks(key),
                puts=((key, row),),
                counter=keys.counter_key(shard),
            )

        try:
            return await self.change(bucket, name, change)
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
            await self.change(bucket, name, lambda shard: self._deletion(shard, name))
            return
        for turn in range(ATTEMPTS):
            try:
                found = await self.find(bucket, name)
            except NoSuchKey:
                return
            if not conditions.holds_for(found.record, found.modified_ms):
                raise PreconditionFailed("the precondition does not hold")
            key = keys.object_key(found.shard.id, name)
            change = Change(
                self._buckets.op_id(),
                checks=(Check("version", key, number=found.row.version),),
                deletes=(key,),
                counter=keys.counter_key(found.shard.id),
            )
            changed = await self._change_found(found, name, change, turn)
            if isinstance(changed, Changed):
                return
            bucket = changed
        raise Busy("others keep changing the object")

    async def rewrite(
        self, bucket: Bucket, name: bytes, edit: Callable[[Found], ObjectRecord]
    ) -> Found:
        """Change what is said about an object, keeping its bytes; what it is then.

        `edit` is asked about every version that is found until one is still current when it is
        replaced, and raises to refuse: what is allowed of one version may not be of the next. Its
        record's `modified_ms` decides whether the object looks new.
        """
        for turn in range(ATTEMPTS):
            found = await self.find(bucket, name)
            record = edit(found)
            row = msgspec.structs.replace(
                found.row, body=encode(record), tag=record.etag.encode(), version=0, stamp_ms=0
            )
            key = keys.object_key(found.shard.id, name)
            change = Change(
                self._buckets.op_id(),
                checks=(Check("version", key, number=found.row.version),),
                puts=((key, row),),
                counter=keys.counter_key(found.shard.id),
            )
            changed = await self._change_found(found, name, change, turn)
            if isinstance(changed, Changed):
                stamped = msgspec.structs.replace(
                    row, version=changed.version, stamp_ms=changed.stamp_ms
                )
                return Found(found.bucket, found.shard, stamped, record)
            bucket = changed
        raise Busy("others keep changing the object")

    async def change(self, bucket: Bucket, name: bytes, make: Callable[[bytes], Change]) -> Changed:
        """Make a change in the shard of a name whose checks are all the client's conditions.

        NoSuchBucket, PreconditionFailed, NoSuchKey.
        """

        async def attempt(_bucket: Bucket, shard: Shard) -> Changed:
            change = make(shard.id)
            try:
                return await self._rows.change(shard, name, change)
            except ShardRefused:
                raise
            except Conflict as conflict:
                index, row = failed_check(conflict)
                raise refusal(change.checks[index], row) from None

        return await self._buckets.routed(bucket, name, attempt)

    async def _find(self, bucket: Bucket, name: bytes) -> Found | None:
        async def attempt(current: Bucket, shard: Shard) -> Found | None:
            row = await self._rows.get(shard, keys.object_key(shard.id, name))
            if row is None:
                return None
            return Found(current, shard, row, decode(ObjectRecord, row.body))

        return await self._buckets.routed(bucket, name, attempt)

    def _deletion(self, shard: bytes, name: bytes) -> Change:
        """Delete without conditions.

        It is refused as a put is by a bucket whose life is over: through the cache it would miss
        the object of the next life.
        """
        key = keys.object_key(shard, name)
        return Change(self._buckets.op_id(), deletes=(key,), counter=keys.counter_key(shard))

    async def _change_found(
        self, found: Found, name: bytes, change: Change, turn: int
    ) -> Changed | Bucket:
        """Make a change of the object that was found; else the bucket to look for it again in.

        It is made in the shard in which it was found: versions mean nothing in another.
        """
        try:
            return await self._rows.change(found.shard, name, change)
        except ShardRefused as refused:
            return await self._buckets.rerouted(found.bucket, refused, turn)
        except Conflict:
            return await self._buckets.again(found.bucket)
