"""What an operator should know of a cluster, in words, with what to do about it. Pure.

The rule of this file: every sentence follows from something a process said or the map says, and
every advice is something that can be done.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from pinfold.admin.reach import Reach
from pinfold.model.limits import MIB

Severity = Literal["warning", "error"]
Told = Mapping[str, Any]
"""A node, device, worker or volume as the report shows it."""

NEARLY_FULL = 0.85
"""Used share of a device's file system from which an operator is told."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something an operator should know."""

    severity: Severity
    what: str
    do: str


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that are judged together."""

    nodes: Sequence[Told]
    devices: Sequence[Told]
    groups: Told
    care: Sequence[Told]
    volumes: Sequence[Told]
    objects: Reach
    extents: Reach
    restarts: bool
    """Whether a supervisor starts processes again that end by themselves."""


def findings_of(situation: Situation) -> list[Finding]:
    """Everything worth telling, what is unavailable first."""
    found = [
        *_reach_findings(situation),
        *_node_findings(situation),
        *_device_findings(situation.devices),
        *_lag_findings(situation.groups),
        *_care_findings(situation.care, situation.devices),
        *_volume_findings(situation.volumes, situation.devices),
    ]
    return sorted(found, key=lambda one: one.severity != "error")


def idle_devices(devices: Sequence[Told]) -> list[Told]:
    """Devices that serve nothing now."""
    return [one for one in devices if one["state"] not in ("serving", "full")]


def _reach_findings(situation: Situation) -> Iterator[Finding]:
    groups, idle = situation.groups, idle_devices(situation.devices)
    missing = groups["total"] - groups["with_primary"]
    start = f"start or mend what does not serve: {_names(idle)}" if idle else "see below"
    if missing:
        yield Finding(
            severity="error",
            what=f"{missing} of {groups['total']} groups have no primary: "
            "their rows can be neither read nor written",
            do=f"a majority of each group's devices must serve; {start}",
        )
    objects, extents = situation.objects, situation.extents
    if objects.unreadable:
        yield Finding(
            severity="error",
            what=f"objects in {objects.unreadable} of {objects.partitions} partitions have no "
            "device that serves them",
            do=start,
        )
    if objects.unwritable or extents.unwritable:
        full = [one for one in situation.devices if one["state"] == "full"]
        what = "no new object" if objects.unwritable else "no volume"
        both = "no object and no volume" if objects.unwritable and extents.unwritable else what
        yield Finding(
            severity="error",
            what=f"{both} can be written: too few devices take data",
            do="delete data or make room on " + _names(full) if full and not idle else start,
        )


def _node_findings(situation: Situation) -> Iterator[Finding]:
    groups = situation.groups
    whole = (
        groups["with_primary"] == groups["total"]
        and not situation.objects.unreadable
        and not situation.extents.unreadable
    )
    for node in situation.nodes:
        if node["state"] == "up":
            continue
        if node["role"] != "storage":
            what = f"front end {node['name']} ({node['role']}) is down; its clients get no answer"
        elif whole:
            what = f"storage node {node['name']} is down; its data is served from other copies"
        else:
            what = f"storage node {node['name']} is down, and not all data can be served without it"
        log = f"logs/{node['name']}.log"
        yield Finding(
            severity="warning" if node["role"] == "storage" else "error",
            what=what,
            do="the supervisor starts it again, unless it was stopped by command: then "
            f"`pinfold node start {node['name']}`; if it stays down read {log}"
            if situation.restarts
            else f"nobody starts it again (up --no-restart): read {log}, then "
            f"`pinfold node start {node['name']}`",
        )


_REFUSED_ADVICE: Mapping[str, str] = {
    "absent": "its directory is gone or empty: mount the disk again and "
    "`pinfold node restart {node}`; if the disk is lost, other copies serve its data as long as "
    "no further device is lost",
    "index": "its index is lost or damaged, its data is not: `pinfold node stop {node}`, "
    "`pinfold device check {path}` says what is left, `pinfold device rebuild-index {path}` "
    "makes a new one, then `pinfold node start {node}`",
    "foreign": "another device is mounted in its place: mount the right one at {path} and "
    "`pinfold node restart {node}`",
    "damaged": "`pinfold node stop {node}`, then `pinfold device check {path}` says what is "
    "damaged",
}
_STOPPED_ADVICE = (
    "look at the disk (dmesg, smartctl); if it is sound `pinfold node restart {node}` and "
    "`pinfold device check {path}` while it is stopped"
)


def _device_findings(devices: Sequence[Told]) -> Iterator[Finding]:
    for device in devices:
        name = f"device {device['id']} on {device['node']}"
        if device["state"] == "stopped":
            advice = _REFUSED_ADVICE.get(device.get("refused", ""), _STOPPED_ADVICE)
            yield Finding(
                severity="warning",
                what=f"{name} has stopped: {device.get('reason')}",
                do=advice.format(node=device["node"], path=device["path"]),
            )
        elif device["state"] == "full":
            yield Finding(
                severity="warning",
                what=f"{name} is full: it refuses writes (507, ENOSPC), with "
                f"{device.get('free_bytes', 0) / MIB:.0f} MiB of its file system left as reserve",
                do="delete data, or make room on its file system; reads and deletes go on",
            )
        elif used(device) > NEARLY_FULL:
            yield Finding(
                severity="warning",
                what=f"the file system of {name} is {used(device):.0%} full",
                do="delete data or make room: a full one refuses writes (507, ENOSPC)",
            )
        yield from _disk_findings(name, device)


def _disk_findings(name: str, device: Told) -> Iterator[Finding]:
    if device.get("slow"):
        yield Finding(
            severity="warning",
            what=f"{name} is slow: its flushes take {device.get('flush_s') or 0:.3f} s, "
            "far longer than the others'",
            do="it leads nothing and holds nobody up; look at the disk (iostat, smartctl)",
        )
    if device.get("quarantined"):
        yield Finding(
            severity="warning",
            what=f"{name} holds {device['quarantined']} blobs that failed their checksum",
            do="they are served from other copies; if the number grows look at the disk (smartctl)",
        )


def used(device: Told) -> float:
    """Which part of a device's file system is taken, by whomever."""
    total = device.get("total_bytes") or 0
    return 1 - (device.get("free_bytes") or 0) / total if total else 0.0


