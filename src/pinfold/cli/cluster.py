"""How every command finds its cluster and prints its answer."""

import json
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click

from pinfold.admin.client import AdminClient, AdminUnreachable
from pinfold.env.osdisk import OsDisk
from pinfold.model.errors import Invalid, NotFound
from pinfold.node.access import read_access
from pinfold.node.layout import Layout

DEFAULT_DATA: Final = "pinfold-data"
"""In the current directory, as `pinfold up` without --data uses."""


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data DIR`: the cluster's directory on this machine."""
    return click.option(
        "--data",
        metavar="DIR",
        envvar="PINFOLD_DATA",
        default=DEFAULT_DATA,
        show_default="./pinfold-data",
        show_envvar=True,
        help="Data directory of the cluster.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: for programs."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
    )(command)


def cluster_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `client`, a ClusterClient, out of --data or --admin; and `as_json`."""

    @json_option
    @click.option(
        "--admin",
        metavar="URL",
        envvar="PINFOLD_ADMIN",
        show_envvar=True,
        help="Admin endpoint of a cluster elsewhere; its token comes from PINFOLD_TOKEN.",
    )
    @data_option
    @wraps(command)
    def with_client(*args: Any, data: str, admin: str | None, **options: Any) -> Any:
        token = os.environ.get("PINFOLD_TOKEN")  # no option: `ps` shows those to everybody
        return command(*args, client=ClusterClient(data, admin, token), **options)

    return with_client


class ClusterClient:
    """The admin API of the cluster that was named; looked for when it is first asked.

    Usage errors so come before "unreachable", which is what a caller wants to hear first.
    """

    def __init__(self, data: str, admin: str | None, token: str | None) -> None:
        self._where = (data, admin, token)
        self.data = data
        """The cluster's directory on this machine, for what is done without the admin API."""

    def get(self, path: str) -> Any:
        """See `AdminClient.get`."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """See `AdminClient.call`."""
        return _client(*self._where).call(method, path, body)


def _client(data: str, admin: str | None, token: str | None) -> AdminClient:
    if admin:
        try:
            return AdminClient(admin, token or "")
        except Invalid as error:
            raise click.BadParameter(error.message, param_hint="--admin") from error
    try:
        access = read_access(OsDisk(), Layout.at(data))
    except NotFound as error:
        raise AdminUnreachable(error.message) from error
    if access.endpoints is None:
        raise AdminUnreachable(f"the cluster in {data} was never started")
    return AdminClient(access.endpoints.admin, token or access.token)


def echo(as_json: bool, value: Any, text: Callable[[], None]) -> None:
    """Print `value` as JSON, or let `text` print it for people."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        text()
