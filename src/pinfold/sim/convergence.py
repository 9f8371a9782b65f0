"""Whether a healed cluster is whole again: everybody serves, nobody is behind.

The conditions are waited for one after the other; what is still missing when time runs out is the
account of the hang.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pinfold.sim.autopsy import autopsy
from pinfold.sim.checkers import leftovers
from pinfold.sim.checkers.convergence import Inspection, check
from pinfold.sim.cluster import SimCluster
from pinfold.sim.copies import (
    forgotten_drops,
    lacking_copies,
    let_days_pass,
    strays,
    unfreed,
)
from pinfold.sim.faults.stage import Stage
from pinfold.sim.inspection import (
    group_status,
    inspect_groups,
    inspect_volume,
    owed_to,
    rotten_rows,
    rows_of,
    unnamed_extents,
    volume_row,
    wished,
)
from pinfold.sim.operator import attend, restart_stopped
from pinfold.sim.workloads.bench import Bench, until
from pinfold.sim.workloads.volumes import read_blocks, release

_LOOK_S: Final = 0.25
"""Between two looks."""

_LOOKS: Final = 120
"""Looks at a volume that nobody uses, until its members have to be equal: whoever tends it when
nobody holds it takes some rounds."""

_REST_S: Final = 0.03
"""Between two looks for an instant at which nothing is on its way."""

_READ_S: Final = 10.0
"""Patience of a read that takes a volume over."""

_AT_REST_CHANCE: Final = 0.3
"""How likely nobody holds any volume when everything ends."""

_LEFT_ALONE_CHANCE: Final = 0.4
"""How likely nobody holds a volume while it is made whole."""

CLIENT: Final = "doctor"
"""Who asks, in histories and accounts."""


async def converge(bench: Bench, stage: Stage) -> None:
    """Wait until everything that was broken is whole; ends by the caller's time-out otherwise."""
    cluster = bench.cluster
    await _until(bench, lambda: missing_processes(cluster))
    await restart_stopped(bench)
    await _until(bench, lambda: missing_devices(cluster))
    await attend(bench, lambda: groups_without_primary(cluster))
    await _until(bench, lambda: unserved_groups(cluster))
    await _until(bench, lambda: members_not_wished(cluster))
    targets = {one["group"]: one["commit_op"] for one in group_status(cluster) if _leads(one)}
    await _until(bench, lambda: members_behind(cluster, targets))
    await _until(bench, lambda: rotten_rows(cluster))
    await _until(bench, lambda: lacking_copies(cluster))
    for volume in bench.volumes:
        await _volume_in_sync(bench, volume)
        _judge(bench, await _volume_at_rest(bench, volume))
    await _until(bench, lambda: unnamed_extents(cluster))
    _judge(bench, await _groups_at_rest(bench))
    for finding in leftovers.check(dict(rows_of(cluster))):
        bench.account.violated(finding.checker, str(finding))
    await _until(bench, lambda: unfreed(cluster))
    for lost in forgotten_drops(cluster):
        bench.account.violated("a blob forgotten", lost)
    let_days_pass(cluster)
    await _until(bench, lambda: strays(cluster))
    stage.account.tell("world", "everything is whole")


async def reopen(bench: Bench) -> None:
    """Cut everybody's power with all at rest; look at every device, and have it opened again.

    Where nobody holds a volume then, somebody has to look after it.
    """
    cluster = bench.cluster
    at_rest = bench.rng("volumes at rest").random() < _AT_REST_CHANCE
    for volume in bench.volumes if at_rest else ():
        for gateway in bench.plan.front:
            await release(bench, CLIENT, gateway, volume)
    if at_rest:
        await _until(bench, lambda: volumes_not_tended(bench))
    for name in cluster.names:
        cluster.crash(name)
    for device in cluster.map.devices:
        if cluster.auditor.of(device.uuid).blobs.rotten:
            continue
        path = f"/data/{device.path}"
        for found in autopsy(cluster.world.node(device.node), path):
            bench.account.violated("autopsy", f"{path}: {found}")
    for name in cluster.names:
        cluster.start(name)
    await _until(bench, lambda: missing_processes(cluster))
    await _until(bench, lambda: missing_devices(cluster))
    if at_rest:
        await _until(bench, lambda: volumes_not_tended(bench))


async def _volume_at_rest(bench: Bench, volume: str) -> Inspection:
    """A volume once its members are equal, or have had time to become so.

    Writes whose clients gave up may still be on their way to some of the members.
    """
    for _ in range(_LOOKS):
        seen = Inspection(volumes={volume: await inspect_volume(bench.cluster, volume)})
        if not check(seen):
            break
        await asyncio.sleep(_LOOK_S)
    return seen


