"""Splits step by step: what each step leaves, who may take it again, and what must not get lost."""

import contextlib
import dataclasses

import msgspec
import pytest

from pinfold.cluster.api import Change, Changed, Counter
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.bucket import Bucket, BucketNotEmpty, NoSuchBucket
from pinfold.objects.conditions import ANY, Conditions, NoSuchKey
from pinfold.objects.listing import Query
from pinfold.objects.multipart import NamedPart, NoSuchUpload
from pinfold.objects.objects import Found
from pinfold.objects.records import ObjectRecord, UploadRecord
from pinfold.objects.shards import Shard, bound_of, bound_row
from pinfold.objects.splitting import EVERYTHING, Overtaken, Step
from tests.twins.store import MemoryStore
from tests.twins.virtual import run_virtual

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
    parent = (await store.shards())[-1]
    assert await store.buckets.mover.begin(parent, until=until.encode(), rows=rows)


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
    for shard in await store.shards():
        start, end = keys.shard_range(shard.id)
        held = [keys.object_name(key) for key in store.rows if start <= key < end]
        counter = await store.buckets.count(shard)
        assert counter.rows == len(held)
        named = [shard.first <= name and (shard.end is None or name < shard.end) for name in held]
        assert all(named), "rows left where they were"


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
        assert [shard.first for shard in await store.shards()] == [b"", b"k06"]
        assert current.split is None
        await demand_whole(store, NAMES)
        assert len(store.blobs.named()) == len(blobs)
        for name in NAMES[1:]:
            assert (await store.objects.find(current, name.encode())).modified_ms == times[name]

    run_virtual(run)


def test_a_split_at_a_name_gives_all_names_from_there_on() -> None:
    async def run() -> None:
        store, _ = await filled()
        await begin(store, until="k10a")
        await finish(store)
        assert [shard.first for shard in await store.shards()] == [b"", b"k10a"]
        await begin(store, until="k11")  # of the new shard
        await finish(store)
        await begin(store, until="k11")  # has only one name: nothing to give
        assert await finish(store) == [Step.SEAL, Step.FINISH]
        assert [shard.first for shard in await store.shards()] == [b"", b"k10a", b"k11"]
        await demand_whole(store, NAMES)

    run_virtual(run)


def test_a_shard_between_two_others_splits_too() -> None:
    async def run() -> None:
        store, _ = await filled()
        for until in (b"k09", b"k03"):
            first = (await store.shards())[0]
            assert await store.buckets.mover.begin(first, until=until, rows=EVERYTHING)
            await finish(store)
        middle = (await store.shards())[1]
        assert await store.buckets.mover.begin(middle, until=b"k06", rows=EVERYTHING)
        await finish(store)
        assert [shard.first for shard in await store.shards()] == [b"", b"k03", b"k06", b"k09"]
        await demand_whole(store, NAMES)

    run_virtual(run)


CHANGES = 14
"""Changes that giving six of the twelve names takes: two ranges of seal, two copies, hide, open and
clean, and then close and finish."""


class Crash(Exception):
    """The process dies here."""


def die_at(store: MemoryStore, step: int, *, after: bool) -> None:
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


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", range(CHANGES))
def test_a_splitter_that_dies_at_any_change_loses_and_doubles_nothing(
    change: int, *, after: bool
) -> None:
    async def run() -> None:
        store, _ = await filled()
        await begin(store, rows=6)
        die_at(store, change, after=after)
        with pytest.raises(Crash):
            await finish(store)
        store.rows.before_change = store.rows.after_change = None
        other = other_gateway(store)
        await finish(other)
        assert [shard.first for shard in await other.shards()] == [b"", b"k06"]
        await demand_whole(other, NAMES)

    run_virtual(run)


async def advance(store: MemoryStore, changes: int) -> None:
    """Go on with the split for so many changes, wherever that ends."""
    die_at(store, changes, after=False)
    with contextlib.suppress(Crash):
        await finish(store)
    store.rows.before_change = None


