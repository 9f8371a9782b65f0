"""The rules that only rare meetings of failures would break, each brought about on purpose."""

import asyncio

from pinfold.cluster.api import Change
from pinfold.model.errors import Unavailable
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from tests.twins.virtual import VirtualLoop
from tests.volumes.world import Client, World, pattern, play

LAST = 3 * EXTENT_BYTES


async def ticks(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_write_that_the_absent_member_missed_reaches_it_later() -> None:
    """It went out under the old epoch; nothing else ever touches its extent."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        writing = asyncio.get_running_loop().create_task(client.write(LAST, pattern(2)))
        await ticks()
        world.kill(gateway, 1)
        await writing
        await client.flush()
        await asyncio.sleep(10)
        volume = (await world.row()).id
        assert not world.devices[0].extents.dirty(volume)
        world.start(1)
        await world.in_sync()
        assert world.devices[1].extents.content(volume, LAST, BLOCK_BYTES) == pattern(2)

    play(story)


def test_a_write_that_only_the_absent_member_took_is_undone_there() -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(LAST + BLOCK_BYTES, pattern(1))
        await client.flush()
        await asyncio.sleep(1)
        writing = asyncio.get_running_loop().create_task(client.write(LAST, pattern(2)))
        await ticks()
        old.network.cut(world.nodes[1], deliver=10)
        for number in (0, 2):
            old.network.cut(world.nodes[number])
        await old.die()
        writing.cancel()
        volume = (await world.row()).id
        assert world.devices[1].extents.content(volume, LAST, BLOCK_BYTES) == pattern(2)
        world.nodes[1].up = False
        new = Client(world.gateway().session)
        assert await new.read(LAST, BLOCK_BYTES) == bytes(BLOCK_BYTES)
        assert set((await world.row()).out) == {1}
        world.nodes[1].up = True
        await world.in_sync()
        assert world.devices[1].extents.content(volume, LAST, BLOCK_BYTES) == bytes(BLOCK_BYTES)

    play(story)


def test_a_returning_member_is_no_copy_of_one_that_lost_what_was_answered() -> None:
    """The only member that has it is away while the new holder takes over, and is waited for."""

    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(0, pattern(1))
        world.kill(old, 2)
        await client.write(0, pattern(2))
        assert set((await world.row()).out) == {2}
        world.kill(old, 1)
        await old.die()
        world.devices[1].extents.crash(world.rng)
        world.start(1)
        world.start(2)
        volume = (await world.row()).id
        assert world.devices[1].extents.content(volume, 0, BLOCK_BYTES) != pattern(2)
        world.nodes[0].up = False
        reading = asyncio.get_running_loop().create_task(
            Client(world.gateway().session).read(0, BLOCK_BYTES)
        )
        await asyncio.sleep(5)
        world.nodes[0].up = True
        assert await reading == pattern(2)
        await world.in_sync()
        assert world.devices[2].extents.content(volume, 0, BLOCK_BYTES) == pattern(2)

    play(story, seed=1)


def test_writes_during_a_copy_are_not_undone_by_it() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        clients = [Client(gateway.session) for _ in range(8)]
        await clients[0].write(0, pattern(1))
        world.kill(gateway, 2)
        await clients[0].write(0, pattern(2, 64 * BLOCK_BYTES))
        world.start(2)

        async def overwrite(client: Client, first: int) -> None:
            for number in range(first, first + 4000):
                if not (await world.row()).out:
                    return
                block = world.rng.randrange(256)  # each seldom: the next write must not mend it
                await client.write(block * BLOCK_BYTES, pattern(number))

        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(overwrite(client, 10_000 * number))
        await clients[0].flush()
        volume = (await world.row()).id
        held = {device.extents.content(volume, 0, 1 << 20) for device in world.devices}
        assert len(held) == 1

    play(story)


def test_nobody_sees_a_write_that_may_still_vanish() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        world.nodes[2].hung = True
        loop = asyncio.get_running_loop()
        writing = loop.create_task(client.write(0, pattern(2)))
        await asyncio.sleep(0.01)  # two members have it, the third does not
        reading = loop.create_task(client.read(0, BLOCK_BYTES))
        await asyncio.sleep(0.5)
        assert not writing.done()
        assert not reading.done()
        assert await reading == pattern(2)
        assert 2 in (await world.row()).out

    play(story)


def test_a_member_that_is_still_being_told_is_not_read() -> None:
    settings = VolumeSettings(window_bytes=8 << 10, retained_bytes=8 << 20, retained_s=60)

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(200 * BLOCK_BYTES, pattern(1))
        await client.flush()
        for block in range(100):
            await client.write(block * BLOCK_BYTES, pattern(block + 5))
        world.kill(gateway, 0)  # extent 0 is read there first
        world.devices[0].extents._undo.insert(0, lambda: None)
        world.start(0)
        world.devices[0].extents.crash(world.rng)
        for block in reversed(range(100)):
            assert await client.read(block * BLOCK_BYTES, BLOCK_BYTES) == pattern(block + 5)

    for seed in range(4):
        play(story, settings=settings, seed=seed)


def test_fua_waits_for_every_member_s_flush() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        loop = asyncio.get_running_loop()
        gate = world.devices[1].extents.flush_gate = loop.create_future()
        writing = loop.create_task(client.write(0, pattern(2), fua=True))
        plain = loop.create_task(client.write(BLOCK_BYTES, pattern(3)))
        await asyncio.sleep(1)
        assert plain.done()
        assert not writing.done()
        world.devices[1].extents.flush_gate = None
        gate.set_result(None)
        await writing
        for device in world.devices:
            device.restart(world.rng)
        volume = (await world.row()).id
        for number in range(3):
            assert world.contents(number, volume, range(1)) == [pattern(2)]

    play(story)


def test_every_holder_has_a_token_of_its_own() -> None:
    async def story(world: World) -> None:
        tokens = []
        for _ in range(3):
            gateway = world.gateway()
            await Client(gateway.session).write(0, pattern(1))
            tokens.append((await world.row()).token)
            await gateway.session.close(deadline=world.env.clock.monotonic() + 10)
        assert tokens == [1, 2, 3]

    play(story)


def test_requests_of_a_client_that_left_are_not_begun() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        first, second = Client(gateway.session), Client(gateway.session)
        await first.write(0, pattern(1))
        world.kill(gateway, 1)
        world.kill(gateway, 2)
        settled = asyncio.get_running_loop().create_task(second.write(0, pattern(2)))
        await asyncio.sleep(5)  # writes wait: one member is left
        late = asyncio.get_running_loop().create_task(
            first.write(BLOCK_BYTES, pattern(9, 32 * BLOCK_BYTES))
        )
        more = [
            asyncio.get_running_loop().create_task(first.write(BLOCK_BYTES, pattern(9)))
            for _ in range(9)
        ]
        await asyncio.sleep(0.1)
        gateway.session.withdraw(first)
        world.start(1)
        world.start(2)
        await settled
        await asyncio.sleep(5)
        assert isinstance(more[-1].exception(), Unavailable)
        assert isinstance(late.exception(), Unavailable)
        volume = (await world.row()).id
        assert world.contents(0, volume, range(1, 2)) == [bytes(BLOCK_BYTES)]

    play(story, settings=VolumeSettings(batches_max=1))


def test_many_devices_keep_a_volume_going_with_two_of_them_out() -> None:
    """Members differ by extent: devices that share no extent may be out together."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        for extent in range(4):
            await client.write(extent * EXTENT_BYTES, pattern(extent + 1))
        world.kill(gateway, 0)
        await client.write(0, pattern(10))
        assert set((await world.row()).out) == {0}
        world.kill(gateway, 3)
        await client.write(3 * EXTENT_BYTES, pattern(13))
        assert set((await world.row()).out) == {0, 3}
        world.start(0)
        world.start(3)
        await world.in_sync()
        await client.flush()
        volume = (await world.row()).id
        for extent in range(4):
            for device in world.placement.members(volume, extent):  # type: ignore[arg-type]
                held = world.devices[device].extents.content(
                    volume, extent * EXTENT_BYTES, BLOCK_BYTES
                )
                assert held == await client.read(extent * EXTENT_BYTES, BLOCK_BYTES)

    play(story, devices=6, spread=True)


def test_a_flush_covers_what_the_former_holder_had_answered() -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        await Client(old.session).write(0, pattern(1))
        await old.die()
        new = world.gateway()
        await Client(new.session).flush()
        await new.die()
        for number in range(3):
            world.kill(new, number)
            world.devices[number].extents.crash(world.rng)
            world.start(number)
        assert await Client(world.gateway().session).read(0, BLOCK_BYTES) == pattern(1)

    for seed in range(5):
        play(story, seed=seed)


def test_two_members_that_fail_together_are_not_both_put_out() -> None:
    """R3: the second waits, whatever the row said when both were given up."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))

        # The row cannot be changed for a while: both are given up before either is named.
        def nobody_answers(_change: Change) -> None:
            raise Unavailable("no majority")

        world.rows.before_change = nobody_answers
        for number in (1, 2):
            world.kill(gateway, number)
        writing = asyncio.ensure_future(client.write(0, pattern(2)))
        await asyncio.sleep(6)
        world.rows.before_change = None
        await asyncio.sleep(3)
        assert len((await world.row()).out) == 1
        assert not writing.done(), "one member alone has it"
        for number in (1, 2):
            world.start(number)
        await writing
        await world.in_sync()
        for number in range(3):
            volume = (await world.row()).id
            assert world.contents(number, volume, range(1)) == [pattern(2)]

    play(story)


def test_a_holder_that_was_suspended_asks_before_it_serves() -> None:
    """Its clocks wake behind the requests that have gathered."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        await asyncio.sleep(1)

        def nobody_answers(_change: Change) -> None:
            raise Unavailable("no majority")

        world.rows.before_change = nobody_answers
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.suspend(world.settings.trust_s + 1)
        reading = asyncio.ensure_future(client.read(0, BLOCK_BYTES))
        await asyncio.sleep(5)
        assert not reading.done(), "another may have the volume by now"
        world.rows.before_change = None
        assert await reading == pattern(1)

    play(story)


def test_a_write_is_answered_as_soon_as_the_row_trusts_a_member_at_its_new_boot() -> None:
    """Also when changing the row takes time and nothing else happens meanwhile."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        await client.flush()

        async def a_while() -> None:
            await asyncio.sleep(0.01)

        world.rows.turn = a_while
        world.kill(gateway, 0)
        writing = asyncio.get_running_loop().create_task(client.write(0, pattern(2)))
        await asyncio.sleep(0.1)
        world.start(0)
        async with asyncio.timeout(1):
            await writing
        assert (await world.row()).trust[1][0] == world.devices[0].boot

    play(story)
