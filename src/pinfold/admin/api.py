"""What the admin API needs from the use cases, as protocols the node layer fulfils.

Values are plain JSON-able mappings: the admin API passes them on and interprets none of them
but the names.
"""

from collections.abc import Sequence
from typing import Any, Protocol

View = dict[str, Any]
"""A volume or user as shown to operators."""


class VolumeAdmin(Protocol):
    """Volumes by name. NotFound, Conflict (exists, attached), Invalid (name, size)."""

    async def create(self, name: str, size_bytes: int) -> View: ...  # noqa: D102

    async def list(self) -> list[View]:
        """All volumes in name order."""
        ...

    async def show(self, name: str) -> View: ...  # noqa: D102

    async def resize(self, name: str, size_bytes: int, *, force: bool) -> View:
        """Grow; shrink only with `force`."""
        ...

    async def delete(self, name: str, *, force: bool) -> None:
        """Refused while attached unless `force`."""
        ...


class GroupAdmin(Protocol):
    """Row groups. NotFound for a number no group has."""

    async def list(self) -> list[View]:
        """All groups in order, each as `show` tells it."""
        ...

    async def show(self, group: int) -> View:
        """What the devices that answer say of a group, and whether their digests agree."""
        ...

    async def force_members(self, group: int, members: Sequence[int]) -> View:
        """Have a group that lost its quorum go on with these; what that gave up.

        Conflict while it could go on by itself, Invalid and Unavailable for who is no survivor.
        """
        ...


class UserAdmin(Protocol):
    """Users and their access keys. NotFound, Conflict (id or key taken), Invalid."""

    async def create(
        self,
        user_id: str,
        *,
        display_name: str,
        email: str,
        access_key: str | None,
        secret_key: str | None,
    ) -> View:
        """A user with one key pair, drawn when not given; the only answer with the secret."""
        ...

    async def list(self) -> list[View]:
        """All users, without secrets."""
        ...

    async def delete(self, user_id: str) -> None:
        """Remove a user and its keys. Conflict while it owns buckets, and for the root user."""
        ...

    async def set_active(self, user_id: str, *, active: bool) -> View:
        """Disable a user with all keys, or allow it again. Conflict for the root user."""
        ...

    async def keys(self, user_id: str) -> Sequence[View]:
        """A user's access keys, without secrets."""
        ...

    async def create_key(
        self, user_id: str, *, access_key: str | None, secret_key: str | None
    ) -> View:
        """One more key pair; the only answer with the secret."""
        ...

    async def set_key_active(self, access_key: str, *, active: bool) -> View:
        """Disable a key or allow it again. Conflict for the root key."""
        ...

    async def delete_key(self, access_key: str) -> None:
        """End a key for ever. Conflict for the root key."""
        ...

    async def rotate_key(self, access_key: str) -> View:
        """A fresh key of the same user, with its secret; the old one ends. Conflict for root's."""
        ...
