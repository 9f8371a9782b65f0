"""Objects: puts and deletes are single changes with conditions; blobs are named exactly once."""

import asyncio
from typing import Any

import msgspec
import pytest

from pinfold.cluster.api import Change, Changed
from pinfold.model.errors import Conflict, NotFound, Unavailable
from pinfold.objects.conditions import ANY, Conditions, NoSuchKey, PreconditionFailed
from pinfold.objects.objects import Found
from pinfold.objects.records import ObjectRecord
from tests.twins.store import MemoryStore, record_of

BIG = bytes(9000)


def test_of_many_writers_who_want_to_be_first_one_is() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        outcomes: list[str] = []

        async def write(index: int) -> None:
            staged = await store.stage(bytes([index]) * 5000)
            try:
                await store.objects.put(
                    bucket, b"o", record_of(staged), staged, Conditions(if_none_match=ANY)
                )
                outcomes.append("put")
            except PreconditionFailed:
                outcomes.append("refused")

        async with asyncio.TaskGroup() as group:
            for index in range(6):
                group.create_task(write(index))
        assert sorted(outcomes) == ["put"] + ["refused"] * 5
        found = await store.objects.find(bucket, b"o")
        kept = {blob.id for blob in found.row.blobs}
        assert kept
        assert store.blobs.named() == kept, "the losers' bytes are given back"

    asyncio.run(run())


def test_an_overwrite_frees_the_old_bytes_and_a_delete_the_last() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", BIG)
        old = store.blobs.named()
        await store.put(bucket, "o", BIG)
        assert not store.blobs.named() & old
        await store.objects.delete(bucket, b"o")
        assert store.blobs.named() == set()
        with pytest.raises(NoSuchKey):
            await store.objects.find(bucket, b"o")

    asyncio.run(run())


def test_bytes_that_a_row_may_name_are_never_given_back() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        staged = await store.stage(BIG)

        def lost_answer(change: Change) -> None:
            raise Unavailable("no answer")

        store.rows.after_change = lost_answer
        with pytest.raises(Unavailable):
            await store.objects.put(bucket, b"o", record_of(staged), staged)
        store.rows.after_change = None
        assert await store.read(bucket, "o") == BIG

    asyncio.run(run())


@pytest.mark.parametrize(
    ("conditions", "goes"),
    [
        (Conditions(if_match=ANY), True),
        (Conditions(if_match=("other",)), False),
        (Conditions(size=5), True),
        (Conditions(size=4), False),
        (Conditions(modified_exactly_s=1_790_000_000), True),
        (Conditions(modified_exactly_s=1_790_000_001), False),
    ],
)
def test_conditional_deletes(conditions: Conditions, *, goes: bool) -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", b"12345")
        if goes:
            await store.objects.delete(bucket, b"o", conditions)
            assert await store.names(bucket) == []
        else:
            with pytest.raises(PreconditionFailed):
                await store.objects.delete(bucket, b"o", conditions)
            assert await store.names(bucket) == ["o"]
        await store.objects.delete(bucket, b"none", conditions)

    asyncio.run(run())


def test_a_conditional_delete_looks_again_when_the_object_changed_meanwhile() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", b"12345")
        honest = store.rows.before_change
        raced = False

        async def race() -> None:
            await store.put(bucket, "o", b"123456")

        real_get = store.rows.get

        async def get(place: bytes, key: bytes, **checks: Any) -> object:
            nonlocal raced
            row = await real_get(place, key, **checks)
            if not raced and key[:1] == b"o":
                raced = True
                await race()
            return row

        store.rows.get = get  # type: ignore[method-assign,assignment]
        with pytest.raises(PreconditionFailed):
            await store.objects.delete(bucket, b"o", Conditions(size=5))
        assert honest is None
        assert await store.read(bucket, "o") == b"123456"

    asyncio.run(run())


def test_a_rewrite_keeps_the_bytes_and_their_time() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", BIG)
        before = await store.objects.find(bucket, b"o")
        store.clock.advance(100)

        def edit(current: Found) -> ObjectRecord:
            return msgspec.structs.replace(
                current.record, acl="public-read", modified_ms=current.modified_ms
            )

        await store.objects.rewrite(bucket, b"o", edit)
        after = await store.objects.find(bucket, b"o")
        assert after.record.acl == "public-read"
        assert after.modified_ms == before.modified_ms < after.row.stamp_ms
        assert await store.read(bucket, "o") == BIG
        usage = await store.buckets.usage(bucket)
        assert (usage.rows, usage.size) == (1, len(BIG))

    asyncio.run(run())


def test_a_bucket_value_of_the_past_still_finds_the_object() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", b"x")
        assert await store.read(msgspec.structs.replace(bucket, version=0, acl="else"), "o") == b"x"

    asyncio.run(run())


def test_a_device_that_gives_nothing_back_does_not_hide_why_a_put_was_refused() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", b"")
        staged = await store.stage(b"x" * 10_000)

        async def discard(refs: object) -> None:
            raise NotFound("device 2 is not served here")

        store.blobs.discard = discard  # type: ignore[method-assign]
        with pytest.raises(PreconditionFailed):
            await store.objects.put(
                bucket, b"o", record_of(staged), staged, Conditions(if_none_match=("*",))
            )

    asyncio.run(run())


def test_a_seal_that_refused_may_be_lifted_before_that_is_told() -> None:
    """The answer was lost, and the change sent again: it stays refused, by a row that is gone."""

    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        honest, told = store.rows.change, False

        async def change(place: bytes, wanted: Change) -> Changed:
            nonlocal told
            if not told:
                told = True
                raise Conflict("check 0 does not hold", detail=(0, None))
            return await honest(place, wanted)

        store.rows.change = change  # type: ignore[method-assign]
        await store.put(bucket, "o", b"content")
        assert told
        assert await store.read(bucket, "o") == b"content"

    asyncio.run(run())
