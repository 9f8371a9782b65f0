"""The admin API's volumes and users, in terms of the use cases."""

from dataclasses import asdict

from pinfold.accounts.accounts import Accounts, User
from pinfold.admin.api import View
from pinfold.model.errors import Conflict, Invalid, Unavailable


class Users:
    """`admin.api.UserAdmin` over accounts."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

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
        keys = {"access_key": credential.access_key, "secret_key": credential.secret}
        return {**_view(user), "access_keys": [credential.access_key], **keys}

    async def list(self) -> list[View]:
        """See `UserAdmin`."""
        return [_view(user) for user in await self._accounts.users()]

    async def delete(self, user_id: str) -> None:
        """See `UserAdmin`."""
        await self._accounts.delete_user(user_id)


class Volumes:
    """`admin.api.VolumeAdmin` over the registry."""

    async def create(self, name: str, size_bytes: int) -> View:
        raise Unavailable("no registry")

    async def list(self) -> list[View]:
        raise Unavailable("no registry")

    async def show(self, name: str) -> View:
        raise Unavailable("no registry")

    async def resize(self, name: str, size_bytes: int, *, force: bool) -> View:
        raise Unavailable("no registry")

    async def delete(self, name: str, *, force: bool) -> None:
        raise Unavailable("no registry")


def _view(user: User) -> View:
    return asdict(user)
