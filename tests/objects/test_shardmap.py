"""Maps of buckets: as large as buckets get, and cheap to look a name up in."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.cluster.api import Change, Row
from pinfold.model.errors import Conflict
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.bucket import Bucket, NoSuchBucket
from pinfold.objects.conditions import NoSuchKey
from pinfold.objects.shardmap import Routes, shard_row
from pinfold.objects.shards import Shard
from tests.twins.store import SMALL, MemoryStore
from tests.twins.virtual import run_virtual

LONG = b"n" * 1000
SHARDS = 4000
"""With names so long they would be four times what one row may hold."""


def shards_at(firsts: list[bytes], life: bytes) -> list[Shard]:
    rng = random.Random(1)
    ids = [life, *(keys.new_shard_id(rng) for _ in firsts[1:])]
    ends = [*firsts[1:], None]
    return [
        Shard("bucket", shard, first, end)
        for shard, first, end in zip(ids, firsts, ends, strict=True)
    ]


async def large(store: MemoryStore) -> tuple[Bucket, list[Shard]]:
    """A bucket of many shards, all empty."""
    bucket = await store.bucket()
    shards = shards_at([b"", *(LONG + b"%06d" % at for at in range(1, SHARDS))], bucket.life)
    for number, start in enumerate(range(0, SHARDS, 1000)):
        puts = tuple(shard_row(shard, bucket.life) for shard in shards[start : start + 1000])
        await store.rows.change(b"", Change(OpId(number.to_bytes(16, "big")), puts=puts))
    return bucket, shards


def test_a_name_is_looked_up_in_a_large_map_by_reading_few_rows() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket, shards = await large(store)
        honest_scan, honest_get, read = store.rows.scan, store.rows.get, 0

        async def scan(*arguments: object, **options: object) -> object:
            nonlocal read
            page = await honest_scan(*arguments, **options)  # type: ignore[arg-type]
            read += sum(len(row.body) for _, row in page.items if row is not None)
            return page

        async def get(*arguments: object, **options: object) -> object:
            nonlocal read
            row = await honest_get(*arguments, **options)  # type: ignore[arg-type]
            read += 0 if row is None else len(row.body)
            return row

        store.rows.scan, store.rows.get = scan, get  # type: ignore[method-assign,assignment]
        for at in (0, 1, 1999, SHARDS - 1):
            name = LONG + b"%06d." % at
            with pytest.raises(NoSuchKey):
                await store.objects.find(bucket, name)
            _, shard = await store.buckets.locate(bucket, keys.prefix_position(name))
            assert shard == shards[at]
        assert read < 4 * 2000, "not the map"

    run_virtual(run)


def test_no_more_shards_are_remembered_than_is_set() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket, shards = await large(store)
        for shard in shards[:100]:
            found = await store.buckets.locate(bucket, keys.prefix_position(shard.first))
            assert found == (bucket, shard)
        assert len(store.buckets._maps._routes) == SMALL.route_cache_max < 100

    run_virtual(run)


def test_a_large_empty_bucket_is_deleted_with_its_map() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket, _ = await large(store)
        await store.delete_bucket()
        start, end = keys.map_range(bucket.life)
        assert [key for key in store.rows if start <= key < end] == []
        with pytest.raises(NoSuchBucket):
            await store.put(bucket, "o", b"")

    run_virtual(run)


def test_what_a_crash_leaves_of_a_large_map_goes_when_the_account_is_listed() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket, _ = await large(store)
        start, end = keys.map_range(bucket.life)

        def left() -> int:
            return sum(start <= key < end for key in store.rows)

        def crash(change: Change) -> None:
            if change.delete_ranges and not change.deletes:
                raise Crash

        store.rows.before_change = crash
        with pytest.raises(Crash):
            await store.delete_bucket()
        store.rows.before_change = None
        store.attach()
        assert left() > 0
        assert (await store.buckets.list(bucket.owner, limit=9))[0] == []
        assert left() > 0, "it may still be on its way"
        store.clock.advance(61)
        assert (await store.buckets.list(bucket.owner, limit=9))[0] == []
        assert left() == 0

    run_virtual(run)


def test_the_map_of_a_life_that_is_not_over_stays() -> None:
    """However long ago somebody read that there was no such bucket."""

    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        start, end = keys.map_range(bucket.life)
        getting = store.rows.get

        async def get_too_early(place: bytes, key: bytes, **checks: Any) -> Row | None:
            found = await getting(place, key, **checks)
            return None if key == keys.bucket_key(b"bucket") else found

        store.rows.get = get_too_early  # type: ignore[method-assign,assignment]
        with pytest.raises(Conflict):
            await store.buckets._maps.erase("bucket", bucket.life)
        store.rows.get = getting  # type: ignore[method-assign]
        await store.buckets._maps.erase("bucket", bucket.life)
        assert [key for key in store.rows if start <= key < end]

    run_virtual(run)


class Crash(Exception):
    """The gateway dies here."""


NAMES = st.binary(max_size=2)


@given(st.lists(st.tuples(st.sets(NAMES, max_size=4), NAMES), max_size=12), NAMES)
def test_what_is_remembered_is_what_was_last_learnt_of_a_position(
    maps: list[tuple[set[bytes], bytes]], asked: bytes
) -> None:
    """Learning a shard replaces what was known of all its names, and of no others."""
    routes, life = Routes(1000), b"l" * 16
    naive: dict[bytes, Shard] = {}
    every = [bytes(two) for a in range(256) for two in ((a,), (a, 7))]
    every += [b"", asked, *(border for firsts, name in maps for border in (*firsts, name))]
    for firsts, name in maps:
        shards = shards_at(sorted(firsts | {b""}), life)
        shard = next(one for one in reversed(shards) if one.first <= name)
        routes.learn(life, shard)
        holds = [at for at in every if shard.first <= at and (shard.end is None or at < shard.end)]
        replaced = {naive[at] for at in holds if at in naive} - {shard}
        naive = {at: one for at, one in naive.items() if one not in replaced}
        naive.update(dict.fromkeys(holds, shard))
    for at in every:
        assert routes.find(life, keys.prefix_position(at)) == naive.get(at)
    assert routes.find(b"m" * 16, keys.prefix_position(asked)) is None
