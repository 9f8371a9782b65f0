"""An asyncio loop with virtual time, where the seed decides and nodes can die.

Time stands still while callbacks run and jumps to the next timer when there are none. Every
callback belongs to the *process* in whose context it was scheduled (asyncio's contextvars carry
it through tasks, futures and timers); callbacks of a dead process are dropped and those of a
frozen one kept back, so a crash runs no code of its victim: no `finally`, no cancellation.

`time()` is the calling process's own monotonic clock: every process has another base and rate, so
a deadline that travels between nodes unconverted is seen at once.

Order: plain callbacks run first in, first out, as asyncio documents. Tasks woken in one batch are
shuffled by the seed: nobody may rely on their order. Tasks hash by creation number, because
asyncio keeps them in sets and set order would otherwise follow memory addresses.
"""

import asyncio
import contextvars
import heapq
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import BuiltinMethodType
from typing import Any, Final, TypeVar, cast

from pinfold.sim.trace import Trace

T = TypeVar("T")

_STEPS_MAX: Final = 50_000_000
"""Callbacks in one run: a world that does more is in a loop that time does not end."""


class Deadlock(Exception):
    """Nothing is left to run and the run's own result has not come."""


class NodeCrashed(BaseException):
    """Unwinds the code in which its process died; no `except Exception` sees it."""


class Process:
    """One incarnation of a node, from its start to its crash, with a clock of its own.

    Local time is `base + rate * world time`.
    """

    def __init__(self, name: str, *, base: float = 0.0, rate: float = 1.0) -> None:
        self.name = name
        self.base = base
        self.rate = rate
        self.alive = True
        self.frozen = False
        self.kept: list[asyncio.Handle] = []
        """Callbacks that came due while it was frozen."""
        self.context = contextvars.Context()
        self.context.run(_current.set, self)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Every task of the process not done yet, in creation order."""

    def local(self, world_time: float) -> float:
        """The process's monotonic clock at a world time."""
        return self.base + self.rate * world_time

    def world(self, local_time: float) -> float:
        """The world time at which the process's clock shows `local_time`."""
        return (local_time - self.base) / self.rate


_current: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current_process() -> Process | None:
    """The process whose code is running."""
    return _current.get(None)


