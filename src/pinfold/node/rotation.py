"""Replacing the secrets of a running cluster, each in steps that may be repeated after a crash.

Whoever runs this has DATA: it is an operator on the cluster's machine. The processes read the
files again within `REFRESH_S`, so each step waits longer than that before the next begins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from pinfold.admin.client import AdminClient
from pinfold.env.api import Env
from pinfold.model.errors import NotFound, Unavailable
from pinfold.node.access import Access, new_token, read_access, write_access
from pinfold.node.boot import hold
from pinfold.node.layout import Layout
from pinfold.node.root_user import ROOT
from pinfold.node.secrets import REFRESH_S, SECRET_BYTES, read_keyring, write_keyring
from pinfold.rpc.handshake import Keyring

SETTLE_S: Final = 2 * REFRESH_S
"""After it every process that runs has read a file that was replaced."""


def rotate_token(env: Env, layout: Layout) -> Access:
    """Replace the admin token; the old one is refused once the admin process has read it."""
    with held(env, layout):
        access = msgspec.structs.replace(read_access(env.disk, layout), token=new_token(env.rng))
        write_access(env.disk, layout, access)
        return access


def rotate_root_key(env: Env, layout: Layout) -> Access:
    """Replace the root user's key: a new one is made, noted in cluster.json, the old one ended.

    A crash before it is noted leaves a key more, of which nobody knows the secret;
    `pinfold key list root` shows it. After a later crash the next rotation ends the old key first.
    """
    with held(env, layout):
        old = read_access(env.disk, layout)
        if old.endpoints is None:
            raise Unavailable("the cluster was never started: start it with `pinfold up`")
        client = AdminClient(old.endpoints.admin, old.token)
        if old.ending:
            _end(client, old.ending)
        made = client.call("POST", f"/v1/users/{ROOT}/keys", {})
        access = msgspec.structs.replace(
            old,
            access_key=made["access_key"],
            secret_key=made["secret_key"],
            ending=old.access_key,
        )
        write_access(env.disk, layout, access)
        _end(client, access.ending)
        access = msgspec.structs.replace(access, ending="")
        write_access(env.disk, layout, access)
        return access


def _end(client: AdminClient, access_key: str) -> None:
    with suppress(NotFound):  # an earlier rotation got this far
        client.call("DELETE", f"/v1/keys/{access_key}")


def rotate_cluster_secret(env: Env, layout: Layout, pause: Callable[[float], None]) -> None:
    """Replace what nodes prove to each other: known everywhere, then proved, then alone.

    Sessions that proved the old secret end with the last step and come again at once.
    """
    with held(env, layout):
        keyring = read_keyring(env.disk, layout)
        newest = max(keyring.secrets)
        if len(keyring.secrets) == 1:
            newest += 1
            known = {**keyring.secrets, newest: env.rng.randbytes(SECRET_BYTES)}
            write_keyring(env.disk, layout, Keyring(keyring.current, known))
            pause(SETTLE_S)
        else:
            known = dict(keyring.secrets)  # an earlier rotation ended early: go on with it
        write_keyring(env.disk, layout, Keyring(newest, known))
        pause(SETTLE_S)
        write_keyring(env.disk, layout, Keyring(newest, {newest: known[newest]}))


@contextmanager
def held(env: Env, layout: Layout) -> Iterator[None]:
    """One writer of the secrets at a time. NotFound when there is no cluster here."""
    read_access(env.disk, layout)
    lock = hold(env.disk, layout.cluster_secret.with_name("lock"), "another rotation is under way")
    try:
        yield
    finally:
        lock.close()
