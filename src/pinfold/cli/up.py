"""`pinfold up`: a whole cluster on this machine."""

import json
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import click

from pinfold.cli.cluster import data_option
from pinfold.cli.secret import exports

if TYPE_CHECKING:
    from pinfold.node.up import Ready

PORT_MAX = 65_535 - 3


@click.command(epilog="Examples: pinfold up    pinfold up --data /tmp/pen --base-port 19000 --json")
@data_option
@click.option(
    "--base-port",
    type=click.IntRange(1, PORT_MAX),
    metavar="N",
    help="S3 on N, Swift reserved N+1, NBD N+2, admin N+3. Default: those of the last start, at "
    "first 9000, 8080, 10809, 9300.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.option("--no-restart", is_flag=True, help="Leave a process that ends by itself down.")
def up(data: str, base_port: int | None, as_json: bool, no_restart: bool) -> None:
    """Start three storage nodes and the front ends; stop them all on Ctrl-C or SIGTERM.

    The first start makes the data directory: one device per node, keys and a token. Later starts
    serve what is there. Everything listens on 127.0.0.1.
    """
    from pinfold.env.real import real_env
    from pinfold.node.layout import Layout
    from pinfold.node.up import Ports, UpOptions, run_up

    def announce(ready: "Ready") -> None:
        if as_json:
            print(_as_line(ready), flush=True)
        else:
            click.echo(_as_text(ready, data))

    def on_event(event: str, name: str, detail: str) -> None:
        if event in ("restarting", "failed", "killed", "left down"):
            print(f"pinfold: {name} {event}: {detail}", file=sys.stderr, flush=True)

    ports = None if base_port is None else Ports.from_base(base_port)
    if not as_json:
        click.echo(f"starting the cluster in {data} …")
    options = UpOptions(layout=Layout.at(data), ports=ports, restart=not no_restart)
    run_up(real_env(), options, announce, on_event)
    if not as_json:
        click.echo("stopped")


def _as_line(ready: "Ready") -> str:
    import msgspec

    return json.dumps(msgspec.to_builtins(ready))


def _as_text(ready: "Ready", data: str) -> str:
    host, _, port = ready.nbd.removeprefix("nbd://").rpartition(":")
    address = ready.s3.removeprefix("http://")
    program, data = _program(), shlex.quote(data)
    return f"""
Pinfold serves.

  S3     {ready.s3}    region {ready.region}, path style
  NBD    {ready.nbd}/VOLUME
  admin  {ready.admin}    (token and keys are kept in {ready.data}/cluster.json)

{_keys(ready, program, data)}

Five commands to try, in another terminal:

  aws --endpoint-url {ready.s3} s3 mb s3://first
  s3cmd --host {address} --host-bucket {address} --no-ssl put README.md s3://first/
  {program} volume create disk1 1GiB --data {data}
  qemu-img info nbd://{host}:{port}/disk1
  {program} status --data {data}

Ctrl-C stops everything; the data stays.
"""


def _keys(ready: "Ready", program: str, data: str) -> str:
    """How a shell gets the root key; the secret itself is shown by the first start alone."""
    if not ready.created:
        return f'  eval "$({program} secret show --data {data})"'
    return exports(ready.access_key, ready.secret_key, ready.region)


def _program() -> str:
    """This command as it can be typed again: by name where the shell finds it, else by path."""
    return "pinfold" if shutil.which("pinfold") else shlex.quote(sys.argv[0])