async def at_change(changes: int) -> tuple[MemoryStore, MemoryStore, Bucket]:
    """(store, a gateway that knows only how the bucket was before, as it knows it) after some."""
    store, _ = await filled()
    stale = other_gateway(store)
    known = await stale.buckets.get("bucket")
    await begin(store, rows=6)
    await advance(store, changes)
    return store, stale, known


@pytest.mark.parametrize("changes", range(CHANGES + 1))
def test_a_gateway_with_an_old_map_is_never_answered_wrongly(changes: int) -> None:
    async def run() -> None:
        store, stale, known = await at_change(changes)
        fresh = await store.buckets.get("bucket")
        await store.put(fresh, "k11", b"new")
        assert await stale.read(known, "k11") == b"new"
        await store.objects.delete(fresh, b"k10")
        with pytest.raises(NoSuchKey):
            await stale.objects.find(known, b"k10")
        await stale.put(known, "k09", b"from the stale one")
        assert await store.read(fresh, "k09") == b"from the stale one"
        await stale.objects.delete(known, b"k08", Conditions(if_match=ANY))
        with pytest.raises(NoSuchKey):
            await store.objects.find(fresh, b"k08")
        assert await stale.names(known) == [name for name in NAMES if name not in ("k08", "k10")]
        shown = await stale.listings.page(known, Query(delimiter=b"0", limit=10))
        assert [entry.name for entry in shown.entries] == [b"k0", b"k11"]
        await finish(store)
        assert (await store.buckets.usage(fresh)).rows == 10

    run_virtual(run)


@pytest.mark.parametrize("changes", range(CHANGES + 1))
def test_a_version_read_in_one_shard_is_not_compared_in_another(changes: int) -> None:
    """Versions are each group's own: another's may be equal by chance."""

    async def run() -> None:
        store, stale, known = await at_change(changes)

        def edit(found: Found) -> ObjectRecord:
            return msgspec.structs.replace(
                found.record, acl="public", modified_ms=found.modified_ms
            )

        before = (await store.objects.find(known, b"k11")).modified_ms
        store.clock.advance(10)
        await stale.objects.rewrite(known, b"k11", edit)
        await finish(store)
        found = await store.objects.find(await store.buckets.get("bucket"), b"k11")
        assert (found.record.acl, found.modified_ms) == ("public", before)
        await demand_whole(store, NAMES)

    run_virtual(run)


@pytest.mark.parametrize("changes", range(CHANGES + 1))
def test_an_upload_goes_on_where_its_name_goes(changes: int) -> None:
    async def run() -> None:
        store, _ = await filled()
        store.multipart.part_bytes_min = 1
        stale = other_gateway(store)
        stale.multipart.part_bytes_min = 1
        known = await stale.buckets.get("bucket")
        upload = await store.multipart.open(known, b"k11", UploadRecord("alice"))
        found = await stale.multipart.find(known, b"k11", upload)
        parts = []
        for number, content in enumerate((b"a" * BIG, b"bb"), start=1):
            staged = await stale.stage(content, (found.algorithm,))
            parts.append(await stale.multipart.put_part(found, number, staged))
        store.clock.advance(100)
        await begin(store, rows=6)
        await advance(store, changes)
        again = await stale.multipart.find(known, b"k11", upload)
        assert again.begun_ms == found.begun_ms
        listed, more = await stale.multipart.parts(again, limit=10)
        assert ([part.modified_ms for part in listed], more) == (
            [part.modified_ms for part in parts],
            False,
        )
        staged = await stale.stage(b"c" * BIG, (found.algorithm,))
        parts.append(await stale.multipart.put_part(found, 3, staged))
        named = [NamedPart(part.number, part.etag, {}) for part in parts]
        await stale.multipart.complete(known, b"k11", upload, named)
        await finish(store)
        current = await store.buckets.get("bucket")
        assert await store.read(current, "k11") == b"a" * BIG + b"bb" + b"c" * BIG
        with pytest.raises(NoSuchUpload):
            await stale.abort_upload(known, b"k11", upload)

    run_virtual(run)


