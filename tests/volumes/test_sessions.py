"""One session a volume and process: shared, kept a little, told to its users when it is lost."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Changed, Row
from pinfold.model.errors import Fenced, NotFound, PinfoldError, Unavailable
from pinfold.model.limits import BLOCK_BYTES
from pinfold.volumes.row import decode_volume, key_of
from tests.volumes.world import NAME, Client, World, pattern, play


class Guest:
    """A user that counts its ends."""

    def __init__(self) -> None:
        self.reasons: list[PinfoldError] = []

    def ended(self, reason: PinfoldError) -> None:
        self.reasons.append(reason)


def test_users_share_a_session_and_the_last_one_leaves_it_to_linger() -> None:
    async def story(world: World) -> None:
        sessions = world.gateway().sessions
        one, other = Guest(), Guest()
        session = sessions.attach(NAME, world.told, one)
        assert sessions.attach(NAME, world.told, other) is session
        await Client(session).write(0, pattern(1))
        sessions.detach(world.gateways[-1])
        sessions.detach(one)
        await asyncio.sleep(2 * world.settings.linger_s)
        assert (await world.row()).holder is not None, "somebody still uses it"
        sessions.detach(other)
        await asyncio.sleep(world.settings.linger_s / 2)
        assert sessions.attach(NAME, world.told, one) is session, "back soon enough"
        sessions.detach(one)
        await asyncio.sleep(2 * world.settings.linger_s)
        assert (await world.row()).holder is None
        assert not one.reasons

    play(story)


def test_nobody_is_given_a_session_that_was_lost() -> None:
    async def story(world: World) -> None:
        old, new = world.gateway("a"), world.gateway("b")
        await Client(old.session).write(0, pattern(1))
        await new.sessions.seize(NAME)
        retaken = new.sessions.attach(NAME, world.told, new)
        await Client(retaken).write(0, pattern(3))
        with pytest.raises(Fenced):
            await Client(old.session).write(0, pattern(2))
        assert isinstance(old.lost, Fenced)
        late = Guest()
        assert old.sessions.attach(NAME, world.told, late) is not old.session
        assert not late.reasons

    play(story)


@pytest.mark.parametrize("reached", [True, False])
def test_a_volume_taken_by_force_is_served_nowhere_else_before_it_is_served_here(
    reached: bool,
) -> None:
    async def story(world: World) -> None:
        old, new = world.gateway("a"), world.gateway("b")
        await Client(old.session).write(0, pattern(1))
        world.nodes[2].up = reached
        loop = asyncio.get_running_loop()
        began = loop.time()
        await new.sessions.seize(NAME)
        if reached:
            assert loop.time() - began < 1
        else:
            assert loop.time() - began > world.settings.trust_s
        reading = asyncio.create_task(Client(old.session).read(0, BLOCK_BYTES))
        await asyncio.sleep(world.settings.beat_s)
        assert isinstance(old.lost, Fenced)
        with pytest.raises(Fenced):
            await reading

    play(story)


def test_a_volume_is_shown_when_its_last_session_has_given_the_lease_back() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        releasing = asyncio.create_task(gateway.sessions.release(NAME))
        await asyncio.sleep(0)
        assert gateway.lost is not None, "its user is told at once"
        await gateway.sessions.show(NAME)
        assert (await world.row()).holder is None
        await releasing
        with pytest.raises(NotFound):
            await gateway.sessions.show("another")

    play(story)


def test_closing_waits_for_a_session_that_is_ending() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        await Client(gateway.session).write(0, pattern(1))
        gateway.sessions.detach(gateway)
        await asyncio.sleep(world.settings.linger_s)
        await gateway.sessions.close()
        row = await world.row()
        assert row.holder is None
        for device in world.devices:
            assert not device.extents.dirty(row.id)

    play(story)


def test_nothing_is_begun_while_a_volume_is_being_given_back() -> None:
    """The row would say that all is flushed, of a write that was answered meanwhile."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        client = Client(gateway.session)
        await client.write(0, pattern(1))
        change = world.rows.change

        async def change_slowly(place: bytes, wanted: Change) -> Changed:
            await asyncio.sleep(1)
            return await change(place, wanted)

        world.rows.change = change_slowly  # type: ignore[method-assign]
        deadline = world.env.clock.monotonic() + 10
        async with asyncio.TaskGroup() as group:
            group.create_task(gateway.session.close(deadline=deadline))
            await asyncio.sleep(0.5)
            with pytest.raises(Unavailable):
                await client.write(0, pattern(2))
        row = await world.row()
        assert row.holder is None
        for device in world.devices:
            assert not device.extents.dirty(row.id)

    play(story)


