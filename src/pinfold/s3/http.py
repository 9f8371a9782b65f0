"""HTTP in and out, with `connections` all that knows the library: `Request`s out, `Response`s sent.

aiohttp parses requests and runs their connections; heads of responses are built here, because a
response of its own costs more than verifying a signature. Paths are taken as they came: nothing is
normalised.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from random import Random
from typing import Any, Final

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_request import BaseRequest

from pinfold.env.api import Buffer, Clock, Env, Listener
from pinfold.env.crowd import Crowd
from pinfold.model.errors import PinfoldError
from pinfold.model.settings import S3Settings
from pinfold.s3.connections import Connection, Server
from pinfold.s3.errors import Refused
from pinfold.s3.gateway import error_response
from pinfold.s3.request import Body, EmptyBody, Request, Response
from pinfold.s3.slow import Patience, Upload, Uploads
from pinfold.s3.times import http_date

Respond = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger(__name__)

SERVER: Final = "Pinfold"
KEEP_ALIVE_S: Final = 75.0
"""Idle connections are closed after this; longer than clients' pools keep them."""

LINGER_S: Final = 5.0
"""How long a refused body is read and dropped, so that the client sees the answer."""

CLOSE_S: Final = 10.0
"""How long requests in flight may take when the server stops."""

COALESCE_BYTES: Final = 64 * 1024
"""Bodies up to this are joined with their head into one write: cheaper than a second one."""

