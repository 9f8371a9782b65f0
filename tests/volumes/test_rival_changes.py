"""Creating, resizing and deleting one name at the same time, whoever stops in between."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pinfold.cluster.api import Change, Changed, Check, Row
from pinfold.cluster.extents import ExtentClient
from pinfold.model.errors import Conflict, NotFound
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import (
    INDEX_PLACE,
    IndexRow,
    VolumeRow,
    decode_index,
    decode_volume,
    index_key,
    key_of,
    place_of,
)
from tests.twins.cluster import MemoryRows
from tests.twins.extents import MemoryNetwork
from tests.volumes.test_registry import registry_of
from tests.volumes.world import World, play

NAME = "disk"

CALLS: tuple[Callable[[Registry], Awaitable[object]], ...] = (
    lambda registry: registry.create(NAME, 1 << 20),
    lambda registry: registry.resize(NAME, 2 << 20, force=True),
    lambda registry: registry.resize(NAME, 3 << 20, force=True),
    lambda registry: registry.delete(NAME),
)


class SlowRows(MemoryRows):
    """The rows of another one, each question and answer some time on its way."""

    def __init__(self, rows: MemoryRows, rng: random.Random) -> None:
        self._rows = rows
        self._rng = rng

    async def _travel(self) -> None:
        await asyncio.sleep(self._rng.choice((0.01, 0.1, 1.0)) * self._rng.random())

    async def get(self, place: bytes, key: bytes, *, checks: tuple[Check, ...] = ()) -> Row | None:
        await self._travel()
        row = await self._rows.get(place, key, checks=checks)
        await self._travel()
        return row

    async def change(self, place: bytes, change: Change) -> Changed:
        await self._travel()
        changed = await self._rows.change(place, change)
        await self._travel()
        return changed


async def both_rows(world: World) -> tuple[VolumeRow | None, IndexRow | None]:
    row = await world.rows.get(place_of(NAME), key_of(NAME))
    index = await world.rows.get(INDEX_PLACE, index_key(NAME))
    return row and decode_volume(row.body), index and decode_index(index.body)


async def call_some(world: World, rng: random.Random, *, crashes: bool) -> None:
    """Calls at the same time. Some come to no end."""
    network = MemoryNetwork(world.nodes)
    extents = ExtentClient(network, lambda device: world.nodes[device].name)
    tasks = []
    for call in rng.choices(CALLS, (4, 1, 1, 3), k=rng.randint(2, 5)):
        rows = SlowRows(world.rows, rng)
        registry = Registry(world.env, rows, extents, world.placement.devices, world.settings)
        await asyncio.sleep(rng.random())
        tasks.append(asyncio.ensure_future(call(registry)))
        if crashes and rng.random() < 0.5:
            asyncio.get_running_loop().call_later(4 * rng.random(), tasks[-1].cancel)
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert not isinstance(outcome, Exception) or isinstance(outcome, Conflict | NotFound)


@pytest.mark.parametrize("block", range(5))
def test_no_volume_that_may_be_used_is_without_its_index_row(block: int) -> None:
    async def story(world: World) -> None:
        rng = random.Random(block)
        registry = registry_of(world)
        for _ in range(80):
            await call_some(world, rng, crashes=True)
            row, index = await both_rows(world)
            if row is not None and row.state == "ready":
                assert index is not None
                assert index.id == row.id
            with contextlib.suppress(NotFound):
                await registry.delete(NAME)
            assert await both_rows(world) == (None, None)

    play(story)


@pytest.mark.parametrize("block", range(5))
def test_the_index_row_says_in_the_end_what_the_volume_row_says(block: int) -> None:
    async def story(world: World) -> None:
        rng = random.Random(100 + block)
        for _ in range(80):
            await call_some(world, rng, crashes=False)
            row, index = await both_rows(world)
            if row is None:
                assert index is None
            else:
                assert row.state == "ready"
                assert index == IndexRow(
                    id=row.id, size=row.size, created_ms=row.created_ms, ready=True
                )

    play(story)


def test_an_index_row_is_not_removed_from_a_volume_that_was_made_meanwhile() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        late = registry_of(world)
        removing = late._change
        await registry.create(NAME, 1 << 20)

        async def change_too_late(place: bytes, **what: Any) -> int:
            if what.get("deletes") == (index_key(NAME),):
                await registry.create(NAME, 1 << 20)
            return await removing(place, **what)

        late._change = change_too_late  # type: ignore[method-assign]
        await late.delete(NAME)
        assert NAME in await registry.names(limit=9)

    play(story)
