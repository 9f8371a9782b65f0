"""Users and access keys: create, list, disable, delete.

A user's row names its keys and is written before a key appears and after it is gone, so a crash
leaves at worst a key's name without the key, which creating it again or deleting it mends. Rows of
deleted users and keys stay, marked so: whoever was granted something by a name keeps meaning the
one it was, and an access key in somebody's old configuration never signs for another user.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.accounts.credentials import Credential, Credentials
from pinfold.accounts.records import (
    ACCESS_KEY,
    USERS_PLACE,
    KeyRecord,
    State,
    UserRecord,
    access_key_row,
    access_place,
    decode,
    encode,
    user_key,
    user_of,
    user_range,
)
from pinfold.accounts.sealing import Sealer
from pinfold.cluster.api import Change, Check, Row, Rows
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Conflict, Invalid, NotFound
from pinfold.model.ids import OpId
from pinfold.model.settings import AccountSettings

ACCESS_KEY_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
ACCESS_KEY_LENGTH: Final = 20
"""As AWS's: some clients check the length."""

SECRET_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
SECRET_LENGTH: Final = 40
"""240 bits."""

KEYS_PER_USER_MAX: Final = 100
"""Access keys of one user; they are named in one row."""

ATTEMPTS: Final = 16
"""Read-and-replace rounds before others' changes count as too many."""

SCAN_ROWS: Final = 1000

_USER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


@dataclass(frozen=True, slots=True)
class User:
    """A user as listed."""

    id: str
    display_name: str
    email: str
    created_ms: int
    access_keys: tuple[str, ...]
    state: State


@dataclass(frozen=True, slots=True)
class Key:
    """An access key as listed: everything but its secret."""

    access_key: str
    user: str
    created_ms: int
    state: State


