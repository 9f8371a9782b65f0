"""Whether a node may be stopped now: what would be lost to clients meanwhile. Pure.

The question of Ceph's `ok-to-stop`, answered from the same facts as the status.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pinfold.admin.findings import boots_of, idle_devices, unproved
from pinfold.admin.reach import reach
from pinfold.admin.report import Report
from pinfold.cluster.map import BLOBS, VOLUMES, ClusterMap


def objections(cluster: ClusterMap, found: Report, node: str) -> list[str]:
    """Why stopping a node would interrupt clients or risk data; empty when it would not."""
    leaving = {one.id for one in cluster.devices if one.node == node}
    if not leaving:
        return _of_front_end(found.nodes, node)
    up = {one["id"] for one in found.devices} - {one["id"] for one in idle_devices(found.devices)}
    staying = up - leaving
    taking = {one["id"] for one in found.devices if one["state"] == "serving"} - leaving
    return [
        *_of_groups(found.groups, staying),
        *_of_data(cluster, staying, taking),
        *_of_volumes(found.volumes, boots_of(found.devices), leaving),
        *_of_repair(found.care),
    ]


def _of_front_end(nodes: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Clients of one front end can turn to another one of its role, if there is one."""
    role = next(one["role"] for one in nodes if one["name"] == name)
    up = {one["name"] for one in nodes if one["role"] == role and one["state"] == "up"}
    if role == "storage" or up != {name}:
        return []
    return [f"{name} is the only front end for {role}: its clients would get no answer meanwhile"]


def _of_groups(groups: dict[str, Any], staying: set[int]) -> list[str]:
    without = 0
    for group in groups["items"]:
        members = group.get("members", ())
        current = staying - set(group.get("lagging", ()))
        if 2 * sum(member in current for member in members) <= len(members):
            without += 1
    if not without:
        return []
    return [f"{without} of {groups['total']} groups would have no majority of current members"]


def _of_data(cluster: ClusterMap, staying: set[int], taking: set[int]) -> list[str]:
    found = []
    objects = reach(cluster, BLOBS, staying, taking)
    extents = reach(cluster, VOLUMES, staying, taking)
    if objects.unreadable or extents.unreadable:
        found.append("some data would have no device that serves it")
    if objects.unwritable:
        found.append("too few devices would be left that take new objects")
    if extents.unwritable:
        found.append("writes of volumes would wait for it")
    return found


def _of_volumes(
    volumes: Sequence[dict[str, Any]] | None, boots: Mapping[str, int | None], leaving: set[int]
) -> list[str]:
    if volumes is None:
        return ["the volumes' rows cannot be read now, so what is in sync is unknown"]
    return [
        f"volume {volume['name']} has devices out of sync elsewhere: "
        + ", ".join(map(str, sorted(others)))
        for volume in volumes
        if (others := set(volume.get("out") or ()) - leaving)
    ] + [finding.what for volume in volumes for finding in unproved(volume, boots)]


def _of_repair(care: Sequence[dict[str, Any]]) -> list[str]:
    single = sum(worker.get("single") or 0 for worker in care)
    return [f"{single} blobs have one copy left and are being repaired"] if single else []
