"""Buckets: every crash between the steps of a create or delete is healed by what comes next."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pinfold.cluster.api import Change, Changed, Row
from pinfold.model.errors import Full, PinfoldError, Unavailable
from pinfold.objects import keys
from pinfold.objects.bucket import BucketExists, BucketNotEmpty, NoSuchBucket
from pinfold.objects.records import BucketListRecord, BucketRecord, decode
from tests.twins.store import MemoryStore, record_of


class Crash(Exception):
    """The gateway dies here."""


def crash_at(store: MemoryStore, step: int, *, after: bool) -> None:
    """Die at the step-th change from now, before or after it happened."""
    left = step

    def hook(change: Change) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash("crash")

    if after:
        store.rows.after_change = hook
    else:
        store.rows.before_change = hook


def restart(store: MemoryStore) -> None:
    store.rows.before_change = store.rows.after_change = None
    store.attach()


async def listed(store: MemoryStore, owner: str = "alice") -> list[str]:
    buckets, following = await store.buckets.list(owner, limit=100)
    assert following is None
    return [bucket.name for bucket in buckets]


async def exists(store: MemoryStore, name: str = "bucket") -> bool:
    try:
        await store.buckets.get(name)
    except NoSuchBucket:
        return False
    return True


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_crash_while_creating_lists_exactly_what_exists(step: int, *, after: bool) -> None:
    async def run() -> None:
        store = MemoryStore()
        crash_at(store, step, after=after)
        with pytest.raises(Crash):
            await store.bucket()
        restart(store)
        assert await listed(store) == (["bucket"] if await exists(store) else [])
        if not await exists(store):
            await store.bucket()
        assert await listed(store) == ["bucket"]

    asyncio.run(run())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_a_crash_while_deleting_is_finished_by_repeating(step: int, *, after: bool) -> None:
    async def run() -> None:
        store = MemoryStore()
        await store.bucket()
        crash_at(store, step, after=after)
        with pytest.raises(Crash):
            await store.delete_bucket()
        restart(store)
        if await exists(store):
            await store.delete_bucket()
        assert not await exists(store)
        assert await listed(store) == []
        assert not [key for key in store.rows if key[:1] in (b"b", b"m")]
        await store.bucket()
        assert await listed(store) == ["bucket"]

    asyncio.run(run())


def test_a_put_into_a_half_deleted_bucket_finishes_the_delete() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        crash_at(store, 1, after=True)
        with pytest.raises(Crash):
            await store.delete_bucket()
        restart(store)
        with pytest.raises(NoSuchBucket):
            await store.put(bucket, "o", b"x" * 5000)
        assert not await exists(store)
        assert store.blobs.named() == set()

    asyncio.run(run())


def test_an_intent_that_was_given_up_is_forgotten() -> None:
    async def run() -> None:
        store = MemoryStore()
        crash_at(store, 1, after=False)
        with pytest.raises(Crash):
            await store.bucket()
        restart(store)
        rows = len(store.rows)
        assert await listed(store) == []
        assert len(store.rows) == rows, "it may still be on its way"
        store.clock.advance(61)
        assert await listed(store) == []
        assert len(store.rows) == rows - 1

    asyncio.run(run())


def test_a_bucket_is_listed_though_its_intent_was_given_up_by_a_clock_ahead() -> None:
    async def run() -> None:
        store = MemoryStore()
        changes = 0

        async def list_between_intent_and_bucket() -> None:
            if changes == 1:
                store.rows.turn = None
                store.clock.advance(3600)  # as another gateway's clock has it
                assert await listed(store) == []

        def count(_change: Change) -> None:
            nonlocal changes
            changes += 1

        store.rows.after_change, store.rows.turn = count, list_between_intent_and_bucket
        await store.bucket()
        assert changes > 3
        assert await listed(store) == ["bucket"]
        await store.delete_bucket()
        assert await listed(store) == []

    asyncio.run(run())


def test_a_name_is_taken_whoever_has_it() -> None:
    async def run() -> None:
        store = MemoryStore()
        await store.bucket(owner="alice")
        for owner in ("alice", "bob"):
            with pytest.raises(BucketExists) as refused:
                await store.bucket(owner=owner)
            assert refused.value.bucket.owner == "alice"
        assert await listed(store, "alice") == ["bucket"]
        assert await listed(store, "bob") == []

    asyncio.run(run())


def test_two_creators_at_once_one_wins_and_lists_stay_right() -> None:
    async def run() -> None:
        store, other = MemoryStore(), MemoryStore(seed=2)
        other.rows = store.rows
        other.attach()
        outcomes = []

        async def create(gateway: MemoryStore) -> None:
            try:
                await gateway.bucket()
                outcomes.append("created")
            except BucketExists:
                outcomes.append("exists")

        honest_get = store.rows.get

        async def get_and_yield(place: bytes, key: bytes) -> object:
            row = await honest_get(place, key)
            await asyncio.sleep(0)
            return row

        store.rows.get = get_and_yield  # type: ignore[method-assign,assignment]
        async with asyncio.TaskGroup() as group:
            group.create_task(create(store))
            group.create_task(create(other))
        assert sorted(outcomes) == ["created", "exists"]
        assert await listed(store) == ["bucket"]

    asyncio.run(run())


def test_a_bucket_with_objects_or_uploads_stays() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", b"")
        with pytest.raises(BucketNotEmpty):
            await store.delete_bucket()
        await store.objects.delete(bucket, b"o")
        await store.delete_bucket()
        assert await listed(store) == []

    asyncio.run(run())


def test_another_gateways_cache_neither_hides_nor_shows_a_former_life() -> None:
    async def run() -> None:
        here = MemoryStore()
        there = MemoryStore(seed=2)
        there.rows, there.blobs, there.clock = here.rows, here.blobs, here.clock
        there.attach()
        await here.bucket()
        stale = await there.buckets.lookup("bucket")
        await here.delete_bucket()
        fresh = await here.bucket()
        await here.put(fresh, "o", b"new life")
        assert (await there.buckets.lookup("bucket")).life == stale.life, "the cache is stale"
        assert await there.read(stale, "o") == b"new life"
        assert await there.names(stale) == ["o"]
        staged = await there.stage(b"from there")
        await there.objects.put(stale, b"p", record_of(staged), staged)
        assert await here.read(fresh, "p") == b"from there"
        await there.objects.delete(stale, b"o")
        assert await here.names(fresh) == ["p"]

    asyncio.run(run())


def test_usage_counts_objects_and_bytes() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        assert (await store.buckets.usage(bucket)).rows == 0
        await store.put(bucket, "a", b"x" * 10)
        await store.put(bucket, "a", b"x" * 5000)
        await store.put(bucket, "b", b"x" * 5)
        await store.objects.delete(bucket, b"b")
        await store.objects.delete(bucket, b"b")
        usage = await store.buckets.usage(bucket)
        assert (usage.rows, usage.size) == (1, 5000)

    asyncio.run(run())


def test_lists_have_pages_and_prefixes() -> None:
    async def run() -> None:
        store = MemoryStore()
        for name in ("abc", "abd", "b", "c"):
            await store.bucket(name)
        first, following = await store.buckets.list("alice", limit=3)
        assert [bucket.name for bucket in first] == ["abc", "abd", "b"]
        assert following is not None
        rest, end = await store.buckets.list("alice", start=following, limit=3)
        assert [bucket.name for bucket in rest] == ["c"]
        assert end is None
        some, _ = await store.buckets.list("alice", prefix="ab", limit=3)
        assert [bucket.name for bucket in some] == ["abc", "abd"]

    asyncio.run(run())


def test_a_sealed_shard_takes_nothing() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.delete_bucket()
        assert keys.bound_key(bucket.life) in store.rows
        with pytest.raises(NoSuchBucket):
            await store.put(bucket, "o", b"")
        with pytest.raises(NoSuchBucket):
            await store.objects.find(bucket, b"o")

    asyncio.run(run())


def test_a_delete_that_others_finished_meanwhile_is_not_called_refused() -> None:
    """It found an object; before it gave up, the object went and another joined the attempt."""

    async def run() -> None:
        store, other = MemoryStore(), MemoryStore(seed=2)
        other.rows = store.rows
        other.attach()
        bucket = await store.bucket()
        await store.put(bucket, "o", b"")
        honest, raced = store.rows.change, False

        async def change(place: bytes, wanted: Change) -> Changed:
            nonlocal raced
            gives_up = any(
                key == keys.bucket_key(b"bucket") and not decode(BucketRecord, row.body).deleting
                for key, row in wanted.puts
            )
            if gives_up and not raced:
                raced = True
                await other.objects.delete(await other.buckets.get("bucket"), b"o")
                await other.delete_bucket()
            return await honest(place, wanted)

        store.rows.change = change  # type: ignore[method-assign]
        await store.delete_bucket()
        assert raced
        assert not await exists(store)

    asyncio.run(run())


def failing_at(store: MemoryStore, fails: Callable[[Change], bool], error: PinfoldError) -> None:
    """From now on changes that `fails` picks are refused with an error."""
    honest = store.rows.change

    async def change(place: bytes, wanted: Change) -> Changed:
        if fails(wanted):
            raise error
        return await honest(place, wanted)

    store.rows.change = change  # type: ignore[method-assign]


def writes_note(change: Change) -> bool:
    """Whether a change is of an account's list."""
    start, end = keys.account_bucket_range(b"alice", b"")
    touched = [*change.deletes, *(key for key, _ in change.puts)]
    return any(start <= key < end for key in touched)


