"""The admin API's volumes and users, in terms of the use cases."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from pinfold.accounts.accounts import Accounts, User
from pinfold.accounts.credentials import Credential
from pinfold.accounts.records import State
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

    def __init__(self, accounts: Accounts, buckets: Buckets, root_key: Callable[[], str]) -> None:
        """`root_key` is the root user's access key as it is now."""
        self._accounts = accounts
        self._root_key = root_key
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
            await self._accounts.withdraw_user(user_id)
            raise
        return {**_user(user), "access_keys": [credential.access_key], **_pair(credential)}

    async def list(self) -> list[View]:
        """See `UserAdmin`."""
        return [_user(user) for user in await self._accounts.users()]

    async def delete(self, user_id: str) -> None:
        """See `UserAdmin`.

        A bucket that another gateway makes in this very moment, or in the seconds in which it
        still knows the keys, stays with an owner that nobody will be again.
        """
        _demand_not_root(user_id)
        await self._accounts.user(user_id)
        owned, _ = await self._buckets.list(user_id, limit=1)
        if owned:
            raise Conflict(f"the user {user_id} owns buckets, {owned[0].name!r} for one")
        await self._accounts.delete_user(user_id)

    async def set_active(self, user_id: str, *, active: bool) -> View:
        """See `UserAdmin`."""
        _demand_not_root(user_id)
        return _user(await self._accounts.set_user_state(user_id, _state(active)))

    async def keys(self, user_id: str) -> Sequence[View]:
        """See `UserAdmin`."""
        return [asdict(key) for key in await self._accounts.keys(user_id)]

    async def create_key(
        self, user_id: str, *, access_key: str | None, secret_key: str | None
    ) -> View:
        """See `UserAdmin`."""
        return _pair(
            await self._accounts.create_key(
                user_id, access_key=access_key or "", secret=secret_key or ""
            )
        )

    async def set_key_active(self, access_key: str, *, active: bool) -> View:
        """See `UserAdmin`."""
        self._demand_not_root_key(access_key)
        return asdict(await self._accounts.set_key_state(access_key, _state(active)))

    async def delete_key(self, access_key: str) -> None:
        """See `UserAdmin`."""
        self._demand_not_root_key(access_key)
        await self._accounts.delete_key(access_key)

    async def rotate_key(self, access_key: str) -> View:
        """See `UserAdmin`."""
        self._demand_not_root_key(access_key)
        return _pair(await self._accounts.rotate_key(access_key))

    def _demand_not_root_key(self, access_key: str) -> None:
        if access_key == self._root_key():
            raise Conflict(
                f"{access_key} is the root key of cluster.json: "
                "`pinfold secret rotate root-key` replaces it"
            )


def _demand_not_root(user_id: str) -> None:
    if user_id == ROOT:
        raise Conflict(f"{ROOT} is the cluster's own user: its keys are those of cluster.json")


def _state(active: bool) -> State:
    return "active" if active else "disabled"


def _pair(credential: Credential) -> View:
    return {
        "user": credential.user,
        "access_key": credential.access_key,
        "secret_key": credential.secret,
    }


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
        "unsettled": shown.unsettled,
        "seen": {str(device): boot for device, boot in shown.seen.items()},
        "state": shown.state,
    }
