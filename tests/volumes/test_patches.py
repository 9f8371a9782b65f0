"""Requests that cover blocks in part: devices get whole blocks, whatever is rotten on them."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.model.errors import Corrupt, Unavailable
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import TRIM, WRITE, ZERO, Io
from tests.volumes.desk import Desk
from tests.volumes.world import Client, World, pattern, play

AREA = 4 * BLOCK_BYTES


def test_a_part_of_a_block_that_is_rotten_on_one_member_is_written_and_heals_it() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        await client.flush()
        extents = world.devices[0].extents
        extents.corrupt.add((0, 0))
        async with asyncio.timeout(5):
            await client.write(512, b"x" * 512)
        assert not extents.corrupt
        volume = (await world.row()).id
        expected = pattern(1)[:512] + b"x" * 512 + pattern(1)[1024:]
        for number in range(3):
            assert world.contents(number, volume, range(1)) == [expected]
        assert not (await world.row()).out

    play(story)


def test_a_part_of_a_block_that_is_rotten_everywhere_fails_and_delays_nothing() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        for device in world.devices:
            device.extents.corrupt.add((0, 0))
        async with asyncio.timeout(5):
            with pytest.raises(Corrupt):
                await client.write(512, b"x" * 512)
            await client.write(BLOCK_BYTES, pattern(2))
            await client.write(0, pattern(3))
            assert await client.read(0, BLOCK_BYTES) == pattern(3)

    play(story)


@pytest.mark.parametrize("kind", [TRIM, ZERO])
def test_zeroes_that_are_there_already_are_flushed_when_that_is_asked(kind: int) -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        await client.flush()
        await client.write(0, bytes(BLOCK_BYTES))
        await client.change(kind, 0, 512, fua=True)
        for number in range(3):
            world.kill(gateway, number)
        await gateway.die()
        for number in range(3):
            world.start(number, keeps="nothing")
        client = Client(world.gateway().session)
        assert await client.read(0, 512) == bytes(512)

    play(story)


def test_parts_of_one_block_written_together_all_stay_and_none_waits_for_a_flush() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, bytes(BLOCK_BYTES))
        began = world.env.clock.monotonic()
        async with asyncio.TaskGroup() as group:
            for sector in range(16):
                group.create_task(client.write(sector * 512, bytes([sector + 1]) * 512))
        assert world.env.clock.monotonic() - began < 0.1, "each begins when the one before ends"
        found = await client.read(0, 2 * BLOCK_BYTES)
        assert found == b"".join(bytes([sector + 1]) * 512 for sector in range(16))

    play(story)


def test_a_crowd_that_writes_parts_of_one_block_costs_no_more_than_each_of_them() -> None:
    """Every end of a patch looks at the next in its queue, and not at all who wait."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, bytes(2 * BLOCK_BYTES))
        sequencer = gateway.session._sequencer
        assert sequencer is not None
        began, begin = 0, sequencer._begin_write

        def counting(io: Io) -> bool:
            nonlocal began
            began += 1
            return begin(io)

        sequencer._begin_write = counting  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            for number in range(400):
                offset, length = (512, 512) if number % 4 else (BLOCK_BYTES - 512, 1024)
                group.create_task(client.write(offset, bytes([number % 251]) * length))
        assert began < 4 * 400
        assert await client.read(512, 512) == bytes([399 % 251]) * 512

    play(story)


Change = tuple[int, int, int]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((WRITE, ZERO, TRIM)),
            st.integers(-AREA // 512, AREA // 512 - 1),
            st.integers(1, 20),
        ),
        max_size=12,
    )
)
def test_any_alignment_reads_back_as_written(changes: list[Change]) -> None:
    base = EXTENT_BYTES - AREA  # around the joint of two extents

    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        expected = bytearray(4 * AREA)
        for number, (kind, sector, sectors) in enumerate(changes, 1):
            at, length = AREA + sector * 512, sectors * 512
            content = bytes([number]) * length if kind == WRITE else bytes(length)
            if kind == WRITE:
                await client.write(base + at, content)
            else:
                await client.change(kind, base + at, length)
            expected[at : at + length] = content
        assert await client.read(base, len(expected)) == expected

    play(story)


