"""One shape for all background work, and the supervisor that runs it.

A `Worker` finds jobs and does one. Everything else is the supervisor's: bounded queue, order,
retries with back-off, pace, yielding to clients, status. `find` gathers facts in small steps and
leaves every decision to a pure function or object beside the worker.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import structlog

from pinfold.care.agenda import Agenda, Job
from pinfold.care.pace import SLOWEST, Pace
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError
from pinfold.model.settings import WorkerSettings

_log: Final = structlog.get_logger("pinfold.care")

LATE_S: Final = 0.05
"""A loop that wakes its sleepers so late is fully loaded: clients wait as long for each step."""

_NEW_WEIGHT: Final = 0.1
"""Weight of the latest measurement in an average."""

J = TypeVar("J", bound=Job)


class Found(msgspec.Struct, Generic[J], frozen=True, kw_only=True):
    """What one step of looking for work gave."""

    jobs: Sequence[J] = ()
    """At most as many as there was room for: others are found again."""
    wait_s: float = 0.0
    """There is nothing more to be found before."""


class Worker(Protocol[J]):
    """One kind of care."""

    @property
    def name(self) -> str:
        """As operators and metrics know it."""
        ...

    async def find(self, room: int) -> Found[J]:
        """One short step of looking for work: up to `room` jobs. Errors are PinfoldErrors."""
        ...

    async def run(self, job: J) -> int:
        """Do a job; the bytes moved. Doing it twice is as good as once."""
        ...

    def gave_up(self, job: J) -> None:
        """A job has failed as often as is tried: `find` is to find it again, later."""
        ...


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as operators see it."""

    name: str
    state: str
    """idle, working, or stopped by a bug that the log tells of."""
    queued: int
    """Jobs found and not done."""
    queued_bytes: int
    done: int
    done_bytes: int
    failed: int
    """Jobs given up for now."""
    last_error: str
    """Of the latest job or step that failed; empty when nothing has."""
    left_s: float | None
    """Until what is queued will be done, if nothing slows it down; None when it never will."""


class Supervisor(Generic[J]):
    """Runs one worker. `load` tells how busy the foreground is, from 0 to 1."""

    def __init__(
        self,
        env: Env,
        worker: Worker[J],
        settings: WorkerSettings,
        load: Callable[[], float],
    ) -> None:
        self._clock = env.clock
        self._worker = worker
        self._settings = settings
        self._load = load
        self.agenda = Agenda[J](
            limit=settings.queue_max,
            tries_max=settings.tries_max,
            backoff_s=settings.backoff_s,
        )
        self._pace = Pace(settings.bytes_per_s, settings.operations_per_s)
        self._scope = TaskScope(self._broken)
        self._wake = asyncio.Event()
        self._find_at = 0.0
        self._running = 0
        self._late_s = 0.0
        self._bug: BaseException | None = None
        self._done = 0
        self._done_bytes = 0
        self._failed = 0
        self._last_error = ""
        self._job_s = 0.0

    def wake(self) -> None:
        """There may be work to find before the worker said so."""
        self._find_at = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Find and do, for ever. Ends by cancellation or by the worker's bug, which it raises."""
        try:
            while self._bug is None:
                self._wake.clear()
                if not await self._step():
                    await self._pause()
            raise self._bug
        except BaseException as error:
            self._bug = self._bug or error
            raise
        finally:
            await self._scope.close()

    def status(self) -> WorkerStatus:
        """What operators see."""
        agenda, settings = self.agenda, self._settings
        left_s = max(
            agenda.queued * self._job_s / settings.jobs_at_once,
            agenda.queued / settings.operations_per_s,
            agenda.queued_bytes / settings.bytes_per_s,
        )
        stopped = self._bug is not None
        return WorkerStatus(
            name=self._worker.name,
            state="stopped" if stopped else "working" if agenda.queued else "idle",
            queued=agenda.queued,
            queued_bytes=agenda.queued_bytes,
            done=self._done,
            done_bytes=self._done_bytes,
            failed=self._failed,
            last_error=self._last_error,
            left_s=None if stopped else left_s,
        )

    async def _step(self) -> bool:
        """Start one job, or look for some; whether there may be more to do at once."""
        if self._running < self._settings.jobs_at_once:
            job = self.agenda.take(self._clock.monotonic())
            if job is not None:
                self._running += 1
                await self._paced(job.size)
                self._scope.start(self._do(job))
                return True
        if self._roomy and self._clock.monotonic() >= self._find_at:
            await self._paced(0)
            await self._look()
            return True
        return False

    @property
    def _roomy(self) -> bool:
        """Whether a step of looking is worth it: what does not fit is looked for again."""
        return 2 * self.agenda.room >= self._settings.queue_max

    async def _look(self) -> None:
        began = self._clock.monotonic()
        try:
            found = await self._worker.find(self.agenda.room)
        except PinfoldError as error:
            self._last_error = error.message
            self._find_at = self._clock.monotonic() + self._settings.backoff_s
            return
        for job in found.jobs:
            self.agenda.offer(job)
        now = self._clock.monotonic()
        rest_s = (now - began) * (1 / self._settings.look_share - 1) / max(1 - self._busy, SLOWEST)
        self._find_at = now + max(found.wait_s, rest_s)

    async def _do(self, job: J) -> None:
        began = self._clock.monotonic()
        try:
            moved = await self._worker.run(job)
        except PinfoldError as error:
            self._last_error = error.message
            if not self.agenda.failed(job, self._clock.monotonic()):
                self._failed += 1
                _log.info("given up for now", worker=self._worker.name, reason=error.message)
                self._worker.gave_up(job)
        else:
            self.agenda.done(job)
            self._done += 1
            self._done_bytes += moved
            took_s = self._clock.monotonic() - began
            self._job_s += (took_s - self._job_s) * (_NEW_WEIGHT if self._done > 1 else 1.0)
        finally:
            self._running -= 1
            self._wake.set()

    @property
    def _busy(self) -> float:
        """How busy the node is, from 0 to 1."""
        return min(max(self._load(), self._late_s / LATE_S, 0.0), 1.0)

    async def _paced(self, size: int) -> None:
        before = self._clock.monotonic()
        wait_s = self._pace.take(before, size, self._busy)
        await asyncio.sleep(wait_s)
        late_s = max(0.0, self._clock.monotonic() - before - wait_s)
        self._late_s += (late_s - self._late_s) * _NEW_WEIGHT

    async def _pause(self) -> None:
        """Until a job ends, waits no longer, or may be found."""
        now = self._clock.monotonic()
        waits = [self._find_at - now] if self._roomy else []
        retry_s = self.agenda.wait_s(now)
        if retry_s is not None and self._running < self._settings.jobs_at_once:
            waits.append(retry_s)
        try:
            async with asyncio.timeout(max(min(waits), 0.0) if waits else None):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _broken(self, error: BaseException) -> None:
        self._bug = self._bug or error
        self._wake.set()
