"""Directed tests of a held volume, each named after what it prevents."""

import asyncio

import pytest

from pinfold.model.errors import (
    Busy,
    Fenced,
    Full,
    PinfoldError,
    Unavailable,
)
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import TRIM, ZERO
from tests.volumes.world import Client, World, pattern, play


def test_what_was_written_is_read_from_every_member() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        for extent in range(3):  # each extent's reads go to another member
            await client.write(extent * EXTENT_BYTES + 512, pattern(extent + 1, 1024))
        for extent in range(3):
            found = await client.read(extent * EXTENT_BYTES, 2048)
            assert found == bytes(512) + pattern(extent + 1, 1024) + bytes(512)
        volume = (await world.row()).id
        await gateway.session.close(deadline=100)
        for device in world.devices:
            assert device.extents.content(volume, 512, 1024) == pattern(1, 1024)
            assert not device.extents.dirty(volume)
        assert (await world.row()).holder is None

    play(story)


def test_a_request_across_extents_is_whole() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        data = bytes(range(256)) * 4096 * 5
        await client.write(3 * EXTENT_BYTES - 700_000, data)
        assert await client.read(3 * EXTENT_BYTES - 700_000, len(data)) == data
        await client.change(ZERO, 3 * EXTENT_BYTES - 8192, 16384)
        await client.change(TRIM, 3 * EXTENT_BYTES + 8192, 8192)
        found = await client.read(3 * EXTENT_BYTES - 16384, 40960)
        start = 700_000 - 16384
        assert found == data[start : start + 8192] + bytes(24576) + data[start + 32768 :][:8192]

    play(story, size=32 << 20)


@pytest.mark.parametrize("deliver", [0, 1, 100])
def test_a_member_that_dies_is_put_out_before_writes_are_answered(deliver: int) -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        writing = asyncio.get_running_loop().create_task(client.write(0, pattern(2)))
        await asyncio.sleep(0)
        world.kill(gateway, 1, deliver=deliver)
        before = asyncio.get_running_loop().time()
        await writing
        assert 1 in (await world.row()).out
        assert asyncio.get_running_loop().time() - before < 2.0
        assert await client.read(0, BLOCK_BYTES) == pattern(2)

    play(story)


def test_a_member_that_hangs_does_not_stop_the_volume() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        world.nodes[0].hung = True
        before = asyncio.get_running_loop().time()
        await client.write(0, pattern(2))
        assert asyncio.get_running_loop().time() - before < 5.0
        assert set((await world.row()).out) == {0}
        assert await client.read(0, BLOCK_BYTES) == pattern(2)

    play(story)


def test_two_members_away_pause_writes_and_do_not_fail_them() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        world.kill(gateway, 1)
        world.kill(gateway, 2)
        writing = asyncio.get_running_loop().create_task(client.write(0, pattern(2)))
        await asyncio.sleep(30)
        assert not writing.done()
        assert len((await world.row()).out) <= 1
        world.start(1)
        world.start(2)
        await writing
        await client.flush()
        assert await client.read(0, BLOCK_BYTES) == pattern(2)
        await world.in_sync()

    play(story)


def test_a_member_that_forgot_unflushed_writes_gets_them_again() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        for block in range(32):
            await client.write(block * BLOCK_BYTES, pattern(block + 1))
        volume = (await world.row()).id
        world.kill(gateway, 2)
        world.start(2)
        world.devices[2].extents.crash(world.rng)
        await client.flush()
        assert not (await world.row()).out
        world.devices[2].restart(world.rng)  # what the flush covered survives
        expected = [pattern(block + 1) for block in range(32)]
        assert world.contents(2, volume, range(32)) == expected

    play(story)


def test_a_flush_waits_for_a_member_that_lost_the_writes() -> None:
    """A member restarts between taking a write and the flush: ok only when it has it again."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        world.kill(gateway, 0)
        world.devices[0].extents._undo.reverse()  # whatever was kept, drop all
        world.start(0)
        flushing = asyncio.get_running_loop().create_task(client.flush())
        await flushing
        volume = (await world.row()).id
        assert world.contents(0, volume, range(1)) == [pattern(1)]

    play(story)


def test_a_returning_member_is_resynchronised() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        for block in range(8):
            await client.write(block * EXTENT_BYTES // 2, pattern(block + 1))
        await client.flush()
        world.kill(gateway, 1)
        for block in range(4):
            await client.write(block * EXTENT_BYTES // 2, pattern(100 + block))
        await client.change(TRIM, 3 * EXTENT_BYTES, EXTENT_BYTES)
        await client.flush()
        world.start(1)
        writer = asyncio.get_running_loop().create_task(_overwrite(client, 200))
        await world.in_sync()
        await writer
        await client.flush()
        row = await world.row()
        for extent in range(4):
            contents = {
                device.extents.content(row.id, extent * EXTENT_BYTES, EXTENT_BYTES)
                for device in world.devices
            }
            assert len(contents) == 1
        assert await client.read(0, BLOCK_BYTES) == pattern(299)

    play(story)


def test_a_member_that_lost_its_extents_is_written_whole_before_it_serves() -> None:
    """A rebuilt device answers at once, under a higher boot, and has none of what was stable."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        for extent in range(4):
            await client.write(extent * EXTENT_BYTES, pattern(extent + 1))
        await client.flush()
        await asyncio.sleep(1.0)  # declared stable
        row = await world.row()
        world.kill(gateway, 1)
        world.devices[1].extents.forget()
        world.start(1)
        await client.write(0, pattern(50))
        for extent in range(1, 4):
            for _ in range(6):  # whichever member is asked
                assert await client.read(extent * EXTENT_BYTES, BLOCK_BYTES) == pattern(extent + 1)
        await world.whole(1)
        await world.in_sync()
        await client.flush()
        for extent in range(4):
            expected = pattern(extent + 1 if extent else 50)
            found = world.devices[1].extents.content(row.id, extent * EXTENT_BYTES, BLOCK_BYTES)
            assert found == expected

    play(story)


