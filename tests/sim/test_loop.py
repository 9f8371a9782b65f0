"""The loop: virtual time, one order per seed, and processes that die without a word."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from pinfold.env.tasks import TaskScope
from pinfold.sim.loop import Deadlock, current_process
from pinfold.sim.world import World


def test_time_jumps_to_the_next_timer() -> None:
    async def scenario() -> float:
        start = asyncio.get_running_loop().time()
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time() - start

    with World(1) as world:
        assert world.run(scenario(), limit_s=1e6) == pytest.approx(86_400)


def test_nothing_left_to_do_is_a_deadlock() -> None:
    async def scenario() -> None:
        await asyncio.get_running_loop().create_future()

    with World(1) as world, pytest.raises(Deadlock):
        world.run(scenario())


def test_a_run_that_does_not_end_is_ended() -> None:
    async def scenario() -> None:
        await asyncio.sleep(11)

    with World(1) as world, pytest.raises(TimeoutError):
        world.run(scenario(), limit_s=10)


def test_a_run_is_given_up_by_the_work_it_takes_and_not_for_a_machine_that_slept() -> None:
    async def main(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)

    with World(1) as world:
        world.loop.cpu_end = time.process_time() + 0.5
        time.sleep(0.6)
        world.run(main(3000), limit_s=10)
        with pytest.raises(TimeoutError, match="too slow"):
            world.run(main(10_000_000), limit_s=10)


def test_what_a_callback_raises_ends_the_run() -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    with World(1) as world, pytest.raises(ZeroDivisionError):
        world.run(scenario())


def test_plain_callbacks_keep_their_order_and_tasks_start_in_order() -> None:
    async def scenario() -> list[int]:
        ran: list[int] = []
        loop = asyncio.get_running_loop()

        async def work(n: int) -> None:
            ran.append(n)

        for n in range(50):
            loop.call_soon(ran.append, n)
        await asyncio.sleep(0.1)
        async with asyncio.TaskGroup() as group:
            for n in range(50, 100):
                group.create_task(work(n))
        return ran

    for seed in range(5):
        with World(seed) as world:
            assert world.run(scenario()) == list(range(100))


async def woken_order() -> list[int]:
    ran: list[int] = []
    gate = asyncio.Event()

    async def work(n: int) -> None:
        await gate.wait()
        ran.append(n)

    async with asyncio.TaskGroup() as group:
        for n in range(10):
            group.create_task(work(n))
        await asyncio.sleep(0.1)
        gate.set()
    return ran


def test_the_order_of_woken_tasks_is_the_seeds() -> None:
    def order(seed: int) -> list[int]:
        with World(seed) as world:
            return world.run(woken_order())

    orders = [order(seed) for seed in range(5)]
    assert orders == [order(seed) for seed in range(5)]
    assert len({tuple(o) for o in orders}) > 1


async def racing() -> list[str]:
    """Leans on everything that could follow memory: task sets, cancellation, timers."""
    told: list[str] = []

    async def work(n: int) -> None:
        try:
            await asyncio.sleep(1 + n % 3)
            if n == 7:
                raise ValueError(n)
        except asyncio.CancelledError:
            told.append(f"cancelled {n}")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(20):
                group.create_task(work(n))
    except* ValueError:
        told.append("failed")
    return told


def fingerprint() -> list[object]:
    """What seeds 0 to 4 give in this process."""
    found: list[object] = []
    for seed in range(5):
        with World(seed) as world:
            found.append([world.run(racing()), world.run(woken_order()), world.trace.digest()])
    return found


def test_equal_seeds_give_equal_traces_in_any_process() -> None:
    mine = hashlib.sha256(json.dumps(fingerprint()).encode()).hexdigest()
    code = (
        "import hashlib, json; junk = [object() for _ in range(12345)]\n"
        "from tests.sim.test_loop import fingerprint\n"
        "print(hashlib.sha256(json.dumps(fingerprint()).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout.strip() == mine, done.stderr


def test_a_crash_runs_no_code_of_its_victim() -> None:
    told: list[str] = []

    async def victim(env: object) -> None:
        scope = TaskScope(lambda error: told.append("failed"))

        async def child() -> None:
            try:
                await asyncio.sleep(1)
                told.append("child went on")
            finally:
                told.append("child's finally")

        scope.start(child())
        asyncio.get_running_loop().call_later(0.5, told.append, "early")
        asyncio.get_running_loop().call_later(1, told.append, "late")
        try:
            await asyncio.sleep(0.7)
            told.append("main went on")
            await asyncio.get_running_loop().create_future()
        finally:
            told.append("main's finally")

    async def scenario() -> None:
        node = world.node("n1")
        node.start(victim)
        await asyncio.sleep(0.75)
        node.crash()
        assert not node.alive
        await asyncio.sleep(10)
        assert told == ["early", "main went on"]

    with World(3) as world:
        world.run(scenario())
        del told[:]


def test_a_frozen_process_goes_on_where_it_was() -> None:
    ticks: list[float] = []

    async def ticking(env: object) -> None:
        while True:
            await asyncio.sleep(1)
            ticks.append(world.loop.now)

    async def scenario() -> None:
        node = world.node("n1")
        node.start(ticking)
        await asyncio.sleep(2.5)
        node.freeze()
        await asyncio.sleep(10)
        assert len(ticks) == 2
        node.thaw()
        await asyncio.sleep(2)
        assert len(ticks) == 4 or len(ticks) == 5
        assert ticks[2] == pytest.approx(12.5)

    with World(3) as world:
        world.run(scenario())


def test_every_process_has_a_clock_of_its_own() -> None:
    async def clocks(env: object) -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        before = loop.time()
        start = world.loop.now
        await asyncio.sleep(100)
        process = current_process()
        assert process is not None
        return before, loop.time() - before, (world.loop.now - start) * process.rate

    async def scenario() -> None:
        (a, a_slept, a_took), (b, b_slept, b_took) = [
            await world.node(name).start(clocks) for name in ("a", "b")
        ]
        assert abs(a - b) > 1000
        assert a_slept == pytest.approx(100)
        assert b_slept == pytest.approx(100)
        assert a_took == pytest.approx(100)
        assert b_took == pytest.approx(100)
        assert world.node("a").env.clock.monotonic() != world.node("b").env.clock.monotonic()

    with World(4) as world:
        world.run(scenario())


def test_cancellation_and_timeouts_work_as_ever() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(2)
        task = asyncio.get_running_loop().create_task(asyncio.sleep(5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with World(4) as world:
        world.run(scenario())
