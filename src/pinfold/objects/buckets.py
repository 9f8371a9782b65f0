"""Buckets: their lives, who owns them, and which shard holds a name.

A bucket's own row decides whether it exists; the owner's list of buckets is a hint that is written
before (as an intent) and after, and that `list` corrects. Nothing needs two groups at once:

    create   intent in the list; bucket row if absent; list row live
    delete   mark the bucket row with a fresh attempt; seal every shard if it is empty; list row
             an intent again; delete the bucket row, and the map, if it has not changed; delete the
             rest of a large map, then the list row
    refused  (a shard is not empty:) take the mark back; lift the attempt's seals

The bucket row decides: an attempt deletes it only as it was marked and mapped when all its shards
were sealed, so no write was taken in between; once the mark is taken back the attempt can only
fail, and its seals mean nothing. A crash in between leaves what repeating, listing or the next
writer finishes: a writer that meets a seal ends the attempt, one way or the other, or lifts it.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from pinfold.cluster.api import Change, Check, Counter, Row, Rows
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Conflict, PinfoldError, Unavailable
from pinfold.model.ids import OpId
from pinfold.model.settings import ObjectSettings
from pinfold.objects import keys
from pinfold.objects.bucket import (
    Authority,
    Bucket,
    BucketExists,
    BucketNotEmpty,
    NoSuchBucket,
    NotAllowed,
    bucket_of,
    unlimited,
)
from pinfold.objects.notes import Notes
from pinfold.objects.records import BucketListRecord, BucketRecord, decode, encode
from pinfold.objects.seals import Seals
from pinfold.objects.shardmap import ShardMaps, shard_row
from pinfold.objects.shards import Shard, ShardRefused
from pinfold.objects.splitting import Mover

INTENT_KEPT_MS: Final = 60_000
"""A bucket still being created after this was given up: far beyond any request's deadline."""

ATTEMPTS: Final = 16
"""Read-and-replace rounds before others' changes count as too many."""

SCAN_ROWS: Final = 1000
"""List rows read at a time."""

_MOVING_MIN_S: Final = 0.005
_MOVING_MAX_S: Final = 0.25
"""Pauses of whoever waits for a name to arrive in its new shard, doubled each time, shortened at
random by up to a half: a range is on its way for some ten milliseconds at least."""

_HELP_AFTER: Final = 3
"""Pauses after which the waiting help: whoever was moving the name may be gone."""

_HELPING_STEPS: Final = 4
"""Steps of a split taken by one who waits, between two looks at whether it still has to."""

T = TypeVar("T")


