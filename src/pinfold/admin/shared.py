"""One run of something costly for all who ask for it at once, and for those right behind them.

What anybody may ask for without a token asks every process of the cluster: however many ask, it is
asked once at a time, and so many times a second at most.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from pinfold.env.tasks import TaskScope

FRESH_S: Final = 0.25
"""An answer this young is given again: four runs a second at most."""

T = TypeVar("T")


class Shared(Generic[T]):
    """What `make` makes, shared. Its runs are tasks of `scope` and outlive those who asked."""

    def __init__(self, scope: TaskScope, make: Callable[[], Awaitable[T]]) -> None:
        self._scope = scope
        self._make = make
        self._running: asyncio.Task[T] | None = None
        self._ended = 0.0

    async def get(self) -> T:
        """The answer of the run under way, or of one that has just ended, or of a new one."""
        running = self._running
        if running is None or (running.done() and self._is_old(running)):
            running = self._running = self._scope.start(self._run())
        return await asyncio.shield(running)

    def _is_old(self, run: asyncio.Task[T]) -> bool:
        failed = run.cancelled() or run.exception() is not None
        return failed or asyncio.get_running_loop().time() - self._ended >= FRESH_S

    async def _run(self) -> T:
        try:
            return await self._make()
        finally:
            self._ended = asyncio.get_running_loop().time()
