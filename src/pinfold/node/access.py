"""How commands and gateways get into a cluster: endpoints, admin token, root keys.

One file, DATA/cluster.json, readable by its owner only.
"""

import random

import msgspec

from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Disk
from pinfold.model.errors import Corrupt, NotFound
from pinfold.node.layout import Layout

_UPPER_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """URLs as clients use them."""

    s3: str
    nbd: str
    admin: str


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The content of cluster.json. Secrets inside: never log it."""

    cluster_id: str
    token: str
    """Bearer token of the admin API."""
    access_key: str
    secret_key: str
    """The root user's."""
    ending: str = ""
    """The root user's access key before this one, until it has ended."""
    endpoints: Endpoints | None = None
    """Of the last `pinfold up`; the next one takes the same unless told otherwise."""
    restarts: bool = True
    """Whether that one starts processes again that end by themselves."""


def new_access(rng: random.Random, cluster_id: bytes) -> Access:
    """Fresh secrets, of the lengths AWS uses where clients check them."""
    return Access(
        cluster_id=cluster_id.hex(),
        token=new_token(rng),
        access_key="PF" + _draw(rng, _UPPER_BASE32, 18),
        secret_key=_draw(rng, _BASE62, 40),
    )


def new_token(rng: random.Random) -> str:
    """A fresh admin token: 256 bits."""
    return _draw(rng, _BASE62, 43)


def read_access(disk: Disk, layout: Layout) -> Access:
    """NotFound when there is no cluster in the directory, Corrupt when the file was damaged."""
    path = str(layout.endpoints)
    try:
        content = disk.read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(_absence(disk, layout)) from None
    try:
        return msgspec.json.decode(content, type=Access)
    except UNREADABLE as error:
        raise Corrupt(f"{path}: {error}; restore it from a copy") from error


def _absence(disk: Disk, layout: Layout) -> str:
    if disk.exists(str(layout.marker)):
        return f"{layout.endpoints} is gone, and with it the keys: restore it from a copy"
    return f"{layout.root} holds no cluster: start one with `pinfold up --data …`"


def write_access(disk: Disk, layout: Layout, access: Access) -> None:
    """Replace the file atomically; mode 0600."""
    content = msgspec.json.format(msgspec.json.encode(access), indent=2) + b"\n"
    disk.write_file(str(layout.endpoints), content)


def _draw(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))
