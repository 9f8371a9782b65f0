"""An NBD gateway: every volume of the cluster as an export."""

from typing import Any

from pinfold.nbd.service import NbdService
from pinfold.node.context import NodeContext, Role, endpoint_of
from pinfold.node.gateway import Gateway
from pinfold.node.metrics import NbdCollector


async def start(context: NodeContext) -> Role:
    """Listen on the context's endpoint."""
    endpoint = endpoint_of(context)
    gateway = Gateway.of(context)
    service = NbdService(
        context.env,
        gateway.rows,
        gateway.extents,
        gateway.extent_placement,
        gateway=context.name,
        boot=context.boot,
        settings=context.settings.nbd,
        volume_settings=context.settings.volumes,
    )
    context.metrics.register(NbdCollector(service.counters))
    address = await service.start(endpoint.host, endpoint.port)
    return _NbdRole(service, address)


class _NbdRole:
    def __init__(self, service: NbdService, address: str) -> None:
        self._service = service
        self._address = address

    def status(self) -> dict[str, Any]:
        return {"endpoint": self._address, "connections": self._service.counters.connections}

    async def stop(self) -> None:
        await self._service.close()
