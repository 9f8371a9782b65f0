"""An NBD gateway: every volume of the cluster as an export."""

import asyncio
from dataclasses import asdict
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from pinfold.nbd.service import NbdService
from pinfold.node.context import NodeContext, Role, endpoint_of
from pinfold.node.gateway import Gateway
from pinfold.node.metrics import NbdCollector

ERRORS_S: Final = 1.0
"""Between looks at what failed in the background; the service keeps the last few."""


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
    context.scope.start(_tell_errors(service.errors, context.log), name="nbd errors")
    return _NbdRole(service, address)


class _NbdRole:
    def __init__(self, service: NbdService, address: str) -> None:
        self._service = service
        self._address = address

    def status(self) -> dict[str, Any]:
        endpoint = self._address.replace("tcp:", "nbd:", 1)
        return {"endpoint": endpoint, "clients": asdict(self._service.counters)}

    async def stop(self) -> None:
        await self._service.close()


async def _tell_errors(errors: list[BaseException], log: FilteringBoundLogger) -> None:
    """Empty the list into the log, for ever. A broken assertion is raised: it ends the process."""
    while True:
        found = errors.copy()
        errors.clear()
        for error in found:
            if isinstance(error, AssertionError):
                raise error
            log.error("background failure", error=repr(error), exc_info=error)
        await asyncio.sleep(ERRORS_S)
