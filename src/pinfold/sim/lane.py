"""The simulated `Offload`: functions run whole, one behind the other, at instants of virtual time.

A function's disk calls cost virtual time, which passes before its result is told; a crash in
between leaves its effects and loses its result.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from pinfold.env.api import OFFLOAD_JOBS
from pinfold.model.errors import Busy
from pinfold.sim.disk import SimDisk
from pinfold.sim.loop import NodeCrashed, Process, SimLoop

T = TypeVar("T")


class SimLane:
    """One lane of one process."""

    def __init__(
        self, name: str, loop: SimLoop, process: Process, disk: SimDisk, rng: random.Random
    ) -> None:
        self._name = name
        self._loop = loop
        self._process = process
        self._disk = disk
        self._rng = rng
        self._jobs: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._busy = False
        self._closed = False

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> asyncio.Future[T]:
        """See `Offload`."""
        assert not self._closed, "a closed lane takes nothing"
        if len(self._jobs) >= OFFLOAD_JOBS:
            raise Busy(f"{len(self._jobs)} functions wait in lane {self._name}")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.append((future, function, arguments))
        if not self._busy:
            self._busy = True
            self._loop.after(
                self._rng.uniform(0, 0.0002) + self._queued_s(), self._process, self._run
            )
        return future

    def _queued_s(self) -> float:
        """How long a slow disk lets a job wait before it does anything of it.

        Whatever is told of the job meanwhile is told of something that a loss of power undoes.
        """
        faults = self._disk.faults
        if faults.slowness <= 1.0:
            return 0.0
        return self._rng.uniform(0, faults.sync_s[1]) * (faults.slowness - 1) / 2

    def _run(self) -> None:
        if not self._jobs:  # closed meanwhile
            self._busy = False
            return
        outcome = self._work()
        self._loop.after(self._disk.take_cost(), self._process, self._deliver, *outcome)

    def _work(self) -> tuple[asyncio.Future[Any], Any, BaseException | None]:
        future, function, arguments = self._jobs.popleft()
        self._disk.take_cost()
        try:
            return future, function(*arguments), None
        except NodeCrashed:
            raise
        except StopIteration:
            return future, None, RuntimeError("the function raised StopIteration")
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits
            return future, None, error

    def _deliver(
        self, future: asyncio.Future[Any], result: Any, failure: BaseException | None
    ) -> None:
        if self._jobs:
            self._loop.after(self._queued_s(), self._process, self._run)
        else:
            self._busy = False
        if future.done():
            return
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)

    def close(self) -> None:
        """See `Offload.close`: runs what waits, at once."""
        self._closed = True
        while self._jobs:
            self._loop.call_soon(self._deliver, *self._work())
