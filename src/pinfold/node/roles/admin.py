"""The admin API: status, metrics, volumes and users over HTTP."""

from typing import Any

from pinfold import __version__
from pinfold.accounts.accounts import Accounts
from pinfold.admin.audit import audit_log
from pinfold.admin.gather import Gatherer
from pinfold.admin.service import AdminParts, AdminService
from pinfold.node.access import read_access
from pinfold.node.context import NodeContext, Role, endpoint_of
from pinfold.node.gateway import Gateway
from pinfold.node.groups import Groups
from pinfold.node.logs import LogFile
from pinfold.node.operators import Users, Volumes
from pinfold.objects.buckets import Buckets
from pinfold.volumes.registry import Registry


async def start(context: NodeContext) -> Role:
    """Listen on the context's endpoint."""
    endpoint = endpoint_of(context)
    gateway = Gateway.of(context)
    secrets = context.secrets
    accounts = Accounts(context.env, gateway.rows, secrets.sealer, context.settings.s3.accounts)
    buckets = Buckets(context.env, gateway.rows, context.settings.s3.objects)
    registry = Registry(
        context.env,
        gateway.rows,
        gateway.extents,
        gateway.extent_placement.devices,
        context.settings.volumes,
    )
    audit = LogFile(context.layout.audit_log(context.name))

    def root_key() -> str:  # of the file, not of what was read of it: a rotation may just end
        return read_access(context.env.disk, context.layout).access_key

    service = AdminService(
        AdminParts(
            map=context.map,
            gatherer=Gatherer(context.env.clock, context.map, context.peers),
            volumes=Volumes(registry),
            groups=Groups(context.env.clock, context.map, context.peers),
            users=Users(accounts, buckets, root_key),
            token=lambda: secrets.access.token,
            version=__version__,
            restarts=lambda: secrets.access.restarts,
            log=context.log,
            audit=audit_log(context.env.clock, audit.write),
        )
    )
    await service.start(endpoint.host, endpoint.port)
    return _AdminRole(service, f"http://{endpoint.host}:{service.port}")


class _AdminRole:
    def __init__(self, service: AdminService, address: str) -> None:
        self._service = service
        self._address = address

    def status(self) -> dict[str, Any]:
        return {"endpoint": self._address}

    async def stop(self) -> None:
        await self._service.close()
