"""Where the node layer meets the device layer: making devices, and opening those of a node."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pinfold.device.api import Device, IndexDamaged
from pinfold.device.device import Device as OpenDevice
from pinfold.env.api import Env
from pinfold.model.errors import Conflict, Corrupt, NotFound, PinfoldError
from pinfold.model.ids import DeviceId, DeviceUuid
from pinfold.model.settings import DeviceSettings
from pinfold.node.context import NodeContext

RefusalKind = Literal["absent", "foreign", "index", "damaged", "system"]


class Refusal(NamedTuple):
    """Why a device is not served."""

    kind: RefusalKind
    """absent: no device there; foreign: another one; index: its index is lost or damaged; damaged:
    something else of it; system: an I/O error, or another process has it."""
    reason: str


def _kind_of(error: PinfoldError | OSError) -> RefusalKind:
    if isinstance(error, NotFound):
        return "absent"
    if isinstance(error, Conflict):
        return "foreign"
    if isinstance(error, IndexDamaged):
        return "index"
    return "damaged" if isinstance(error, Corrupt) else "system"


class DeviceTable:
    """The devices that a process serves, and those of its node that it could not open."""

    def __init__(self, devices: dict[DeviceId, Device], refused: dict[DeviceId, "Refusal"]) -> None:
        self._devices = devices
        self._refused = refused

    @property
    def devices(self) -> Mapping[DeviceId, Device]:
        """Open devices by their number."""
        return self._devices

    @property
    def refused(self) -> Mapping[DeviceId, "Refusal"]:
        """Why a device of this node is not served."""
        return self._refused

    @classmethod
    async def open(cls, context: NodeContext) -> "DeviceTable":
        """Open and recover all devices the map puts on this node. One that fails is refused."""
        cluster = context.map.get()
        devices: dict[DeviceId, Device] = {}
        refused: dict[DeviceId, Refusal] = {}
        for entry in cluster.devices_of(context.name):
            identity = DeviceId(entry.id)
            try:
                devices[identity] = await context.open_device(
                    context.env,
                    str(context.layout.device(entry.path)),
                    context.settings.device,
                    cluster_id=cluster.cluster_id,
                    uuid=DeviceUuid(entry.uuid),
                )
            except (PinfoldError, OSError) as error:
                refused[identity] = Refusal(_kind_of(error), str(error))
                context.log.error("device refused", device=identity, reason=str(error))
        return cls(devices, refused)

    async def close(self) -> None:
        """Flush and close every device."""
        for device in self._devices.values():
            await device.close()


async def format_device(env: Env, path: str, cluster_id: bytes) -> DeviceUuid:
    """Make the directory `path` into an empty device of the cluster."""
    return await OpenDevice.format(env, path, cluster_id, DeviceSettings())
