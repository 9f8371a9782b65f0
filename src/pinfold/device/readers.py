"""Threads that read what is not in memory: what waits in one tick is one hop to a lane.

Jobs with the same key run in the order they were submitted. That order is what makes freeing
safe: a hole is punched by a job of the key its readers used, so it runs behind them.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pinfold.device.health import Health
from pinfold.env.api import Offload
from pinfold.model.errors import PinfoldError

T = TypeVar("T")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Readers:
    """See the module. An OSError in any job stops the device."""

    def __init__(self, lanes: Sequence[Offload], health: Health) -> None:
        self._lanes = lanes
        self._health = health
        self._waiting: list[list[_Job]] = [[] for _ in lanes]

    def submit(self, key: int, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run `job` in the key's lane; fails with its PinfoldError, or Unavailable on EIO."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        number = key % len(self._lanes)
        waiting = self._waiting[number]
        if not waiting:
            loop.call_soon(self._start, number)
        waiting.append((job, future))
        return future

    async def drain(self) -> None:
        """Return when everything submitted so far has run and its callbacks have been called."""
        for number in range(len(self._lanes)):
            await self.submit(number, _nothing)

    def _start(self, number: int) -> None:
        jobs, self._waiting[number] = self._waiting[number], []
        self._lanes[number](_run, [job for job, _ in jobs]).add_done_callback(
            partial(self._finish, [future for _, future in jobs])
        )

    def _finish(self, futures: list[asyncio.Future[Any]], done: asyncio.Future[list[Any]]) -> None:
        if done.cancelled():
            return
        for future, outcome in zip(futures, done.result(), strict=True):
            if isinstance(outcome, OSError):
                self._health.stop(f"read: {outcome}")
                outcome = self._health.error()
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _nothing() -> None:
    """A job that only keeps its place in the order."""


def _run(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Every job's result, or the error of those that failed."""
    outcomes: list[Any] = []
    for job in jobs:
        try:
            outcomes.append(job())
        except (OSError, PinfoldError) as error:
            outcomes.append(error)
    return outcomes
