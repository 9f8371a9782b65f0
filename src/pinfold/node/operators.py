"""The admin API's volumes and users, in terms of the use cases."""

from dataclasses import asdict

from pinfold.accounts.accounts import Accounts, User
from pinfold.admin.api import View
from pinfold.model.errors import Conflict, Invalid
from pinfold.node.root_user import ROOT
from pinfold.objects.buckets import Buckets
from pinfold.volumes.registry import Registry, VolumeShown


class Volumes:
    """`admin.api.VolumeAdmin` over the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def create(self, name: str, size_bytes: int) -> View:
        """See `VolumeAdmin`."""
        return _volume(await self._registry.create(name, size_bytes))

    async def list(self) -> list[View]:
        """See `VolumeAdmin`."""
        return [_volume(shown) for shown in await self._registry.list()]

    async def show(self, name: str) -> View:
        """See `VolumeAdmin`."""
        return _volume(await self._registry.show(name))

    async def resize(self, name: str, size_bytes: int, *, force: bool) -> View:
        """See `VolumeAdmin`."""
        return _volume(await self._registry.resize(name, size_bytes, force=force))

    async def delete(self, name: str, *, force: bool) -> None:
        """See `VolumeAdmin`."""
        await self._registry.delete(name, force=force)


class Users:
    """`admin.api.UserAdmin` over accounts and the buckets they own."""

    def __init__(self, accounts: Accounts, buckets: Buckets) -> None:
        self._accounts = accounts
        self._buckets = buckets

    async def create(
        self,
        user_id: str,
        *,
        display_name: str,
        email: str,
        access_key: str | None,
        secret_key: str | None,
    ) -> View:
        """See `UserAdmin`. A key that cannot be given takes the fresh user with it."""
        user = await self._accounts.create_user(user_id, display_name=display_name, email=email)
        try:
            credential = await self._accounts.create_key(
                user_id, access_key=access_key or "", secret=secret_key or ""
            )
        except (Conflict, Invalid):
            await self._accounts.delete_user(user_id)
            raise
        return {
            **_user(user),
            "access_keys": [credential.access_key],
            "access_key": credential.access_key,
            "secret_key": credential.secret,
        }

    async def list(self) -> list[View]:
        """See `UserAdmin`."""
        return [_user(user) for user in await self._accounts.users()]

    async def delete(self, user_id: str) -> None:
        """See `UserAdmin`. Conflict also for the root user, whose keys the cluster prints.

        A bucket that another gateway makes in this very moment, or in the seconds in which it
        still knows the keys, stays; whoever gets the user's id owns it.
        """
        if user_id == ROOT:
            raise Conflict(f"{ROOT} is the cluster's own user: its keys are those of cluster.json")
        await self._accounts.user(user_id)
        owned, _ = await self._buckets.list(user_id, limit=1)
        if owned:
            raise Conflict(f"the user {user_id} owns buckets, {owned[0].name!r} for one")
        await self._accounts.delete_user(user_id)


def _user(user: User) -> View:
    return asdict(user)


def _volume(shown: VolumeShown) -> View:
    return {
        "name": shown.name,
        "id": shown.id.hex(),
        "size_bytes": shown.size,
        "created_ms": shown.created_ms,
        "copies": shown.copies,
        "min_in_sync": shown.min_in_sync,
        "holder": shown.holder if shown.live else None,
        "out": list(shown.out_of_sync),
        "state": shown.state,
    }
