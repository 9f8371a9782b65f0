"""The state of the cluster on one page, from the map and what each node answered. Pure.

A cluster is *healthy* when everything in the map serves, *degraded* when all data can still be read
and written, and *unavailable* when some cannot.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from pinfold.admin.findings import Finding, Situation, findings_of
from pinfold.admin.reach import reach
from pinfold.cluster.map import BLOBS, METADATA, VOLUMES, ClusterMap, DeviceEntry

State = Literal["healthy", "degraded", "unavailable"]
NodeAnswer = Mapping[str, Any]
"""The body of a `node.status` answer."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `pinfold status` shows."""

    cluster_id: str
    version: str
    map_version: int
    state: State
    findings: list[Finding]
    nodes: list[dict[str, Any]]
    devices: list[dict[str, Any]]
    groups: dict[str, Any]
    care: list[dict[str, Any]]
    """The workers of every storage node that answers."""
    volumes: list[dict[str, Any]] | None
    """None when their rows cannot be read now, which is not the same as none."""


def report(
    cluster: ClusterMap,
    answers: Mapping[str, NodeAnswer],
    volumes: Sequence[dict[str, Any]] | None,
    *,
    version: str,
    restarts: bool = True,
) -> Report:
    """Judge a cluster. Nodes without an answer are down.

    `restarts`: whether a supervisor starts again what ends by itself.
    """
    nodes = [_node(name, cluster, answers.get(name)) for name in cluster.nodes]
    devices = [_device(entry, answers) for entry in cluster.devices]
    groups = _groups(cluster, answers)
    care = [
        {"node": name, **worker}
        for name, answer in sorted(answers.items())
        for worker in answer.get("care", ())
    ]
    serving = {one["id"] for one in devices if one["state"] in ("serving", "full")}
    taking = {one["id"] for one in devices if one["state"] == "serving"}
    findings = findings_of(
        Situation(
            nodes=nodes,
            devices=devices,
            groups=groups,
            care=care,
            volumes=volumes or (),
            objects=reach(cluster, BLOBS, serving, taking),
            extents=reach(cluster, VOLUMES, serving, taking),
            restarts=restarts,
        )
    )
    return Report(
        cluster_id=cluster.cluster_id.hex(),
        version=version,
        map_version=cluster.version,
        state=_state(findings),
        findings=findings,
        nodes=nodes,
        devices=devices,
        groups=groups,
        care=care,
        volumes=None if volumes is None else list(volumes),
    )


def waiting_for(found: Report) -> list[str]:
    """Why the cluster is not ready to serve; empty when it is."""
    reasons = []
    for node in found.nodes:
        if node["role"] != "storage" and node["state"] != "up":
            reasons.append(f"{node['name']} does not answer")
        elif node.get("serving") is False:
            reasons.append(f"{node['name']} is not serving yet")
    missing = found.groups["total"] - found.groups["with_primary"]
    if missing:
        reasons.append(f"{missing} of {found.groups['total']} groups have no primary")
    return reasons


def _state(findings: Sequence[Finding]) -> State:
    if any(finding.severity == "error" for finding in findings):
        return "unavailable"
    return "degraded" if findings else "healthy"


_OF_A_NODE: Final = (
    "pid",
    "boot",
    "uptime_s",
    "version",
    "map_version",
    "endpoint",
    "serving",
    "clients",
)
"""What is shown of every node, None while it does not tell."""


def _node(name: str, cluster: ClusterMap, answer: NodeAnswer | None) -> dict[str, Any]:
    entry = cluster.nodes[name]
    known = {"name": name, "role": entry.role, "address": entry.address}
    if answer is None:
        return {**known, **dict.fromkeys(_OF_A_NODE), "state": "down", "boot": entry.boot}
    return {**known, "state": "up", **{key: answer.get(key) for key in _OF_A_NODE}}


_OF_A_DEVICE: Final = (
    "state",
    "reason",
    "refused",
    "boot",
    "free_bytes",
    "total_bytes",
    "journal_bytes",
    "blobs",
    "blob_bytes",
    "extent_bytes",
    "quarantined",
    "slow",
    "flush_s",
)
"""What is shown of every device, None while it does not tell."""


def _device(entry: DeviceEntry, answers: Mapping[str, NodeAnswer]) -> dict[str, Any]:
    known = {
        "id": entry.id,
        "uuid": entry.uuid.hex(),
        "node": entry.node,
        "path": entry.path,
        "zone": entry.zone,
    }
    for device in answers.get(entry.node, {}).get("devices", ()):
        if device["id"] == entry.id:
            known["path"] = device.get("path") or entry.path  # where it is on the node's machine
            return {**known, **{key: device.get(key) for key in _OF_A_DEVICE}}
    reason = f"node {entry.node} does not answer"
    return {**known, **dict.fromkeys(_OF_A_DEVICE), "state": "unreachable", "reason": reason}


def _groups(cluster: ClusterMap, answers: Mapping[str, NodeAnswer]) -> dict[str, Any]:
    """Every group with what its primary says; a group nobody leads has only its number.

    A primary cut off from its group does not know it yet: it counts while most members are up.
    """
    policy = cluster.policies.get(METADATA)
    total = 1 << policy.part_power if policy else 0
    led: dict[int, dict[str, Any]] = {}
    up = {device["id"] for answer in answers.values() for device in answer.get("devices", ())}
    for name, answer in answers.items():
        for group in answer.get("groups", ()):
            members = group.get("members", ())
            if 2 * sum(member in up for member in members) <= len(members) and members:
                continue
            seen = led.get(group["group"])
            if seen is None or group["view"] > seen["view"]:
                led[group["group"]] = {**group, "node": name}
    items = [led.get(number, {"group": number}) for number in range(total)]
    return {
        "total": total,
        "with_primary": len(led),
        "degraded": sum(bool(group.get("lagging")) for group in items),
        "items": items,
    }