async def _groups_at_rest(bench: Bench) -> Inspection:
    """Every group at an instant at which its members are equally far; leases are always beating."""
    while True:
        seen = inspect_groups(bench.cluster)
        uneven = [
            f"group {group}: members are at {sorted(ops)}"
            for group, members in sorted(seen.groups.items())
            if len(ops := {op for m in members.values() for op in (m.last_op, m.applied_op)}) > 1
        ]
        if not uneven:
            bench.waiting.pop(CLIENT, None)
            return seen
        bench.waiting[CLIENT] = "; ".join(uneven[:6])
        await asyncio.sleep(_REST_S)


def _judge(bench: Bench, seen: Inspection) -> None:
    for finding in check(seen):
        bench.account.violated(finding.checker, str(finding))


async def _until(bench: Bench, missing: Callable[[], list[str]]) -> None:
    while found := missing():
        bench.waiting[CLIENT] = "; ".join(found[:6])
        await asyncio.sleep(_LOOK_S)
    bench.waiting.pop(CLIENT, None)


def missing_processes(cluster: SimCluster) -> list[str]:
    """Nodes that have not finished their start."""
    up = {*cluster.storage, *cluster.gateways}
    return [f"{name} has not started" for name in cluster.names if name not in up]


def missing_devices(cluster: SimCluster) -> list[str]:
    """Devices that do not serve."""
    return [
        f"device {device['id']} of {name} is {device['state']}: {device['reason']}"
        for name, process in cluster.storage.items()
        for device in process.role.status()["devices"]
        if device["state"] != "serving"
    ]


def _leads(status: dict[str, Any]) -> bool:
    return bool(status["role"] == "serving")


def groups_without_primary(cluster: SimCluster) -> list[int]:
    """Groups that nobody serves."""
    return [group for group, members in _by_group(cluster) if not any(map(_leads, members))]


def _by_group(cluster: SimCluster) -> list[tuple[int, list[dict[str, Any]]]]:
    """What devices say of each group, by group."""
    by_group: dict[int, list[dict[str, Any]]] = {}
    for status in group_status(cluster):
        by_group.setdefault(status["group"], []).append(status)
    return sorted(by_group.items())


def unserved_groups(cluster: SimCluster) -> list[str]:
    """Groups without a primary that serves, and what their devices do instead."""
    return [
        f"group {group} is not served: "
        + ", ".join(f"device {one['device']} {one['role']} in {one['view']}" for one in members)
        for group, members in _by_group(cluster)
        if not any(map(_leads, members))
    ]


def members_not_wished(cluster: SimCluster) -> list[str]:
    """Groups whose members are not yet those of the ring."""
    return [
        f"group {one['group']} has the members {one['members']} and {one['joining']}"
        for one in group_status(cluster)
        if _leads(one) and (one["joining"] or {*one["members"]} != wished(cluster, one["group"]))
    ]


def members_behind(cluster: SimCluster, targets: dict[int, int]) -> list[str]:
    """Members that have not applied what their group had committed."""
    return [
        f"device {one['device']} of group {one['group']}: {one['standing']}, "
        f"applied {one['applied_op']} of {targets.get(one['group'], 0)}"
        for one in group_status(cluster)
        if one["device"] in wished(cluster, one["group"])
        and (one["standing"] != "member" or one["applied_op"] < targets.get(one["group"], 0))
    ]


async def _volume_in_sync(bench: Bench, volume: str) -> None:
    """Wait until no device is out of sync, with one gateway holding the volume, or nobody.

    The others' clients have gone: they give back what they hold or wait for.
    """
    gateway = bench.reading_gateway(volume)
    left_alone = bench.rng(f"end of {volume}").random() < _LEFT_ALONE_CHANCE
    for other in bench.plan.front:
        if left_alone or other != gateway:
            await release(bench, CLIENT, other, volume)
    if not left_alone:
        await until(partial(read_blocks, bench, CLIENT, gateway, volume, 0, 1, _READ_S))
    await _until(bench, lambda: _out_of_sync(bench, volume))


def _out_of_sync(bench: Bench, volume: str) -> list[str]:
    return [
        f"{volume}: device {device} is out of sync"
        for device in volume_row(bench.cluster, volume).out
    ]


def volumes_not_tended(bench: Bench) -> list[str]:
    """Volumes that somebody still has to look after, though no client has one."""
    return [
        f"{volume}: {what}"
        for volume in bench.volumes
        for what in owed_to(bench.cluster, volume_row(bench.cluster, volume))
    ]
