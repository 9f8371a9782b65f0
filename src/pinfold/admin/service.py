"""The admin HTTP server: routes, the token, the error table. JSON in and out.

`/healthz` (this process), `/readyz` (the cluster serves) and `/metrics` need no token; all else
does. Errors are `{"error": {"code", "message"}}` with the code of `model.errors`.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import FilteringBoundLogger

from pinfold.admin import requests as wanted
from pinfold.admin.api import GroupAdmin, UserAdmin, VolumeAdmin
from pinfold.admin.audit import Act
from pinfold.admin.gather import Gatherer, volumes_or_none
from pinfold.admin.gauges import cluster_gauges
from pinfold.admin.merge import merge
from pinfold.admin.report import Report, report, waiting_for
from pinfold.admin.shared import Shared
from pinfold.admin.stopping import objections
from pinfold.cluster.map import MapStore
from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.connections import Connection
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import (
    Busy,
    Conflict,
    Fenced,
    Full,
    Invalid,
    NotFound,
    PinfoldError,
    Unavailable,
    Unsupported,
)
from pinfold.model.ids import NodeName
from pinfold.model.limits import KIB

BODY_BYTES_MAX: Final = 64 << 10
"""Largest request body; every admin request is a few fields."""

STATUS_OF: Final[tuple[tuple[type[PinfoldError], int], ...]] = (
    (NotFound, 404),
    (Conflict, 409),
    (Fenced, 409),
    (Invalid, 400),
    (Busy, 503),
    (Unavailable, 503),
    (Full, 507),
    (Unsupported, 501),
    (PinfoldError, 500),
)
"""The first class that fits gives the HTTP status."""

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""For load balancers and Prometheus, which hold no token. They name no object and no user."""

REQUESTS_MAX: Final = 64
"""Requests with the token at once; each may ask every process. More are 503."""

OPEN_REQUESTS_MAX: Final = 64
"""Requests for the open paths at once, `/healthz` apart: whoever sends them, operators have their
own. More are 503."""

CONNECTIONS_MAX: Final = 512
"""Connections at once; for a further one the oldest without a request under way ends, else the
oldest: its client does not take the answer, or asks faster than it is answered."""

HEADERS_MAX: Final = 32
HEADER_BYTES_MAX: Final = 4 * KIB
"""Of a request's head; `pinfold` and Prometheus send some ten short ones."""

BODY_S: Final = 10.0
"""Seconds in which a request's body must come."""

KEEP_ALIVE_S: Final = 75.0
"""Idle connections, and heads that do not end, are closed after this."""

RETRY_AFTER_S: Final = 1
"""What 503 tells clients to wait."""

PROMETHEUS_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