NAMES_MAX: Final = 256
NAME_BYTES_MAX: Final = 64
"""Names of headers remembered, and how long one may be for that."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_BODY: Final = EmptyBody()
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class HttpServer:
    """Serves HTTP on any number of addresses, every request through one `respond`."""

    def __init__(
        self,
        env: Env,
        settings: S3Settings,
        respond: Respond,
        *,
        read_memory_wanted: Callable[[], bool] = lambda: False,
        on_refusal: Callable[[Request, Response], None] = lambda _request, _response: None,
    ) -> None:
        """`read_memory_wanted` says whether requests wait for what slow clients do not take.

        `on_refusal` hears of answers that are given here, without `respond`. Of what is no HTTP the
        request has neither method nor path.
        """
        self._net = env.net
        self._clock = env.clock
        self._settings = settings
        self._respond = respond
        self._on_refusal = on_refusal
        self._ids = _RequestIds(env.rng)
        self._in_flight = 0
        self._uploads = Uploads(settings)
        self._patience = Patience(
            settings.body_timeout_s, settings.stall_patience_s, read_memory_wanted
        )
        self._listeners: list[Listener] = []
        self._server: web.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Accept connections; the port bound."""
        if self._server is None:
            self._server = Server(
                self._handle,
                self._unreadable,
                Crowd(self._settings.connections_max),
                access_log=None,
                auto_decompress=False,
                keepalive_timeout=KEEP_ALIVE_S,
                lingering_time=LINGER_S,
                max_field_size=self._settings.header_bytes_max,
                max_line_size=self._settings.header_bytes_max,
                read_bufsize=self._settings.read_buffer_bytes,
            )
        listener = await self._net.listen(f"tcp://{host}:{port}", self._server)
        self._listeners.append(listener)
        return int(listener.address.rpartition(":")[2])

    async def close(self) -> None:
        """Stop accepting, let requests in flight end, then close every connection."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(CLOSE_S)
            self._server = None

    async def _handle(self, received: BaseRequest) -> "_Outgoing":
        assert isinstance(received.protocol, Connection)
        received.protocol.prove()
        request_id = self._ids.fresh()
        body: Body = _NO_BODY
        if received.body_exists:
            upload = self._uploads.begin()
            body = _StreamBody(received, self._clock, self._settings.body_timeout_s, upload)
        elif _expects_continue(received):
            # Nothing will follow, but botocore takes a final answer without it for the answer to
            # its next request on the connection, and waits for ever.
            await received.writer.write(_CONTINUE)
        try:
            response = await self._answer(received, request_id, body)
        finally:
            if isinstance(body, _StreamBody):
                self._uploads.end(body.upload)
        abandoned = isinstance(body, _StreamBody) and body.abandoned
        keep_alive = received.keep_alive and not abandoned
        return _Outgoing(
            response,
            _head(response, request_id, self._clock, keep_alive=keep_alive),
            with_body=received.method != hdrs.METH_HEAD,
            keep_alive=keep_alive,
            abandoned=abandoned,
            patience=self._patience,
        )

    def _unreadable(self, remote: str, error: BaseException | None) -> "_Outgoing":
        """The answer to what is not HTTP, or too long; the connection ends with it."""
        limit = self._settings.header_bytes_max
        message = "The request is not well-formed HTTP."
        if isinstance(error, LineTooLong):
            message = f"A line of the request's head is longer than {limit} bytes."
        request_id = self._ids.fresh()
        unknown = Request(
            method="", target="/", headers={}, body=_NO_BODY, id=request_id, remote=remote
        )
        response = self._refuse(unknown, Refused("BadRequest", message), path="")
        return _Outgoing(
            response,
            _head(response, request_id, self._clock, keep_alive=False),
            with_body=True,
            keep_alive=False,
            abandoned=False,
            patience=self._patience,
        )

    def _refuse(self, request: Request, refused: Refused, path: str | None = None) -> Response:
        """The answer to a request that `respond` never sees; `path` as it came, to be told of."""
        response = error_response(request, refused)
        if path is not None:
            request.path = path
        self._on_refusal(request, response)
        return response

    async def _answer(self, received: BaseRequest, request_id: str, body: Body) -> Response:
        came = partial(
            Request,
            method=received.method,
            headers=_headers(received.raw_headers),
            body=body,
            id=request_id,
            remote=received.remote or "",
        )
        try:
            request = came(target=received.raw_path, domain=self._settings.domain)
        except Refused as refused:
            return self._refuse(came(target="/"), refused, received.raw_path.partition("?")[0])
        crowded = self._in_flight >= self._settings.requests_in_flight_max
        if crowded and not self._uploads.drop_slowest(self._clock.monotonic()):
            return self._refuse(request, Refused("SlowDown", headers=(("Retry-After", "1"),)))
        self._in_flight += 1
        try:
            return await self._respond(request)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # a bug in one request must not end the connection's others
            log.exception("request failed", request_id=request_id, method=request.method)
            return self._refuse(request, Refused("InternalError"))
        finally:
            self._in_flight -= 1


class _RequestIds:
    """Ids that no other request of any process has, without asking for randomness each time."""

    def __init__(self, rng: Random) -> None:
        self._prefix = rng.randbytes(4).hex().upper()
        self._count = 0

    def fresh(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count:012X}"


class _StreamBody:
    """A body that arrives while it is read."""

    __slots__ = (
        "_awaits_continue",
        "_clock",
        "_content",
        "_received",
        "_stalled",
        "_timeout_s",
        "upload",
    )

    def __init__(
        self, received: BaseRequest, clock: Clock, timeout_s: float, upload: Upload
    ) -> None:
        self._received = received
        self._clock = clock
        self._content: StreamReader = received.content
        self._timeout_s = timeout_s
        self.upload = upload
        self._stalled = False
        self._awaits_continue = _expects_continue(received)

    @property
    def abandoned(self) -> bool:
        """Whether the rest of the body is not worth waiting for.

        The client stalls, or asked whether to send it and was refused: then whether it follows
        is the client's guess, so the connection must end.
        """
        return self._stalled or self._awaits_continue

    async def read(self) -> Buffer:
        """See `Body.read`."""
        content, upload = self._content, self.upload
        if self._awaits_continue:
            self._awaits_continue = False
            await self._received.writer.write(_CONTINUE)
        try:
            if upload.dropped:
                raise TimeoutError
            ready = content.read_nowait()
            if not ready and not content.at_eof():
                ready = await self._next()
            upload.came += len(ready)
            return ready
        except TimeoutError:
            self._stalled = True
            raise Refused("RequestTimeout") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise Refused("IncompleteBody") from error

    async def _next(self) -> bytes:
        try:
            async with self.upload.waiting(self._clock.monotonic(), self._timeout_s):
                return await self._content.readany()
        finally:
            self.upload.waited(self._clock.monotonic())


def _expects_continue(received: BaseRequest) -> bool:
    return received.headers.get(hdrs.EXPECT, "").lower() == "100-continue"


class _Outgoing(web.StreamResponse):
    """A response on its way, in the shape in which aiohttp sends its own."""

    def __init__(
        self,
        response: Response,
        head: bytes,
        *,
        with_body: bool,
        keep_alive: bool,
        abandoned: bool,
        patience: "Patience",
    ) -> None:
        # The base class's state describes a response of its own, which this is not.
        self._response = response
        self._head = head
        self._with_body = with_body
        self._keeps_alive = keep_alive
        self._abandoned = abandoned
        self._patience = patience
        self._connection: Connection | None = None

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send everything: aiohttp calls this once, then `write_eof`."""
        writer = request.writer
        assert isinstance(request.protocol, Connection)
        self._connection = request.protocol
        response = self._response
        chunks = response.chunks
        try:
            if not self._with_body or chunks is None:
                body = response.body if self._with_body else b""
                await self._write(writer, self._head + body)
            else:
                await self._send_chunks(writer)
        except TimeoutError:
            self._connection.leave()  # what it does not take is not kept for it
            raise ConnectionResetError("the client took nothing for too long") from None
        finally:
            if chunks is not None:
                await chunks.aclose()
            if self._abandoned:
                request.protocol.force_close()  # after what was written, without lingering
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""

    async def _send_chunks(self, writer: AbstractStreamWriter) -> None:
        chunks = self._response.chunks
        assert chunks is not None
        left = self._response.length
        head = self._head
        try:
            async for chunk in chunks:
                size = sum(len(piece) for piece in chunk)
                left -= size
                if head and size <= COALESCE_BYTES:
                    await self._write(writer, b"".join((head, *chunk)))
                else:
                    if head:
                        await self._write(writer, head)
                    for piece in chunk:
                        await self._write(writer, piece)
                head = b""
            if head:
                await self._write(writer, head)
        except PinfoldError as error:
            # Too late for a status: a short body tells the client, and the log tells us.
            log.error("body cut short", error=error.code, reason=error.message)
            raise ConnectionResetError("the rest of the body cannot be read") from error
        assert left == 0, "a response has the length it says"

    async def _write(self, writer: AbstractStreamWriter, data: Any) -> None:
        # aiohttp's own wait for the client does not survive a time-out.
        await writer.write(data, drain=False)  # type: ignore[call-arg]
        connection = self._connection
        if connection is not None and not connection.flowing.is_set():
            transport = connection.transport
            if transport is not None:
                await self._patience.taken(connection.flowing, transport)
            if connection.transport is None:
                raise ConnectionResetError("the client has gone")


