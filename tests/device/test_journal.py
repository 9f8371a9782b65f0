"""The journal's coroutine against lanes whose results come exactly when the test says."""

import asyncio
import signal
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from pinfold.device.health import Health
from pinfold.device.journal import Journal
from pinfold.device.segments import Recovered
from pinfold.env.api import Env
from pinfold.model.settings import DeviceSettings
from pinfold.sim.world import World

T = TypeVar("T")
SETTINGS = DeviceSettings.for_tests()


class HandLane:
    """Runs one function for each call of `finish`."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append((future, lambda: function(*arguments)))
        return future

    def finish(self) -> None:
        future, job = self._jobs.popleft()
        future.set_result(job())

    def close(self) -> None:
        assert not self._jobs, "closed with work left"


def hangs(_number: int, _frame: FrameType | None) -> None:
    raise AssertionError("the journal keeps the loop to itself")


def test_a_segment_made_in_the_instant_it_is_needed_does_not_hang_the_loop() -> None:
    """The writer asks for a segment after the lane is done and before the journal was told."""
    fill = HandLane()

    async def life(env: Env) -> None:
        env.disk.mkdir("/journal")
        found = Recovered(live=[], spare=[], next_sequence=1, next_slot=0, boot=0)
        lane = env.new_offload("journal")
        health = Health()
        journal = Journal(env.disk, lane, fill, "/journal", b"saltsalt", 1, SETTINGS, health, found)
        writer = asyncio.ensure_future(journal.run())
        await asyncio.sleep(0.01)  # it has asked for its first segment, and nothing else
        journal.append(1, (b"record",), 6)
        flushed = journal.flush()  # wakes the writer, which runs next ...
        fill.finish()  # ... and only behind it the callback that takes the segment
        await asyncio.sleep(0.01)
        fill.finish()  # the next one, made ahead of need
        await flushed
        assert journal.flushed == 1
        journal.close()
        await writer
        journal.close_files()
        lane.close()

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, 5.0)
    try:
        with World(1) as world:
            node = world.node("n1")

            async def scenario() -> None:
                await node.start(life)

            world.run(scenario())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_nobody_waits_for_is_flushed_by_a_closing() -> None:
    async def life(env: Env) -> None:
        env.disk.mkdir("/journal")
        found = Recovered(live=[], spare=[], next_sequence=1, next_slot=0, boot=0)
        lane, fill, health = env.new_offload("journal"), env.new_offload("fill"), Health()
        journal = Journal(env.disk, lane, fill, "/journal", b"saltsalt", 1, SETTINGS, health, found)
        writer = asyncio.ensure_future(journal.run())
        journal.append(1, (b"record",), 6)
        await journal.flush()
        journal.append(1, (b"record",), 6)
        await journal.written()
        assert (journal.reached, journal.flushed) == (2, 1)
        journal.append(1, (b"record",), 6)
        journal.close()
        await writer
        assert (journal.reached, journal.flushed) == (3, 3)
        journal.close_files()
        for one in (lane, fill):
            one.close()

    with World(1) as world:

        async def scenario() -> None:
            await world.node("n1").start(life)

        world.run(scenario())
