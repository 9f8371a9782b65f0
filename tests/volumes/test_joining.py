"""How a member that was out of sync comes back: what is proved first, and who waits for it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pinfold.model.errors import Corrupt
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import WRITE, Io
from pinfold.volumes.lane import Lane, Standing
from tests.volumes.world import Client, Gateway, World, pattern, play

MEGABYTE = b"m" * (1 << 20)


def lane_of(gateway: Gateway, number: int) -> Lane:
    sequencer = gateway.session._sequencer
    assert sequencer is not None
    return {int(device): lane for device, lane in sequencer.lanes.items()}[number]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.001)


async def member_out(world: World, gateway: Gateway, number: int) -> Client:
    client = Client(gateway.session)
    await client.write(0, pattern(1))
    await client.flush()
    world.kill(gateway, number)
    await client.write(BLOCK_BYTES, pattern(3))
    await client.flush()
    assert set((await world.row()).out) == {number}
    return client


def test_a_member_is_taken_in_only_with_every_answered_write() -> None:
    """Its last flush is under way, and the network holds back what is sent to it meanwhile."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = await member_out(world, gateway, 0)
        extents, sequencer = world.devices[0].extents, gateway.session._sequencer
        assert sequencer is not None
        flush, deliver, count = extents.flush, gateway.network._deliver, sequencer.count
        gate = asyncio.get_running_loop().create_future()
        counted = held = False

        def hold_back(node: Any, incarnation: int) -> None:
            if node is world.nodes[0] and held:
                asyncio.get_running_loop().call_later(0.01, hold_back, node, incarnation)
            else:
                deliver(node, incarnation)

        def count_with_something_to_flush(lane: Lane) -> None:
            nonlocal counted
            counted = True
            extents.flush_gate = None if gate.done() else gate
            sequencer.submit([Io(WRITE, 1 << 20, BLOCK_BYTES, client, payload=pattern(5))])
            sequencer.pump()
            count(lane)

        def last_flush(volume: VolumeId, token: Token) -> asyncio.Future[None]:
            nonlocal held
            held = counted and not gate.done()
            return flush(volume, token)

        gateway.network._deliver = hold_back  # type: ignore[method-assign]
        sequencer.count = count_with_something_to_flush  # type: ignore[method-assign]
        extents.flush = last_flush  # type: ignore[method-assign]
        world.start(0)
        await until(lambda: held)
        answered = asyncio.get_running_loop().create_task(write_and_flush(client))
        await asyncio.sleep(0.1)
        extents.flush_gate = None
        gate.set_result(None)
        await asyncio.sleep(0.1)
        row = await world.row()
        if answered.done() and 0 not in row.out:
            assert world.contents(0, row.id, range(1)) == [pattern(2)]
        held = False
        await answered
        await world.in_sync()
        assert world.contents(0, row.id, range(1)) == [pattern(2)]

    play(story)


async def write_and_flush(client: Client) -> None:
    await client.write(0, pattern(2))
    await client.flush()


def test_a_member_that_joins_slowly_does_not_slow_the_guest() -> None:
    settings = VolumeSettings(retained_bytes=8 << 20, window_bytes=4 << 20)

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = await member_out(world, gateway, 2)
        loop = asyncio.get_running_loop()
        world.nodes[2].latency = 0.4
        world.start(2)
        lane = lane_of(gateway, 2)
        await until(lambda: lane.standing is Standing.JOINING)
        count, began = 0, loop.time()
        while loop.time() - began < 5 and lane.standing is Standing.JOINING:
            before = loop.time()
            await client.write((count % 15) << 20, MEGABYTE)
            assert loop.time() - before < 0.05 or lane.standing is not Standing.JOINING
            count += 1
            await asyncio.sleep(0.02)
        assert count > 100
        world.nodes[2].latency = 0.0002
        await world.in_sync()
        await client.flush()
        volume = (await world.row()).id
        assert len({device.extents.content(volume, 0, 4 << 20) for device in world.devices}) == 1

    play(story, settings=settings)


def test_flushes_do_not_wait_for_a_member_that_joins() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = await member_out(world, gateway, 2)
        loop = asyncio.get_running_loop()
        gate = world.devices[2].extents.flush_gate = loop.create_future()
        world.start(2)
        lane = lane_of(gateway, 2)
        await until(lambda: lane.standing is Standing.JOINING and lane.flushing)
        before = loop.time()
        for number in range(20):
            await client.write(0, pattern(number))
            await client.flush()
        assert loop.time() - before < 0.1
        assert lane.standing is Standing.JOINING
        world.devices[2].extents.flush_gate = None
        gate.set_result(None)
        await world.in_sync()

    play(story)


def test_a_member_that_is_counted_and_dies_delays_nobody_for_long() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = await member_out(world, gateway, 2)
        epoch = (await world.row()).epoch
        sequencer = gateway.session._sequencer
        assert sequencer is not None
        count, counted = sequencer.count, asyncio.Event()

        def counted_at_last(lane: Lane) -> None:
            count(lane)
            if not counted.is_set():
                world.nodes[2].hung = True
                lane.last += 1  # it owes a flush, which does not arrive
                counted.set()

        sequencer.count = counted_at_last  # type: ignore[method-assign]
        world.start(2)
        await counted.wait()
        writing = asyncio.get_running_loop().create_task(client.write(0, pattern(7)))
        await asyncio.sleep(0.1)
        assert not writing.done()
        world.kill(gateway, 2)
        world.nodes[2].hung = False
        await writing
        await client.flush()
        row = await world.row()
        assert set(row.out) == {2}
        assert row.epoch == epoch
        world.start(2)
        await world.in_sync()
        assert world.contents(2, row.id, range(1)) == [pattern(7)]

    play(story)


def test_a_block_that_rotted_on_one_source_comes_from_the_other() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await member_out(world, gateway, 0)
        world.devices[1].extents.corrupt.add((0, 1))
        world.devices[2].extents.corrupt.add((0, 0))
        world.start(0)
        await world.in_sync()
        volume = (await world.row()).id
        assert world.contents(0, volume, range(2)) == [pattern(1), pattern(3)]

    play(story)


def test_a_member_does_not_answer_with_old_bytes_for_a_block_that_rotted_on_all_others() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = await member_out(world, gateway, 0)
        await client.write(0, pattern(2))
        for number in (1, 2):
            world.devices[number].extents.corrupt.add((0, 0))
        world.start(0)
        await asyncio.sleep(10)
        assert set((await world.row()).out) == {0}
        with pytest.raises(Corrupt):
            await client.read(0, BLOCK_BYTES)
        assert await client.read(BLOCK_BYTES, BLOCK_BYTES) == pattern(3)
        await client.write(0, pattern(4))
        await world.in_sync()
        volume = (await world.row()).id
        assert world.contents(0, volume, range(2)) == [pattern(4), pattern(3)]

    play(story)
