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
        [
            n["name"],
            n["role"],
            n["state"],
            n["pid"] or "-",
            n["boot"],
            _age(n["uptime_s"]),
            n["endpoint"] or "-",
            _clients(n["clients"] or {}),
        ]
        for n in nodes
    ]
    header = ["name", "role", "state", "pid", "boot", "up for", "endpoint", "clients"]
    print_table("nodes", header, rows)


def _clients(told: dict[str, Any]) -> str:
    """What a front end has answered since its start."""
    if "connections" in told:
        return (
            f"{told['connections']} connected, {told['reads']} reads, {told['writes']} writes, "
            f"{format_size(told['payload_bytes'])}, {told['errors']} errors"
        )
    return f"{told['requests']} requests, {told['failed']} failed" if told else "-"


def _print_devices(devices: list[dict[str, Any]]) -> None:
    rows = [
        [
            d["id"],
            d["node"],
            d["state"],
            _data(d),
            _free(d),
            _count(d["blobs"]),
            _count(d["quarantined"]),
            d["path"],
        ]
        for d in devices
    ]
    header = ["id", "node", "state", "data", "disk free", "blobs", "quarantined", "path"]
    print_table("\ndevices", header, rows)


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


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _data(device: dict[str, Any]) -> str:
    """What of Pinfold's is on the device; its file system may hold other things."""
    if device["blob_bytes"] is None:
        return "-"
    return format_size(device["blob_bytes"] + device["extent_bytes"] + device["journal_bytes"])


def _free(device: dict[str, Any]) -> str:
    """Room on the device's file system, which other devices may share."""
    total = device["total_bytes"]
    if not total:
        return "-"
    free = device["free_bytes"]
    return f"{format_size(free)} of {format_size(total)} ({free / total:.0%})"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute:02} min" if hours else f"{minute} min {second:02} s"
