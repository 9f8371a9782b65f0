"""What a new holder believes of copies that a dead one left, and when it says so."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from pinfold.device.api import ExtentOp, Mark
from pinfold.model.errors import Corrupt
from pinfold.model.ids import Boot, DeviceId, Token
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import WRITE
from pinfold.volumes.trust import TRUSTS_MAX, further, promised, rank
from tests.twins.extents import MemoryNode
from tests.volumes.world import Client, Gateway, World, pattern, play


def hold_copies(gateway: Gateway) -> asyncio.Event:
    """Let the gateway's reads wait: settling is slow until the event is set."""
    go = asyncio.Event()
    client = gateway.client
    read = client.read

    def later(*args: Any, **more: Any) -> asyncio.Future[Any]:
        async def asked() -> Any:
            await go.wait()
            return await read(*args, **more)

        return asyncio.ensure_future(asked())

    client.read = later  # type: ignore[method-assign]
    return go


async def leave_unflushed(world: World, survivor: int, offsets: Iterable[int] = (0,)) -> None:
    """A holder answers writes and dies; only one member keeps what was not flushed."""
    old = world.gateway()
    client = Client(old.session)
    for offset in offsets:
        await client.write(offset, pattern(1))
    await client.flush()
    await asyncio.sleep(1)
    for offset in offsets:
        await client.write(offset, pattern(2))
    forgetful = [number for number in range(3) if number != survivor]
    for number in forgetful:
        world.kill(old, number)
    await old.die()
    for number in forgetful:
        world.start(number, keeps="nothing")


def restart_all(world: World, gateway: Gateway, forgetful: int) -> None:
    """Every process is killed; one member has lost its power as well."""
    for number in range(3):
        world.kill(gateway, number)
        world.start(number, keeps="nothing" if number == forgetful else "all")


@pytest.mark.parametrize("forgetful", range(3))
def test_what_members_kept_wins_over_what_another_has_lost_although_all_restarted(
    forgetful: int,
) -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(0, pattern(1))
        await client.flush()
        await client.write(0, pattern(2))
        await old.die()
        restart_all(world, old, forgetful)
        assert await Client(world.gateway().session).read(0, BLOCK_BYTES) == pattern(2)

    play(story)


def test_a_write_that_was_being_sent_again_does_not_win_over_the_one_that_followed_it() -> None:
    """Every process is killed just when a member has taken an overwritten write again."""

    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(0, pattern(1))
        await client.write(0, pattern(2))
        row = await world.row()
        extents = world.devices[0].extents
        ops = [ExtentOp(WRITE, 0, 0, BLOCK_BYTES)]
        await extents.write(row.id, Token(row.token), row.epoch, 1, ops, memoryview(pattern(1)))
        await old.die()
        restart_all(world, old, 9)
        assert await Client(world.gateway().session).read(0, BLOCK_BYTES) == pattern(2)

    play(story)


def test_of_equals_the_one_that_got_further_wins() -> None:
    unmarked, rotten = None, Mark(0, 1, 4, 0)
    copied, short, long = Mark(0, 1, 5, 9), Mark(0, 1, 4, 7), Mark(0, 1, 4, 8)
    order = sorted([unmarked, rotten, copied, short, long], key=further)
    assert order[:3] == [long, short, copied]


def test_a_flush_is_not_answered_before_members_in_sync_have_what_was_answered() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        gateway = world.gateway()
        go = hold_copies(gateway)
        flushing = asyncio.get_running_loop().create_task(Client(gateway.session).flush())
        await asyncio.sleep(3)
        assert not flushing.done()
        go.set()
        await flushing
        volume = (await world.row()).id
        for number in range(3):
            assert world.contents(number, volume, range(1)) == [pattern(2)]

    play(story)


def test_what_was_answered_while_settling_is_known_to_the_next_holder() -> None:
    """The second holder answers a write before it has settled what the first one left, and dies
    with the only device that the first one's row vouched for.
    """

    async def story(world: World) -> None:
        first = world.gateway()
        client = Client(first.session)
        await client.write(0, pattern(1))
        await client.write(EXTENT_BYTES, pattern(1))
        await client.flush()
        await asyncio.sleep(1)
        world.kill(first, 2)
        await client.write(0, pattern(2))
        world.kill(first, 1)
        await first.die()
        world.start(1, keeps="nothing")
        second = world.gateway()
        hold_copies(second)
        await Client(second.session).write(EXTENT_BYTES, pattern(9))
        await asyncio.sleep(3)
        assert sorted((await world.row()).trust) == [1, 2]
        world.kill(second, 0)
        await second.die()
        world.start(0, keeps="nothing")
        third = Client(world.gateway().session)
        assert await third.read(EXTENT_BYTES, BLOCK_BYTES) == pattern(9)

    play(story)