def _lag_findings(groups: Told) -> Iterator[Finding]:
    if groups["degraded"]:
        yield Finding(
            severity="warning",
            what=f"{groups['degraded']} of {groups['total']} groups have a member that lags",
            do="it catches up by itself once its node is up; watch the number fall",
        )


def _care_findings(care: Sequence[Told], devices: Sequence[Told]) -> Iterator[Finding]:
    for worker in care:
        if worker["state"] == "stopped":
            yield Finding(
                severity="warning",
                what=f"the {worker['name']} of {worker['node']} has stopped: "
                f"{worker['last_error']}",
                do=f"read logs/{worker['node']}.log and `pinfold node restart {worker['node']}`",
            )
    repairing = [worker for worker in care if worker.get("blobs")]
    if not repairing:
        return
    blobs, single = (sum(worker[key] for worker in repairing) for key in ("blobs", "single"))
    left = sum(worker["queued_bytes"] for worker in repairing)
    at_risk = f" ({single} of them have one copy left)" if single else ""
    if idle := idle_devices(devices):
        yield Finding(
            severity="warning",
            what=f"{blobs} blobs lack copies{at_risk}, {left / MIB:.1f} MiB; those that belong on "
            f"{_names(idle)} are made again when it serves",
            do=f"have {_names(idle)} serve again",
        )
        return
    left_s = max((worker["left_s"] or 0.0 for worker in repairing), default=0.0)
    yield Finding(
        severity="warning",
        what=f"{blobs} blobs lack copies{at_risk}; being repaired, "
        f"{left / MIB:.1f} MiB in about {left_s:.0f} s",
        do="nothing; if the number does not fall, pinfold status --json shows the last error of "
        "each worker under care",
    )


def _volume_findings(volumes: Sequence[Told], devices: Sequence[Told]) -> Iterator[Finding]:
    idle = {one["id"] for one in idle_devices(devices)}
    boots = boots_of(devices)
    for volume in volumes:
        out = volume.get("out") or ()
        if not out:
            yield from unproved(volume, boots)
            continue
        away = [number for number in out if number in idle]
        yield Finding(
            severity="warning",
            what=f"volume {volume['name']} has devices out of sync: " + ", ".join(map(str, out)),
            do=f"device {', '.join(map(str, away))} must serve again; then it is brought up to date"
            if away
            else "nothing: they are being brought up to date; lose no other device meanwhile",
        )


def unproved(volume: Told, boots: Mapping[str, int | None]) -> Iterator[Finding]:
    """Copies of a volume that nobody holds, of which it is not known that they are good."""
    seen = volume.get("seen") or {}
    changed = [device for device, boot in seen.items() if boots.get(device, boot) != boot]
    if volume.get("unsettled"):
        yield Finding(
            severity="warning",
            what=f"volume {volume['name']} was left by a gateway that died: "
            "its copies are not known to be equal",
            do="nothing: they are made equal within two minutes, or by the next client",
        )
    elif changed:
        yield Finding(
            severity="warning",
            what=f"volume {volume['name']} is not proved whole since "
            f"device {', '.join(changed)} restarted",
            do="nothing: its copies are looked at within minutes; lose no other device meanwhile",
        )


def boots_of(devices: Sequence[Told]) -> dict[str, int | None]:
    """How often each device that serves has been opened."""
    idle = {one["id"] for one in idle_devices(devices)}
    return {str(one["id"]): one.get("boot") for one in devices if one["id"] not in idle}


def _names(devices: Sequence[Told]) -> str:
    return ", ".join(f"device {one['id']} on {one['node']}" for one in devices)
