"""Buckets: their lives, who owns them, and which shard holds a name.

A bucket's own row decides whether it exists; the owner's list of buckets is a hint that is written
before (as an intent) and after, and that `list` corrects. Nothing needs two groups at once:

    create   intent in the list; bucket row if absent; list row live
    delete   seal the shard if it is empty; delete the bucket row; delete the list row

A crash in between leaves what repeating, listing or the next writer finishes.
"""

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Check, Counter, Row, Rows
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Conflict, NotFound
from pinfold.model.ids import OpId
from pinfold.model.settings import ObjectSettings
from pinfold.objects import keys
from pinfold.objects.records import (
    BucketListRecord,
    BucketRecord,
    decode,
    encode,
)

INTENT_KEPT_MS: Final = 60_000
"""A bucket still being created after this was given up: far beyond any request's deadline."""

ATTEMPTS: Final = 16
"""Read-and-replace rounds before others' changes count as too many."""

SCAN_ROWS: Final = 1000
"""List rows read at a time."""


class NoSuchBucket(NotFound):
    """There is no bucket of this name."""


class BucketExists(Conflict):
    """The name is taken; `owner` says by whom."""

    def __init__(self, owner: str) -> None:
        super().__init__("the bucket exists")
        self.owner = owner


class BucketNotEmpty(Conflict):
    """The bucket holds objects or open uploads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket as it was when its row was read."""

    name: str
    owner: str
    acl: str
    region: str
    created_ms: int
    shard: bytes
    version: int

    @property
    def place(self) -> bytes:
        """Placement of everything in the bucket."""
        return keys.shard_place(self.shard)

    def unsealed(self) -> Check:
        """What every put into the bucket checks."""
        return Check("absent", keys.seal_key(self.shard))


