"""`pinfold node`: one process of a cluster."""

import sys

import click

from pinfold.cli.cluster import data_option


@click.group()
def node() -> None:
    """One process of a cluster."""


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
