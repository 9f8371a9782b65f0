"""`pinfold status`: the cluster on one page."""

import json
from typing import Any

import click

from pinfold.cli.cluster import ClusterClient, cluster_command
from pinfold.cli.sizes import format_size
from pinfold.cli.tables import print_table


@click.command(epilog="Examples: pinfold status    pinfold status --json | jq .state")
@cluster_command
def status(client: ClusterClient, as_json: bool) -> None:
    """Show nodes, devices, groups and volumes, what is degraded and what to do about it.

    The state is healthy, degraded (all data can be read and written) or unavailable (some cannot).
    """
    found = client.get("/v1/status")
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"cluster {found['cluster_id']} is {found['state']}")
    for finding in found["findings"]:
        click.echo(f"\n  {finding['severity']}: {finding['what']}\n     do: {finding['do']}")
    click.echo()
    _print_nodes(found["nodes"])
    _print_devices(found["devices"])
    _print_groups(found["groups"])
    _print_care(found["care"])
    _print_volumes(found["volumes"])


def _print_nodes(nodes: list[dict[str, Any]]) -> None:
    rows = [
        [n["name"], n["role"], n["state"], n.get("pid", "-"), n["boot"], _age(n.get("uptime_s"))]
        for n in nodes
    ]
    print_table("nodes", ["name", "role", "state", "pid", "boot", "up for"], rows)


def _print_devices(devices: list[dict[str, Any]]) -> None:
    rows = [
        [
            d["id"],
            d["node"],
            d["state"],
            _used(d),
            d.get("blobs", "-"),
            d.get("quarantined", "-"),
            d["path"],
        ]
        for d in devices
    ]
    print_table("\ndevices", ["id", "node", "state", "used", "blobs", "quarantined", "path"], rows)


def _print_groups(groups: dict[str, Any]) -> None:
    click.echo(
        f"\ngroups: {groups['with_primary']} of {groups['total']} have a primary, "
        f"{groups['degraded']} have a lagging member"
    )


def _print_care(care: list[dict[str, Any]]) -> None:
    rows = [
        [
            w["node"],
            w["name"],
            w["state"],
            w["queued"],
            format_size(w["queued_bytes"]),
            _age(w["left_s"]) if w["queued"] else "-",
            w["done"],
            w["failed"],
        ]
        for w in care
    ]
    header = ["node", "worker", "state", "queued", "bytes", "left", "done", "given up"]
    print_table("\ncare", header, rows)


def _print_volumes(volumes: list[dict[str, Any]] | None) -> None:
    if volumes is None:
        click.echo("volumes: unknown, their rows cannot be read now")
        return
    if not volumes:
        click.echo("volumes: none")
        return
    rows = [
        [
            v["name"],
            format_size(v["size_bytes"]),
            v.get("holder") or "-",
            ", ".join(map(str, v.get("out", ()))) or "-",
        ]
        for v in volumes
    ]
    print_table("\nvolumes", ["name", "size", "held by", "out of sync"], rows)


def _used(device: dict[str, Any]) -> str:
    total = device.get("total_bytes")
    if not total:
        return "-"
    used = total - device["free_bytes"]
    return f"{format_size(used)} of {format_size(total)} ({used / total:.0%})"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02} min" if hours else f"{minute} min {second:02} s"
