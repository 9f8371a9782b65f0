"""Steps that come when the split they are of has ended, or would: what they seal must not stay."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from pinfold.cluster.api import Change, Changed, Row
from pinfold.objects.splitting import Overtaken, Step
from tests.objects.test_splitting import (
    CHANGES,
    NAMES,
    advance,
    at_change,
    begin,
    content,
    demand_whole,
    filled,
    finish,
    other_gateway,
)
from tests.twins.store import MemoryStore
from tests.twins.virtual import run_virtual


class Late:
    """Rows whose next change comes when much has happened since it was decided."""

    def __init__(self, rows: Any, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._rows = rows
        self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    async def change(self, place: bytes, change: Change) -> Changed:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return cast(Changed, await self._rows.change(place, change))


def make_late(store: MemoryStore, meanwhile: Callable[[], Awaitable[None]]) -> None:
    store.buckets.mover._rows = cast(Any, Late(store.rows, meanwhile))


async def empty(store: MemoryStore) -> None:
    current = await store.buckets.get("bucket")
    for name in NAMES:
        await store.objects.delete(current, name.encode())


async def fill(store: MemoryStore) -> None:
    current = await store.buckets.get("bucket")
    for name in NAMES:
        await store.put(current, name, content(name))


async def demand_open(store: MemoryStore) -> None:
    """Every name takes writes and answers reads, and a split moves them as ever."""
    await fill(store)
    current = await store.buckets.get("bucket")
    assert await store.names(current) == NAMES
    for name in NAMES:
        assert await store.read(current, name) == content(name)
    if current.split is None:
        await begin(store)
    await finish(store)
    await demand_whole(store, NAMES)


@pytest.mark.parametrize("looked", range(CHANGES))
def test_a_step_of_a_split_that_has_ended_keeps_no_name_from_its_clients(looked: int) -> None:
    async def late(begun: int | None) -> None:
        store, stale, _ = await at_change(looked)

        async def others() -> None:
            await empty(store)
            await finish(store)
            if begun is not None:
                await fill(store)
                await begin(store, rows=6)
                await advance(store, begun)

        make_late(stale, others)
        with contextlib.suppress(Overtaken):
            await stale.buckets.mover.step("bucket")
        await demand_open(store)

    async def run() -> None:
        for begun in (None, *range(CHANGES)):
            await late(begun)

    run_virtual(run)


def test_a_split_does_not_end_while_others_are_copying_for_it() -> None:
    """One finds nothing to give and is late to end the split; others seal, copy and hide."""

    async def run() -> None:
        store, _ = await filled()
        slow = other_gateway(store)
        await begin(store, rows=3)

        async def to_the_brink_of_opening() -> None:
            await fill(store)
            while await store.buckets.mover.step("bucket") is not Step.HIDE:
                pass

        await empty(store)
        make_late(slow, to_the_brink_of_opening)
        with pytest.raises(Overtaken):
            await slow.buckets.mover.step("bucket")
        await finish(store)
        await demand_whole(store, NAMES)
        shards = {shard.id for shard in await store.shards()}
        assert {key[1:17] for key in store.rows if key[:1] == b"o"} == shards, "no orphan"
        await demand_open(store)

    run_virtual(run)


def test_a_split_is_not_begun_on_a_row_that_changed_while_its_map_was_read() -> None:
    async def run() -> None:
        store, _ = await filled()
        other = other_gateway(store)
        (only,) = await store.shards()
        honest = store.rows.get
        reads = 0

        async def get(place: bytes, key: bytes, **rest: Any) -> Row | None:
            nonlocal reads
            row = await honest(place, key, **rest)
            reads += 1
            if reads == 1:
                assert await other.buckets.mover.begin(only, until=b"", rows=1)
            return row

        store.rows.get = get  # type: ignore[method-assign]
        assert not await store.buckets.mover.begin(only, until=b"", rows=1)

    run_virtual(run)