def test_rows_that_were_given_away_keep_no_empty_bucket_from_being_deleted() -> None:
    async def run() -> None:
        store, _ = await filled()
        await begin(store, until="k09")
        while await store.buckets.mover.step("bucket") is not Step.OPEN:
            pass
        current = await store.buckets.get("bucket")
        for name in NAMES:
            await store.objects.delete(current, name.encode())
        start, end = keys.shard_range(current.life)
        assert any(start <= key < end for key in store.rows), "what clean has not yet deleted"
        await store.delete_bucket()
        store.clock.advance(100)
        store.blobs.freed([])
        assert store.blobs.payloads == {}

    run_virtual(run)


def test_a_seal_that_a_dead_attempt_left_is_lifted_by_the_next_writer() -> None:
    """The seal of one who sealed late: the attempt it belongs to has been refused meanwhile."""

    async def run() -> None:
        store, bucket = await filled()
        await begin(store, until="k09")
        await finish(store)
        key = keys.bound_key(bucket.life)
        before = bound_of(await store.rows.get(b"", key))
        assert before.limit == b"k09"
        seal = bound_row(bucket.life, msgspec.structs.replace(before, deleting=b"an attempt"))
        await store.rows.change(b"", Change(OpId(bytes(16)), puts=((key, seal),)))
        await store.put(await store.buckets.get("bucket"), "k00", content("k00"))
        assert bound_of(await store.rows.get(b"", key)) == before

    run_virtual(run)


def test_nothing_is_split_that_is_gone_being_deleted_or_splitting() -> None:
    async def run() -> None:
        store, bucket = await filled()
        mover = store.buckets.mover
        (only,) = await store.shards()
        for gone in (
            Shard("other", bucket.life, b"", None),
            Shard("bucket", b"o" * 16, b"", None),
            Shard("bucket", bucket.life, b"k", None),
        ):
            assert not await mover.begin(gone, until=b"", rows=1)
        await begin(store)
        assert not await mover.begin(only, until=b"", rows=1)

    run_virtual(run)


def test_a_split_of_six_names_takes_the_changes_that_are_died_at() -> None:
    async def run() -> None:
        store, _ = await filled()
        await begin(store, rows=6)
        changes = 0

        def count(change: Change) -> None:
            nonlocal changes
            changes += 1

        store.rows.before_change = count
        await finish(store)
        assert changes == CHANGES

    run_virtual(run)


@pytest.mark.parametrize("looked", range(CHANGES))
def test_a_step_taken_late_changes_nothing_however_far_others_have_come(looked: int) -> None:
    async def late(taken: int) -> None:
        store, stale, known = await at_change(looked)
        state = await stale.buckets.mover.look("bucket")
        assert state is not None
        await advance(store, taken - looked)
        fresh = await store.buckets.get("bucket")
        await store.objects.delete(fresh, b"k11")
        await store.put(fresh, "k07", content("k07"))
        await store.buckets.set_acl(fresh, "public")
        with contextlib.suppress(Overtaken):
            await stale.buckets.mover.take(state)
        assert (await store.buckets.get("bucket")).acl == "public"
        await finish(store)
        await demand_whole(store, NAMES[:-1])
        for name in NAMES[:-1]:
            assert await stale.read(known, name) == content(name)
            await stale.put(known, name, content(name))
        await demand_whole(store, NAMES[:-1])

    async def run() -> None:
        for taken in range(looked, CHANGES + 1):
            await late(taken)

    run_virtual(run)


