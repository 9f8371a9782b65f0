"""What every request was and what became of it: one line each, for whoever has to find out later.

A line is written when the answer's last byte has been handed over, or the client was given up.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from pinfold.env.api import Buffer, Clock
from pinfold.s3.request import Chunks, Request, Response, unquoted_query

TARGET_CHARACTERS_MAX: Final = 2048
"""Of a request's path and query, as much as is kept: twice what the longest name takes."""

WriteLine = Callable[[bytes], None]
"""Takes one line without its newline; never blocks, never fails."""


class Line(msgspec.Struct, kw_only=True):
    """One request. Times are Unix seconds by the gateway's clock."""

    time: float
    id: str
    remote: str
    user: str
    """Empty for who did not sign."""
    operation: str
    method: str
    target: str
    """Path and query as they came, without credentials."""
    status: int
    error: str
    """S3's code; empty when the request succeeded."""
    received: str
    """The Content-Length that came with it."""
    sent: int
    """Bytes of the body that were handed over."""
    complete: bool
    """Whether that was the whole answer."""
    seconds: float
    agent: str


_encode: Final = msgspec.json.Encoder().encode


class AccessLog:
    """Writes a line for every request."""

    def __init__(self, clock: Clock, write: WriteLine) -> None:
        self._clock = clock
        self._write = write

    def answered(
        self, request: Request, operation: str, response: Response, started: float
    ) -> None:
        """An answer is there; its line follows when it has been sent, which began at `started`."""
        if response.chunks is None or request.method == "HEAD":
            sent = 0 if request.method == "HEAD" else len(response.body)
            self._tell(request, operation, response, started, sent, True)
        else:
            response.chunks = _Counted(
                response.chunks,
                lambda sent: self._tell(
                    request, operation, response, started, sent, sent == response.length
                ),
            )

    def _tell(
        self,
        request: Request,
        operation: str,
        response: Response,
        started: float,
        sent: int,
        complete: bool,
    ) -> None:
        line = Line(
            time=round(self._clock.wall(), 3),
            id=request.id,
            remote=request.remote,
            user=request.user,
            operation=operation,
            method=request.method,
            target=_target(request),
            status=response.status,
            error=response.error,
            received=request.headers.get("content-length", ""),
            sent=sent,
            complete=complete,
            seconds=round(self._clock.monotonic() - started, 6),
            agent=request.headers.get("user-agent", ""),
        )
        self._write(_encode(line))


class _Counted:
    """Chunks on their way out; `ended` hears how many bytes were taken, once."""

    def __init__(self, chunks: Chunks, ended: Callable[[int], None]) -> None:
        self._chunks = chunks
        self._ended: Callable[[int], None] | None = ended
        self._sent = 0

    def __aiter__(self) -> "_Counted":
        return self

    async def __anext__(self) -> list[Buffer]:
        chunk = await anext(self._chunks)
        self._sent += sum(map(len, chunk))
        return chunk

    async def aclose(self) -> None:
        """See `Chunks`."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self._sent)
        await self._chunks.aclose()


_SECRETS: Final = frozenset({"X-Amz-Signature", "Signature", "X-Amz-Security-Token"})
"""What makes a presigned URL work: a log must not hand it on."""


def _target(request: Request) -> str:
    target = request.path
    if request.raw_query:
        shown = "&".join(
            f"{name}=..." if unquoted_query(name := part.partition("=")[0]) in _SECRETS else part
            for part in request.raw_query.split("&")
        )
        target = f"{target}?{shown}"
    target = target[:TARGET_CHARACTERS_MAX]
    return target if target.isascii() else target.encode("utf-8", "backslashreplace").decode()
