"""What the cluster's processes know and nobody else may: files in DATA, read again as they change.

Three things, each replaced without a restart: the root key and admin token (cluster.json), the
cluster secret that nodes prove to each other (secrets/cluster), and the sealing key of access keys'
secrets (secrets/sealing), which stays for the life of the cluster. All are mode 0600.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.accounts.sealing import KEY_BYTES, Sealer
from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Disk, Env
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.node.access import Access, read_access
from pinfold.node.layout import Layout
from pinfold.rpc.handshake import Keyring

REFRESH_S: Final = 1.0
"""Between looks at the files: what was replaced holds everywhere within this and a little."""

SECRET_BYTES: Final = 32


class _KeyringFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of secrets/cluster: secrets in hexadecimal, by their number."""

    current: int
    secrets: dict[int, str]


@dataclass(slots=True, kw_only=True)
class Secrets:
    """The secrets as they are now. Never log any of it."""

    access: Access
    keyring: Keyring
    sealer: Sealer


def read_secrets(env: Env, layout: Layout) -> Secrets:
    """All of them. NotFound or Corrupt names the file."""
    return Secrets(
        access=read_access(env.disk, layout),
        keyring=read_keyring(env.disk, layout),
        sealer=_read_sealer(env, layout),
    )


async def follow_secrets(
    env: Env,
    layout: Layout,
    secrets: Secrets,
    on_keyring: Callable[[Keyring], None],
    on_error: Callable[[Exception], None],
) -> None:
    """Keep `secrets` as the files say, for ever; a file that cannot be read changes nothing.

    Whatever keeps it from being read now (no free descriptor, say) may be over at the next look.
    """
    lane = env.new_offload("secrets")
    try:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                secrets.access = await lane(read_access, env.disk, layout)
                keyring = await lane(read_keyring, env.disk, layout)
            except (PinfoldError, OSError) as error:
                on_error(error)
                continue
            if keyring != secrets.keyring:
                secrets.keyring = keyring
                on_keyring(keyring)
    finally:
        lane.close()


def new_secret_files(env: Env, layout: Layout) -> None:
    """Draw the cluster's secret and the sealing key."""
    write_keyring(env.disk, layout, Keyring.of(env.rng.randbytes(SECRET_BYTES)))
    env.disk.write_file(str(layout.sealing_key), env.rng.randbytes(KEY_BYTES))


def read_keyring(disk: Disk, layout: Layout) -> Keyring:
    """The cluster's secrets; Corrupt when the file is not what was written."""
    path = str(layout.cluster_secret)
    try:
        found = msgspec.json.decode(disk.read_file(path), type=_KeyringFile)
        secrets = {number: bytes.fromhex(secret) for number, secret in found.secrets.items()}
    except (OSError, *UNREADABLE) as error:
        raise Corrupt(f"{path}: {error}; restore it from a copy") from error
    if found.current not in secrets or any(len(s) != SECRET_BYTES for s in secrets.values()):
        raise Corrupt(f"{path} is damaged; restore it from a copy")
    return Keyring(found.current, secrets)


def write_keyring(disk: Disk, layout: Layout, keyring: Keyring) -> None:
    """Replace the file atomically; mode 0600."""
    content = _KeyringFile(
        current=keyring.current,
        secrets={number: secret.hex() for number, secret in keyring.secrets.items()},
    )
    disk.write_file(str(layout.cluster_secret), msgspec.json.encode(content) + b"\n")


def _read_sealer(env: Env, layout: Layout) -> Sealer:
    path = str(layout.sealing_key)
    try:
        key = env.disk.read_file(path)
    except OSError as error:
        raise Corrupt(f"{path}: {error}; restore it from a copy") from error
    if len(key) != KEY_BYTES:
        raise Corrupt(f"{path} is damaged; restore it from a copy")
    return Sealer(key, env.rng)