@pytest.mark.parametrize("looked", range(CHANGES))
def test_rows_read_half_before_a_step_of_others_orphan_no_child(looked: int) -> None:
    async def torn(taken: int, *, late_moved: bool) -> None:
        store, stale, _ = await at_change(looked)
        before = await stale.buckets.mover.look("bucket")
        assert before is not None
        await advance(store, taken - looked)
        after = await store.buckets.mover.look("bucket")
        assert after is not None
        moved = after.moved if late_moved else before.moved
        state = dataclasses.replace(before, moved=moved, received=after.received)
        with contextlib.suppress(Overtaken):
            await stale.buckets.mover.take(state)
        await finish(store)
        await demand_whole(store, NAMES)
        shards = [shard.id for shard in await store.shards()]
        assert {key[1:17] for key in store.rows if key[:1] == b"o"} <= set(shards)

    async def run() -> None:
        for taken in range(looked, CHANGES):
            for late_moved in (False, True):
                await torn(taken, late_moved=late_moved)

    run_virtual(run)


@pytest.mark.parametrize("looked", range(CHANGES))
def test_a_step_taken_late_brings_no_deleted_bucket_back(looked: int) -> None:
    async def run() -> None:
        store, stale, _ = await at_change(looked)
        state = await stale.buckets.mover.look("bucket")
        assert state is not None
        await finish(store)
        current = await store.buckets.get("bucket")
        for name in NAMES:
            await store.objects.delete(current, name.encode())
        await store.delete_bucket()
        with contextlib.suppress(Overtaken):
            await stale.buckets.mover.take(state)
        with pytest.raises(NoSuchBucket):
            await store.buckets.get("bucket")
        start, end = b"o", b"p"
        assert [key for key in store.rows if start <= key < end] == []

    run_virtual(run)


def test_a_shard_that_opens_while_its_bucket_is_deleted_is_not_overlooked() -> None:
    async def run() -> None:
        store, _ = await filled([])
        writer = other_gateway(store)
        await begin(store, until="k04")
        assert await store.buckets.mover.step("bucket") is Step.SEAL
        honest, raced = store.rows.change, False

        async def change(place: bytes, wanted: Change) -> Changed:
            nonlocal raced
            if not raced and keys.bucket_key(b"bucket") in wanted.deletes:
                raced = True
                while await store.buckets.mover.step("bucket") is not Step.OPEN:
                    pass
                await writer.put(await writer.buckets.get("bucket"), "k05", content("k05"))
            return await honest(place, wanted)

        store.rows.change = change  # type: ignore[method-assign]
        with pytest.raises(BucketNotEmpty):
            await store.delete_bucket()
        assert raced
        await finish(store)
        await demand_whole(store, ["k05"])
        await store.put(await store.buckets.get("bucket"), "k01", content("k01"))

    run_virtual(run)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", range(5))
def test_a_delete_that_dies_at_any_change_leaves_no_half_sealed_bucket(
    change: int, *, after: bool
) -> None:
    """Mark, two seals, the bucket's row, the owner's list: then a writer comes to each shard."""

    async def run() -> None:
        store, _ = await filled([])
        await begin(store, until="k06")
        await finish(store)
        die_at(store, change, after=after)
        with pytest.raises(Crash):
            await store.delete_bucket()
        store.rows.before_change = store.rows.after_change = None
        other = other_gateway(store)
        outcomes = set()
        for name in ("k00", "k11"):
            try:
                await other.put(await other.buckets.lookup("bucket"), name, content(name))
                outcomes.add("put")
            except NoSuchBucket:
                outcomes.add("gone")
        assert len(outcomes) == 1, "half a bucket"
        if outcomes == {"put"}:
            await demand_whole(other, ["k00", "k11"])
            with pytest.raises(BucketNotEmpty):
                await other.delete_bucket()
            for name in ("k00", "k11"):
                await other.put(await other.buckets.lookup("bucket"), name, content(name))
        else:
            await store.bucket()
            assert await store.names(await store.buckets.get("bucket")) == []

    run_virtual(run)
