"""Volumes by name, also when a step between two groups fails."""

import asyncio
import dataclasses

import pytest

from pinfold.cluster.api import Change
from pinfold.cluster.extents import ExtentClient
from pinfold.env.api import Clock
from pinfold.model.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from pinfold.model.limits import GIB, VOLUME_BYTES_MAX
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import (
    IndexRow,
    VolumeRow,
    decode_index,
    decode_volume,
    encode,
    index_key,
    name_of,
)
from tests.twins.extents import MemoryNetwork
from tests.volumes.world import NAME, Client, World, pattern, play


def registry_of(world: World) -> Registry:
    client = ExtentClient(MemoryNetwork(world.nodes), lambda device: world.nodes[device].name)
    return Registry(world.env, world.rows, client, world.placement.devices, world.settings)


def test_create_list_show_resize_delete() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        made = await registry.create("disk-1", GIB)
        assert (made.size, made.copies, made.min_in_sync, made.holder) == (GIB, 3, 2, None)
        assert await registry.names(limit=10) == ["disk-1", "v"]
        assert [shown.name for shown in await registry.list(limit=1)] == ["disk-1"]
        with pytest.raises(Conflict):
            await registry.create("disk-1", GIB)
        assert (await registry.resize("disk-1", 2 * GIB)).size == 2 * GIB
        with pytest.raises(Conflict):
            await registry.resize("disk-1", GIB)
        assert (await registry.resize("disk-1", GIB, force=True)).size == GIB
        await registry.delete("disk-1")
        with pytest.raises(NotFound):
            await registry.show("disk-1")
        with pytest.raises(NotFound):
            await registry.delete("disk-1")
        assert await registry.names(limit=10) == ["v"]

    play(story)


@pytest.mark.parametrize("size", [0, -512, 100, VOLUME_BYTES_MAX + 512])
def test_bad_sizes_are_refused(size: int) -> None:
    async def story(world: World) -> None:
        with pytest.raises(Invalid):
            await registry_of(world).create("x", size)
        with pytest.raises(Invalid):
            await registry_of(world).resize("v", size)

    play(story)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", 'a"b', "x" * 256, "a\x00"])
def test_bad_names_are_refused(name: str) -> None:
    async def story(world: World) -> None:
        with pytest.raises(Invalid):
            await registry_of(world).create(name, 512)

    play(story)


def test_a_create_that_broke_between_its_groups_can_be_repeated() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        for step in range(4):
            count = 0

            def refuse(_change: Change, step: int = step) -> None:
                nonlocal count
                count += 1
                if count > step:
                    raise Unavailable("no majority")

            world.rows.before_change = refuse
            with pytest.raises(Unavailable):
                await registry.create("half", 512)
            world.rows.before_change = None
            if step < 3:
                assert "half" not in await registry.names(limit=10)
                with pytest.raises(NotFound):
                    await registry.show("half")
        with pytest.raises(Conflict):
            await registry.create("half", 512)
        assert "half" in await registry.names(limit=10)

    play(story)


def test_a_delete_that_broke_is_finished_by_the_next() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        for step in range(4):
            name = f"gone-{step}"
            await registry.create(name, 512)
            count = 0

            def refuse(_change: Change, step: int = step) -> None:
                nonlocal count
                count += 1
                if count > step:
                    raise Unavailable("no majority")

            world.rows.before_change = refuse
            with pytest.raises(Unavailable):
                await registry.delete(name)
            world.rows.before_change = None
            await registry.delete(name)
            with pytest.raises(NotFound):
                await registry.show(name)
            assert name not in await registry.names(limit=10)

    play(story)


def test_a_volume_in_use_is_not_deleted_unless_forced() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        assert (await registry.show("v")).live
        with pytest.raises(Conflict):
            await registry.delete("v")
        await registry.delete("v", force=True)
        assert gateway.lost is not None
        assert not any(device.extents.volumes(b"", 1) for device in world.devices)

    play(story)


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_a_clock_that_is_wrong_does_not_delete_a_volume_in_use(skew_s: int) -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        registry._env = dataclasses.replace(world.env, clock=WrongClock(world.env.clock, skew_s))
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        with pytest.raises(Conflict):
            await registry.delete("v")
        await gateway.die()
        await registry.delete("v")

    play(story)


class WrongClock(Clock):
    """Of a machine that has another time."""

    def __init__(self, clock: Clock, skew_s: int) -> None:
        self._clock = clock
        self._skew_s = skew_s

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wall(self) -> float:
        return self._clock.wall() + self._skew_s


def test_a_dead_holder_does_not_keep_a_volume_from_being_deleted() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        await gateway.die()
        await asyncio.sleep(20)
        assert not (await registry.show("v")).live
        await registry.delete("v")

    play(story)


def test_a_resize_under_a_holder_ends_its_session() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        world.told = (await registry_of(world).resize("v", 32 << 20)).told
        await asyncio.sleep(3)
        assert gateway.lost is not None
        await Client(world.gateway().session).write(31 << 20, pattern(2))

    play(story)


def test_rows_survive_their_encoding_and_refuse_garbage() -> None:
    row = VolumeRow(
        id=b"i" * 16, size=1, created_ms=2, out={1: 3}, trust={4: {0: 9}}, uuids={0: b"u"}
    )
    assert decode_volume(encode(row)) == row
    index = IndexRow(id=b"i", size=1, created_ms=2, ready=True)
    assert decode_index(encode(index)) == index
    assert name_of(index_key("a\u00e4-1")) == "a\u00e4-1"
    for body in (b"", b"\x03" + encode(row)[1:], encode(row)[:-1], b"\x01\xc1"):
        with pytest.raises(Corrupt):
            decode_volume(body)
    with pytest.raises(Corrupt):
        decode_index(b"\x01\x90")


def test_a_volume_is_listed_whose_creator_stopped_when_it_could_be_used() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)

        def stop(change: Change) -> None:
            for key, row in change.puts:
                if key == index_key("disk") and decode_index(row.body).ready:
                    raise Unavailable("the creator has stopped")

        world.rows.before_change = stop
        with pytest.raises(Unavailable):
            await registry.create("disk", 1 << 20)
        assert (await registry.show("disk")).state == "ready"
        assert [shown.name for shown in await registry.list()] == ["disk", NAME]
        assert await registry.names(limit=10) == ["disk", NAME]

    play(story)
