"""Which shards are split, how, and that a split left lying is gone on with."""

import asyncio
from random import Random
from typing import Any, cast

import pytest

from pinfold.cluster.api import Counter, Row
from pinfold.model.errors import Unavailable
from pinfold.objects.bucket import Bucket
from pinfold.objects.shards import Shard
from pinfold.objects.splitter import SAMPLES, Goal, Load, Loads, goal_of
from pinfold.objects.splitting import EVERYTHING, Mover
from tests.twins.cluster import MemoryRows
from tests.twins.store import SMALL, MemoryStore

SHARD = Shard("bucket", b"s" * 16, b"f", None)


def busy(*names: bytes, changes: int = 100) -> Load:
    return Load("bucket", changes, list(names))


@pytest.mark.parametrize(
    ("load", "rows", "goal"),
    [
        (busy(b"g", changes=1), 4, None),
        (busy(b"g", changes=1), 5, Goal(b"", 2)),
        (busy(b"g", b"h", b"i", changes=20), 3, None),
        (busy(b"i", b"g", b"h", changes=21), 3, Goal(b"h", EVERYTHING)),
        (busy(b"g", b"g", b"h"), 3, Goal(b"h", EVERYTHING)),
        (busy(b"g", b"g", b"g"), 3, None),
        (busy(b"f", b"f", b"g"), 3, Goal(b"g", EVERYTHING)),
        (busy(b"f"), 3, None),
    ],
)
def test_what_is_too_large_or_too_busy_is_split_and_one_name_is_not(
    load: Load, rows: int, goal: Goal | None
) -> None:
    assert goal_of(SHARD, load, Counter(rows, 0), 2.0, SMALL) == goal


def test_loads_count_all_and_keep_a_fair_sample() -> None:
    loads = Loads(Random(1))
    for number in range(4000):
        loads.note(SHARD, b"%04d" % number)
    (load,) = loads.take().values()
    assert load.changes == 4000
    assert len(load.names) == SAMPLES
    assert 1500 < int(sorted(load.names)[SAMPLES // 2]) < 2500
    assert loads.take() == {}


async def filled(count: int) -> tuple[MemoryStore, Bucket]:
    store = MemoryStore()
    bucket = await store.bucket()
    for number in range(count):
        await store.put(bucket, f"k{number:02}", b"x")
    return store, bucket


async def sizes(store: MemoryStore) -> list[int]:
    return [(await store.buckets.count(shard)).rows for shard in await store.shards()]


def test_a_bucket_that_grows_is_split_until_every_shard_is_small() -> None:
    async def run() -> None:
        store, bucket = await filled(4)
        store.clock.advance(1)
        await store.splitter.pass_once()
        assert await sizes(store) == [4]
        for number in range(4, 24):
            await store.put(bucket, f"k{number:02}", b"x")
            store.clock.advance(1)
            await store.splitter.pass_once()
        shown = await sizes(store)
        assert sum(shown) == 24
        assert max(shown) <= 5
        assert len(await store.names(bucket)) == 24

    asyncio.run(run())


def test_a_busy_shard_is_split_in_the_middle_of_its_traffic() -> None:
    async def run() -> None:
        store, bucket = await filled(4)
        store.clock.advance(1)
        await store.splitter.pass_once()
        for _ in range(20):
            for name in ("k00", "k02", "k03"):
                await store.put(bucket, name, b"y")
        store.clock.advance(2)
        await store.splitter.pass_once()
        assert [shard.first for shard in await store.shards()] == [b"", b"k02"]

    asyncio.run(run())


def test_a_split_left_lying_is_finished_by_another_process_that_reads_the_bucket() -> None:
    async def run() -> None:
        store, _ = await filled(8)
        await store.buckets.mover.begin((await store.shards())[0], until=b"k04", rows=EVERYTHING)
        for _ in range(3):
            await store.buckets.mover.step("bucket")
        other = MemoryStore(seed=2)
        other.rows, other.blobs = store.rows, store.blobs
        other.attach()
        assert await other.splitter.pass_once() == 0, "it has not heard of the bucket"
        await other.buckets.lookup("bucket")
        assert await other.splitter.pass_once() > 0
        assert await sizes(other) == [4, 4]
        assert other.buckets.splitting() == []

    asyncio.run(run())


class NoBounds:
    """Rows in a group that has no primary: the bounds of shards cannot be read."""

    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    async def get(self, place: bytes, key: bytes, **options: Any) -> Row | None:
        if place.startswith(b"s/"):
            raise Unavailable("no primary")
        return await self._rows.get(place, key, **options)


def test_a_split_whose_rows_cannot_be_read_waits_and_ends_no_worker() -> None:
    async def run() -> None:
        store, _ = await filled(8)
        await store.buckets.mover.begin((await store.shards())[0], until=b"k04", rows=EVERYTHING)
        await store.buckets.lookup("bucket")
        store.buckets.mover = Mover(store.env, cast(Any, NoBounds(store.rows)), 1000)
        assert await store.splitter.pass_once() == 0
        with pytest.raises(Unavailable):
            await store.buckets.mover.step("bucket")

    asyncio.run(run())


def test_a_shard_whose_traffic_leaves_no_rows_is_split_as_well() -> None:
    async def run() -> None:
        store, bucket = await filled(0)
        for _ in range(20):
            for name in ("k00", "k01", "k02"):
                await store.put(bucket, name, b"z")
                await store.objects.delete(bucket, name.encode())
        store.clock.advance(1)
        await store.splitter.pass_once()
        assert [shard.first for shard in await store.shards()] == [b"", b"k01"]

    asyncio.run(run())
