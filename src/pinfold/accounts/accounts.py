"""Users and access keys: create, list, delete, and look up a key quickly.

A user's row names its keys and is written before a key appears and after it is gone, so a crash
leaves at worst a key's name without the key, which creating it again or deleting it mends.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.accounts.records import (
    USERS_PLACE,
    KeyRecord,
    UserRecord,
    access_key_row,
    access_place,
    decode,
    encode,
    user_key,
    user_of,
    user_range,
)
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

_ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{3,128}")
_USER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key: whose it is and what it signs with."""

    access_key: str
    secret: str
    user: str
    display_name: str


@dataclass(frozen=True, slots=True)
class User:
    """A user as listed."""

    id: str
    display_name: str
    email: str
    created_ms: int
    access_keys: tuple[str, ...]


class Accounts:
    """The users of the cluster."""

    def __init__(self, env: Env, rows: Rows, settings: AccountSettings) -> None:
        self._clock = env.clock
        self._rng = env.rng
        self._rows = rows
        self._settings = settings
        self._cache: dict[str, tuple[float, Credential | None]] = {}
        self._names: dict[str, tuple[float, str]] = {}

    async def lookup(self, access_key: str) -> Credential | None:
        """The key's credential, as it was some seconds ago; None when there is no such key."""
        known = self._cache.get(access_key)
        now = self._clock.monotonic()
        if known is not None and now < known[0]:
            return known[1]
        if not _ACCESS_KEY.fullmatch(access_key):
            return None
        row = await self._rows.get(access_place(access_key), access_key_row(access_key))
        credential = None
        if row is not None:
            record = decode(KeyRecord, row.body)
            credential = Credential(access_key, record.secret, record.user, record.display_name)
        if len(self._cache) >= self._settings.cache_max:
            self._cache.clear()
        settings = self._settings
        lifetime = settings.negative_cache_s if row is None else settings.cache_s
        self._cache[access_key] = (now + lifetime, credential)
        return credential

    async def display_name(self, user: str) -> str:
        """What a user is called, as it was some seconds ago; the id of one that is gone."""
        known = self._names.get(user)
        now = self._clock.monotonic()
        if known is not None and now < known[0]:
            return known[1]
        name = user
        if user:
            with contextlib.suppress(NotFound):
                name = (await self._user(user))[1].display_name
        if len(self._names) >= self._settings.cache_max:
            self._names.clear()
        self._names[user] = (now + self._settings.cache_s, name)
        return name

    async def create_user(self, user: str, *, display_name: str = "", email: str = "") -> User:
        """Create a user without keys; Conflict when there is one of this id."""
        if not _USER.fullmatch(user):
            raise Invalid("a user id has 1 to 128 characters, none of them a control character")
        now_ms = int(self._clock.wall() * 1000)
        record = UserRecord(display_name or user, email, now_ms)
        check = Check("absent", user_key(user))
        try:
            await self._put_user(user, record, check)
        except Conflict:
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
                found.append(_user(user_of(key), decode(UserRecord, row.body)))
            position = page.next_start
        return found

    async def delete_user(self, user: str) -> None:
        """Delete a user and all keys; NotFound. What the user owns stays."""
        for _ in range(ATTEMPTS):
            row, record = await self._user(user)
            for access_key in record.access_keys:
                await self._delete_key_of(user, access_key)
            check = Check("version", user_key(user), number=row.version)
            change = Change(self._op_id(), checks=(check,), deletes=(user_key(user),))
            with contextlib.suppress(Conflict):
                await self._rows.change(USERS_PLACE, change)
                return
        raise Busy("others keep changing the user")

    async def create_key(self, user: str, *, access_key: str = "", secret: str = "") -> Credential:
        """Give a user an access key, chosen or generated. NotFound; Conflict when it is taken."""
        access_key = access_key or self._generate(ACCESS_KEY_CHARACTERS, ACCESS_KEY_LENGTH)
        secret = secret or self._generate(SECRET_CHARACTERS, SECRET_LENGTH)
        if not _ACCESS_KEY.fullmatch(access_key):
            raise Invalid("an access key has 3 to 128 letters, digits, dots, dashes, underscores")
        if not 8 <= len(secret) <= 256:
            raise Invalid("a secret key has 8 to 256 characters")

        def with_key(record: UserRecord) -> UserRecord:
            if access_key in record.access_keys:
                return record
            if len(record.access_keys) >= KEYS_PER_USER_MAX:
                raise Invalid(f"a user has at most {KEYS_PER_USER_MAX} access keys")
            keys = (*record.access_keys, access_key)
            return msgspec.structs.replace(record, access_keys=keys)

        owner = await self._edit_user(user, with_key)
        key = access_key_row(access_key)
        now_ms = int(self._clock.wall() * 1000)
        record = KeyRecord(user, owner.display_name, secret, now_ms)
        change = Change(
            self._op_id(), checks=(Check("absent", key),), puts=((key, Row(encode(record))),)
        )
        try:
            await self._rows.change(access_place(access_key), change)
        except Conflict as conflict:
            await self._forget_unless_own(user, access_key)
            raise Conflict(f"the access key {access_key} is taken") from conflict
        self._cache.pop(access_key, None)
        return Credential(access_key, secret, user, owner.display_name)

    async def delete_key(self, access_key: str) -> None:
        """Delete an access key; NotFound."""
        row = await self._rows.get(access_place(access_key), access_key_row(access_key))
        if row is None:
            raise NotFound(f"no access key {access_key}")
        user = decode(KeyRecord, row.body).user
        await self._delete_key_of(user, access_key)
        with contextlib.suppress(NotFound):
            await self._edit_user(user, lambda record: _without(record, access_key))

    async def _forget_unless_own(self, user: str, access_key: str) -> None:
        """Take a taken key's name out of the user's row unless the key is the user's."""
        row = await self._rows.get(access_place(access_key), access_key_row(access_key))
        if row is None or decode(KeyRecord, row.body).user != user:
            await self._edit_user(user, lambda record: _without(record, access_key))

    async def _user(self, user: str) -> tuple[Row, UserRecord]:
        row = await self._rows.get(USERS_PLACE, user_key(user))
        if row is None:
            raise NotFound(f"no user {user}")
        return row, decode(UserRecord, row.body)

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
                return edited
        raise Busy("others keep changing the user")

    async def _put_user(self, user: str, record: UserRecord, check: Check) -> None:
        put = (user_key(user), Row(encode(record)))
        await self._rows.change(USERS_PLACE, Change(self._op_id(), checks=(check,), puts=(put,)))

    async def _delete_key_of(self, user: str, access_key: str) -> None:
        """Delete the key if it is there and the user's: a name may be noted of another's key."""
        self._cache.pop(access_key, None)
        place, key = access_place(access_key), access_key_row(access_key)
        row = await self._rows.get(place, key)
        if row is None or decode(KeyRecord, row.body).user != user:
            return
        check = Check("version", key, number=row.version)
        with contextlib.suppress(Conflict):  # then it is gone, which is what was asked for
            await self._rows.change(place, Change(self._op_id(), checks=(check,), deletes=(key,)))

    def _op_id(self) -> OpId:
        return OpId(self._rng.randbytes(16))

    def _generate(self, characters: str, length: int) -> str:
        return "".join(self._rng.choice(characters) for _ in range(length))


def _user(user: str, record: UserRecord) -> User:
    return User(user, record.display_name, record.email, record.created_ms, record.access_keys)


def _without(record: UserRecord, access_key: str) -> UserRecord:
    keys = tuple(key for key in record.access_keys if key != access_key)
    return msgspec.structs.replace(record, access_keys=keys)
