"""What shrinking cuts off does not come back."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Changed, Row
from pinfold.model.errors import Fenced, Unavailable
from pinfold.model.limits import BLOCK_BYTES
from pinfold.volumes.cutting import Cutting
from pinfold.volumes.registry import Registry
from tests.twins.cluster import MemoryRows
from tests.twins.extents import MemoryNode
from tests.volumes.test_tending import registry_of, round_of, tending_of
from tests.volumes.world import NAME, Client, World, pattern, play


async def filled(world: World) -> Registry:
    gateway = world.gateway()
    client = Client(gateway.session)
    for offset in range(0, 16 << 20, 1 << 20):
        await client.write(offset, pattern(7))
    await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
    return registry_of(world)


def test_bytes_cut_off_by_shrinking_are_zeroes_when_the_volume_grows_again() -> None:
    async def story(world: World) -> None:
        registry = await filled(world)
        await registry.resize(NAME, (6 << 20) + 512, force=True)
        await registry.resize(NAME, 8 << 20)
        await registry.resize(NAME, (7 << 20), force=True)
        await registry.resize(NAME, 16 << 20)
        gateway = world.gateway()
        client = Client(gateway.session)
        assert await client.read(8 << 20, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        assert await client.read(7 << 20, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        assert await client.read(6 << 20, BLOCK_BYTES) == pattern(7)[:512] + bytes(
            BLOCK_BYTES - 512
        )
        assert await client.read(5 << 20, BLOCK_BYTES) == pattern(7)
        row = await world.row()
        assert row.cut == (0, 0)
        await client.write(8 << 20, pattern(8))
        await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
        assert await Client(world.gateway().session).read(8 << 20, BLOCK_BYTES) == pattern(8)

    play(story)


def test_space_cut_off_comes_back_although_nobody_attaches() -> None:
    async def story(world: World) -> None:
        registry = await filled(world)
        await registry.resize(NAME, 4 << 20, force=True)
        tending = tending_of(world)
        (job,) = await round_of(tending)
        await tending.run(job)
        row = await world.row()
        assert row.cut == (0, 0)
        for number in range(3):
            cut = world.contents(number, row.id, range(1 << 10, 4 << 10))
            assert set(cut) == {bytes(BLOCK_BYTES)}
        assert not await round_of(tending)

    play(story)


def test_a_volume_that_has_its_size_again_is_not_served_before_the_cut_is_zeroed() -> None:
    """Its holder looks at the row now and then: it may find the size that it knows."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(8 << 20, pattern(7))
        await asyncio.sleep(0.1)
        registry = registry_of(world)
        shrinking = asyncio.get_running_loop().create_task(
            registry.resize(NAME, 4 << 20, force=True)
        )
        await _grow_again(world, registry)
        await shrinking
        assert isinstance(gateway.lost, Fenced)
        client = Client(world.gateway().session)
        assert await client.read(8 << 20, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        await client.write(8 << 20, pattern(8))
        await world.gateways[-1].sessions.close()
        client = Client(world.gateway().session)
        assert await client.read(8 << 20, BLOCK_BYTES) == pattern(8)

    play(story)


def test_shrinking_ends_when_no_answer_can_be_cut_off_any_more() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(8 << 20, pattern(7))
        await registry_of(world).resize(NAME, 4 << 20, force=True)
        with pytest.raises(Fenced):
            await client.write(8 << 20, pattern(8))

    play(story)


def test_shrinking_does_not_end_before_a_holder_that_cannot_confirm_its_row_has_stopped() -> None:
    """It may serve until its trust ends, and what it answers then is zeroed by the next holder."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(8 << 20, pattern(7))
        rows = gateway.session._lease._rows = CutRows(world.rows)  # type: ignore[assignment]
        rows.cut = True
        await registry_of(world).resize(NAME, 4 << 20, force=True)
        writing = asyncio.create_task(client.write(8 << 20, pattern(8)))
        await asyncio.sleep(1)
        assert not writing.done()
        rows.cut = False
        with pytest.raises(Fenced):
            await writing

    play(story)


def test_what_is_cut_off_while_a_cut_is_zeroed_is_zeroed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(world: World) -> None:
        registry = await filled(world)
        await registry.resize(NAME, 12 << 20, force=True)
        await registry.resize(NAME, world.size)
        zero = Cutting.zero

        async def zero_and_be_cut_again(cutting: Cutting, first: int, end: int) -> None:
            await zero(cutting, first, end)
            monkeypatch.setattr(Cutting, "zero", zero)
            await asyncio.gather(
                registry.resize(NAME, 4 << 20, force=True), _grow_again(world, registry)
            )

        monkeypatch.setattr(Cutting, "zero", zero_and_be_cut_again)
        gateway = world.gateway()
        client = Client(gateway.session)
        assert await client.read(8 << 20, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        assert gateway.lost is None
        assert (await world.row()).cut == (0, 0)

    play(story)


def test_a_device_that_restarts_while_a_cut_is_zeroed_fails_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(world: World) -> None:
        registry = await filled(world)
        await registry.resize(NAME, 4 << 20, force=True)
        await registry.resize(NAME, world.size)
        gateway = world.gateway()
        zero = Cutting.zero

        def restart_once(node: MemoryNode, operation: str) -> None:
            if operation == "extent.marks":
                gateway.network.before_delivery = None
                world.devices[world.nodes.index(node)].restart(world.rng, "nothing")

        async def zero_at_a_bad_time(cutting: Cutting, first: int, end: int) -> None:
            gateway.network.before_delivery = restart_once
            await zero(cutting, first, end)

        monkeypatch.setattr(Cutting, "zero", zero_at_a_bad_time)
        client = Client(gateway.session)
        assert await client.read(8 << 20, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        assert gateway.lost is None

    play(story)


class CutRows:
    """The row log as one gateway sees it, that may be cut off."""

    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows
        self.cut = False

    async def get(self, place: bytes, key: bytes) -> Row | None:
        self._reach()
        return await self._rows.get(place, key)

    async def change(self, place: bytes, change: Change) -> Changed:
        self._reach()
        return await self._rows.change(place, change)

    def _reach(self) -> None:
        if self.cut:
            raise Unavailable("no majority is reached")


async def _grow_again(world: World, registry: Registry) -> None:
    while (await world.row()).size == world.size:  # noqa: ASYNC110 - rows cannot tell
        await asyncio.sleep(0)
    await registry.resize(NAME, world.size)