def test_a_full_cluster_leaves_the_outcome_of_a_deletion_that_has_begun_open() -> None:
    """Others may end it: Full would promise that nothing happens."""

    async def run() -> None:
        store, other = MemoryStore(), MemoryStore(seed=2)
        other.rows = store.rows
        other.attach()
        bucket = await store.bucket()
        honest = store.rows.change
        failing_at(store, lambda change: keys.bucket_key(b"bucket") in change.deletes, Full("full"))
        with pytest.raises(Unavailable):
            await store.delete_bucket()
        store.rows.change = honest  # type: ignore[method-assign]
        with pytest.raises(NoSuchBucket):
            await other.put(bucket, "o", b"")
        assert not await exists(store)

    asyncio.run(run())


def test_a_deleted_bucket_is_not_listed_when_its_note_could_not_be_removed() -> None:
    async def run() -> None:
        store = MemoryStore()
        await store.bucket()
        honest = store.rows.change
        failing_at(
            store, lambda change: writes_note(change) and bool(change.deletes), Unavailable("away")
        )
        await store.delete_bucket()
        store.rows.change = honest  # type: ignore[method-assign]
        assert await listed(store) == []

    asyncio.run(run())


def test_a_listing_that_looked_before_a_deletion_does_not_bring_the_bucket_back() -> None:
    """Also when the note it read is the intent of a creator who came too late, and died."""

    async def run() -> None:
        store, other = MemoryStore(), MemoryStore(seed=2)
        other.rows = store.rows
        other.attach()
        look = other.buckets.get

        async def overtaken(name: str, *rest: Any) -> Any:
            with pytest.raises(NoSuchBucket):
                await look(name, *rest)
            await store.bucket()
            crash_at(store, 1, after=False)
            raise NoSuchBucket(name)

        other.buckets.get = overtaken  # type: ignore[method-assign]
        with pytest.raises(Crash):
            await other.bucket()
        store.rows.before_change = None

        async def deleted_meanwhile(name: str, *rest: Any) -> Any:
            found = await look(name, *rest)
            await store.delete_bucket()
            return found

        other.buckets.get = deleted_meanwhile  # type: ignore[method-assign]
        await listed(other)
        assert not await exists(store)
        assert await listed(store) == []

    asyncio.run(run())


