"""The operations a process answers, and what becomes of a handler's exceptions."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from pinfold.model.errors import BY_CODE, PinfoldError, Unsupported
from pinfold.rpc.api import Handler, HandlerResult, Reply, Request, StreamHandler

_log: Final = structlog.get_logger("pinfold.rpc")

_EMPTY: Final = Reply()


class Operations:
    """The real `Dispatcher`."""

    def __init__(self) -> None:
        self._calls: dict[str, Handler] = {}
        self._streams: dict[str, StreamHandler] = {}

    def bind(self, operation: str, handler: Handler) -> None:
        """See `Dispatcher.bind`."""
        self._check_free(operation)
        self._calls[operation] = handler

    def bind_stream(self, operation: str, handler: StreamHandler) -> None:
        """See `Dispatcher.bind_stream`."""
        self._check_free(operation)
        self._streams[operation] = handler

    def _check_free(self, operation: str) -> None:
        assert operation not in self._calls, f"{operation} is bound"
        assert operation not in self._streams, f"{operation} is bound as a stream"

    def stream(self, operation: str) -> StreamHandler:
        """The handler of a stream; raises Unsupported when there is none."""
        handler = self._streams.get(operation)
        if handler is None:
            raise Unsupported(f"this node answers no stream {operation!r}")
        return handler

    def run(self, request: Request) -> HandlerResult | PinfoldError:
        """Call the request's handler; what it raises at once comes back as a value."""
        handler = self._calls.get(request.operation)
        if handler is None:
            return Unsupported(f"this node answers no {request.operation!r}")
        try:
            return handler(request)
        except Exception as error:  # noqa: BLE001 - the edge where handlers' bugs end
            return as_answer(request.operation, error)


async def settle(operation: str, work: Coroutine[Any, Any, Reply]) -> Reply | PinfoldError:
    """Await a handler's coroutine; what it raises comes back as a value."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - the edge where handlers' bugs end
        return as_answer(operation, error)


def outcome(operation: str, future: asyncio.Future[Reply | None]) -> Reply | PinfoldError:
    """What a finished future of a handler amounts to."""
    if future.cancelled():
        return PinfoldError(f"{operation}: given up by its handler")
    error = future.exception()
    if error is not None:
        return as_answer(operation, error)
    reply = future.result()
    return _EMPTY if reply is None else reply


def as_answer(operation: str, error: BaseException) -> PinfoldError:
    """The error that a caller gets: its own kind if it may travel, else an internal one."""
    if isinstance(error, PinfoldError):
        return error
    _log.error("handler failed", operation=operation, exc_info=error)
    return PinfoldError(f"{operation}: internal error ({type(error).__name__})")


def revive(code: str, message: str, detail: object) -> PinfoldError:
    """An error that came over the wire; a code from a newer peer becomes the base class."""
    return BY_CODE.get(code, PinfoldError)(message, detail=detail)


def describe(error: PinfoldError) -> tuple[str, str, Any]:
    """(code, message, detail) as they travel."""
    return error.code, error.message, error.detail