_ASKED: Final = web.RequestKey("asked", dict[str, Any])
"""Where a request carries its decoded body, for the audit log."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """What the service stands on."""

    map: MapStore
    gatherer: Gatherer
    volumes: VolumeAdmin
    groups: GroupAdmin
    users: UserAdmin
    token: Callable[[], str]
    """The admin token as it is now."""
    version: str
    restarts: Callable[[], bool]
    """Whether a supervisor starts processes again that end by themselves."""
    log: FilteringBoundLogger
    audit: Callable[[Act], None]
    """Told of every change that was asked for with the token, done or refused."""


class AdminService:
    """One admin endpoint."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._requests = 0
        self._open_requests = 0
        self._scope = TaskScope(self._seen_by_whoever_asked)
        self._page = Shared(self._scope, self._metrics_page)
        self._waiting = Shared(self._scope, self._waiting_for)

    async def start(self, host: str, port: int) -> None:
        """Listen; OSError when the port is taken."""
        self._runner = self.runner()
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, port)

    def _accept(self) -> asyncio.Protocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        connections = [one for one in cast(list[Connection], server.connections) if one.inside]
        if len(connections) >= CONNECTIONS_MAX:
            next((one for one in connections if one.idle), connections[0]).leave()
        return Connection(server, loop=asyncio.get_running_loop(), **server._kwargs)

    def runner(self) -> web.AppRunner:
        """The server without an address: what `start` listens with."""
        logger = logging.getLogger("pinfold.admin.http")
        logger.addFilter(_not_the_clients_fault)
        return web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEP_ALIVE_S,
            max_headers=HEADERS_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_line_size=HEADER_BYTES_MAX,
            logger=logger,
            shutdown_timeout=2.0,
        )

    @property
    def port(self) -> int:
        """The port bound, also when 0 was asked for."""
        assert self._server is not None, "a started service"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening and let requests in flight finish (2 s at most)."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._scope.close()

    def _seen_by_whoever_asked(self, error: BaseException) -> None:
        """Failures of shared runs are raised where they are awaited."""

    def _application(self) -> web.Application:
        application = web.Application(
            client_max_size=BODY_BYTES_MAX, middlewares=[self._answer_errors, self._check_token]
        )
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/v1/status", self._status),
                web.get("/v1/nodes/{name}/stoppable", self._stoppable),
                web.get("/v1/volumes", self._volumes_list),
                web.post("/v1/volumes", self._volumes_create),
                web.get("/v1/volumes/{name}", self._volumes_show),
                web.patch("/v1/volumes/{name}", self._volumes_resize),
                web.delete("/v1/volumes/{name}", self._volumes_delete),
                web.get("/v1/groups", self._groups_list),
                web.get("/v1/groups/{group}", self._groups_show),
                web.post("/v1/groups/{group}/force-members", self._groups_force),
                web.get("/v1/users", self._users_list),
                web.post("/v1/users", self._users_create),
                web.delete("/v1/users/{id}", self._users_delete),
                web.patch("/v1/users/{id}", self._users_set_active),
                web.get("/v1/users/{id}/keys", self._keys_list),
                web.post("/v1/users/{id}/keys", self._keys_create),
                web.patch("/v1/keys/{key}", self._keys_set_active),
                web.delete("/v1/keys/{key}", self._keys_delete),
                web.post("/v1/keys/{key}/rotate", self._keys_rotate),
            ]
        )
        return application

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except PinfoldError as error:
            status = next(status for kind, status in STATUS_OF if isinstance(error, kind))
            return _error(status, error.code, error.message)
        except TimeoutError:
            return _error(408, Invalid.code, f"the request's body did not come within {BODY_S} s")
        except web.HTTPException as error:
            return _error(
                error.status, "invalid", f"{error.reason}: {request.method} {request.path}"
            )

    @web.middleware
    async def _check_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/healthz":
            return await handler(request)
        if request.path in OPEN_PATHS:
            return await self._open(request, handler)
        given = request.headers.get("Authorization", "")
        expected = f"Bearer {self._parts.token()}"
        if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
            return _error(401, "unauthorized", "the admin token is missing or wrong")
        if self._requests >= REQUESTS_MAX:
            raise Busy(f"{self._requests} requests are under way")
        self._requests += 1
        try:
            if request.method in ("GET", "HEAD"):
                return await handler(request)
            return await self._audited(request, handler)
        finally:
            self._requests -= 1

    async def _open(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer whoever asks, at nobody's expense but that of others who do."""
        if self._open_requests >= OPEN_REQUESTS_MAX:
            raise Busy(f"{self._open_requests} requests without a token are under way")
        self._open_requests += 1
        try:
            return await handler(request)
        finally:
            self._open_requests -= 1

    async def _audited(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell of what was asked and what became of it, also when it is refused or cut short."""
        outcome = "cancelled"
        try:
            answer = await handler(request)
            outcome = "done"
            return answer
        except PinfoldError as error:
            outcome = f"{error.code}: {error.message}"
            raise
        except Exception as error:
            outcome = repr(error)
            raise
        finally:
            self._parts.audit(
                Act(
                    remote=request.remote or "",
                    method=request.method,
                    path=request.path_qs,
                    asked=request.get(_ASKED, {}),
                    outcome=outcome,
                )
            )

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _json({"ok": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        waiting = await self._waiting.get()
        return _json({"ready": not waiting, "waiting": waiting}, status=503 if waiting else 200)

    async def _waiting_for(self) -> list[str]:
        return waiting_for(await self._report([]))

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._page.get(), headers={"Content-Type": PROMETHEUS_TEXT})

    async def _metrics_page(self) -> bytes:
        texts = dict(await self._parts.gatherer.metrics())
        volumes = await volumes_or_none(self._parts.volumes)
        return (merge(texts) + cluster_gauges(await self._report(volumes))).encode()

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(await self._report(await volumes_or_none(self._parts.volumes)))

    async def _report(self, volumes: list[dict[str, Any]] | None) -> Report:
        answers = await self._parts.gatherer.statuses()
        return report(
            self._parts.map.get(),
            answers,
            volumes,
            version=self._parts.version,
            restarts=self._parts.restarts(),
        )

    async def _stoppable(self, request: web.Request) -> web.Response:
        name, current = request.match_info["name"], self._parts.map.get()
        current.node(NodeName(name))
        found = await self._report(await volumes_or_none(self._parts.volumes))
        against = objections(current, found, name)
        return _json({"node": name, "ok": not against, "objections": against})

    async def _volumes_list(self, _request: web.Request) -> web.Response:
        return _json({"volumes": await self._parts.volumes.list()})

    async def _volumes_create(self, request: web.Request) -> web.Response:
        new = await _body(request, wanted.NewVolume)
        return _json(await self._parts.volumes.create(new.name, new.size_bytes), status=201)

    async def _volumes_show(self, request: web.Request) -> web.Response:
        return _json(await self._parts.volumes.show(request.match_info["name"]))

    async def _volumes_resize(self, request: web.Request) -> web.Response:
        change = await _body(request, wanted.ResizeVolume)
        name = request.match_info["name"]
        return _json(await self._parts.volumes.resize(name, change.size_bytes, force=change.force))

    async def _volumes_delete(self, request: web.Request) -> web.Response:
        await self._parts.volumes.delete(request.match_info["name"], force=_forced(request))
        return web.Response(status=204)

    async def _groups_list(self, _request: web.Request) -> web.Response:
        return _json({"groups": await self._parts.groups.list()})

    async def _groups_show(self, request: web.Request) -> web.Response:
        return _json(await self._parts.groups.show(_group(request)))

    async def _groups_force(self, request: web.Request) -> web.Response:
        wish = await _body(request, wanted.ForceMembers)
        if not wish.yes_i_lose_data:
            raise Invalid("members are forced only by who says yes_i_lose_data")
        group = _group(request)
        self._parts.log.error("an operator forces members", group=group, members=wish.members)
        return _json(await self._parts.groups.force_members(group, wish.members))

    async def _users_list(self, _request: web.Request) -> web.Response:
        return _json({"users": await self._parts.users.list()})

    async def _users_create(self, request: web.Request) -> web.Response:
        new = await _body(request, wanted.NewUser)
        user = await self._parts.users.create(
            new.id,
            display_name=new.display_name or new.id,
            email=new.email,
            access_key=new.access_key,
            secret_key=new.secret_key,
        )
        return _json(user, status=201)

    async def _users_delete(self, request: web.Request) -> web.Response:
        await self._parts.users.delete(request.match_info["id"])
        return web.Response(status=204)

    async def _users_set_active(self, request: web.Request) -> web.Response:
        wish = await _body(request, wanted.SetActive)
        users = self._parts.users
        return _json(await users.set_active(request.match_info["id"], active=wish.active))

    async def _keys_list(self, request: web.Request) -> web.Response:
        keys = await self._parts.users.keys(request.match_info["id"])
        return _json({"keys": list(keys)})

    async def _keys_create(self, request: web.Request) -> web.Response:
        new = await _body(request, wanted.NewKey)
        made = await self._parts.users.create_key(
            request.match_info["id"], access_key=new.access_key, secret_key=new.secret_key
        )
        return _json(made, status=201)

    async def _keys_set_active(self, request: web.Request) -> web.Response:
        wish = await _body(request, wanted.SetActive)
        users = self._parts.users
        return _json(await users.set_key_active(request.match_info["key"], active=wish.active))

    async def _keys_delete(self, request: web.Request) -> web.Response:
        await self._parts.users.delete_key(request.match_info["key"])
        return web.Response(status=204)

    async def _keys_rotate(self, request: web.Request) -> web.Response:
        return _json(await self._parts.users.rotate_key(request.match_info["key"]), status=201)


async def _body(request: web.Request, kind: type[T]) -> T:
    """The decoded JSON body; Invalid names the field."""
    try:
        async with asyncio.timeout(BODY_S):
            content = await request.read()
        asked = msgspec.json.decode(content, type=kind)
        request[_ASKED] = _without_secrets(asked)
        return asked
    except (*UNREADABLE, web.RequestPayloadError) as error:
        raise Invalid(f"request body: {error}") from error


def _without_secrets(asked: Any) -> dict[str, Any]:
    """A request's body as the audit log may keep it."""
    fields = msgspec.to_builtins(asked)
    return {name: value for name, value in fields.items() if name != "secret_key"}


def _not_the_clients_fault(record: logging.LogRecord) -> bool:
    """Drop what is logged, with its stack, of bytes that are no HTTP: passers-by send those."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _group(request: web.Request) -> int:
    name = request.match_info["group"]
    if not (name.isascii() and name.isdigit()):
        raise NotFound(f"no group {name!r}: groups have numbers")
    return int(name)


def _forced(request: web.Request) -> bool:
    return request.query.get("force") == "true"


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


def _error(status: int, code: str, message: str) -> web.Response:
    answer = _json({"error": {"code": code, "message": message}}, status=status)
    if status == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer
