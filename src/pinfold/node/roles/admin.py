"""The admin API: status, metrics, volumes and users over HTTP."""

from typing import Any

from pinfold import __version__
from pinfold.accounts.accounts import Accounts
from pinfold.admin.gather import Gatherer
from pinfold.admin.service import AdminParts, AdminService
from pinfold.model.errors import Invalid
from pinfold.node.context import NodeContext, Role
from pinfold.node.operators import Users, Volumes
from pinfold.node.placements import Placements
from pinfold.node.rows import row_client


async def start(context: NodeContext) -> Role:
    """Listen on the context's endpoint."""
    if context.listen is None:
        raise Invalid(f"{context.name} is a front end: start it with --listen HOST:PORT")
    rows = row_client(context, Placements(context.map))
    accounts = Accounts(context.env, rows, context.settings.s3.accounts)
    service = AdminService(
        AdminParts(
            map=context.map,
            gatherer=Gatherer(context.env.clock, context.map, context.peers),
            volumes=Volumes(),
            users=Users(accounts),
            token=context.access.token,
            version=__version__,
            log=context.log,
        )
    )
    await service.start(context.listen.host, context.listen.port)
    return _AdminRole(service)


class _AdminRole:
    def __init__(self, service: AdminService) -> None:
        self._service = service

    def status(self) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        await self._service.close()