class SimTask(asyncio.Task[Any]):
    """A task with a stable place in sets."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self.number = number  # first: the task is hashed while it is being made
        super().__init__(coro, **options)
        self.label = f"task {number} {coro.__qualname__}"  # type: ignore[attr-defined]
        """Its name in traces."""

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.AbstractEventLoop):
    """The loop. `run` is its entrance; what asyncio needs besides is below."""

    def __init__(self, seed: int | str, trace: Trace) -> None:
        self._rng = random.Random(f"{seed}/order")
        self._trace = trace
        self._now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._task_count = 0
        self._outside = Process("world")
        self._processes = [self._outside]
        self._closed = False
        self._running = False
        self.cpu_end = float("inf")
        """When a run is given up, in CPU time: how far it came by then is not deterministic."""
        self.failures: list[BaseException] = []
        """What callbacks raised; the first one ends the run."""

    # running

    @property
    def now(self) -> float:
        """World time in seconds."""
        return self._now

    def run(self, main: Coroutine[Any, Any, T], *, limit_s: float) -> T:
        """Run until `main` ends; raises what it or any callback raises.

        Deadlock when nothing can happen any more, TimeoutError past `limit_s` of world time or
        past `cpu_end`.
        """
        assert not self._running
        end = self._now + limit_s
        self._running = True
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=_leave_be)
        asyncio._set_running_loop(self)
        try:
            task = self._outside.context.copy().run(self.create_task, main)
            steps = batches = 0
            while not task.done():
                batches += 1
                if not batches % 1024 and time.process_time() > self.cpu_end:
                    raise TimeoutError(f"too slow: at {self._now:.3f} s of world time")
                self._advance(end)
                steps += self._run_batch()
                if self.failures:
                    raise self.failures[0]
                if steps > _STEPS_MAX:
                    raise TimeoutError(f"{steps} callbacks by {self._now:.3f} s")
            return task.result()
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            self._running = False

    def _advance(self, end: float) -> None:
        """Make due timers ready; jump to the next one if nothing is ready."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not self._ready:
            if not timers:
                raise Deadlock(f"nothing left to do at {self._now:.3f} s")
            self._now = max(self._now, timers[0][0])
            if self._now > end:
                raise TimeoutError(f"not done at {self._now:.3f} s of world time")
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    def _run_batch(self) -> int:
        batch = list(self._ready)
        self._ready.clear()
        if len(batch) > 1:
            self._shuffle_wakeups(batch)
        for handle in batch:
            if handle._cancelled:
                continue
            process = handle._context.get(_current)  # type: ignore[attr-defined]
            assert process is not None
            if not process.alive:
                continue
            if process.frozen:
                process.kept.append(handle)
                continue
            self._trace.add(self._now, process.name, _label(handle._callback))  # type: ignore[attr-defined]
            handle._run()
        return len(batch)

    def _shuffle_wakeups(self, batch: list[asyncio.Handle]) -> None:
        places = [place for place, handle in enumerate(batch) if _wakes_task(handle)]
        if len(places) > 1:
            order = places.copy()
            self._rng.shuffle(order)
            moved = [batch[place] for place in order]
            for place, handle in zip(places, moved, strict=True):
                batch[place] = handle

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on with all that came due meanwhile."""
        process.frozen = False
        kept, process.kept = process.kept, []
        self._ready.extend(kept)

    def bury(self, process: Process) -> None:
        """End a process: none of its code runs again. Its tasks stay with the loop.

        Collecting a suspended coroutine would run its `finally` blocks in the middle of a run.
        """
        process.alive = False
        process.kept.clear()

    def adopt(self, process: Process) -> None:
        """Own a process's tasks for as long as the loop lives."""
        self._processes.append(process)

    def close(self) -> None:
        """Forget everything; suspended coroutines end here, their effects go nowhere."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        for process in self._processes:
            for task in process.tasks:
                _dissolve(task)
            process.tasks.clear()
        self._ready.clear()
        self._timers.clear()

    # asyncio's interface

    def time(self) -> float:
        """The running process's monotonic clock."""
        return _current.get(self._outside).local(self._now)

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """See asyncio."""
        handle = asyncio.Handle(callback, args, self, self._owned(context))
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio; `when` is on the running process's clock."""
        context = self._owned(context)
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]
        self._timer_count += 1
        world_time = _current.get(self._outside).world(when)
        heapq.heappush(self._timers, (world_time, self._timer_count, timer))
        return timer

    def after(
        self, delay: float, process: Process, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call back on a process after seconds of world time, whatever its clock says."""
        timer = asyncio.TimerHandle(0.0, callback, args, self, process.context)
        self._timer_count += 1
        heapq.heappush(self._timers, (self._now + delay, self._timer_count, timer))

    def _owned(self, context: contextvars.Context | None) -> contextvars.Context:
        if context is None:
            context = contextvars.copy_context()
        if _current not in context:
            context.run(_current.set, self._outside)
        return context

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio tells of cancelled timers; they are dropped when they come due."""

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """See asyncio."""
        context = self._owned(context)
        self._task_count += 1
        number = self._task_count
        name = name or f"task {number}"
        work = cast(Coroutine[Any, Any, T], coro)
        task = SimTask(work, number=number, loop=self, name=name, context=context)
        process = context[_current]
        process.tasks[task] = None
        task.add_done_callback(_forget_task, context=context)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback raised. What the collector reports of futures depends on memory: not here."""
        error = context.get("exception")
        if isinstance(error, NodeCrashed):
            return
        if error is not None and "never retrieved" not in context.get("message", ""):
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        process = current_process()
        if process is None or process.alive:
            self.failures.append(error)

    def is_running(self) -> bool:
        """See asyncio."""
        return self._running

    def is_closed(self) -> bool:
        """See asyncio."""
        return self._closed

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    async def shutdown_asyncgens(self) -> None:
        """See asyncio; nothing is tracked."""


def _leave_be(generator: object) -> None:
    """A generator that nobody closed: when the collector finds it depends on memory."""


def _forget_task(task: asyncio.Task[Any]) -> None:
    process = current_process()
    assert process is not None
    process.tasks.pop(task, None)


def _wakes_task(handle: asyncio.Handle) -> bool:
    """Whether the callback wakes a task from a future it awaited (not: starts one)."""
    callback = handle._callback  # type: ignore[attr-defined]
    return type(callback) is BuiltinMethodType and isinstance(callback.__self__, SimTask)


def _label(callback: Any) -> str:
    """A name for the trace that is the same in every run."""
    owner = getattr(callback, "__self__", None)
    if type(owner) is SimTask:
        return owner.label
    while (inner := getattr(callback, "func", None)) is not None:
        callback = inner
    return getattr(callback, "__qualname__", type(callback).__name__)


def _dissolve(task: asyncio.Task[Any]) -> None:
    """End a suspended coroutine of a world that is over, whatever it does about it."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    assert coroutine is not None
    for _ in range(100):
        try:
            coroutine.close()
        except RuntimeError:  # it awaits while it is being closed
            continue
        except BaseException:  # noqa: BLE001 - it lives in no world any more
            continue
        return
