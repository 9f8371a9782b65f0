"""One contract for every `Offload`, clock and source of randomness."""

import asyncio

import pytest

from pinfold.env.api import Env
from tests.env.conftest import Run


def test_functions_run_one_at_a_time_in_order(run: Run) -> None:
    async def body(env: Env) -> None:
        lane = env.new_offload("lane")
        ran: list[int] = []
        futures = [lane(ran.append, n) for n in range(50)]
        assert all(not future.done() for future in futures)
        for future in futures:
            await future
        assert ran == list(range(50))
        lane.close()

    run(body)


def test_results_and_errors_reach_the_caller(run: Run) -> None:
    async def body(env: Env) -> None:
        lane = env.new_offload("lane")
        assert await lane(len, b"abc") == 3
        with pytest.raises(ZeroDivisionError):
            await lane(lambda: 1 // 0)
        with pytest.raises(RuntimeError):
            await lane(next, iter(()))
        lane.close()

    run(body)


def test_close_finishes_what_was_accepted_and_tells_results(run: Run) -> None:
    async def body(env: Env) -> None:
        lane = env.new_offload("lane")
        futures = [lane(int, n) for n in range(20)]
        lane.close()
        assert [await future for future in futures] == list(range(20))

    run(body)


def test_a_future_given_up_stops_nothing(run: Run) -> None:
    async def body(env: Env) -> None:
        lane = env.new_offload("lane")
        ran: list[int] = []
        lane(ran.append, 1).cancel()
        await lane(ran.append, 2)
        assert ran == [1, 2]
        lane.close()

    run(body)


def test_two_lanes_do_not_wait_for_each_other(run: Run) -> None:
    async def body(env: Env) -> None:
        one, other = env.new_offload("one"), env.new_offload("other")
        async with asyncio.TaskGroup() as group:
            futures = [one(int, n) for n in range(100)] + [other(int, n) for n in range(100)]
            group.create_task(asyncio.sleep(0))
        assert sum([await future for future in futures]) == 9900
        one.close()
        other.close()

    run(body)


def test_the_clock_is_the_loops(run: Run) -> None:
    async def body(env: Env) -> None:
        loop = asyncio.get_running_loop()
        assert env.clock.monotonic() == pytest.approx(loop.time(), abs=0.1)
        before = env.clock.monotonic()
        await asyncio.sleep(0.02)
        assert env.clock.monotonic() - before >= 0.019
        assert env.clock.wall() > 1_700_000_000

    run(body)


def test_randomness_is_there(run: Run) -> None:
    async def body(env: Env) -> None:
        assert env.rng.randbytes(16) != env.rng.randbytes(16)
        assert 0 <= env.rng.random() < 1

    run(body)
