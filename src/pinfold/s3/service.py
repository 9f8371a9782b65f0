"""The S3 front end as one thing to start and stop."""

import structlog
from prometheus_client import CollectorRegistry

from pinfold.accounts.sealing import Sealer
from pinfold.cluster.api import Blobs, Rows
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.settings import S3Settings
from pinfold.s3.access_log import AccessLog, WriteLine
from pinfold.s3.call import Store
from pinfold.s3.gateway import UNROUTED, Gateway
from pinfold.s3.http import HttpServer
from pinfold.s3.metrics import S3Metrics
from pinfold.s3.request import Request, Response

log = structlog.get_logger(__name__)


class S3Service:
    """Serves S3 from rows and blobs. Any number of processes may do so on the same ones."""

    def __init__(
        self,
        env: Env,
        rows: Rows,
        blobs: Blobs,
        sealer: Sealer,
        settings: S3Settings | None = None,
        *,
        registry: CollectorRegistry | None = None,
        access_log: WriteLine | None = None,
    ) -> None:
        """`access_log` takes one line a request; None keeps no such log."""
        settings = settings or S3Settings()
        self._clock = env.clock
        self._metrics = S3Metrics(registry or CollectorRegistry())
        self.store = store = Store(env, rows, blobs, sealer, settings, on_split=self._metrics.split)
        self._metrics.watch_splitting(lambda: len(store.buckets.splitting()))
        self._gateway = Gateway(store, _report)
        self._access_log = AccessLog(env.clock, access_log) if access_log is not None else None
        self._server = HttpServer(
            env,
            settings,
            self.respond,
            read_memory_wanted=lambda: store.reading.memory_wanted,
            on_refusal=lambda request, response: self._tell(
                request, UNROUTED, response, self._clock.monotonic()
            ),
        )

    def totals(self) -> dict[str, int]:
        """What was answered since the start."""
        return self._metrics.totals()

    async def start(self, host: str, port: int) -> int:
        """Serve on an address; the port bound. OSError when it cannot be. May be called again."""
        return await self._server.listen(host, port)

    async def close(self) -> None:
        """Stop serving; requests in flight get some seconds to end."""
        await self._server.close()
        self.store.close()

    async def respond(self, request: Request) -> Response:
        """Answer one request, and count it."""
        started = self._clock.monotonic()
        operation, response = await self._gateway.answer(request)
        self._tell(request, operation, response, started)
        return response

    def _tell(self, request: Request, operation: str, response: Response, started: float) -> None:
        self._metrics.answered(operation, response.status, self._clock.monotonic() - started)
        if self._access_log is not None:
            self._access_log.answered(request, operation, response, started)


def _report(request: Request, error: PinfoldError) -> None:
    log.error(
        "request failed",
        request_id=request.id,
        method=request.method,
        path=request.path,
        error=error.code,
        reason=error.message,
    )