def test_a_member_of_a_volume_at_rest_that_lost_its_extents_is_missed() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        await client.flush()
        await asyncio.sleep(1.0)  # declared stable: nothing more is sent
        volume = (await world.row()).id
        world.kill(gateway, 1)
        world.devices[1].extents.forget()
        world.start(1)
        await world.whole(1)
        assert world.contents(1, volume, range(1)) == [pattern(1)]

    play(story)


def test_a_member_lost_again_as_its_loss_is_made_good_comes_back_later() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        await client.flush()
        world.kill(gateway, 1)
        device = world.devices[1].extents
        device.forget()
        gate = device.restored_gate = asyncio.get_running_loop().create_future()
        world.start(1)
        await client.write(0, pattern(2))
        await world.whole(1)
        device.full = True
        await client.write(0, pattern(3))
        device.full, device.restored_gate = False, None
        gate.set_result(None)
        await world.in_sync()
        await client.flush()
        assert gateway.lost is None
        assert world.contents(1, (await world.row()).id, range(1)) == [pattern(3)]

    play(story)


def test_a_member_that_lost_its_extents_while_another_was_out_keeps_nobody_waiting() -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(0, pattern(1))
        world.kill(old, 2)
        await client.write(0, pattern(2))
        await client.flush()
        assert set((await world.row()).out) == {2}
        await old.die()
        world.devices[1].extents.forget()
        world.start(2)
        new = Client(world.gateway().session)
        assert await new.read(0, BLOCK_BYTES) == pattern(2)
        await new.write(0, pattern(3))
        await world.in_sync()
        volume = (await world.row()).id
        for number in range(3):
            assert world.contents(number, volume, range(1)) == [pattern(3)]

    play(story)


def test_a_new_holder_is_not_served_by_a_member_that_lost_its_extents() -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        for extent in range(4):
            await client.write(extent * EXTENT_BYTES, pattern(extent + 1))
        await client.flush()
        await asyncio.sleep(1.0)
        await old.die()
        world.devices[0].extents.forget()
        again = Client(world.gateway().session)
        for extent in range(4):
            for _ in range(6):
                assert await again.read(extent * EXTENT_BYTES, BLOCK_BYTES) == pattern(extent + 1)
        await world.whole(0)
        assert world.contents(0, (await world.row()).id, range(1)) == [pattern(1)]

    play(story)


async def _overwrite(client: Client, first: int) -> None:
    for number in range(100):
        await client.write(0, pattern(first + number))
        await asyncio.sleep(0.02)


