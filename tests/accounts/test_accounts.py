"""Users and keys: looked up fast, never orphaned, and nobody's key is another's to lose."""

import asyncio

import pytest

from pinfold.accounts.accounts import Accounts
from pinfold.cluster.api import Change
from pinfold.model.errors import Conflict, Invalid, NotFound, Unavailable
from pinfold.model.settings import AccountSettings
from tests.twins.cluster import MemoryRows
from tests.twins.env import HandClock, hand_env


class World:
    """Accounts on rows in memory."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.rows = MemoryRows(self.clock, lambda blobs: None)
        self.accounts = self.another()

    def another(self) -> Accounts:
        """Another gateway's view."""
        return Accounts(hand_env(self.clock), self.rows, AccountSettings())


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
