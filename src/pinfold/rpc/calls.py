"""Calls in flight: each ends exactly once, by an answer, an error, a loss or its deadline.

Deadlines cost one timer for all calls: it is set for the earliest deadline known, and when it
fires the calls are swept. Most calls have the same few lengths and end long before, so sweeps are
rare, and nothing is added to a heap or taken from it per call.
"""

import asyncio
import math
from typing import Final

from pinfold.env.api import Clock
from pinfold.model.errors import DeadlineExceeded, PinfoldError
from pinfold.rpc.api import Answer

_SWEEP_S: Final = 0.01
"""Least seconds between sweeps, hence how late a deadline may be noticed."""


class CallTable:
    """Futures by call id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, tuple[asyncio.Future[Answer], float]] = {}
        self._next_id = 1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, deadline: float) -> tuple[int, asyncio.Future[Answer]]:
        """A new call's id and future."""
        number = self._next_id
        self._next_id = number + 1
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._calls[number] = (future, deadline)
        if deadline < self._timer_at:
            self._arm(deadline)
        return number, future

    def succeed(self, number: int, answer: Answer) -> None:
        """End a call; nothing happens when it has ended already."""
        call = self._calls.pop(number, None)
        if call is not None and not call[0].done():
            call[0].set_result(answer)

    def fail(self, number: int, error: PinfoldError) -> None:
        """End a call with an error; nothing happens when it has ended already."""
        call = self._calls.pop(number, None)
        if call is not None:
            fail_quietly(call[0], error)

    def fail_all(self, error: PinfoldError) -> None:
        """End every call, in the order they were made."""
        calls, self._calls = self._calls, {}
        for future, _ in calls.values():
            # One object raised in many tasks would gather all their tracebacks.
            fail_quietly(future, type(error)(error.message, detail=error.detail))
        self._disarm()

    def _arm(self, deadline: float) -> None:
        self._disarm()
        self._timer_at = deadline
        self._timer = self._loop.call_later(
            max(deadline - self._clock.monotonic(), _SWEEP_S), self._sweep
        )

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf

    def _sweep(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        now = self._clock.monotonic()
        earliest = math.inf
        late: list[int] = []
        for number, (_, deadline) in self._calls.items():
            if deadline <= now:
                late.append(number)
            elif deadline < earliest:
                earliest = deadline
        for number in late:
            self.fail(number, DeadlineExceeded("no answer came before the deadline"))
        if earliest < math.inf:
            self._arm(earliest)


def fail_quietly(future: asyncio.Future[Answer], error: PinfoldError) -> None:
    """Set an error that nobody need look at: a quorum reached without this peer is no mistake."""
    if not future.done():
        future.set_exception(error)
        future.exception()
