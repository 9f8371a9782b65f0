"""Splits step by step: what each step leaves, who may take it again, and what must not get lost."""

import asyncio

from pinfold.cluster.api import Counter
from pinfold.objects import keys
from pinfold.objects.buckets import Bucket
from pinfold.objects.shards import shards_of
from pinfold.objects.splitting import EVERYTHING, Step
from tests.twins.store import MemoryStore

NAMES = [f"k{number:02}" for number in range(12)]
BIG = 5000
"""Bytes that are a blob."""


async def filled(names: list[str] = NAMES) -> tuple[MemoryStore, Bucket]:
    store = MemoryStore()
    bucket = await store.bucket()
    for name in names:
        await store.put(bucket, name, name.encode() * BIG if name[-1] in "05" else name.encode())
    return store, bucket


def other_gateway(store: MemoryStore) -> MemoryStore:
    """Another process on the same rows and blobs."""
    other = MemoryStore(seed=2)
    other.rows, other.blobs, other.clock = store.rows, store.blobs, store.clock
    other.attach()
    return other


async def begin(store: MemoryStore, *, until: str = "", rows: int = EVERYTHING) -> None:
    bucket = await store.buckets.get("bucket")
    parent = bucket.shards[-1][1]
    assert await store.buckets.mover.begin("bucket", parent, until=until.encode(), rows=rows)


async def finish(store: MemoryStore) -> list[Step]:
    """Take steps until the split is done."""
    taken: list[Step] = []
    while (step := await store.buckets.mover.step("bucket")) is not None:
        taken.append(step)
        assert len(taken) < 200
    return taken


def content(name: str) -> bytes:
    return name.encode() * BIG if name[-1] in "05" else name.encode()


async def demand_whole(store: MemoryStore, names: list[str]) -> None:
    """The bucket has exactly these objects, whole, counted, and every row in its shard alone."""
    bucket = await store.buckets.get("bucket")
    assert await store.names(bucket) == names
    for name in names:
        assert await store.read(bucket, name) == content(name)
    usage = await store.buckets.usage(bucket)
    assert usage == Counter(len(names), sum(len(content(name)) for name in names))
    for shard in shards_of("bucket", bucket.shards):
        start, end = keys.shard_range(shard.id)
        held = [keys.object_name(key) for key in store.rows if start <= key < end]
        counter = await store.buckets.count(shard)
        assert counter.rows == len(held)
        assert all(bucket.shard_of(name) == shard for name in held), "rows left where they were"


def test_a_split_moves_rows_counters_and_blobs_exactly() -> None:
    async def run() -> None:
        store, bucket = await filled()
        times = {
            name: (await store.objects.find(bucket, name.encode())).modified_ms for name in NAMES
        }
        blobs = store.blobs.named()
        store.clock.advance(100)
        await begin(store, rows=6)
        taken = await finish(store)
        assert taken[-1] is Step.FINISH
        assert taken.count(Step.OPEN) == 2, "ranges of three rows"
        store.clock.advance(100)
        await store.put(bucket, "k00", content("k00"))  # reaps what was freed
        current = await store.buckets.get("bucket")
        assert [first for first, _ in current.shards] == [b"", b"k06"]
        assert current.split is None
        await demand_whole(store, NAMES)
        assert len(store.blobs.named()) == len(blobs)
        for name in NAMES[1:]:
            assert (await store.objects.find(current, name.encode())).modified_ms == times[name]

    asyncio.run(run())


def test_a_split_at_a_name_gives_all_names_from_there_on() -> None:
    async def run() -> None:
        store, _ = await filled()
        await begin(store, until="k10a")
        await finish(store)
        current = await store.buckets.get("bucket")
        assert [first for first, _ in current.shards] == [b"", b"k10a"]
        await begin(store, until="k11")  # of the new shard
        await finish(store)
        await begin(store, until="k11")  # has only one name: nothing to give
        assert await finish(store) == [Step.SEAL]
        current = await store.buckets.get("bucket")
        assert [first for first, _ in current.shards] == [b"", b"k10a", b"k11"]
        await demand_whole(store, NAMES)

    asyncio.run(run())


def test_a_shard_between_two_others_splits_too() -> None:
    async def run() -> None:
        store, bucket = await filled()
        first = bucket.life
        for until in (b"k09", b"k03"):
            assert await store.buckets.mover.begin("bucket", first, until=until, rows=EVERYTHING)
            await finish(store)
        middle = (await store.buckets.get("bucket")).shards[1][1]
        assert await store.buckets.mover.begin("bucket", middle, until=b"k06", rows=EVERYTHING)
        await finish(store)
        current = await store.buckets.get("bucket")
        assert [name for name, _ in current.shards] == [b"", b"k03", b"k06", b"k09"]
        await demand_whole(store, NAMES)

    asyncio.run(run())
