"""What operators may do to users."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pinfold.accounts.accounts import Accounts
from pinfold.model.errors import Conflict, NotFound
from pinfold.model.settings import AccountSettings, ObjectSettings
from pinfold.node.operators import Users
from pinfold.node.root_user import ROOT
from pinfold.objects.buckets import Buckets
from tests.twins.cluster import MemoryRows
from tests.twins.env import HandClock, hand_env
from tests.twins.sealing import SEALER


class World:
    """Users of a cluster of rows in memory."""

    def __init__(self) -> None:
        clock = HandClock()
        env = hand_env(clock)
        rows = MemoryRows(clock, lambda _refs: None)
        self.accounts = Accounts(env, rows, SEALER, AccountSettings())
        self.buckets = Buckets(env, rows, ObjectSettings())
        self.users = Users(self.accounts, self.buckets, lambda: "ROOTKEY")

    async def create(self, user: str) -> None:
        await self.users.create(user, display_name="", email="", access_key=None, secret_key=None)


def in_world(test: Callable[[World], Awaitable[None]]) -> None:
    asyncio.run(test(World()))


def test_a_user_that_owns_buckets_is_not_deleted_and_keeps_its_keys() -> None:
    async def test(world: World) -> None:
        await world.create("alice")
        await world.buckets.create("photos", owner="alice", acl="", region="r")
        with pytest.raises(Conflict, match="photos"):
            await world.users.delete("alice")
        (key,) = (await world.accounts.user("alice")).access_keys
        assert await world.accounts.lookup(key) is not None
        await world.buckets.delete(await world.buckets.get("photos"))
        await world.users.delete("alice")
        assert await world.users.list() == []

    in_world(test)


def test_the_root_user_is_not_deleted() -> None:
    async def test(world: World) -> None:
        await world.create(ROOT)
        with pytest.raises(Conflict, match="cluster's own"):
            await world.users.delete(ROOT)
        assert len(await world.users.list()) == 1

    in_world(test)


def test_a_user_that_is_not_there_cannot_be_deleted() -> None:
    async def test(world: World) -> None:
        with pytest.raises(NotFound):
            await world.users.delete("nobody")

    in_world(test)
