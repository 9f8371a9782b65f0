"""Rows of users and access keys. Bodies are one version byte and the msgpack array of a record."""

import re
from typing import Final, Literal, TypeVar

import msgspec

from pinfold.codec import names
from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Corrupt

VERSION: Final = b"\x01"

ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{3,128}")
"""What an access key may look like."""

USERS_PLACE: Final = b"u/"
"""All users' rows share a group: they are few, and listing them is one scan."""


State = Literal["active", "disabled", "deleted"]
"""Rows of deleted users and keys stay: neither name is ever given to somebody else."""


class UserRecord(msgspec.Struct, array_like=True, frozen=True):
    """A user, who is also the account that owns buckets."""

    display_name: str
    email: str
    created_ms: int
    access_keys: tuple[str, ...] = ()
    """Noted before a key is made and after one is gone, so that no key is forgotten."""
    state: State = "active"


class KeyRecord(msgspec.Struct, array_like=True, frozen=True):
    """An access key. Its secret must be known to check a signature, so it is sealed, not hashed."""

    user: str
    sealed: bytes
    """See `accounts.sealing`; empty once the key is deleted."""
    created_ms: int
    state: State = "active"


T = TypeVar("T")


def user_key(user: str) -> bytes:
    """A user's row."""
    return b"u" + names.encode(user.encode())


def user_range() -> tuple[bytes, bytes]:
    """All users' rows."""
    return b"u", b"v"


def user_of(key: bytes) -> str:
    """The user a row key is about."""
    return names.decode(key, 1)[0].decode()


def access_place(access_key: str) -> bytes:
    """Placement of an access key's row."""
    return b"k/" + access_key.encode()


def access_key_row(access_key: str) -> bytes:
    """An access key's row."""
    return b"k" + names.encode(access_key.encode())


def encode(record: msgspec.Struct) -> bytes:
    """The body of a row."""
    return VERSION + msgspec.msgpack.encode(record)


def decode(kind: type[T], body: bytes) -> T:
    """The record in a row's body; Corrupt when it is not one."""
    if body[:1] != VERSION:
        raise Corrupt(f"a {kind.__name__} of unknown version {body[:1].hex()}")
    try:
        return msgspec.msgpack.decode(memoryview(body)[1:], type=kind)
    except UNREADABLE as error:
        raise Corrupt(f"not a {kind.__name__}: {error}") from error