def _headers(raw: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    """Names in lower case to latin-1 values; repeated ones joined by commas."""
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in raw:
        name = _names.get(name_bytes) or _name_of(name_bytes)
        value = value_bytes.decode("latin-1")
        if name in headers:
            value = f"{headers[name]},{value}"
        headers[name] = value
    return headers


_names: dict[bytes, str] = {}
"""Names of headers as they came, to how they are looked up: clients send the same ones always."""


def _name_of(raw: bytes) -> str:
    name = raw.decode("latin-1").lower()
    if len(_names) < NAMES_MAX and len(raw) <= NAME_BYTES_MAX:
        _names[raw] = name
    return name


def _head(response: Response, request_id: str, clock: Clock, *, keep_alive: bool) -> bytes:
    lines = [
        _STATUS_LINES[response.status],
        f"Server: {SERVER}\r\nDate: {http_date(int(clock.wall()))}\r\n"
        f"x-amz-request-id: {request_id}\r\n",
    ]
    for name, value in response.headers:
        assert "\r" not in value, name
        assert "\n" not in value, name
        lines.append(f"{name}: {value}\r\n")
    if response.status not in (204, 304):
        lines.append(f"Content-Length: {response.length}\r\n")
    if not keep_alive:
        lines.append("Connection: close\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1", "replace")