def test_a_write_does_not_overtake_a_patch_of_one_of_its_blocks() -> None:
    desk = Desk()
    patch = desk.ask(WRITE, BLOCK_BYTES // 2, 2 * BLOCK_BYTES)
    assert [piece[2:] for message in desk.paper.reads for piece in message.pieces] == [
        (0, 0, BLOCK_BYTES),
        (0, 2 * BLOCK_BYTES, BLOCK_BYTES),
    ]
    desk.ask(WRITE, BLOCK_BYTES)
    assert not desk.paper.writes
    desk.answer_reads()
    (op,) = desk.paper.writes[0][1].ops
    assert op == (WRITE, 0, 0, 3 * BLOCK_BYTES)
    assert len(desk.paper.writes) == 3
    desk.take(0, 1, 2)
    assert patch in desk.paper.answers
    desk.sequencer.pump()
    assert desk.paper.writes[0][1].ops == [(WRITE, 0, BLOCK_BYTES, BLOCK_BYTES)]


def test_a_patch_whose_client_has_gone_writes_nothing() -> None:
    desk = Desk()
    patch = desk.ask(WRITE, 512, 512)
    assert desk.sequencer.withdraw(desk) == [patch]
    desk.answer_reads()
    assert not desk.paper.writes
    assert not desk.paper.answers
    later = Io(WRITE, 0, BLOCK_BYTES, desk, payload=bytes(BLOCK_BYTES))
    desk.sequencer.submit([later])
    desk.sequencer.pump()
    assert desk.paper.writes


def test_who_waits_for_a_patch_begins_when_that_ends_and_writes_have_room() -> None:
    desk = Desk(VolumeSettings(batches_max=1))
    patch = desk.ask(WRITE, 512, 512)
    followers = [desk.ask(WRITE, 1024, 512), desk.ask(WRITE, 0, 2 * BLOCK_BYTES)]
    assert not desk.paper.writes
    assert desk.sequencer._patches
    desk.answer_reads()
    assert [batch.ops for _lane, batch in desk.paper.writes[:1]] == [[(WRITE, 0, 0, BLOCK_BYTES)]]
    other = desk.ask(WRITE, EXTENT_BYTES)
    desk.take(0, 1, 2)
    assert desk.paper.answers == [patch]
    while not all(io in desk.paper.answers for io in (*followers, other)):
        desk.sequencer.pump()
        desk.answer_reads()
        desk.take(0, 1, 2)


def test_who_waits_for_a_patch_and_goes_is_forgotten() -> None:
    desk = Desk()
    desk.ask(WRITE, 512, 512)
    gone = desk.ask(WRITE, 1024, 512)
    stays = Io(WRITE, 0, BLOCK_BYTES, Desk(), payload=bytes(BLOCK_BYTES))
    desk.sequencer.submit([stays])
    desk.sequencer.pump()
    assert gone in desk.sequencer.withdraw(desk)
    desk.answer_reads()
    desk.sequencer.pump()
    assert [batch.ops for _lane, batch in desk.paper.writes[:1]] == [[(WRITE, 0, 0, BLOCK_BYTES)]]
    desk.take(0, 1, 2)
    assert desk.paper.answers == [stays]


def test_who_waits_for_a_patch_is_told_when_the_volume_is_lost() -> None:
    desk = Desk()
    ios = [desk.ask(WRITE, 512, 512), desk.ask(WRITE, 1024, 512)]
    desk.sequencer.fail_all(Unavailable("lost"))
    assert set(desk.paper.answers) == set(ios)
    assert not desk.sequencer._patches
