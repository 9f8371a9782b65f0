"""`pinfold volume`: block volumes."""

from typing import Any
from urllib.parse import quote

import click

from pinfold.cli.cluster import ClusterClient, cluster_command, echo
from pinfold.cli.sizes import format_size, moment
from pinfold.cli.sizes import size as size_type
from pinfold.cli.tables import print_table


@click.group(
    epilog="Example: pinfold volume create disk1 10GiB && qemu-img info nbd://127.0.0.1/disk1"
)
def volume() -> None:
    """Block volumes, attached over NBD by their name."""


@volume.command(epilog="Example: pinfold volume create disk1 10GiB")
@click.argument("name")
@click.argument("size", type=size_type)
@cluster_command
def create(client: ClusterClient, as_json: bool, name: str, size: int) -> None:
    """Create the volume NAME of SIZE (10GiB, 512MiB, bytes). It takes space only as it fills."""
    made = client.call("POST", "/v1/volumes", {"name": name, "size_bytes": size})
    echo(as_json, made, lambda: click.echo(f"created {name}, {format_size(made['size_bytes'])}"))


@volume.command("list", epilog="Example: pinfold volume list --json")
@cluster_command
def list_(client: ClusterClient, as_json: bool) -> None:
    """List all volumes."""
    volumes = client.get("/v1/volumes")["volumes"]
    echo(as_json, volumes, lambda: _print_volumes(volumes))


@volume.command(epilog="Example: pinfold volume show disk1")
@click.argument("name")
@cluster_command
def show(client: ClusterClient, as_json: bool, name: str) -> None:
    """Show one volume: size, who holds it, devices out of sync."""
    found = client.get(_path(name))
    echo(as_json, found, lambda: _print_one(found))


@volume.command(epilog="Example: pinfold volume resize disk1 20GiB")
@click.argument("name")
@click.argument("size", type=size_type)
@click.option("--force", is_flag=True, help="Also shrink: what lies behind the new end is lost.")
@cluster_command
def resize(client: ClusterClient, as_json: bool, name: str, size: int, force: bool) -> None:
    """Grow the volume NAME to SIZE. Clients see the new size when they attach again."""
    changed = client.call("PATCH", _path(name), {"size_bytes": size, "force": force})
    echo(as_json, changed, lambda: click.echo(f"{name} has {format_size(changed['size_bytes'])}"))


@volume.command(epilog="Example: pinfold volume delete disk1")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while a client is attached to it.")
@cluster_command
def delete(client: ClusterClient, as_json: bool, name: str, force: bool) -> None:
    """Delete the volume NAME and its data. There is no way back."""
    client.call("DELETE", _path(name) + ("?force=true" if force else ""))
    echo(as_json, {"deleted": name}, lambda: click.echo(f"deleted {name}"))


def _path(name: str) -> str:
    return f"/v1/volumes/{quote(name, safe='')}"


def _print_volumes(volumes: list[dict[str, Any]]) -> None:
    if not volumes:
        click.echo("no volumes; make one with `pinfold volume create NAME SIZE`")
        return
    rows = [
        [found["name"], format_size(found["size_bytes"]), found.get("holder") or "-"]
        for found in volumes
    ]
    print_table("volumes", ["name", "size", "held by"], rows)


def _print_one(found: dict[str, Any]) -> None:
    out = ", ".join(f"device {number}" for number in found["out"])
    lines = {
        "name": found["name"],
        "id": found["id"],
        "size": format_size(found["size_bytes"]),
        "created": moment(found["created_ms"]),
        "state": found["state"],
        "copies": f"{found['copies']}, {found['min_in_sync']} in sync for a write",
        "held by": found["holder"] or "nobody: no client is attached",
        "out of sync": out or "none",
    }
    for name, shown in lines.items():
        click.echo(f"{name:12} {shown}")
