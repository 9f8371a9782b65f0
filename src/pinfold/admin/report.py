"""The state of the cluster, judged: what is degraded and what to do about it.

Pure: from the map and what each node answered to one `Report`. A cluster is *healthy* when
everything in the map serves, *degraded* when all data can still be read and written, and
*unavailable* when some cannot.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from pinfold.cluster.map import METADATA, ClusterMap, DeviceEntry
from pinfold.model.limits import MIB

State = Literal["healthy", "degraded", "unavailable"]
Severity = Literal["warning", "error"]

NodeAnswer = Mapping[str, Any]
"""The body of a `node.status` answer."""

NEARLY_FULL = 0.85
"""Used share of a device's file system from which an operator is told."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something an operator should know, in words, with what to do about it."""

    severity: Severity
    what: str
    do: str


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
) -> Report:
    """Judge a cluster. Nodes without an answer are down."""
    nodes = [_node(name, cluster, answers.get(name)) for name in cluster.nodes]
    devices = [_device(entry, answers) for entry in cluster.devices]
    groups = _groups(cluster, answers)
    care = [
        {"node": name, **worker}
        for name, answer in sorted(answers.items())
        for worker in answer.get("care", ())
    ]
    findings = [
        *_node_findings(nodes),
        *_device_findings(devices),
        *_group_findings(groups),
        *_care_findings(care),
        *_volume_findings(volumes or ()),
    ]
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


def _node(name: str, cluster: ClusterMap, answer: NodeAnswer | None) -> dict[str, Any]:
    entry = cluster.nodes[name]
    known = {"name": name, "role": entry.role, "address": entry.address}
    if answer is None:
        return {**known, "state": "down", "boot": entry.boot}
    kept = ("pid", "boot", "uptime_s", "version", "map_version", "endpoint", "serving")
    return {**known, "state": "up", **{key: answer[key] for key in kept if key in answer}}


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
            return {**known, **device}
    return {**known, "state": "unreachable", "reason": f"node {entry.node} does not answer"}


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


def _node_findings(nodes: Sequence[dict[str, Any]]) -> list[Finding]:
    found = []
    for node in nodes:
        if node["state"] == "up":
            continue
        if node["role"] == "storage":
            what = f"storage node {node['name']} is down; its data is served from other copies"
        else:
            what = f"front end {node['name']} ({node['role']}) is down; its clients get no answer"
        found.append(
            Finding(
                severity="warning" if node["role"] == "storage" else "error",
                what=what,
                do=f"the supervisor starts it again; if it stays down read logs/{node['name']}.log",
            )
        )
    return found


def _device_findings(devices: Sequence[dict[str, Any]]) -> list[Finding]:
    found = []
    for device in devices:
        name = f"device {device['id']} on {device['node']}"
        if device["state"] == "stopped":
            found.append(
                Finding(
                    severity="warning",
                    what=f"{name} has stopped: {device.get('reason')}",
                    do="look at the disk (dmesg, smartctl); restart the node or replace the device",
                )
            )
        elif device["state"] == "full" or _used(device) > NEARLY_FULL:
            found.append(
                Finding(
                    severity="warning",
                    what=f"{name} is {_used(device):.0%} full",
                    do="delete data or add devices: a full one refuses writes (507, ENOSPC)",
                )
            )
        if device.get("slow"):
            found.append(
                Finding(
                    severity="warning",
                    what=f"{name} is slow: its flushes take {device.get('flush_s') or 0:.3f} s, "
                    "far longer than the others'",
                    do="it leads nothing and holds nobody up; look at the disk (iostat, smartctl)",
                )
            )
        if device.get("quarantined"):
            found.append(
                Finding(
                    severity="warning",
                    what=f"{name} holds {device['quarantined']} blobs that failed their checksum",
                    do="they are served from other copies; if the number grows replace the disk",
                )
            )
    return found


def _used(device: Mapping[str, Any]) -> float:
    total = device.get("total_bytes", 0)
    return 1 - device.get("free_bytes", 0) / total if total else 0.0


def _group_findings(groups: Mapping[str, Any]) -> list[Finding]:
    found = []
    missing = groups["total"] - groups["with_primary"]
    if missing:
        found.append(
            Finding(
                severity="error",
                what=f"{missing} of {groups['total']} groups have no primary: "
                "their rows can be neither read nor written",
                do="a majority of each group's nodes must be up: start those that are down",
            )
        )
    if groups["degraded"]:
        found.append(
            Finding(
                severity="warning",
                what=f"{groups['degraded']} of {groups['total']} groups have a member that lags",
                do="it catches up by itself once its node is up; watch the number fall",
            )
        )
    return found


def _care_findings(care: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found = [
        Finding(
            severity="warning",
            what=f"the {worker['name']} of {worker['node']} has stopped: {worker['last_error']}",
            do=f"read logs/{worker['node']}.log and restart the node",
        )
        for worker in care
        if worker["state"] == "stopped"
    ]
    repairing = [worker for worker in care if worker.get("blobs")]
    if repairing:
        blobs, single = (sum(worker[key] for worker in repairing) for key in ("blobs", "single"))
        left = sum(worker["queued_bytes"] for worker in repairing)
        left_s = max((worker["left_s"] or 0.0 for worker in repairing), default=0.0)
        at_risk = f" ({single} of them have one copy left)" if single else ""
        found.append(
            Finding(
                severity="warning",
                what=f"{blobs} blobs lack copies{at_risk}; being repaired, "
                f"{left / MIB:.1f} MiB in about {left_s:.0f} s",
                do="nothing, once all storage nodes are up; if the number does not fall, "
                "pinfold status --json shows the last error of each worker under care",
            )
        )
    return found


def _volume_findings(volumes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    return [
        Finding(
            severity="warning",
            what=f"volume {volume['name']} has devices out of sync: "
            + ", ".join(map(str, volume["out"])),
            do="they are brought up to date once their node is up",
        )
        for volume in volumes
        if volume.get("out")
    ]