def test_a_copy_that_settling_left_half_done_does_not_win() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0, (0, EXTENT_BYTES - BLOCK_BYTES))
        second = world.gateway()
        sent = 0
        went = asyncio.Event()
        write = second.client.write

        def first_piece_only(*args: Any, **more: Any) -> asyncio.Future[Any]:
            nonlocal sent
            sent += 1
            went.set()
            if sent > 1:
                return asyncio.get_running_loop().create_future()
            return write(*args, **more)

        second.client.write = first_piece_only  # type: ignore[method-assign]
        reading = asyncio.get_running_loop().create_task(Client(second.session).read(0, 1))
        await went.wait()
        await asyncio.sleep(0.01)
        reading.cancel()
        await second.die()
        third = Client(world.gateway().session)
        assert await third.read(0, BLOCK_BYTES) == pattern(2)
        assert await third.read(EXTENT_BYTES - BLOCK_BYTES, BLOCK_BYTES) == pattern(2)

    for seed in range(3):
        play(story, seed=seed)


def test_one_rotten_block_does_not_make_old_bytes_of_others_win() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0, range(0, 8 * BLOCK_BYTES, BLOCK_BYTES))
        world.devices[0].extents.corrupt.add((0, 200))
        client = Client(world.gateway().session)
        for block in range(8):
            assert await client.read(block * BLOCK_BYTES, BLOCK_BYTES) == pattern(2)
        await client.read(200 * BLOCK_BYTES, BLOCK_BYTES)
        assert not world.devices[0].extents.corrupt

    play(story)


def test_a_block_that_is_rotten_everywhere_is_lost_alone() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        for device in world.devices:
            device.extents.corrupt.add((0, 5))
        client = Client(world.gateway().session)
        assert await client.read(0, BLOCK_BYTES) == pattern(2)
        assert await client.read(6 * BLOCK_BYTES, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        await client.flush()
        with pytest.raises(Corrupt):
            await client.read(5 * BLOCK_BYTES, BLOCK_BYTES)
        await client.write(5 * BLOCK_BYTES, pattern(3))
        assert await client.read(5 * BLOCK_BYTES, BLOCK_BYTES) == pattern(3)

    play(story)


def test_the_only_device_with_every_answered_write_is_waited_for() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        world.nodes[0].up = False
        reading = asyncio.get_running_loop().create_task(
            Client(world.gateway().session).read(0, BLOCK_BYTES)
        )
        await asyncio.sleep(20)
        assert not (await world.row()).out
        world.nodes[0].up = True
        assert await reading == pattern(2)

    play(story)


def test_the_only_device_with_every_answered_write_is_not_waited_for_for_ever() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        world.nodes[0].up = False
        async with asyncio.timeout(world.settings.last_copy_s + 20):
            client = Client(world.gateway().session)
            assert await client.read(0, BLOCK_BYTES) == pattern(1)

    play(story)


def test_whoever_waits_for_a_device_keeps_the_volume_meanwhile() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        world.nodes[0].up = False
        loop = asyncio.get_running_loop()
        first, second = world.gateway("first"), world.gateway("second")
        reading = loop.create_task(Client(first.session).read(0, BLOCK_BYTES))
        await asyncio.sleep(1)
        waiting = loop.create_task(Client(second.session).read(0, BLOCK_BYTES))
        await asyncio.sleep(20)
        assert first.lost is None
        world.nodes[0].up = True
        assert await reading == pattern(2)
        waiting.cancel()

    play(story)


def test_a_holder_that_closes_before_it_knows_what_is_unsettled_does_not_say_all_is_well() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        world.nodes[0].up = False
        gateway = world.gateway()
        gateway.session.start()
        await asyncio.sleep(1)
        await gateway.session.close(deadline=world.env.clock.monotonic() + 3)
        assert 1 in (await world.row()).trust
        world.nodes[0].up = True
        assert await Client(world.gateway().session).read(0, BLOCK_BYTES) == pattern(2)

    play(story)


def test_many_extents_are_settled_at_once() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0, range(0, world.size, EXTENT_BYTES))
        for node in world.nodes:
            node.latency = 0.05
        loop = asyncio.get_running_loop()
        gateway = world.gateway()
        client = Client(gateway.session)
        began = loop.time()
        await client.flush()
        assert loop.time() - began < 4  # one after the other they took more than 8 s

    play(story, size=16 * EXTENT_BYTES)


