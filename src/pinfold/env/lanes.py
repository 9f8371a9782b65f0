"""A lane: one thread that runs blocking functions in the order they were given.

Results come back in batches: the thread wakes the loop only when no earlier wake-up is still
waiting to be served, so a burst of short functions costs one wake-up, not one each.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from pinfold.env.api import OFFLOAD_JOBS
from pinfold.model.errors import Busy

T = TypeVar("T")

_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class ThreadLane:
    """The real `Offload`. Bound to the loop that first uses it; the thread starts then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._outcomes: deque[_Outcome] = deque()
        self._waiting = 0
        self._woken = False
        self._closed = False

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> asyncio.Future[T]:
        """Run `function(*arguments)` on the lane's thread; see `Offload`."""
        assert not self._closed, "a closed lane takes nothing"
        if self._loop is None:
            self._start()
        assert self._loop is not None
        if self._waiting >= OFFLOAD_JOBS:
            raise Busy(f"{self._waiting} functions wait in lane {self._name}")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        self._jobs.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Run what was accepted, then end the thread. Results still reach an open loop."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        # A daemon, so that a process which ends without closing its lanes does end.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, arguments = job
            result, failure = None, None
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits
                failure = error
            self._outcomes.append((future, result, failure))
            # While it waits for the next job the thread must not keep buffers or errors alive.
            del job, future, function, arguments, result, failure
            self._wake()

    def _wake(self) -> None:
        """Have `_deliver` called unless a call is due that will see what was just appended.

        `_deliver` clears the flag before it looks, so the worst a race costs is a wake-up in vain.
        """
        if self._woken:
            return
        self._woken = True
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to hear
            self._outcomes.clear()

    def _deliver(self) -> None:
        self._woken = False
        outcomes = self._outcomes
        while outcomes:
            future, result, failure = outcomes.popleft()
            self._waiting -= 1
            if future.done():
                continue
            if failure is None:
                future.set_result(result)
            elif isinstance(failure, StopIteration):  # asyncio refuses to carry it
                future.set_exception(RuntimeError("the function raised StopIteration"))
            else:
                future.set_exception(failure)
