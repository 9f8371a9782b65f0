"""Connections of the HTTP library as S3 wants them: so many, and holding so much before its turn.

aiohttp bounds a head's lines and their number, which is 2 MiB a connection, and the requests that
wait behind another, each with two read buffers of its body, which is 16 MiB.
"""

import asyncio
from collections import deque
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
"""Heads that nobody has taken up yet, and bodies behind a request that is under way, of all
connections together: 16 KiB for each of the most there may be. What is made of heads takes about as
much again."""

HEAD_PIECE_BYTES: Final = 8 * KIB
"""Heads are parsed in pieces of this, and of a piece that ends one the rest counts as that."""

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
        self._queued: deque[int] = deque()
        """Bytes of each request that nobody has taken up yet."""
        self._waiting = 0
        """Those of all of them."""
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
        begun = self._request_count - requests
        if begun:
            self._body = self._messages[-1][1]
            self._queued.extend([0] * begun)
            self._queue(self._unfinished + len(piece))
            self._unfinished = 0
        elif not in_body:
            self._unfinished += len(piece)
        elif self._queued and not self.idle:  # else it is taken up at once
            self._queue(len(piece))
        else:
            return stop
        self._hold()
        return stop

    def _queue(self, count: int) -> None:
        self._queued[-1] += count
        self._waiting += count

    def _hold(self) -> None:
        if not self.inside:  # a request that was taken up begins after all
            return
        goes = self._heads.hold(self, self._waiting + self._unfinished)
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
        if self._queued:  # not so what came with a request to speak another protocol
            self._waiting -= self._queued.popleft()
        self._hold()

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
