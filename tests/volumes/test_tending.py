"""Volumes that nobody holds, and what deleted ones leave: what the workers do about them."""

import asyncio
from typing import Any

import msgspec
import pytest

from pinfold.care.worker import Found
from pinfold.cluster.api import Change, Check, Row
from pinfold.cluster.extents import ExtentClient
from pinfold.model.errors import Conflict, NotFound, Unavailable
from pinfold.model.ids import Boot, DeviceId, DeviceUuid, NodeName, OpId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.volumes.leftovers import Drop, Leftovers
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import Holder, VolumeRow, encode, key_of, place_of
from pinfold.volumes.tending import Tend, Tending, needs
from tests.twins.extents import MemoryNetwork
from tests.volumes.world import NAME, Client, Gateway, World, pattern, play


def client_of(world: World, network: MemoryNetwork | None = None) -> ExtentClient:
    network = network or MemoryNetwork(world.nodes)
    return ExtentClient(network, lambda device: world.nodes[device].name)


def registry_of(world: World, network: MemoryNetwork | None = None) -> Registry:
    extents = client_of(world, network)
    return Registry(world.env, world.rows, extents, world.placement.devices, world.settings)


def tending_of(world: World, name: str = "n0") -> Tending:
    return Tending(
        world.env,
        world.rows,
        client_of(world),
        world.placement,
        node=NodeName(name),
        boot=Boot(1),
        leads=lambda: True,
        settings=world.settings,
    )


def leftovers_of(world: World, number: int) -> Leftovers:
    return Leftovers(
        world.env.clock.monotonic,
        world.rows,
        client_of(world),
        registry_of(world),
        {DeviceId(number): world.devices[number]},
        world.settings,
    )


async def round_of(tending: Tending) -> list[Tend]:
    """Every volume is looked at once."""
    jobs: list[Tend] = []
    while True:
        found: Found[Tend] = await tending.find(100)
        jobs += found.jobs
        if found.wait_s:
            return jobs


async def leftover_round(leftovers: Leftovers) -> list[Drop]:
    jobs: list[Drop] = []
    while True:
        found: Found[Drop] = await leftovers.find(100)
        jobs += found.jobs
        if found.wait_s:
            return jobs


async def at_rest_without(world: World, number: int) -> None:
    """A volume that was given back while a member lacked its last writes."""
    gateway = world.gateway()
    client = Client(gateway.session)
    await client.write(0, pattern(1))
    await client.flush()
    world.kill(gateway, number)
    await client.write(0, pattern(2))
    await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
    assert set((await world.row()).out) == {number}
    assert (await world.row()).holder is None


def test_a_volume_at_rest_becomes_whole_when_its_member_is_back() -> None:
    async def story(world: World) -> None:
        await at_rest_without(world, 2)
        tending = tending_of(world)
        (job,) = await round_of(tending)
        with pytest.raises(Unavailable):
            await tending.run(job)
        world.start(2)
        (job,) = await round_of(tending)
        await tending.run(job)
        row = await world.row()
        assert not row.out
        assert row.holder is None
        assert world.contents(2, row.id, range(1)) == [pattern(2)]
        assert not await round_of(tending)

    play(story)


def test_a_volume_whose_holder_died_is_settled() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        await gateway.die()
        tending = tending_of(world)
        assert not await round_of(tending)
        await asyncio.sleep(world.settings.takeover_s + 1)
        (job,) = await round_of(tending)
        await tending.run(job)
        row = await world.row()
        assert row.holder is None
        assert not row.trust
        assert not any(device.extents.dirty(row.id) for device in world.devices)

    play(story)


