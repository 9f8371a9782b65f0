"""A storage node: its devices, the row groups on them, blobs and extents for everybody."""

from collections.abc import Mapping
from typing import Any

from pinfold.care.host import Care
from pinfold.cluster.blobs.server import BlobServer
from pinfold.cluster.extents import ExtentHost
from pinfold.cluster.groups.frees import FreesWorker
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.groups.status import GroupStatus
from pinfold.cluster.groups.tempo import Tempo
from pinfold.cluster.map import METADATA, ClusterMap
from pinfold.device.api import Device, DeviceStatus
from pinfold.env.tasks import TaskScope
from pinfold.model.ids import DeviceId, GroupId
from pinfold.node.caretaking import CareCollector, VolumeCare, new_care
from pinfold.node.context import NodeContext
from pinfold.node.devices import DeviceTable, Refusal
from pinfold.node.gateway import Gateway


async def start(context: NodeContext) -> "StorageRole":
    """Open the devices, recover them, and bind everything that is asked of them.

    A device that cannot be opened is left out and told in the status; the others serve.
    """
    gateway = Gateway.of(context)
    table = await DeviceTable.open(context)
    try:
        return await _start_services(context, gateway, table)
    except BaseException:
        await table.close()
        raise


async def _start_services(
    context: NodeContext, gateway: Gateway, table: DeviceTable
) -> "StorageRole":
    BlobServer(table.devices, context.dispatcher)
    ExtentHost(context.dispatcher, table.devices)
    groups = GroupService(
        context.env,
        context.name,
        context.peers,
        context.dispatcher,
        gateway.membership,
        context.group_limits,
    )
    for identity, device in table.devices.items():
        wished = _groups_on(context.map.get(), gateway, identity)
        await groups.add_device(identity, device.log, device.rows, wished)
    care = new_care(context, gateway, groups, table.devices)
    volumes = VolumeCare(context, gateway, groups, table.devices)
    context.metrics.register(CareCollector(lambda: [*care.status(), *volumes.status()]))
    groups.start()
    return StorageRole(context, table, groups, gateway, care, volumes)


class StorageRole:
    """See `Role`."""

    def __init__(
        self,
        context: NodeContext,
        table: DeviceTable,
        groups: GroupService,
        gateway: Gateway,
        care: Care,
        volumes: VolumeCare,
    ) -> None:
        self.care = care
        self._volumes = volumes
        self._table = table
        self._groups = groups
        self._scope = TaskScope(
            lambda error: context.log.error("a worker failed", error=repr(error), exc_info=error)
        )
        self._settings = context.settings.blobs
        self._paths = {
            DeviceId(entry.id): str(context.layout.device(entry.path))
            for entry in context.map.get().devices_of(context.name)
        }
        freeing = FreesWorker(
            context.env, groups, gateway.blobs.discard, self._free_delay, self._settings
        )
        self._scope.start(freeing.run(), name="frees")
        care.start(self._scope)
        volumes.start(self._scope)
        self._gateway = gateway
        self._stopping = False
        context.map.watch(self._take_groups)

    def _take_groups(self, current: ClusterMap) -> None:
        """Serve the groups that a newer ring puts on devices of this node."""
        if self._stopping:
            return
        for device in self._table.devices:
            wished = _groups_on(current, self._gateway, device)
            self._scope.start(self._groups.take(device, wished), name="new groups")

    @property
    def devices(self) -> Mapping[DeviceId, Device]:
        """The devices that are served, by number."""
        return self._table.devices

    def status(self) -> dict[str, Any]:
        """See `Role`."""
        led = [_group(status) for status in self._groups.status() if status.role == "serving"]
        return {
            "devices": [
                {**shown, "path": self._paths.get(shown["id"])}
                for shown in _devices(self._table.devices, self._table.refused, self._groups.tempo)
            ],
            "groups": led,
            "care": [*self.care.status(), *self._volumes.status()],
        }

    def _free_delay(self) -> float:
        shown = [device.status() for device in self._table.devices.values()]
        return self._settings.free_delay(one.free_share for one in shown)

    async def stop(self) -> None:
        """See `Role`."""
        self._stopping = True
        await self._scope.close()
        await self._groups.close()
        await self._table.close()


def _groups_on(current: ClusterMap, gateway: Gateway, device: DeviceId) -> list[GroupId]:
    return gateway.membership.groups_on(device, 1 << current.policies[METADATA].part_power)


def _devices(
    devices: Mapping[DeviceId, Device], refused: Mapping[DeviceId, Refusal], tempo: Tempo
) -> list[dict[str, Any]]:
    shown = [_device(identity, device.status(), tempo) for identity, device in devices.items()]
    return shown + [
        {"id": identity, "state": "stopped", "refused": refusal.kind, "reason": refusal.reason}
        for identity, refusal in refused.items()
    ]


def _device(identity: DeviceId, status: DeviceStatus, tempo: Tempo) -> dict[str, Any]:
    return {
        "id": identity,
        "boot": status.boot,
        "state": status.state,
        "reason": status.reason,
        "free_bytes": status.free_bytes,
        "reserve_bytes": status.reserve_bytes,
        "total_bytes": status.total_bytes,
        "journal_bytes": status.journal_bytes,
        "blobs": status.blobs,
        "blob_bytes": status.blob_bytes,
        "extent_bytes": status.extent_bytes,
        "quarantined": status.quarantined,
        "slow": tempo.slow(identity),
        "flush_s": tempo.typical_s(identity),
    }


def _group(status: GroupStatus) -> dict[str, Any]:
    return {
        "group": status.group,
        "view": status.view,
        "primary": status.primary,
        "members": list(status.members),
        "last_op": status.last_op,
        "commit_op": status.commit_op,
        "applied_op": status.applied_op,
        "lagging": [follower.device for follower in status.followers if follower.lagging],
    }
