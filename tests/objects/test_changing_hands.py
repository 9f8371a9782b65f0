"""What a bucket allowed is not done to the next bucket of its name, however old the cache is."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pinfold.objects.bucket import Bucket, NoSuchBucket, NotAllowed
from pinfold.objects.listing import Query
from pinfold.objects.records import UploadRecord
from tests.objects.test_splitting import NAMES, begin, content, filled, finish, other_gateway
from tests.twins.store import MemoryStore, record_of
from tests.twins.virtual import run_virtual


async def put(store: MemoryStore, bucket: Bucket) -> None:
    staged = await store.stage(b"x" * 5000)
    await store.objects.put(bucket, b"o", record_of(staged), staged)


async def delete(store: MemoryStore, bucket: Bucket) -> None:
    await store.objects.delete(bucket, b"secret")


async def delete_seen(store: MemoryStore, bucket: Bucket) -> None:
    from pinfold.objects.conditions import ANY, Conditions

    await store.objects.delete(bucket, b"secret", Conditions(if_match=ANY))


async def find(store: MemoryStore, bucket: Bucket) -> None:
    await store.objects.find(bucket, b"secret")


async def page(store: MemoryStore, bucket: Bucket) -> None:
    await store.listings.page(bucket, Query(limit=10))


async def rewrite(store: MemoryStore, bucket: Bucket) -> None:
    await store.objects.rewrite(bucket, b"secret", lambda found: found.record)


async def open_upload(store: MemoryStore, bucket: Bucket) -> None:
    await store.multipart.open(bucket, b"o", UploadRecord("alice"))


ACTS: list[Callable[[MemoryStore, Bucket], Awaitable[None]]] = [
    put,
    delete,
    delete_seen,
    find,
    page,
    rewrite,
    open_upload,
]


async def handed_over(authority: Callable[[Bucket], bool]) -> tuple[MemoryStore, Bucket]:
    """A gateway that still knows alice's bucket, which is bob's by now."""
    here, there = MemoryStore(), MemoryStore(seed=2)
    there.rows, there.blobs, there.clock = here.rows, here.blobs, here.clock
    there.attach()
    await here.bucket(owner="alice")
    stale = await there.buckets.lookup("bucket", authority)
    await here.delete_bucket()
    await here.put(await here.bucket(owner="bob"), "secret", b"bob's")
    assert (await there.buckets.lookup("bucket")).life == stale.life, "the cache is stale"
    return there, stale


@pytest.mark.parametrize("act", ACTS)
def test_nothing_is_done_or_shown_that_only_the_former_owner_allowed(
    act: Callable[[MemoryStore, Bucket], Awaitable[None]],
) -> None:
    async def run() -> None:
        store, stale = await handed_over(lambda bucket: bucket.owner == "alice")
        blobs = set(store.blobs.named())
        with pytest.raises(NotAllowed):
            await act(store, stale)
        current = await store.buckets.get("bucket")
        assert await store.names(current) == ["secret"]
        assert (await store.objects.find(current, b"secret")).record.owner == "alice"
        assert store.blobs.named() == blobs, "what was staged for it is given back"

    asyncio.run(run())


@pytest.mark.parametrize("act", ACTS)
def test_what_the_next_owner_allows_too_is_done_in_the_next_bucket(
    act: Callable[[MemoryStore, Bucket], Awaitable[None]],
) -> None:
    async def run() -> None:
        store, stale = await handed_over(lambda bucket: True)
        await act(store, stale)

    asyncio.run(run())


def test_an_old_row_in_the_cache_does_not_keep_the_next_owner_out() -> None:
    async def run() -> None:
        store, _ = await handed_over(lambda bucket: True)
        assert (await store.buckets.lookup("bucket", lambda it: it.owner == "bob")).owner == "bob"

    asyncio.run(run())


def test_a_bucket_is_changed_and_deleted_in_the_life_in_which_that_was_allowed() -> None:
    async def run() -> None:
        store, stale = await handed_over(lambda bucket: True)
        await store.objects.delete(await store.buckets.get("bucket"), b"secret")
        with pytest.raises(NoSuchBucket):
            await store.buckets.set_acl(stale, "public-read-write")
        with pytest.raises(NoSuchBucket):
            await store.buckets.delete(stale)
        current = await store.buckets.get("bucket")
        assert (current.owner, current.acl) == ("bob", "private")

    asyncio.run(run())


@pytest.mark.parametrize("known_names", [["k00"], ["k11"], ["k00", "k11"], []])
def test_a_listing_never_goes_on_in_the_middle_of_another_life(known_names: list[str]) -> None:
    """A gateway knows some shards of a bucket that was deleted, and made again, meanwhile."""

    async def run() -> None:
        store, _ = await filled()
        await begin(store, rows=6)
        await finish(store)
        stale = other_gateway(store)
        known = await stale.buckets.lookup("bucket")
        for name in known_names:
            await stale.objects.find(known, name.encode())
        current = await store.buckets.get("bucket")
        for name in NAMES:
            await store.objects.delete(current, name.encode())
        await store.delete_bucket()
        again = await store.bucket()
        for name in NAMES:
            await store.put(again, name, content(name))
        assert await stale.names(known) == NAMES

    run_virtual(run)
