"""Reads that wait for a slow disk: bounded, and dropped once nobody waits for them."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from pinfold.device.health import Health
from pinfold.device.readers import READS_BYTES, Readers
from pinfold.model.errors import Busy, DeadlineExceeded
from tests.twins.virtual import run_virtual


class SlowLane:
    """One job list a second."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def __call__(self, function: Callable[..., Any], /, *arguments: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._free_at = max(self._free_at, loop.time()) + 1
        loop.call_at(self._free_at, lambda: future.set_result(function(*arguments)))
        return future

    def close(self) -> None:
        """Nothing to end."""


def readers() -> Readers:
    return Readers([SlowLane()], Health(), lambda: asyncio.get_running_loop().time())


def test_a_read_that_waited_until_its_deadline_is_not_done() -> None:
    async def work() -> None:
        lane, done = readers(), []
        first = lane.read(0, lambda: done.append(1), size=1, deadline=5)
        await asyncio.sleep(0.1)
        late = lane.read(0, lambda: done.append(2), size=1, deadline=1.5)
        kept = lane.submit(0, lambda: done.append(3))
        await first
        with pytest.raises(DeadlineExceeded):
            await late
        await kept
        assert done == [1, 3]

    run_virtual(work)


def test_reads_beyond_the_limit_are_busy_and_frees_are_not() -> None:
    async def work() -> None:
        lane = readers()
        half = READS_BYTES // 2
        reads = [lane.read(0, int, size=half, deadline=math.inf) for _ in range(2)]
        with pytest.raises(Busy):
            lane.read(0, int, size=1, deadline=math.inf)
        freed = lane.submit(0, int)
        for one in (*reads, freed):
            assert await one == 0
        assert await lane.read(0, int, size=3 * READS_BYTES, deadline=math.inf) == 0

    run_virtual(work)
