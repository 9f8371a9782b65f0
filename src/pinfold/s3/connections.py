"""Connections of the HTTP library as S3 wants them: so many, and holding so much of heads.

aiohttp bounds a head's lines and their number, which is 2 MiB a connection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_request import BaseRequest

from pinfold.env import connections
from pinfold.env.crowd import Crowd
from pinfold.model.limits import KIB, MIB
from pinfold.s3.slow import Heads

HEADS_BYTES_MAX: Final = 64 * MIB
"""Heads that are not answered yet, of all connections together: 16 KiB for each of the most there
may be. What is made of them takes about as much again."""

HEAD_PIECE_BYTES: Final = 8 * KIB
"""Heads are parsed in pieces of this, and of a piece that ends one the rest is not counted."""

BODY_PIECE_BYTES: Final = 64 * KIB
"""Bodies likewise; larger, because each piece costs a copy and some calls."""


class Server(web.Server):
    """aiohttp's server, with connections of ours."""

    def __init__(
        self,
        handler: Callable[[BaseRequest], Awaitable[web.StreamResponse]],
        unreadable: Callable[[str, BaseException | None], web.StreamResponse],
        crowd: "Crowd[Connection]",
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self.unreadable = unreadable
        self.crowd = crowd
        self.heads: Heads[Connection] = Heads(HEADS_BYTES_MAX)
        self._options = options

    def __call__(self) -> "Connection":
        """See aiohttp."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)


class Connection(connections.Connection):
    """A connection that answers what it cannot read as S3 does.

    aiohttp would answer in a form of its own and log a stack each time: any passer-by could fill
    the log.
    """

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._unreadable = server.unreadable
        self._crowd = server.crowd
        self._heads = server.heads
        self._body: StreamReader = EMPTY_PAYLOAD
        """Of the request that came last."""
        self._unfinished = 0
        """Bytes of a head that has not ended."""
        self._waiting = 0
        """Those, and of the heads before it that nobody has taken up yet."""
        self.flowing = asyncio.Event()
        """Set while what is written is taken, by the client or the sockets' buffers."""
        self.flowing.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio; over the limit a connection ends, one that has asked nothing if there is."""
        super().connection_made(transport)
        goes = self._crowd.enter(self)
        if goes is self:
            goes = next((one for one in self._crowd.proved() if one.idle), self)
        if goes is not None:
            goes.leave()

    def data_received(self, data: bytes) -> None:
        """See asyncio; in pieces, so that it is known what is a head and what is not."""
        start = self._parse(data, 0)
        while start < len(data) and not self._force_close:
            start = self._parse(data, start)

    def _parse(self, data: bytes, start: int) -> int:
        """Parse a piece; where the next begins."""
        in_body, requests = not self._body.is_eof(), self._request_count
        stop = start + (BODY_PIECE_BYTES if in_body else HEAD_PIECE_BYTES)
        piece = data if start == 0 and stop >= len(data) else data[start:stop]
        super().data_received(piece)
        if self._request_count > requests:
            self._body = self._messages[-1][1]
            self._unfinished = 0
        elif not in_body:
            self._unfinished += len(piece)
        if not in_body and piece:
            self._hold(self._waiting + len(piece))
        return stop

    def _hold(self, count: int) -> None:
        self._waiting = count
        goes = self._heads.hold(self, count)
        if goes is not None:
            goes.leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        self._forget()
        self.flowing.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self.flowing.clear()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self.flowing.set()

    def leave(self) -> None:
        """See `env.connections`."""
        self._forget()
        super().leave()

    def _forget(self) -> None:
        self._crowd.leave(self)
        self._heads.hold(self, 0)

    def prove(self) -> None:
        """A whole request has come, and is taken up."""
        self._crowd.prove(self)
        if not self._messages:
            self._hold(self._unfinished)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp: 500 is a failure of ours, all else the client's."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        return self._unreadable(request.remote or "", exc)