class Buckets:
    """The buckets of the cluster, with a small cache of their rows."""

    def __init__(self, env: Env, rows: Rows, settings: ObjectSettings) -> None:
        self._clock = env.clock
        self._rng = env.rng
        self._op_prefix = env.rng.randbytes(8)
        self._op_ids = 0
        self._rows = rows
        self._settings = settings
        self._cache: OrderedDict[str, tuple[float, Bucket]] = OrderedDict()
        self._splitting: dict[str, None] = {}
        self._seals = Seals(rows, self.op_id)
        self._notes = Notes(rows, self.op_id)
        self._maps = ShardMaps(rows, self.op_id, settings.route_cache_max)
        self.mover = Mover(env, rows, settings.split_range_rows)

    def op_id(self) -> OpId:
        """A fresh id of a change: no other process begins its ids so."""
        self._op_ids += 1
        return OpId(self._op_prefix + self._op_ids.to_bytes(8, "big"))

    async def get(self, name: str, authority: Authority = unlimited) -> Bucket:
        """The bucket as its row says now; NoSuchBucket, NotAllowed."""
        row = await self._rows.get(keys.bucket_place(name.encode()), keys.bucket_key(name.encode()))
        if row is None:
            self.forget(name)
            self._splitting.pop(name, None)
            raise NoSuchBucket(name)
        bucket = bucket_of(name, decode(BucketRecord, row.body), row.version)
        if bucket.split is None:
            self._splitting.pop(name, None)
        elif len(self._splitting) < self._settings.bucket_cache_max:
            self._splitting[name] = None
        self._cache[name] = (self._clock.monotonic(), bucket)
        self._cache.move_to_end(name)
        if len(self._cache) > self._settings.bucket_cache_max:
            self._cache.popitem(last=False)
        return bucket.held_by(authority)

    async def lookup(self, name: str, authority: Authority = unlimited) -> Bucket:
        """The bucket as it was some seconds ago; NoSuchBucket, NotAllowed.

        What is found in its shards is found in the bucket: a deleted bucket's shards are empty and
        sealed, and a shard refuses what it has given away. What is *not* found there calls for
        `again`, a refusal for `rerouted`.
        """
        known = self._cache.get(name)
        if known is not None:
            if self._clock.monotonic() - known[0] < self._settings.bucket_cache_s:
                with contextlib.suppress(NotAllowed):  # another owner may allow it by now
                    return known[1].held_by(authority)
            self._cache.pop(name, None)
        return await self.get(name, authority)

    async def again(self, bucket: Bucket) -> Bucket:
        """What has the bucket's name now, if it allows its holder what the bucket did.

        NoSuchBucket, NotAllowed.
        """
        return await self.get(bucket.name, bucket.authority)

    def splitting(self) -> list[str]:
        """Buckets that were splitting a shard when their rows were last read."""
        return list(self._splitting)

    def forget(self, name: str) -> None:
        """Look the bucket up again next time."""
        self._cache.pop(name, None)

    async def create(self, name: str, *, owner: str, acl: str, region: str) -> Bucket:
        """Create a bucket; BucketExists if there is one, whoever's it is."""
        await self._refuse_existing(name)
        now_ms = int(self._clock.wall() * 1000)
        life = keys.new_shard_id(self._rng)
        note = BucketListRecord(False, life, now_ms, region)
        intent = await self._notes.write(owner, name, note)
        record = BucketRecord(owner, now_ms, region, acl, life)
        key = keys.bucket_key(name.encode())
        change = Change(
            self.op_id(),
            checks=(Check("absent", key),),
            puts=((key, Row(encode(record))), shard_row(Shard(name, life, b"", None), life)),
        )
        try:
            changed = await self._rows.change(keys.bucket_place(name.encode()), change)
        except Conflict:
            await self._note_of_other_life(owner, name, note, intent)
            raise BucketExists(await self.get(name)) from None
        with contextlib.suppress(PinfoldError):  # the bucket is there; an intent is looked after
            await self._notes.confirm(owner, name, note, intent)
        return bucket_of(name, record, changed.version)

    async def set_acl(self, bucket: Bucket, acl: str) -> None:
        """Change who may do what; NoSuchBucket, also when only the name is still there."""
        await self._rewrite(bucket, lambda old: msgspec.structs.replace(old, acl=acl))
        self.forget(bucket.name)

    async def delete(self, bucket: Bucket) -> None:
        """Delete an empty bucket; NoSuchBucket, BucketNotEmpty. Repeating finishes a delete.

        An attempt of others that is under way is joined, so that it ends even if they are gone.
        Others may so end ours: once it is under way a bucket that is gone was deleted, and what
        keeps us from ending it (Full, Busy) leaves the outcome open, so that it is Unavailable.
        """
        begun = False
        for _ in range(ATTEMPTS):
            try:
                marked = await self._rewrite(bucket, self._marked)
                begun = True
                if await self._end(marked):
                    return
            except BucketNotEmpty:
                raise
            except NoSuchBucket:
                if not begun:
                    raise
                return
            except PinfoldError as error:
                if not begun:
                    raise
                raise Unavailable("others may end the deletion that has begun") from error
        raise Unavailable("the bucket keeps changing while it is deleted")

    async def locate(self, bucket: Bucket, position: bytes) -> tuple[Bucket, Shard]:
        """The shard that holds a position, as far as is known here, and the bucket it is of.

        NoSuchBucket, NotAllowed. What the shard refuses is for `rerouted`.
        """
        shard = await self._maps.find(bucket, position)
        if shard is None:
            current = await self.again(bucket)
            shard = await self._maps.find(current, position)
            if shard is None:
                raise Busy("the bucket's name keeps changing lives")
            return current, shard
        return bucket, shard

    async def routed(
        self, bucket: Bucket, name: bytes, act: Callable[[Bucket, Shard], Awaitable[T]]
    ) -> T:
        """Do something in the shard of a name, and again where the name is when it is refused.

        `act` is given the bucket whose shard it is, and has done nothing when it raises
        ShardRefused. NoSuchBucket, NotAllowed, Busy.
        """
        position = keys.prefix_position(name)
        for attempt in range(ATTEMPTS):
            bucket, shard = await self.locate(bucket, position)
            try:
                return await act(bucket, shard)
            except ShardRefused as refused:
                bucket = await self.rerouted(bucket, refused, attempt)
        raise Busy("the name keeps moving")

    async def rerouted(self, bucket: Bucket, refused: ShardRefused, attempt: int) -> Bucket:
        """The bucket to use when one of `bucket`'s shards refused; NoSuchBucket, NotAllowed.

        Waits, the longer the more attempts there were, while what was asked for is on its way from
        one shard to another; and ends, or lifts, whatever attempt to delete the bucket has sealed
        the shard. The seal was read before the bucket's row is, and that before the map.
        """
        bound, known = refused.bound, refused.shard
        self._maps.forget(bucket.life, known)
        current = await self.again(bucket)
        if current.life != bucket.life:
            return current
        shard = await self._maps.read(current, keys.prefix_position(known.first))
        if shard is None or shard.id != known.id:
            return current
        if bound.deleting and bound.deleting == current.deleting:
            with contextlib.suppress(BucketNotEmpty):
                await self._end(current)
            return await self.again(bucket)
        if bound.deleting:
            assert refused.row is not None
            await self._seals.lift(shard.id, refused.row)
            return current
        if shard.end is not None and shard.end <= bound.limit:
            return current  # what was asked for is another's
        pause_s = min(_MOVING_MIN_S * 2**attempt, _MOVING_MAX_S)
        await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
        if attempt >= _HELP_AFTER:
            await self._help(bucket.name)
        return await self.again(bucket)

    def shards(self, bucket: Bucket) -> AsyncIterator[Shard]:
        """All shards of a bucket, in order of names."""
        return self._maps.shards(bucket)

    async def shard_now(self, bucket: Bucket, name: bytes) -> Shard | None:
        """The shard that holds a name now; None when this life of the bucket is over."""
        return await self._maps.read(bucket, keys.prefix_position(name))

    async def usage(self, bucket: Bucket) -> Counter:
        """Objects and bytes in the bucket: exact, but for names under way from shard to shard.

        Those of one range at most count twice for an instant.
        """
        rows = size = 0
        async for shard in self.shards(await self.get(bucket.name)):
            counter = await self.count(shard)
            rows += counter.rows
            size += counter.size
        return Counter(rows, size)

    async def count(self, shard: Shard) -> Counter:
        """Objects and bytes in a shard."""
        row = await self._rows.get(shard.place, keys.counter_key(shard.id))
        return msgspec.msgpack.decode(row.body, type=Counter) if row else Counter(0, 0)

    async def list(
        self, owner: str, *, prefix: str = "", start: bytes | None = None, limit: int
    ) -> tuple[list[Bucket], bytes | None]:
        """Up to `limit` of an account's buckets by name, and where the next page starts."""
        account = owner.encode()
        first, end = keys.account_bucket_range(account, prefix.encode())
        if start is not None:
            first = max(first, keys.account_bucket_range(account, start)[0])
        found: list[Bucket] = []
        position: bytes | None = first
        while position is not None:
            page = await self._rows.scan(
                keys.account_place(account), position, end, min(SCAN_ROWS, limit + 1)
            )
            for key, row in page.items:
                assert row is not None
                bucket = await self._listed(owner, key, row)
                if bucket is None:
                    continue
                if len(found) == limit:
                    return found, bucket.name.encode()
                found.append(bucket)
            position = page.next_start
        return found, None

    async def _refuse_existing(self, name: str) -> None:
        try:
            existing = await self.get(name)
        except NoSuchBucket:
            return
        raise BucketExists(existing)

    async def _rewrite(
        self, bucket: Bucket, edit: Callable[[BucketRecord], BucketRecord]
    ) -> Bucket:
        """Change a bucket's row; what it is then. NoSuchBucket when this life of it is over."""
        name = bucket.name
        place, key = keys.bucket_place(name.encode()), keys.bucket_key(name.encode())
        for _ in range(ATTEMPTS):
            row = await self._rows.get(place, key)
            old = None if row is None else decode(BucketRecord, row.body)
            if row is None or old is None or old.life != bucket.life:
                self.forget(name)
                raise NoSuchBucket(name)
            new = edit(old)
            if new == old:
                return bucket_of(name, old, row.version)
            check = Check("version", key, number=row.version)
            change = Change(self.op_id(), checks=(check,), puts=((key, Row(encode(new))),))
            try:
                changed = await self._rows.change(place, change)
            except Conflict:
                continue
            return bucket_of(name, new, changed.version)
        raise Busy("others keep changing the bucket")

    def _marked(self, record: BucketRecord) -> BucketRecord:
        return msgspec.structs.replace(record, deleting=record.deleting or self.op_id())

    async def _end(self, bucket: Bucket) -> bool:
        """End the attempt to delete a bucket that its row names; BucketNotEmpty.

        True when the bucket is gone, False when the row is another by now: somebody else has ended
        the attempt, or the map or the ACL has changed.
        """
        if not await self._seal(bucket):
            if await self._refuse_deletion(bucket):
                raise BucketNotEmpty(bucket.name)
            return True
        if await self._remove(bucket):
            return True
        try:
            current = await self.get(bucket.name)
        except NoSuchBucket:
            return True
        if current.life != bucket.life:
            return True
        if current.deleting != bucket.deleting:
            await self._lift(current, bucket.deleting)
        return False

    async def _seal(self, bucket: Bucket) -> bool:
        """Seal all shards; False when one of them holds a name."""
        async for shard in self.shards(bucket):
            if bucket.split is not None and bucket.split.parent == shard.id:
                await self.mover.clean(shard)
            if not await self._seals.seal(shard.id, bucket.deleting):
                return False
        return True

    async def _refuse_deletion(self, bucket: Bucket) -> bool:
        """End an attempt so that the bucket stays; False when it has been deleted already."""
        attempt = bucket.deleting

        def unmarked(record: BucketRecord) -> BucketRecord:
            if record.deleting != attempt:
                return record
            return msgspec.structs.replace(record, deleting=b"")

        try:
            current = await self._rewrite(bucket, unmarked)
        except NoSuchBucket:
            return False
        await self._lift(current, attempt)
        return True

    async def _lift(self, bucket: Bucket, attempt: bytes) -> None:
        async for shard in self.shards(bucket):
            await self._seals.lift_of(shard.id, attempt)

    async def _remove(self, bucket: Bucket) -> bool:
        """Delete the row of a bucket all of whose shards are sealed; False when it has changed.

        The list's note becomes an intent before: so listings look, also if nobody removes it. As
        much of the map as fits one change goes with the row.
        """
        await self._notes.doubt(bucket.owner, bucket.name)
        key = keys.bucket_key(bucket.name.encode())
        change = Change(
            self.op_id(),
            checks=(Check("version", key, number=bucket.version),),
            deletes=(key,),
            delete_ranges=(await self._maps.first_rows(bucket),),
        )
        try:
            await self._rows.change(keys.bucket_place(bucket.name.encode()), change)
        except Conflict:
            return False
        self.forget(bucket.name)
        with contextlib.suppress(PinfoldError):
            await self._tidy(bucket.owner, bucket.name, _intent(bucket))
        return True

    async def _tidy(self, owner: str, name: str, note: BucketListRecord) -> None:
        """Remove what is left of a life of a bucket's name that is over: the note goes last.

        Who lists the account comes for the rest if we are gone, and knows the life by the note.
        """
        await self._maps.erase(name, note.life)
        await self._notes.remove(owner, name, note)

    async def _help(self, name: str) -> None:
        """Take some steps of a bucket's split; whatever comes of it, the caller looks again."""
        with contextlib.suppress(PinfoldError):
            for _ in range(_HELPING_STEPS):
                if await self.mover.step(name) is None:
                    return

    async def _note_of_other_life(
        self, owner: str, name: str, note: BucketListRecord, intent: int
    ) -> None:
        """Take an intent back that may have replaced the note of the bucket that exists."""
        try:
            existing = await self.get(name)
        except NoSuchBucket:
            existing = None
        if existing is None or existing.owner != owner:
            await self._notes.remove(owner, name, note)
            return
        await self._notes.rewrite(owner, name, _intent(existing), intent)

    async def _listed(self, owner: str, key: bytes, row: Row) -> Bucket | None:
        """What a list row stands for; corrects it when the bucket's own row says otherwise."""
        note = decode(BucketListRecord, row.body)
        name = keys.account_bucket_name(owner.encode(), key).decode()
        if note.live:
            return Bucket(
                name=name,
                owner=owner,
                acl="",
                region=note.region,
                created_ms=note.created_ms,
                life=note.life,
                version=0,
            )
        try:
            bucket = await self.get(name)
        except NoSuchBucket:
            if int(self._clock.wall() * 1000) - note.created_ms > INTENT_KEPT_MS:
                with contextlib.suppress(PinfoldError):
                    await self._tidy(owner, name, note)
            return None
        if bucket.owner != owner:
            return None
        if bucket.deleting:
            return bucket  # soon it may be gone, and nobody would look again
        if note.life != bucket.life:
            with contextlib.suppress(PinfoldError):
                await self._maps.erase(name, note.life)
        settled = msgspec.structs.replace(_intent(bucket), live=True)
        await self._notes.rewrite(owner, name, settled, row.version)
        return bucket


def _intent(bucket: Bucket) -> BucketListRecord:
    """The note of a bucket that is being created, or deleted."""
    return BucketListRecord(False, bucket.life, bucket.created_ms, bucket.region)