class Accounts:
    """The users of the cluster."""

    def __init__(self, env: Env, rows: Rows, sealer: Sealer, settings: AccountSettings) -> None:
        self._clock = env.clock
        self._rng = env.rng
        self._rows = rows
        self._sealer = sealer
        self._credentials = Credentials(env.clock, rows, sealer, settings)
        self.lookup = self._credentials.lookup
        self.display_name = self._credentials.display_name

    async def create_user(self, user: str, *, display_name: str = "", email: str = "") -> User:
        """Create a user without keys; Conflict when there is or ever was one of this id."""
        if not _USER.fullmatch(user):
            raise Invalid("a user id has 1 to 128 characters, none of them a control character")
        now_ms = int(self._clock.wall() * 1000)
        record = UserRecord(display_name or user, email, now_ms)
        check = Check("absent", user_key(user))
        try:
            await self._put_user(user, record, check)
        except Conflict as conflict:
            if await self._is_deleted(user):
                raise Conflict(f"the user id {user} was used before and is not given again") from (
                    conflict
                )
            raise Conflict(f"the user {user} exists") from None
        return _user(user, record)

    async def user(self, user: str) -> User:
        """The user; NotFound."""
        return _user(user, (await self._user(user))[1])

    async def users(self) -> list[User]:
        """All users, by id."""
        found: list[User] = []
        position: bytes | None
        position, end = user_range()
        while position is not None:
            page = await self._rows.scan(USERS_PLACE, position, end, SCAN_ROWS)
            for key, row in page.items:
                assert row is not None
                record = decode(UserRecord, row.body)
                if record.state != "deleted":
                    found.append(_user(user_of(key), record))
            position = page.next_start
        return found

    async def set_user_state(self, user: str, state: State) -> User:
        """Disable a user with all keys, or make it active again; NotFound."""
        record = await self._edit_user(user, lambda found: _with_state(found, state))
        return _user(user, record)

    async def delete_user(self, user: str) -> None:
        """Delete a user and all keys; NotFound. What the user owns stays."""
        await self.set_user_state(user, "disabled")
        _row, record = await self._user(user)
        for access_key in record.access_keys:
            await self._end_key_of(user, access_key)
        await self._edit_user(
            user, lambda found: msgspec.structs.replace(found, access_keys=(), state="deleted")
        )

    async def withdraw_user(self, user: str) -> None:
        """Undo `create_user` of a user who never had a key: nobody can have met it."""
        row, record = await self._user(user)
        if record.access_keys:
            raise Conflict(f"the user {user} has keys")
        check = Check("version", user_key(user), number=row.version)
        change = Change(self._op_id(), checks=(check,), deletes=(user_key(user),))
        await self._rows.change(USERS_PLACE, change)

    async def keys(self, user: str) -> list[Key]:
        """The user's access keys, as they were made; NotFound."""
        _row, record = await self._user(user)
        found = []
        for access_key in record.access_keys:
            key = await self._key(access_key)
            if key is not None and key[1].user == user and key[1].state != "deleted":
                found.append(_key(access_key, key[1]))
        return found

    async def key(self, access_key: str) -> Key:
        """An access key; NotFound, also once it is deleted."""
        return _key(access_key, (await self._living_key(access_key))[1])

    async def create_key(self, user: str, *, access_key: str = "", secret: str = "") -> Credential:
        """Give a user an access key, chosen or generated.

        NotFound; Conflict when the access key is taken or was ever used.
        """
        access_key = access_key or self._generate(ACCESS_KEY_CHARACTERS, ACCESS_KEY_LENGTH)
        secret = secret or self._generate(SECRET_CHARACTERS, SECRET_LENGTH)
        if not ACCESS_KEY.fullmatch(access_key):
            raise Invalid("an access key has 3 to 128 letters, digits, dots, dashes, underscores")
        if not 8 <= len(secret) <= 256:
            raise Invalid("a secret key has 8 to 256 characters")
        owner = await self._edit_user(user, lambda record: _with_key(record, access_key))
        record = KeyRecord(
            user, self._sealer.seal(secret, access_key), int(self._clock.wall() * 1000)
        )
        row_key = access_key_row(access_key)
        try:
            await self._put_key(access_key, record, Check("absent", row_key))
        except Conflict as conflict:
            await self._forget_unless_own(user, access_key)
            raise Conflict(f"the access key {access_key} is taken or was used before") from conflict
        self._credentials.forget(access_key)
        return Credential(access_key, secret, user, owner.display_name)

    async def set_key_state(self, access_key: str, state: State) -> Key:
        """Disable an access key or make it active again; NotFound."""
        for _ in range(ATTEMPTS):
            row, record = await self._living_key(access_key)
            edited = msgspec.structs.replace(record, state=state)
            check = Check("version", access_key_row(access_key), number=row.version)
            with contextlib.suppress(Conflict):
                await self._put_key(access_key, edited, check)
                return _key(access_key, edited)
        raise Busy("others keep changing the key")

    async def delete_key(self, access_key: str) -> None:
        """Delete an access key; NotFound."""
        _row, record = await self._living_key(access_key)
        await self._end_key_of(record.user, access_key)
        with contextlib.suppress(NotFound):
            await self._edit_user(record.user, lambda user: _without(user, access_key))

    async def rotate_key(self, access_key: str) -> Credential:
        """Replace an access key by a fresh one of the same user; NotFound.

        The old one ends only when the new one works: a crash between leaves both.
        """
        _row, record = await self._living_key(access_key)
        fresh = await self.create_key(record.user)
        await self.delete_key(access_key)
        return fresh

    async def _forget_unless_own(self, user: str, access_key: str) -> None:
        """Take a taken key's name out of the user's row unless the key is the user's."""
        found = await self._key(access_key)
        if found is None or found[1].user != user or found[1].state == "deleted":
            await self._edit_user(user, lambda record: _without(record, access_key))

    async def _is_deleted(self, user: str) -> bool:
        row = await self._rows.get(USERS_PLACE, user_key(user))
        return row is not None and decode(UserRecord, row.body).state == "deleted"

    async def _user(self, user: str) -> tuple[Row, UserRecord]:
        row = await self._rows.get(USERS_PLACE, user_key(user))
        record = None if row is None else decode(UserRecord, row.body)
        if row is None or record is None or record.state == "deleted":
            raise NotFound(f"no user {user}")
        return row, record

    async def _edit_user(self, user: str, edit: Callable[[UserRecord], UserRecord]) -> UserRecord:
        for _ in range(ATTEMPTS):
            row, record = await self._user(user)
            edited = edit(record)
            if edited == record:
                return record
            with contextlib.suppress(Conflict):
                await self._put_user(
                    user, edited, Check("version", user_key(user), number=row.version)
                )
                self._credentials.forget_user(user, record.access_keys)
                return edited
        raise Busy("others keep changing the user")

    async def _put_user(self, user: str, record: UserRecord, check: Check) -> None:
        put = (user_key(user), Row(encode(record)))
        await self._rows.change(USERS_PLACE, Change(self._op_id(), checks=(check,), puts=(put,)))

    async def _key(self, access_key: str) -> tuple[Row, KeyRecord] | None:
        row = await self._rows.get(access_place(access_key), access_key_row(access_key))
        return None if row is None else (row, decode(KeyRecord, row.body))

    async def _living_key(self, access_key: str) -> tuple[Row, KeyRecord]:
        found = await self._key(access_key)
        if found is None or found[1].state == "deleted":
            raise NotFound(f"no access key {access_key}")
        return found

    async def _put_key(self, access_key: str, record: KeyRecord, check: Check) -> None:
        put = (access_key_row(access_key), Row(encode(record)))
        change = Change(self._op_id(), checks=(check,), puts=(put,))
        await self._rows.change(access_place(access_key), change)
        self._credentials.forget(access_key)

    async def _end_key_of(self, user: str, access_key: str) -> None:
        """End the key if it is there and the user's: a name may be noted of another's key."""
        for _ in range(ATTEMPTS):
            found = await self._key(access_key)
            if found is None or found[1].user != user or found[1].state == "deleted":
                return
            row, record = found
            ended = msgspec.structs.replace(record, sealed=b"", state="deleted")
            check = Check("version", access_key_row(access_key), number=row.version)
            with contextlib.suppress(Conflict):
                await self._put_key(access_key, ended, check)
                return
        raise Busy("others keep changing the key")

    def _op_id(self) -> OpId:
        return OpId(self._rng.randbytes(16))

    def _generate(self, characters: str, length: int) -> str:
        return "".join(self._rng.choice(characters) for _ in range(length))


def _user(user: str, record: UserRecord) -> User:
    return User(
        user,
        record.display_name,
        record.email,
        record.created_ms,
        record.access_keys,
        record.state,
    )


def _key(access_key: str, record: KeyRecord) -> Key:
    return Key(access_key, record.user, record.created_ms, record.state)


def _with_state(record: UserRecord, state: State) -> UserRecord:
    return msgspec.structs.replace(record, state=state)


def _with_key(record: UserRecord, access_key: str) -> UserRecord:
    if access_key in record.access_keys:
        return record
    if len(record.access_keys) >= KEYS_PER_USER_MAX:
        raise Invalid(f"a user has at most {KEYS_PER_USER_MAX} access keys")
    return msgspec.structs.replace(record, access_keys=(*record.access_keys, access_key))


def _without(record: UserRecord, access_key: str) -> UserRecord:
    keys = tuple(key for key in record.access_keys if key != access_key)
    return msgspec.structs.replace(record, access_keys=keys)
