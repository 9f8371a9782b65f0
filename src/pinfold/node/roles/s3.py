"""An S3 gateway."""

from typing import Any

from pinfold.env.tasks import TaskScope
from pinfold.node.context import NodeContext, Role, endpoint_of
from pinfold.node.gateway import Gateway
from pinfold.node.logs import BatchedLog
from pinfold.node.root_user import ensure_root_user
from pinfold.s3.service import S3Service


async def start(context: NodeContext) -> Role:
    """Listen on the context's endpoint; serving starts when the root key is known."""
    endpoint = endpoint_of(context)
    gateway = Gateway.of(context)
    requests = BatchedLog(context.env, context.layout.access_log(context.name))
    context.scope.start(requests.run(), name="access log")
    service = S3Service(
        context.env,
        gateway.rows,
        gateway.blobs,
        context.secrets.sealer,
        context.settings.s3,
        registry=context.metrics,
        access_log=requests.line,
    )
    port = await service.start(endpoint.host, endpoint.port)
    return _S3Role(context, service, f"http://{endpoint.host}:{port}")


class _S3Role:
    def __init__(self, context: NodeContext, service: S3Service, address: str) -> None:
        self._service = service
        self._address = address
        self._serving = False
        self._context = context
        self._scope = TaskScope(
            lambda error: context.log.error("task failed", error=repr(error), exc_info=error)
        )
        self._scope.start(self._begin(), name="root user")
        self._scope.start(service.store.splitter.run(), name="splitter")

    async def _begin(self) -> None:
        context = self._context
        await ensure_root_user(self._service.store.accounts, context.secrets, context.log)
        self._serving = True

    def status(self) -> dict[str, Any]:
        return {
            "endpoint": self._address,
            "serving": self._serving,
            "clients": self._service.totals(),
        }

    async def stop(self) -> None:
        await self._scope.close()
        await self._service.close()
