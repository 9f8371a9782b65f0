"""Users and keys: looked up fast, never orphaned, and nobody's key is another's to lose."""

import asyncio
import contextlib

import pytest

from pinfold.accounts.accounts import Accounts
from pinfold.cluster.api import Change
from pinfold.model.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from pinfold.model.settings import AccountSettings
from tests.twins.cluster import MemoryRows
from tests.twins.env import HandClock, hand_env
from tests.twins.sealing import SEALER


class World:
    """Accounts on rows in memory."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.rows = MemoryRows(self.clock, lambda blobs: None)
        self.accounts = self.another()

    def another(self) -> Accounts:
        """Another gateway's view."""
        return Accounts(hand_env(self.clock), self.rows, SEALER, AccountSettings())


def test_a_key_is_its_users() -> None:
    async def run() -> None:
        world = World()
        await world.accounts.create_user("alice", display_name="Alice", email="a@example.com")
        made = await world.accounts.create_key("alice")
        assert len(made.access_key) == 20
        assert len(made.secret) == 40
        found = await world.another().lookup(made.access_key)
        assert found == made
        assert (await world.accounts.user("alice")).access_keys == (made.access_key,)
        assert [user.id for user in await world.accounts.users()] == ["alice"]

    asyncio.run(run())


def test_keys_can_be_chosen_and_taken_only_once() -> None:
    async def run() -> None:
        world = World()
        for user in ("alice", "bob"):
            await world.accounts.create_user(user)
        await world.accounts.create_key("alice", access_key="CHOSEN", secret="secret-of-alice")
        for user in ("alice", "bob"):
            with pytest.raises(Conflict):
                await world.accounts.create_key(user, access_key="CHOSEN", secret="another-one")
        assert (await world.accounts.user("bob")).access_keys == ()
        assert (await world.accounts.user("alice")).access_keys == ("CHOSEN",)
        found = await world.accounts.lookup("CHOSEN")
        assert found is not None
        assert found.secret == "secret-of-alice"

    asyncio.run(run())


def test_caches_believe_for_their_time_and_no_longer() -> None:
    async def run() -> None:
        world = World()
        here, there = world.accounts, world.another()
        assert await there.lookup("CHOSEN") is None
        await here.create_user("alice")
        await here.create_key("alice", access_key="CHOSEN", secret="secret-of-alice")
        assert await there.lookup("CHOSEN") is None
        world.clock.advance(1.0)
        assert await there.lookup("CHOSEN") is not None
        await here.delete_key("CHOSEN")
        assert await here.lookup("CHOSEN") is None
        assert await there.lookup("CHOSEN") is not None
        world.clock.advance(5.0)
        assert await there.lookup("CHOSEN") is None

    asyncio.run(run())


def test_deleting_a_user_deletes_the_users_keys_only() -> None:
    async def run() -> None:
        world = World()
        for user in ("alice", "bob"):
            await world.accounts.create_user(user)
        await world.accounts.create_key("alice", access_key="ALICES", secret="secret-of-alice")

        def crash(change: Change) -> None:
            raise Unavailable("crash")

        # Bob wants the same key and his gateway dies when his row already names it.
        world.rows.after_change = crash
        with pytest.raises(Unavailable):
            await world.accounts.create_key("bob", access_key="ALICES", secret="secret-of-bob")
        world.rows.after_change = None
        assert (await world.accounts.user("bob")).access_keys == ("ALICES",)
        await world.accounts.delete_user("bob")
        assert await world.another().lookup("ALICES") is not None
        await world.accounts.delete_user("alice")
        assert await world.another().lookup("ALICES") is None
        assert await world.accounts.users() == []

    asyncio.run(run())


def test_a_disabled_key_or_user_is_refused_everywhere_within_five_seconds() -> None:
    async def run() -> None:
        world = World()
        here, there = world.accounts, world.another()
        await here.create_user("alice")
        first = (await here.create_key("alice")).access_key
        second = (await here.create_key("alice")).access_key
        for access_key in (first, second):
            assert await there.lookup(access_key) is not None
        await here.set_key_state(first, "disabled")
        assert await here.lookup(first) is None
        world.clock.advance(5.0)
        assert await there.lookup(first) is None
        assert await there.lookup(second) is not None
        await here.set_user_state("alice", "disabled")
        assert await here.lookup(second) is None
        world.clock.advance(5.0)
        assert await there.lookup(second) is None
        assert [key.state for key in await here.keys("alice")] == ["disabled", "active"]
        await here.set_user_state("alice", "active")
        assert await here.lookup(second) is not None

    asyncio.run(run())