class Buckets:
    """The buckets of the cluster, with a small cache of their rows."""

    def __init__(self, env: Env, rows: Rows, settings: ObjectSettings) -> None:
        self._clock = env.clock
        self._rng = env.rng
        self._rows = rows
        self._settings = settings
        self._cache: OrderedDict[str, tuple[float, Bucket]] = OrderedDict()

    def op_id(self) -> OpId:
        """A fresh id of a change."""
        return OpId(self._rng.randbytes(16))

    async def get(self, name: str) -> Bucket:
        """The bucket as its row says now; NoSuchBucket."""
        row = await self._rows.get(keys.bucket_place(name.encode()), keys.bucket_key(name.encode()))
        if row is None:
            self.forget(name)
            raise NoSuchBucket(name)
        bucket = _bucket(name, row)
        self._cache[name] = (self._clock.monotonic(), bucket)
        self._cache.move_to_end(name)
        if len(self._cache) > self._settings.bucket_cache_max:
            self._cache.popitem(last=False)
        return bucket

    async def lookup(self, name: str) -> Bucket:
        """The bucket as it was some seconds ago; NoSuchBucket.

        What is found in its shard is found in the bucket: a deleted bucket's shard is empty and
        sealed. What is *not* found there, or refused by the seal, calls for `get`.
        """
        known = self._cache.get(name)
        if known is not None:
            if self._clock.monotonic() - known[0] < self._settings.bucket_cache_s:
                return known[1]
            del self._cache[name]
        return await self.get(name)

    def forget(self, name: str) -> None:
        """Look the bucket up again next time."""
        self._cache.pop(name, None)

    async def create(self, name: str, *, owner: str, acl: str, region: str) -> Bucket:
        """Create a bucket; BucketExists if there is one, whoever's it is."""
        await self._refuse_existing(name)
        now_ms = int(self._clock.wall() * 1000)
        shard = keys.new_shard_id(self._rng)
        note = BucketListRecord(False, shard, now_ms, region)
        intent = await self._note(owner, name, note)
        record = BucketRecord(owner, now_ms, region, acl, ((b"", shard),))
        key = keys.bucket_key(name.encode())
        change = Change(
            self.op_id(),
            checks=(Check("absent", key),),
            puts=((key, Row(encode(record))),),
        )
        try:
            await self._rows.change(keys.bucket_place(name.encode()), change)
        except Conflict:
            await self._note_of_other_life(owner, name, note, intent)
            raise BucketExists((await self.get(name)).owner) from None
        await self._renote(owner, name, _live(note), intent)
        return await self.get(name)

    async def set_acl(self, name: str, acl: str) -> None:
        """Change who may do what; NoSuchBucket."""
        place, key = keys.bucket_place(name.encode()), keys.bucket_key(name.encode())
        for _ in range(ATTEMPTS):
            row = await self._rows.get(place, key)
            if row is None:
                self.forget(name)
                raise NoSuchBucket(name)
            old = decode(BucketRecord, row.body)
            new = BucketRecord(old.owner, old.created_ms, old.region, acl, old.shards)
            change = Change(
                self.op_id(),
                checks=(Check("version", key, number=row.version),),
                puts=((key, Row(encode(new))),),
            )
            try:
                await self._rows.change(place, change)
            except Conflict:
                continue
            self.forget(name)
            return
        raise Busy("others keep changing the bucket")

    async def delete(self, name: str) -> None:
        """Delete an empty bucket; NoSuchBucket, BucketNotEmpty. Repeating finishes a delete."""
        bucket = await self.get(name)
        start, end = keys.shard_range(bucket.shard)
        seal = Change(
            self.op_id(),
            checks=(Check("empty", start, end=end),),
            puts=((keys.seal_key(bucket.shard), Row(b"")),),
        )
        try:
            await self._rows.change(bucket.place, seal)
        except Conflict:
            raise BucketNotEmpty(name) from None
        await self._remove_sealed(bucket)

    async def unsealed_again(self, bucket: Bucket) -> Bucket:
        """The bucket to use when `bucket`'s seal refused a put; NoSuchBucket.

        A seal means that a delete was decided: if it stopped half-way, it is finished here.
        """
        current = await self.get(bucket.name)
        if current.shard != bucket.shard:
            return current
        await self._remove_sealed(current)
        raise NoSuchBucket(bucket.name)

    async def usage(self, bucket: Bucket) -> Counter:
        """Objects and bytes in the bucket, exactly."""
        row = await self._rows.get(bucket.place, keys.counter_key(bucket.shard))
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
        raise BucketExists(existing.owner)

    async def _remove_sealed(self, bucket: Bucket) -> None:
        key = keys.bucket_key(bucket.name.encode())
        change = Change(
            self.op_id(),
            checks=(Check("version", key, number=bucket.version),),
            deletes=(key,),
        )
        try:
            await self._rows.change(keys.bucket_place(bucket.name.encode()), change)
        except Conflict:
            # Somebody else removed it, or rewrote its ACL: then its seal stands and we go on.
            try:
                current = await self.get(bucket.name)
            except NoSuchBucket:
                return
            if current.shard == bucket.shard:
                await self._remove_sealed(current)
            return
        self.forget(bucket.name)
        note = BucketListRecord(True, bucket.shard, bucket.created_ms, bucket.region)
        await self._undo_note(bucket.owner, bucket.name, note)

    async def _note(self, owner: str, name: str, note: BucketListRecord, *checks: Check) -> int:
        """Write the list row; its version."""
        key = keys.account_bucket_key(owner.encode(), name.encode())
        change = Change(self.op_id(), checks=checks, puts=((key, Row(encode(note))),))
        return (await self._rows.change(keys.account_place(owner.encode()), change)).version

    async def _renote(self, owner: str, name: str, note: BucketListRecord, version: int) -> None:
        """Write the list row unless somebody else did since `version`."""
        key = keys.account_bucket_key(owner.encode(), name.encode())
        with contextlib.suppress(Conflict):
            await self._note(owner, name, note, Check("version", key, number=version))

    async def _note_of_other_life(
        self, owner: str, name: str, note: BucketListRecord, intent: int
    ) -> None:
        """Take an intent back that may have replaced the note of the bucket that exists."""
        try:
            existing = await self.get(name)
        except NoSuchBucket:
            existing = None
        if existing is None or existing.owner != owner:
            await self._undo_note(owner, name, note)
            return
        unsettled = BucketListRecord(False, existing.shard, existing.created_ms, existing.region)
        await self._renote(owner, name, unsettled, intent)

    async def _undo_note(self, owner: str, name: str, note: BucketListRecord) -> None:
        """Remove the list row if it still is about this life of the bucket."""
        place = keys.account_place(owner.encode())
        key = keys.account_bucket_key(owner.encode(), name.encode())
        row = await self._rows.get(place, key)
        if row is None or decode(BucketListRecord, row.body).shard != note.shard:
            return
        check = Check("version", key, number=row.version)
        with contextlib.suppress(Conflict):  # then it is about another life by now
            await self._rows.change(place, Change(self.op_id(), checks=(check,), deletes=(key,)))

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
                shard=note.shard,
                version=0,
            )
        try:
            bucket = await self.get(name)
        except NoSuchBucket:
            if int(self._clock.wall() * 1000) - note.created_ms > INTENT_KEPT_MS:
                await self._undo_note(owner, name, note)
            return None
        if bucket.owner != owner:
            return None
        settled = BucketListRecord(True, bucket.shard, bucket.created_ms, bucket.region)
        await self._renote(owner, name, settled, row.version)
        return bucket


def _live(note: BucketListRecord) -> BucketListRecord:
    """The note of a bucket that exists."""
    return BucketListRecord(True, note.shard, note.created_ms, note.region)


def _bucket(name: str, row: Row) -> Bucket:
    record = decode(BucketRecord, row.body)
    return Bucket(
        name=name,
        owner=record.owner,
        acl=record.acl,
        region=record.region,
        created_ms=record.created_ms,
        shard=record.shards[0][1],
        version=row.version,
    )