def test_takeovers_that_never_settle_do_not_make_the_row_grow() -> None:
    async def story(world: World) -> None:
        await leave_unflushed(world, 0)
        for _ in range(TRUSTS_MAX + 3):
            gateway = world.gateway()
            hold_copies(gateway)
            beginning = asyncio.get_running_loop().create_task(
                Client(gateway.session).write(EXTENT_BYTES, pattern(3))
            )
            await asyncio.sleep(1)
            beginning.cancel()
            await gateway.die()
        assert len((await world.row()).trust) == TRUSTS_MAX
        client = Client(world.gateway().session)
        assert await client.read(0, BLOCK_BYTES) == pattern(2)
        await client.flush()
        await asyncio.sleep(1)
        assert len((await world.row()).trust) == 1

    play(story)


def test_a_device_that_was_swapped_for_an_empty_one_is_no_copy() -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(0, pattern(1))
        await old.session.close(deadline=world.env.clock.monotonic() + 10)
        world.swap(0)
        client = Client(world.gateway().session)
        assert await client.read(0, BLOCK_BYTES) == pattern(1)
        await world.in_sync()
        volume = (await world.row()).id
        assert world.contents(0, volume, range(1)) == [pattern(1)]

    play(story)


def test_a_copy_is_believed_the_more_the_more_holders_vouch_for_it() -> None:
    trust = {5: {0: 1, 1: 1}, 6: {0: 1, 1: 2}}
    zero, one, two = DeviceId(0), DeviceId(1), DeviceId(2)
    assert rank(trust, 6, zero, Boot(1)) == 2
    assert rank(trust, 6, one, Boot(2)) == 1
    assert rank(trust, 5, one, Boot(2)) == 0
    assert rank(trust, 5, one, Boot(1)) == 1
    assert rank(trust, 6, two, Boot(1)) == 0
    assert [promised(trust, device) for device in (zero, one, two)] == [2, 1, 0]


def test_settling_reads_nothing_past_what_a_member_was_not_sent_yet() -> None:
    """Copies to one member wait for its window when the one that they came from restarts. Whoever
    wins then is the member that they wait for: as it will be, and not as it is.
    """
    places = [extent * EXTENT_BYTES for extent in range(4)]

    async def leave_behind(world: World) -> None:
        """Writes that only the first member has."""
        old = world.gateway()
        client = Client(old.session)
        for place in places:
            await client.write(place, pattern(1))
        await client.flush()
        await asyncio.sleep(1)
        for device in world.devices[1:]:
            device.extents.busy = True
        writing = [asyncio.ensure_future(client.write(place, pattern(2))) for place in places]
        await asyncio.sleep(0.001)
        await old.die()
        await asyncio.wait(writing, timeout=0)
        for one in writing:
            one.cancel()
        await asyncio.sleep(2 * world.settings.silence_s)
        for device in world.devices[1:]:
            device.extents.busy = False

    async def story(world: World) -> None:
        await leave_behind(world)
        volume = (await world.row()).id
        world.nodes[1].latency = 0.3
        new = world.gateway()
        copied = 0

        def restart(node: MemoryNode, operation: str) -> None:
            nonlocal copied
            copied += operation == "extent.write" and node is world.nodes[2]
            if copied == len(places):
                copied += 1
                asyncio.get_running_loop().call_soon(world.restart, new, 0)

        new.network.before_delivery = restart
        client = Client(new.session)
        await client.flush()
        await asyncio.sleep(1)
        assert copied > len(places)
        for place in places:
            block = place // BLOCK_BYTES
            found = {world.contents(n, volume, range(block, block + 1))[0] for n in range(3)}
            assert len(found) == 1

    play(story, settings=VolumeSettings(window_bytes=64 << 10))