def test_a_note_that_is_made_live_in_the_middle_of_a_deletion_does_not_stay_so() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        key = keys.account_bucket_key(b"alice", b"bucket")
        note = BucketListRecord(True, bucket.life, bucket.created_ms, bucket.region)
        honest, change = store.rows.get, store.rows.change
        raced = False

        async def get(place: bytes, wanted: bytes, **options: Any) -> Row | None:
            nonlocal raced
            row = await honest(place, wanted, **options)
            if wanted == key and row is not None and not raced:
                raced = True  # a listing that found the bucket before it was marked
                await store.buckets._notes.rewrite("alice", "bucket", note, row.version)
            return row

        store.rows.get = get  # type: ignore[method-assign]
        failing_at(store, lambda one: writes_note(one) and bool(one.deletes), Unavailable("away"))
        await store.delete_bucket()
        assert raced
        store.rows.get, store.rows.change = honest, change  # type: ignore[method-assign]
        assert await listed(store) == []

    asyncio.run(run())


def test_a_bucket_that_was_made_is_so_called_when_its_note_could_not_be_settled() -> None:
    async def run() -> None:
        store = MemoryStore()
        honest = store.rows.change
        written = 0

        def second_note(change: Change) -> bool:
            nonlocal written
            written += writes_note(change)
            return written > 1

        failing_at(store, second_note, Full("full"))
        await store.bucket()
        store.rows.change = honest  # type: ignore[method-assign]
        assert await listed(store) == ["bucket"]

    asyncio.run(run())


def test_who_meets_a_seal_deletes_nothing_that_was_refused_meanwhile() -> None:
    """A writer that read of an attempt, which then ended refused, does not begin another."""

    async def run() -> None:
        store, other = MemoryStore(), MemoryStore(seed=2)
        other.rows = store.rows
        other.attach()
        bucket = await store.bucket()
        marks = 0
        honest = store.rows.change

        async def change(place: bytes, wanted: Change) -> Changed:
            nonlocal marks
            marks += sum(
                key == keys.bucket_key(b"bucket") and bool(decode(BucketRecord, row.body).deleting)
                for key, row in wanted.puts
            )
            return await honest(place, wanted)

        failing_at(store, lambda wanted: keys.bucket_key(b"bucket") in wanted.deletes, Full("full"))
        with pytest.raises(Unavailable):
            await store.delete_bucket()
        store.rows.change = change  # type: ignore[method-assign]
        read, ended = store.rows.get, False

        async def get(place: bytes, key: bytes, **options: Any) -> Row | None:
            nonlocal ended
            row = await read(place, key, **options)
            if key == keys.bucket_key(b"bucket") and not ended:
                ended = True
                current = await other.buckets.get("bucket")
                assert await other.buckets._refuse_deletion(current)
            return row

        store.rows.get = get  # type: ignore[method-assign]
        await store.objects.delete(bucket, b"o")
        assert marks == 0, "nobody asked for another deletion"
        assert await exists(other)

    asyncio.run(run())