def test_a_new_holder_settles_what_the_old_one_left_unequal() -> None:
    async def story(world: World) -> None:
        old = world.gateway()
        client = Client(old.session)
        await client.write(0, pattern(1))
        await client.flush()
        writing = asyncio.get_running_loop().create_task(client.write(0, pattern(2)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        old.network.cut(world.nodes[1], deliver=10)  # one member gets it, two do not
        old.network.cut(world.nodes[0])
        old.network.cut(world.nodes[2])
        await old.die()
        writing.cancel()
        new = Client(world.gateway().session)
        found = await new.read(0, BLOCK_BYTES)
        for _ in range(3):
            assert await new.read(0, BLOCK_BYTES) == found
        volume = (await world.row()).id
        assert {device.extents.content(volume, 0, BLOCK_BYTES) for device in world.devices} == {
            found
        }

    play(story)


def test_an_acknowledged_write_survives_holder_and_one_member_dying_together() -> None:
    async def story(world: World) -> None:
        for round_number in range(6):
            old = world.gateway()
            client = Client(old.session)
            await client.write(0, pattern(round_number + 10))
            lost = round_number % 3
            world.kill(old, lost)
            await old.die()
            world.devices[lost].extents.crash(world.rng)
            world.start(lost)
            new = world.gateway()
            assert await Client(new.session).read(0, BLOCK_BYTES) == pattern(round_number + 10)
            await new.session.close(deadline=world.env.clock.monotonic() + 10)

    play(story)


def test_an_old_holder_is_fenced_and_told() -> None:
    async def story(world: World) -> None:
        old = world.gateway("a")
        client = Client(old.session)
        await client.write(0, pattern(1))
        new = world.gateway("a")  # the same name with a higher boot: the old process is gone
        await Client(new.session).write(0, pattern(2))
        with pytest.raises(Fenced):
            await client.write(0, pattern(3))
        with pytest.raises(Fenced):
            await client.read(0, BLOCK_BYTES)
        assert isinstance(old.lost, Fenced)
        assert await Client(new.session).read(0, BLOCK_BYTES) == pattern(2)

    play(story)


def test_another_gateway_waits_for_the_holder_s_silence() -> None:
    async def story(world: World) -> None:
        first, second = world.gateway("a"), world.gateway("b")
        client = Client(first.session)
        await client.write(0, pattern(1))
        other = Client(second.session)
        writing = asyncio.get_running_loop().create_task(other.write(0, pattern(2)))
        await asyncio.sleep(60)
        assert not writing.done()
        await client.write(0, pattern(3))
        await first.die()
        before = asyncio.get_running_loop().time()
        await writing
        assert 9 < asyncio.get_running_loop().time() - before < 16
        assert await other.read(0, BLOCK_BYTES) == pattern(2)

    play(story)


@pytest.mark.parametrize("why", [Unavailable, Busy, Full])
def test_a_holder_that_cannot_confirm_its_row_stops_serving(why: type[PinfoldError]) -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))

        def refuse(_change: object) -> None:
            raise why("not now")

        world.rows.before_change = refuse
        await asyncio.sleep(9)
        reading = asyncio.get_running_loop().create_task(client.read(0, BLOCK_BYTES))
        await asyncio.sleep(5)
        assert not reading.done()
        other = asyncio.create_task(Client(world.gateway("other").session).read(0, BLOCK_BYTES))
        await asyncio.sleep(15)
        assert not other.done()
        other.cancel()
        await world.gateways[-1].die()
        world.rows.before_change = None
        assert await reading == pattern(1)

    play(story)


def test_a_holder_that_was_suspended_looks_at_its_clock_before_it_begins_anything() -> None:
    """Whatever its loop runs first: here, what happens when a piece has been copied."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        sequencer = gateway.session._sequencer
        assert sequencer is not None
        gateway.session._lease.confirmed -= 2 * world.settings.trust_s
        calls = world.nodes[0].calls
        reading = asyncio.create_task(client.read(0, BLOCK_BYTES))
        asyncio.get_running_loop().call_soon(sequencer.pump)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sequencer.serving, "no timer has had its turn"
        assert world.nodes[0].calls == calls
        assert await reading == pattern(1), "the row is confirmed again"

    play(story)


def test_a_corrupt_block_is_read_elsewhere_and_repaired() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(7, 4 * BLOCK_BYTES))
        await client.flush()
        for device in world.devices[:2]:
            device.extents.corrupt.add((0, 2))
        assert await client.read(0, 4 * BLOCK_BYTES) == pattern(7, 4 * BLOCK_BYTES)
        await asyncio.sleep(1)
        assert sum(len(device.extents.corrupt) for device in world.devices) < 2

    play(story)


def test_when_every_member_is_full_writes_fail_and_reads_go_on() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        for device in world.devices:
            device.extents.full = True
        with pytest.raises(Full):
            await client.write(0, pattern(2))
        assert await client.read(0, BLOCK_BYTES) == pattern(1)
        for device in world.devices:
            device.extents.full = False
        await client.write(0, pattern(3))
        assert await client.read(0, BLOCK_BYTES) == pattern(3)
        assert not (await world.row()).out

    play(story)


def test_one_full_member_is_put_out_and_comes_back() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        world.devices[1].extents.full = True
        await client.write(0, pattern(2))
        assert set((await world.row()).out) == {1}
        world.devices[1].extents.full = False
        await world.in_sync()
        await client.flush()
        volume = (await world.row()).id
        assert world.contents(1, volume, range(1)) == [pattern(2)]

    play(story)


def test_unflushed_writes_are_bounded_by_a_flush_nobody_asked_for() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        for number in range(100):
            await client.write((number % 50) * 8192, pattern(number, 8192))
        volume = (await world.row()).id
        await asyncio.sleep(2)
        for device in world.devices:
            assert not device.extents._undo
            assert not device.extents.dirty(volume)

    play(story, settings=VolumeSettings.for_tests())


def test_busy_members_slow_writes_down_and_are_kept() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        for device in world.devices:
            device.extents.busy = True
        writing = asyncio.get_running_loop().create_task(client.write(0, pattern(2)))
        await asyncio.sleep(1)
        assert not writing.done()
        for device in world.devices:
            device.extents.busy = False
        await writing
        assert not (await world.row()).out
        assert await client.read(0, BLOCK_BYTES) == pattern(2)

    play(story)
