"""Whose an access key is, looked up quickly and believed for seconds.

A key that works is read again after `cache_s`, so what an operator deletes or disables ends within
that time everywhere. A key that is unknown is remembered apart from those that work, and looking
unknown ones up has a budget: a stranger who tries keys costs neither a quorum read each nor the
place of those who have one.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pinfold.accounts.records import (
    ACCESS_KEY,
    USERS_PLACE,
    KeyRecord,
    UserRecord,
    access_key_row,
    access_place,
    decode,
    user_key,
)
from pinfold.accounts.sealing import Sealer
from pinfold.cluster.api import Rows
from pinfold.env.api import Clock
from pinfold.model.errors import Busy
from pinfold.model.settings import AccountSettings

BURST_S: Final = 4.0
"""Seconds' worth of look-ups of unknown keys that may come at once."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key: whose it is and what it signs with."""

    access_key: str
    secret: str
    user: str
    display_name: str


class Credentials:
    """Looks up access keys and users' names for one process."""

    def __init__(self, clock: Clock, rows: Rows, sealer: Sealer, settings: AccountSettings) -> None:
        self._clock = clock
        self._rows = rows
        self._sealer = sealer
        self._settings = settings
        self._known: _Remembered[Credential] = _Remembered(settings.cache_max)
        self._unknown: _Remembered[None] = _Remembered(settings.cache_max)
        self._users: _Remembered[UserRecord | None] = _Remembered(settings.cache_max)
        self._budget = _Budget(settings.unknown_reads_per_s, clock.monotonic())

    async def lookup(self, access_key: str) -> Credential | None:
        """The key's credential, as it was some seconds ago; None when there is none that works.

        Busy when more unknown keys are tried than the settings allow to look up.
        """
        now = self._clock.monotonic()
        if (known := self._known.get(access_key)) is not None and now < known[0]:
            return known[1]
        unknown = self._unknown.get(access_key)
        if not ACCESS_KEY.fullmatch(access_key) or (unknown is not None and now < unknown[0]):
            return None
        if known is None and not self._budget.take(now):
            raise Busy("too many unknown access keys are being tried")
        credential, until = await self._read(access_key, now)
        if credential is None:
            self._known.forget(access_key)
            self._unknown.put(access_key, until, None)
        else:
            self._unknown.forget(access_key)
            self._known.put(access_key, until, credential)
        return credential

    async def display_name(self, user: str) -> str:
        """What a user is called, as it was some seconds ago; the id of one that is gone."""
        record = (await self._user(user, self._clock.monotonic()))[1] if user else None
        return user if record is None else record.display_name

    def forget(self, access_key: str) -> None:
        """What is known of the key here is out of date."""
        self._known.forget(access_key)
        self._unknown.forget(access_key)

    def forget_user(self, user: str, access_keys: tuple[str, ...] = ()) -> None:
        """What is known of a user and these keys here is out of date."""
        self._users.forget(user)
        for access_key in access_keys:
            self.forget(access_key)

    async def _read(self, access_key: str, now: float) -> tuple[Credential | None, float]:
        """The credential or its absence, and until when that is believed.

        Neither is believed longer than the user's row that it rests on.
        """
        soon = now + self._settings.negative_cache_s
        row = await self._rows.get(access_place(access_key), access_key_row(access_key))
        if row is None:
            return None, soon
        record = decode(KeyRecord, row.body)
        if record.state != "active":
            return None, soon
        until, user = await self._user(record.user, now)
        if user is None or user.state != "active":
            return None, min(soon, until)
        secret = self._sealer.unseal(record.sealed, access_key)
        return Credential(access_key, secret, record.user, user.display_name), until

    async def _user(self, user: str, now: float) -> tuple[float, UserRecord | None]:
        """A user's row and until when it is believed, at most `cache_s` from now."""
        if (known := self._users.get(user)) is not None and now < known[0]:
            return known
        row = await self._rows.get(USERS_PLACE, user_key(user))
        record = None if row is None else decode(UserRecord, row.body)
        until = now + self._settings.cache_s
        self._users.put(user, until, record)
        return until, record


class _Remembered(Generic[T]):
    """(until when, what) by name; beyond the limit the entry that came first goes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[str, tuple[float, T]] = {}

    def get(self, name: str) -> tuple[float, T] | None:
        return self._entries.get(name)

    def put(self, name: str, until: float, what: T) -> None:
        self._entries.pop(name, None)
        if len(self._entries) >= self._limit:
            del self._entries[next(iter(self._entries))]
        self._entries[name] = (until, what)

    def forget(self, name: str) -> None:
        self._entries.pop(name, None)


class _Budget:
    """A token bucket: so many a second, `BURST_S` seconds' worth at once."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._left = per_s * BURST_S
        self._counted = now

    def take(self, now: float) -> bool:
        """Whether there is one more; it is used up then."""
        earned = (now - self._counted) * self._per_s
        self._left = min(self._left + earned, self._per_s * BURST_S)
        self._counted = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