def test_a_connection_to_a_deleted_volume_is_none_to_the_next_one_of_its_name() -> None:
    """It had asked for nothing yet, so that nobody held the volume when it was deleted."""

    async def story(world: World) -> None:
        old = world.gateway("a")
        registry = old.sessions.registry
        await registry.delete(NAME)
        told = (await registry.create(NAME, world.size)).told
        with pytest.raises(Fenced):
            await Client(old.session).write(0, pattern(7))
        assert isinstance(old.lost, Fenced)
        new = Client(old.sessions.attach(NAME, told, Guest()))
        assert await new.read(0, BLOCK_BYTES) == bytes(BLOCK_BYTES)

    play(story)


def test_users_that_were_told_different_sizes_share_no_session() -> None:
    """One of them would write behind the end once the volume has its former size again."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        registry = gateway.sessions.registry
        bigger = (await registry.resize(NAME, 2 * world.size)).told
        guest = Guest()
        other = Client(gateway.sessions.attach(NAME, bigger, guest))
        assert isinstance(gateway.lost, Fenced)
        await registry.resize(NAME, world.size, force=True)
        with pytest.raises(Fenced):
            await other.write(world.size, pattern(1))
        assert guest.reasons

    play(story)


def test_a_volume_that_was_resized_is_free_for_every_gateway() -> None:
    async def story(world: World) -> None:
        old, new = world.gateway("a"), world.gateway("b")
        await Client(old.session).write(0, pattern(1))
        told = (await old.sessions.registry.resize(NAME, 2 * world.size)).told
        await asyncio.sleep(2 * world.settings.beat_s)
        assert isinstance(old.lost, Fenced)
        began = asyncio.get_running_loop().time()
        client = Client(new.sessions.attach(NAME, told, Guest()))
        assert await client.read(0, BLOCK_BYTES) == pattern(1)
        assert asyncio.get_running_loop().time() - began < world.settings.beat_s

    play(story)


def test_a_session_may_end_before_one_that_it_followed() -> None:
    async def story(world: World) -> None:
        gateway = world.gateway()
        sessions = gateway.sessions
        await Client(gateway.session).write(0, pattern(1))
        told = (await sessions.registry.resize(NAME, 2 * world.size)).told
        change = world.rows.change

        async def change_slowly(place: bytes, wanted: Change) -> Changed:
            await asyncio.sleep(3)
            return await change(place, wanted)

        world.rows.change = change_slowly  # type: ignore[method-assign]
        sessions.attach(NAME, told, Guest())
        assert isinstance(gateway.lost, Fenced), "the first session is being given back"
        early = asyncio.create_task(sessions.show(NAME))
        await asyncio.sleep(0)
        await sessions.release(NAME)
        late = asyncio.create_task(sessions.show(NAME))
        await asyncio.sleep(1)
        assert not early.done()
        assert not late.done()
        async with asyncio.timeout(10):
            assert (await early).told == (await late).told == told
        assert (await world.row()).holder is None

    play(story)


def test_a_volume_resized_before_its_holder_knew_that_it_had_it_is_not_served() -> None:
    """The answer to the taking was lost; what was read then has another size."""

    async def story(world: World) -> None:
        gateway = world.gateway()
        registry = gateway.sessions.registry
        get = world.rows.get
        resizing: list[asyncio.Task[object]] = []

        def lose_the_answer(change: Change) -> None:
            for key, row in change.puts:
                if key == key_of(NAME) and decode_volume(row.body).holder is not None:
                    world.rows.after_change = None
                    world.rows.get = get_late  # type: ignore[method-assign]
                    raise Unavailable("nobody knows")

        async def get_late(place: bytes, key: bytes) -> Row | None:
            world.rows.get = get  # type: ignore[method-assign]
            shrink = registry.resize(NAME, world.size // 2, force=True)
            resizing.append(asyncio.create_task(shrink))
            await asyncio.sleep(world.settings.retry_s)
            return await get(place, key)

        world.rows.after_change = lose_the_answer
        with pytest.raises(Fenced):
            await Client(gateway.session).write(world.size - BLOCK_BYTES, pattern(1))
        assert isinstance(gateway.lost, Fenced)
        await asyncio.sleep(world.settings.beat_s)
        assert resizing[0].done(), "the volume was given back at once"
        assert (await world.row()).holder is None

    play(story)
