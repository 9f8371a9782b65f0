"""A bucket's map: which shard holds which names, one row a shard, found without reading the others.

The rows stand beside the bucket's own, in the same group, in order of the first names: the shard of
a name is one step back from where the name would stand. So a map grows as buckets do, a look-up
costs the log of its size, and a change of the map is one change together with the bucket's row. The
rows belong to one life of the bucket's name; nobody changes them when it is over.

What was read is remembered, and never too old to be used: a shard refuses what it does not hold.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Final

from pinfold.cluster.api import Change, Row, Rows
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.bucket import Bucket
from pinfold.objects.records import BucketRecord, ShardRecord, decode, encode
from pinfold.objects.shards import Shard, unchanged

PAGE_ROWS: Final = 500
"""Rows of a map read or deleted at a time."""


def shard_row(shard: Shard, life: bytes) -> tuple[bytes, Row]:
    """The row, with its key, that says where a shard is in the map of a bucket's life."""
    record = ShardRecord(shard.id, shard.end or b"")
    return keys.map_key(life, keys.prefix_position(shard.first)), Row(encode(record))


def shard_of(bucket: str, life: bytes, key: bytes, row: Row) -> Shard:
    """The shard that a row is about."""
    record = decode(ShardRecord, row.body)
    return Shard(bucket, record.id, keys.map_first(life, key), record.end or None)


class ShardMaps:
    """The maps of all buckets, with a bounded memory of what was read."""

    def __init__(self, rows: Rows, op_id: Callable[[], OpId], routes_max: int) -> None:
        self._rows = rows
        self._op_id = op_id
        self._routes = Routes(routes_max)

    async def find(self, bucket: Bucket, position: bytes) -> Shard | None:
        """The shard that holds a position, as it was some time ago.

        None when this life of the bucket is over and nothing is remembered of it.
        """
        return self._routes.find(bucket.life, position) or await self.read(bucket, position)

    async def read(self, bucket: Bucket, position: bytes) -> Shard | None:
        """The shard that holds a position now; None when this life of the bucket is over."""
        start, _ = keys.map_range(bucket.life)
        end = keys.map_key(bucket.life, position) + b"\x00"
        place = keys.bucket_place(bucket.name.encode())
        page = await self._rows.scan(place, start, end, 1, reverse=True)
        for key, row in page.items:
            assert row is not None
            shard = shard_of(bucket.name, bucket.life, key, row)
            self._routes.learn(bucket.life, shard)
            return shard
        return None

    def forget(self, life: bytes, shard: Shard) -> None:
        """Do not find the shard again as it was."""
        self._routes.forget(life, shard)

    async def shards(self, bucket: Bucket) -> AsyncIterator[Shard]:
        """All shards, in order of names; nothing of a bucket that is gone."""
        position: bytes | None
        position, end = keys.map_range(bucket.life)
        place = keys.bucket_place(bucket.name.encode())
        while position is not None:
            page = await self._rows.scan(place, position, end, PAGE_ROWS)
            for key, row in page.items:
                assert row is not None
                yield shard_of(bucket.name, bucket.life, key, row)
            position = page.next_start

    async def first_rows(self, bucket: Bucket) -> tuple[bytes, bytes]:
        """The keys of as much of the map as one change may delete: all of it, of most buckets."""
        start, end = keys.map_range(bucket.life)
        place = keys.bucket_place(bucket.name.encode())
        page = await self._rows.scan(place, start, end, PAGE_ROWS)
        return start, page.next_start or end

    async def erase(self, bucket: str, life: bytes) -> None:
        """Delete what is left of the map of a bucket's life, piece by piece, if that is over.

        Each piece goes only while the bucket's row is still as it was: a life begins with that.
        """
        position: bytes | None
        position, end = keys.map_range(life)
        place, key = keys.bucket_place(bucket.encode()), keys.bucket_key(bucket.encode())
        row = await self._rows.get(place, key)
        if row is not None and decode(BucketRecord, row.body).life == life:
            return
        over = unchanged(key, row)
        while position is not None:
            page = await self._rows.scan(place, position, end, PAGE_ROWS)
            if page.items:
                piece = (position, page.next_start or end)
                change = Change(self._op_id(), checks=(over,), delete_ranges=(piece,))
                await self._rows.change(place, change)
            position = page.next_start


class Routes:
    """Shards remembered by the position at which they begin; of too many the idlest are dropped."""

    def __init__(self, routes_max: int) -> None:
        self._routes_max = routes_max
        self._shards: OrderedDict[tuple[bytes, bytes], Shard] = OrderedDict()
        """By life and position, the idlest first."""
        self._starts: dict[bytes, list[bytes]] = {}
        """The positions of each life, in order."""

    def __len__(self) -> int:
        return len(self._shards)

    def find(self, life: bytes, position: bytes) -> Shard | None:
        """The shard known to hold a position."""
        starts = self._starts.get(life)
        index = bisect_right(starts, position) - 1 if starts else -1
        if starts is None or index < 0:
            return None
        shard = self._shards[life, starts[index]]
        if shard.end is not None and position >= keys.prefix_position(shard.end):
            return None
        self._shards.move_to_end((life, starts[index]))
        return shard

    def learn(self, life: bytes, shard: Shard) -> None:
        """Know a shard, and forget whatever was known to hold some of its names."""
        start = keys.prefix_position(shard.first)
        starts = self._starts.setdefault(life, [])
        low = bisect_left(starts, start)
        if low > 0 and self._reaches(life, starts[low - 1], start):
            low -= 1
        high = len(starts)
        if shard.end is not None:
            high = bisect_left(starts, keys.prefix_position(shard.end))
        for known in starts[low:high]:
            del self._shards[life, known]
        starts[low:high] = [start]
        self._shards[life, start] = shard
        if len(self._shards) > self._routes_max:
            self._drop(*next(iter(self._shards)))

    def forget(self, life: bytes, shard: Shard) -> None:
        """Forget a shard, unless it is known otherwise by now."""
        start = keys.prefix_position(shard.first)
        if self._shards.get((life, start)) == shard:
            self._drop(life, start)

    def _reaches(self, life: bytes, start: bytes, position: bytes) -> bool:
        end = self._shards[life, start].end
        return end is None or keys.prefix_position(end) > position

    def _drop(self, life: bytes, start: bytes) -> None:
        del self._shards[life, start]
        starts = self._starts[life]
        del starts[bisect_left(starts, start)]
        if not starts:
            del self._starts[life]
