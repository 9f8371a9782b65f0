"""`pinfold node`: one process of a cluster."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from pinfold.cli.cluster import ClusterClient, cluster_command, data_option, echo
from pinfold.model.errors import Conflict

if TYPE_CHECKING:
    from pinfold.node.control import Command


@click.group(epilog="Example: pinfold node restart n2")
def node() -> None:
    """One process of a cluster."""


@node.command(epilog="Example: pinfold node check n2")
@click.argument("name")
@cluster_command
def check(client: ClusterClient, as_json: bool, name: str) -> None:
    """Say whether NAME may be stopped without clients noticing. Exit status 1 when not."""
    found = _asked(client, name)
    text = f"{name} may be stopped" if found["ok"] else "\n".join(found["objections"])
    echo(as_json, found, lambda: click.echo(text))
    sys.exit(0 if found["ok"] else 1)


@node.command(epilog="Example: pinfold node stop n2")
@click.argument("name")
@click.option("--force", is_flag=True, help="Although clients would notice, or nobody can tell.")
@cluster_command
def stop(client: ClusterClient, as_json: bool, name: str, force: bool) -> None:
    """Stop the process NAME and leave it down, unless that would interrupt clients."""
    with _one_at_a_time(client):
        _demand_stoppable(client, name, force=force)
        _order(client, as_json, "stop", name, f"{name} is stopped: pinfold node start {name}")


@node.command(epilog="Example: pinfold node start n2")
@click.argument("name")
@cluster_command
def start(client: ClusterClient, as_json: bool, name: str) -> None:
    """Start the process NAME, which was left down, and wait until it is ready."""
    _order(client, as_json, "start", name, f"{name} is ready")


@node.command(epilog="Example: pinfold node restart n2")
@click.argument("name")
@click.option("--force", is_flag=True, help="Although clients would notice, or nobody can tell.")
@cluster_command
def restart(client: ClusterClient, as_json: bool, name: str, force: bool) -> None:
    """Stop the process NAME and start it again, unless that would interrupt clients."""
    with _one_at_a_time(client):
        _demand_stoppable(client, name, force=force)
        _order(client, as_json, "restart", name, f"{name} is ready again")


def _asked(client: ClusterClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/nodes/{quote(name, safe='')}/stoppable")
    return found


@contextmanager
def _one_at_a_time(client: ClusterClient) -> Iterator[None]:
    """Two processes that may each be stopped may not both be: who comes second asks afterwards.

    Conflict while another command on this machine stops something.
    """
    from pinfold.env.osdisk import OsDisk
    from pinfold.node.boot import hold
    from pinfold.node.layout import Layout

    directory = Layout.at(client.data).socket_dir()
    if not directory.exists():  # no supervisor has run here: the order will say so
        yield
        return
    lock = hold(OsDisk(), directory / "orders", "another process is being stopped")
    try:
        yield
    finally:
        lock.close()


def _demand_stoppable(client: ClusterClient, name: str, *, force: bool) -> None:
    if force:
        return
    if objections := _asked(client, name)["objections"]:
        raise Conflict(f"{name} is not stopped: {'; '.join(objections)}. --force does it anyway")


def _order(client: ClusterClient, as_json: bool, command: "Command", name: str, said: str) -> None:
    from pinfold.node.control import Order, give_order
    from pinfold.node.layout import Layout

    give_order(Layout.at(client.data), Order(command=command, node=name))
    echo(as_json, {"node": name, "command": command}, lambda: click.echo(said))


@node.command(epilog="Example: pinfold node run s3-1 --data DIR --listen 127.0.0.1:9000")
@click.argument("name")
@data_option
@click.option("--listen", metavar="HOST:PORT", help="Where a front end serves clients.")
@click.option("--lifeline", type=int, hidden=True, help="Descriptor of the supervisor's socket.")
def run(name: str, data: str, listen: str | None, lifeline: int | None) -> None:
    """Run the node NAME of the cluster in --data until SIGTERM.

    `pinfold up` does this for each of its processes; by hand it is for looking at one alone.
    """
    from pinfold.node.context import Endpoint
    from pinfold.node.layout import Layout, checked_name
    from pinfold.node.process import Launch, run_process

    endpoint = None
    if listen is not None:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal():
            raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
        endpoint = Endpoint(host=host, port=int(port))
    launch = Launch(
        name=checked_name(name), layout=Layout.at(data), listen=endpoint, lifeline=lifeline
    )
    sys.exit(run_process(launch))
