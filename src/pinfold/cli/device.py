"""`pinfold device`: make a device, say whose it is, check and mend it. No cluster is asked."""

import asyncio
from pathlib import Path

import click

from pinfold.cli.cluster import echo
from pinfold.cli.devicecare import check, probe_index, rebuild, repair
from pinfold.device.device import Device
from pinfold.device.files import read_superblock
from pinfold.env.real import real_env
from pinfold.model.errors import Unavailable
from pinfold.model.settings import DeviceSettings

_ID_BYTES = 16


class _Id(click.ParamType[bytes]):
    """16 bytes in hexadecimal."""

    name = "hex"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        try:
            found = bytes.fromhex(str(value))
        except ValueError:
            self.fail(f"{value!r} is not hexadecimal", param, ctx)
        if len(found) != _ID_BYTES:
            self.fail(f"an id has {_ID_BYTES} bytes, this one has {len(found)}", param, ctx)
        return found


@click.group(epilog="Example: pinfold device show /srv/pinfold/d1")
def device() -> None:
    """Format, inspect, check and repair devices: directories that hold a cluster's data."""


for command in (check, repair, rebuild, probe_index):
    device.add_command(command)


@device.command(
    "format",
    epilog="Example: pinfold device format /srv/d1 --cluster-id 00112233445566778899aabbccddeeff",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--cluster-id", type=_Id(), required=True, help="The cluster's id, 32 hex digits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def format_(path: Path, cluster_id: bytes, as_json: bool) -> None:
    """Make PATH, an absent or empty directory, a device of a cluster. Nothing is overwritten."""
    where = str(path.absolute())
    try:
        uuid = asyncio.run(Device.format(real_env(), where, cluster_id, DeviceSettings()))
    except OSError as error:
        raise Unavailable(f"{where} cannot be formatted: {error}") from error
    made = {"path": where, "uuid": uuid.hex(), "cluster_id": cluster_id.hex()}
    echo(as_json, made, lambda: click.echo(f"device {uuid.hex()} at {where}"))


@device.command(epilog="Example: pinfold device show /srv/d1 --json")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(path: Path, as_json: bool) -> None:
    """Show whose device PATH is and how often it was opened. Safe while it is served."""
    where = str(path.absolute())
    try:
        found = read_superblock(real_env().disk, where)
    except OSError as error:
        raise Unavailable(f"{where} cannot be read: {error}") from error
    facts = {
        "path": where,
        "uuid": found.uuid.hex(),
        "cluster_id": found.cluster_id.hex(),
        "format": found.format,
        "boot": found.boot,
    }

    def text() -> None:
        for name, value in facts.items():
            click.echo(f"{name.replace('_', ' '):10}  {value}")

    echo(as_json, facts, text)
