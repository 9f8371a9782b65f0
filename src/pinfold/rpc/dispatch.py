"""The operations a process answers, and what becomes of a handler's exceptions."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from pinfold.model.errors import BY_CODE, DeadlineExceeded, PinfoldError, Unsupported
from pinfold.rpc.api import Handler, HandlerResult, Reply, Request, StreamHandler

_log: Final = structlog.get_logger("pinfold.rpc")

_EMPTY: Final = Reply()


class Operations:
    """The real `Dispatcher`."""

    def __init__(self) -> None:
        self._calls: dict[str, Handler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self.late: dict[str, int] = {}
        """By operation, requests that failed because their deadline had passed before or while
        they were worked on; most of them cost nothing but this."""

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

    def stream(self, request: Request, now: float) -> StreamHandler:
        """The handler of a stream. Unsupported when there is none, DeadlineExceeded too late."""
        handler = self._streams.get(request.operation)
        if handler is None:
            raise Unsupported(f"this node answers no stream {request.operation!r}")
        if request.deadline <= now:
            raise self.too_late(request.operation)
        return handler

    def run(self, request: Request, now: float) -> HandlerResult | PinfoldError:
        """Call the request's handler; what it raises at once comes back as a value.

        A request whose deadline has passed by `now` is not begun: nobody waits for it any more.
        """
        handler = self._calls.get(request.operation)
        if handler is None:
            return Unsupported(f"this node answers no {request.operation!r}")
        if request.deadline <= now:
            return self.too_late(request.operation)
        try:
            return handler(request)
        except Exception as error:  # noqa: BLE001 - the edge where handlers' bugs end
            return as_answer(request.operation, error)

    def outcome(self, operation: str, future: asyncio.Future[Reply | None]) -> Reply | PinfoldError:
        """What a finished future of a handler amounts to."""
        if future.cancelled():
            return PinfoldError(f"{operation}: given up by its handler")
        error = future.exception()
        result = future.result() if error is None else as_answer(operation, error)
        if isinstance(result, DeadlineExceeded):
            self._count_late(operation)
        return _EMPTY if result is None else result

    def too_late(self, operation: str) -> DeadlineExceeded:
        """The error of a request that was dropped, once counted."""
        self._count_late(operation)
        return DeadlineExceeded(f"{operation}: the deadline had passed when its turn came")

    def _count_late(self, operation: str) -> None:
        self.late[operation] = self.late.get(operation, 0) + 1


async def settle(operation: str, work: Coroutine[Any, Any, Reply]) -> Reply | PinfoldError:
    """Await a handler's coroutine; what it raises comes back as a value."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - the edge where handlers' bugs end
        return as_answer(operation, error)


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
