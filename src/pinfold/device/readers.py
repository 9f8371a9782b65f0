"""Threads that read what is not in memory: what waits in one tick is one hop to a lane.

Jobs with the same key run in the order they were submitted. That order is what makes freeing
safe: a hole is punched by a job of the key its readers used, so it runs behind them.

Reads are bounded by the bytes that they will hold, and one whose deadline has passed when its turn
comes is not done: a disk that is behind does not work for callers who have left.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from pinfold.device.health import Health
from pinfold.env.api import Offload
from pinfold.model.errors import Busy, DeadlineExceeded, PinfoldError
from pinfold.model.limits import MIB

T = TypeVar("T")

READS_BYTES: Final = 128 * MIB
"""Reads that wait for the disk, in all lanes: half a second of a fast one; with more it is Busy."""

READS: Final = 4_096
"""The same as a count: what a disk without any cache does in seconds."""

_Job = tuple[Callable[[], Any], float]
"""What to run, and the instant after which nobody wants it."""


_Waiting = tuple[_Job, int | None, "asyncio.Future[Any]"]


class Readers:
    """See the module. An OSError in any job stops the device."""

    def __init__(self, lanes: Sequence[Offload], health: Health, now: Callable[[], float]) -> None:
        self._lanes = lanes
        self._health = health
        self._now = now
        self._waiting: list[list[_Waiting]] = [[] for _ in lanes]
        self._reads = 0
        self._reads_bytes = 0

    def read(
        self, key: int, job: Callable[[], T], *, size: int, deadline: float
    ) -> asyncio.Future[T]:
        """`submit` a read of `size` bytes. Busy at the limits, unless nothing else is read."""
        if self._reads and (self._reads >= READS or self._reads_bytes + size > READS_BYTES):
            raise Busy(f"{self._reads} reads of {self._reads_bytes} bytes wait for the disk")
        self._reads += 1
        self._reads_bytes += size
        return self._submit(key, job, deadline, size)

    def submit(
        self, key: int, job: Callable[[], T], *, deadline: float = math.inf
    ) -> asyncio.Future[T]:
        """Run `job` in the key's lane; fails with its PinfoldError, or Unavailable on EIO.

        DeadlineExceeded, without running it, when its turn comes too late.
        """
        return self._submit(key, job, deadline, None)

    def _submit(
        self, key: int, job: Callable[[], T], deadline: float, size: int | None
    ) -> asyncio.Future[T]:
        """`size` of a read, None for other jobs."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        number = key % len(self._lanes)
        waiting = self._waiting[number]
        if not waiting:
            loop.call_soon(self._start, number)
        waiting.append(((job, deadline), size, future))
        return future

    async def drain(self) -> None:
        """Return when everything submitted so far has run and its callbacks have been called."""
        for number in range(len(self._lanes)):
            await self.submit(number, _nothing)

    def _start(self, number: int) -> None:
        jobs, self._waiting[number] = self._waiting[number], []
        self._lanes[number](_run, [job for job, _, _ in jobs], self._now).add_done_callback(
            partial(self._finish, jobs)
        )

    def _finish(self, jobs: list[_Waiting], done: asyncio.Future[list[Any]]) -> None:
        sizes = [size for _, size, _ in jobs if size is not None]
        self._reads -= len(sizes)
        self._reads_bytes -= sum(sizes)
        if done.cancelled():
            return
        for (_, _, future), outcome in zip(jobs, done.result(), strict=True):
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


def _run(jobs: list[_Job], now: Callable[[], float]) -> list[Any]:
    """Every job's result, or the error of those that failed."""
    outcomes: list[Any] = []
    for job, deadline in jobs:
        if deadline < math.inf and deadline <= now():
            outcomes.append(DeadlineExceeded("the disk was busy until the deadline"))
            continue
        try:
            outcomes.append(job())
        except (OSError, PinfoldError) as error:
            outcomes.append(error)
    return outcomes