def test_a_key_is_not_believed_longer_than_its_user_is() -> None:
    async def run() -> None:
        world = World()
        here, there = world.accounts, world.another()
        await here.create_user("alice")
        access_key = (await here.create_key("alice")).access_key
        assert await there.display_name("alice") == "alice"  # there knows the user from now on
        await here.set_user_state("alice", "disabled")
        world.clock.advance(3.9)
        assert await there.lookup(access_key) is not None  # and the key from here on
        world.clock.advance(1.1)
        assert await there.lookup(access_key) is None

    asyncio.run(run())


def test_a_key_is_not_refused_longer_than_its_user_is_believed_disabled() -> None:
    async def run() -> None:
        world = World()
        here, there = world.accounts, world.another()
        await here.create_user("alice")
        access_key = (await here.create_key("alice")).access_key
        await here.set_user_state("alice", "disabled")
        assert await there.lookup(access_key) is None  # there knows the user from now on
        await here.set_user_state("alice", "active")
        world.clock.advance(3.9)
        assert await there.lookup(access_key) is None
        world.clock.advance(0.2)
        assert await there.lookup(access_key) is not None

    asyncio.run(run())


def test_no_id_is_ever_given_again() -> None:
    async def run() -> None:
        world = World()
        accounts = world.accounts
        for user in ("alice", "bob"):
            await accounts.create_user(user)
        await accounts.create_key("alice", access_key="CHOSEN", secret="secret-of-alice")
        await accounts.delete_key("CHOSEN")
        for user in ("alice", "bob"):
            with pytest.raises(Conflict, match="used before"):
                await accounts.create_key(user, access_key="CHOSEN", secret="another-secret")
            assert (await accounts.user(user)).access_keys == ()
        with pytest.raises(NotFound):
            await accounts.key("CHOSEN")
        await accounts.delete_user("alice")
        with pytest.raises(Conflict, match="used before"):
            await accounts.create_user("alice")
        assert [user.id for user in await accounts.users()] == ["bob"]
        await accounts.withdraw_user("bob")  # who never had a key is nobody's memory
        await accounts.create_user("bob")

    asyncio.run(run())


def test_a_rotated_key_belongs_to_the_same_user() -> None:
    async def run() -> None:
        world = World()
        await world.accounts.create_user("alice")
        old = await world.accounts.create_key("alice")
        new = await world.accounts.rotate_key(old.access_key)
        assert (new.user, new.access_key != old.access_key) == ("alice", True)
        assert await world.another().lookup(old.access_key) is None
        assert await world.another().lookup(new.access_key) == new

    asyncio.run(run())


def test_rows_do_not_show_secrets() -> None:
    async def run() -> None:
        world = World()
        await world.accounts.create_user("alice")
        made = await world.accounts.create_key("alice", access_key="K1A", secret="secret-of-alice")
        found = [await world.rows.get(b"", key) for key in world.rows]
        stored = [row.body for row in found if row is not None]
        assert any(b"alice" in body for body in stored)
        assert not any(made.secret.encode() in body for body in stored)

    asyncio.run(run())


def test_unknown_keys_cost_a_bounded_number_of_reads_and_nobody_elses_place() -> None:
    async def run() -> None:
        world = World()
        await world.accounts.create_user("alice")
        made = await world.accounts.create_key("alice")
        gateway = world.another()
        assert await gateway.lookup(made.access_key) is not None
        refused = turns = 0

        async def turn() -> None:
            nonlocal turns
            turns += 1

        world.rows.turn = turn
        for number in range(10_000):
            try:
                assert await gateway.lookup(f"GUESS{number}") is None
            except Busy:
                refused += 1
        assert (
            turns == 2 * (10_000 - refused) == 2 * 399
        )  # two turns a read; alice's was the first of 400
        world.clock.advance(5.0)  # the key has to be read again, and is, in the middle of a flood
        for number in range(1000):
            with contextlib.suppress(Busy):
                await gateway.lookup(f"MORE{number}")
        assert await gateway.lookup(made.access_key) is not None

    asyncio.run(run())


def test_what_is_refused() -> None:
    async def run() -> None:
        world = World()
        accounts = world.accounts
        with pytest.raises(NotFound):
            await accounts.create_key("nobody")
        with pytest.raises(NotFound):
            await accounts.delete_key("NONE")
        with pytest.raises(NotFound):
            await accounts.delete_user("nobody")
        with pytest.raises(Invalid):
            await accounts.create_user("line\nbreak")
        await accounts.create_user("alice")
        with pytest.raises(Conflict):
            await accounts.create_user("alice")
        for access_key, secret in (("a b", "long-enough"), ("GOOD", "short")):
            with pytest.raises(Invalid):
                await accounts.create_key("alice", access_key=access_key, secret=secret)
        assert await accounts.lookup("not/a/key") is None
        assert await accounts.display_name("alice") == "alice"
        assert await accounts.display_name("gone") == "gone"

    asyncio.run(run())