def test_a_device_that_lost_a_volume_at_rest_gets_it_again() -> None:
    """After each device it is whole again, so that one after the other may lose everything."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
        tending = tending_of(world)
        assert not await round_of(tending)
        for number in range(3):
            world.devices[number].restart(world.rng)
            world.devices[number].extents.forget()
            (job,) = await round_of(tending)
            await tending.run(job)
        assert await Client(world.gateway().session).read(0, BLOCK_BYTES) == pattern(1)

    play(story)


def test_a_volume_whose_row_cannot_be_read_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(world: World) -> None:
        await at_rest_without(world, 2)
        assert NAME > "a"
        await registry_of(world).create("a", 1 << 20)
        get = world.rows.get

        async def get_others(place: bytes, key: bytes, *, checks: tuple[Check, ...] = ()) -> Any:
            if key == key_of("a"):
                raise Unavailable("its group has no primary")
            return await get(place, key, checks=checks)

        monkeypatch.setattr(world.rows, "get", get_others)
        (job,) = await round_of(tending_of(world))
        assert job.name == NAME

    play(story)


def test_a_volume_is_never_taken_from_a_holder() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        tending = tending_of(world)
        for _ in range(3):
            assert not await round_of(tending)
            await asyncio.sleep(world.settings.tend_round_s)
        doing = asyncio.get_running_loop().create_task(tending.run(Tend(name=NAME, rank=0)))
        await client.write(0, pattern(2))
        await doing
        await client.write(0, pattern(3))
        assert gateway.lost is None
        assert (await world.row()).token == 1

    play(story)


def test_a_tender_takes_no_volume_from_clients_of_its_own_process() -> None:
    """It was found at rest and then waited for its turn, or for a device, while a client came."""

    async def story(world: World) -> None:
        gateway = world.gateway("n0")
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        holder = (await world.row()).holder
        assert holder is not None
        tending = tending_of(world, "n0")
        assert holder.boot == tending._boot
        await tending.run(Tend(name=NAME, rank=0))
        await client.write(0, pattern(2))
        assert gateway.lost is None
        assert (await world.row()).token == 1

    play(story)


def test_whoever_attaches_does_not_wait_for_the_tender() -> None:
    async def story(world: World) -> None:
        await at_rest_without(world, 2)
        tending = tending_of(world)
        (job,) = await round_of(tending)
        doing = asyncio.get_running_loop().create_task(tending.run(job))
        await asyncio.sleep(3)
        holder = (await world.row()).holder
        assert holder is not None
        assert holder.tending
        async with asyncio.timeout(1):
            client = Client(world.gateway().session)
            assert await client.read(0, BLOCK_BYTES) == pattern(2)
            await client.write(0, pattern(3))
        await doing
        holder = (await world.row()).holder
        assert holder is not None
        assert not holder.tending

    play(story)


def test_two_tenders_do_not_take_a_volume_from_each_other() -> None:
    async def story(world: World) -> None:
        await at_rest_without(world, 2)
        first, second = tending_of(world, "n0"), tending_of(world, "n1")
        job = Tend(name=NAME, rank=0)
        doing = asyncio.get_running_loop().create_task(first.run(job))
        await asyncio.sleep(1)
        await second.run(job)
        row = await world.row()
        assert row.holder is not None
        assert row.holder.gateway == "n0"
        with pytest.raises(Unavailable):
            await doing

    play(story)


def test_a_deletion_that_broke_is_finished() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
        registry = registry_of(world)
        deleting = asyncio.get_running_loop().create_task(registry.delete(NAME))
        async with asyncio.timeout(5):
            while (await world.row()).state == "ready":  # noqa: ASYNC110 - rows cannot tell
                await asyncio.sleep(0)
        deleting.cancel()
        tending = tending_of(world)
        (job,) = await round_of(tending)
        await tending.run(job)
        with pytest.raises(NotFound):
            await registry.show(NAME)
        assert not await round_of(tending)
        assert not any(device.extents.volumes(b"", 9) for device in world.devices)

    play(story)


def test_extents_of_a_volume_deleted_meanwhile_are_dropped_from_a_device_that_returns() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
        network = MemoryNetwork(world.nodes)
        network.kill(world.nodes[2])
        await registry_of(world, network).delete(NAME)
        world.start(2)
        assert world.devices[2].extents.volumes(b"", 9)
        leftovers = leftovers_of(world, 2)
        assert not await leftover_round(leftovers)
        (job,) = await leftover_round(leftovers)
        await leftovers.run(job)
        assert not world.devices[2].extents.volumes(b"", 9)
        assert not await leftover_round(leftovers)

    play(story)


def test_extents_of_volumes_that_exist_are_never_dropped() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        leftovers = leftovers_of(world, 0)
        for _ in range(3):
            assert not await leftover_round(leftovers)
        assert await client.read(0, BLOCK_BYTES) == pattern(1)

    play(story)


def test_a_name_that_is_used_again_while_a_deletion_ends_keeps_its_index_row() -> None:
    async def story(world: World) -> None:
        registry = registry_of(world)
        removing = registry._remove

        async def remove_and_lose_the_race(name: str, volume: bytes) -> None:
            await removing(name, volume)
            await registry_of(world).create(NAME, 1 << 20)

        registry._remove = remove_and_lose_the_race  # type: ignore[method-assign]
        await registry.delete(NAME)
        assert await registry.indexed("", 9) == [NAME]
        assert (await registry.show(NAME)).size == 1 << 20

    play(story)


async def recreated(world: World) -> Gateway:
    """The volume is deleted, and another one of its name is in use."""
    registry = registry_of(world)
    await registry.delete(NAME)
    world.told = (await registry.create(NAME, world.size)).told
    gateway = world.gateway()
    await Client(gateway.session).write(0, pattern(2))
    return gateway


async def expect_untouched(world: World, gateway: Gateway) -> None:
    assert await registry_of(world).names(limit=9) == [NAME]
    leftovers = leftovers_of(world, 0)
    for _ in range(3):
        assert not await leftover_round(leftovers)
    assert gateway.lost is None
    assert await Client(gateway.session).read(0, BLOCK_BYTES) == pattern(2)


def test_a_deletion_that_was_overtaken_leaves_the_next_volume_of_the_name_alone() -> None:
    async def story(world: World) -> None:
        late = registry_of(world)
        finishing = late._finish
        gateways: list[Gateway] = []

        async def finish_too_late(name: str, row: VolumeRow, *, held: bool) -> None:
            gateways.append(await recreated(world))
            await finishing(name, row, held=held)

        late._finish = finish_too_late  # type: ignore[method-assign]
        await late.delete(NAME)
        await expect_untouched(world, gateways[0])

    play(story)


def test_a_tender_that_finishes_a_deletion_deletes_no_other_volume_of_the_name() -> None:
    async def story(world: World) -> None:
        row = msgspec.structs.replace(await world.row(), state="deleting")
        await world.rows.change(
            place_of(NAME), Change(OpId(bytes(16)), puts=((key_of(NAME), Row(encode(row))),))
        )
        tending = tending_of(world)
        looking = tending._row
        gateways: list[Gateway] = []

        async def look_and_sleep(name: str) -> VolumeRow | None:
            found = await looking(name)
            gateways.append(await recreated(world))
            await gateways[0].session.close(deadline=world.env.clock.monotonic() + 10)
            return found

        tending._row = look_and_sleep  # type: ignore[method-assign]
        await tending.run(Tend(name=NAME, rank=0))
        await expect_untouched(world, world.gateway())

    play(story)


def test_a_volume_is_not_created_on_the_index_row_of_one_that_is_deleted_meanwhile() -> None:
    async def story(world: World) -> None:
        creator = registry_of(world)
        putting = creator._put

        async def put_after_the_deletion(name: str, row: VolumeRow, check: Check) -> int:
            await registry_of(world).delete(NAME)
            await putting(name, row, check)
            raise Unavailable("the answer was lost")

        creator._put = put_after_the_deletion  # type: ignore[method-assign]
        with pytest.raises((Conflict, Unavailable)):
            await creator.create(NAME, world.size)
        assert await creator.indexed("", 9) == [NAME]

    play(story)


def test_the_fewer_copies_a_volume_has_the_sooner_it_is_tended() -> None:
    well = VolumeRow(
        id=b"i" * 16, size=1, created_ms=1, seen={0: 1, 1: 1}, uuids={0: b"a", 1: b"b"}
    )
    openings = {
        DeviceId(0): (DeviceUuid(b"a"), Boot(1)),
        DeviceId(1): (DeviceUuid(b"b"), Boot(1)),
    }

    def changed(**changes: object) -> int | None:
        values = {name: getattr(well, name) for name in well.__struct_fields__}
        return needs(VolumeRow(**{**values, **changes}), openings)

    assert changed() is None
    assert changed(seen={}) is None
    ranks = [
        changed(out={0: 3, 1: 2}),
        changed(out={0: 3}),
        changed(trust={4: {0: 1}}),
        changed(seen={0: 1, 1: 7}),
    ]
    assert None not in ranks
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)
    assert changed(uuids={0: b"z", 1: b"b"}) == changed(cut=(4, 8)) == ranks[-1]
    assert Holder("n", 1, 1, tending=True).tending
