import asyncio
import threading

import pytest

from pinfold.env.lanes import ThreadLane


def test_functions_run_in_order_on_one_other_thread() -> None:
    async def body() -> None:
        lane = ThreadLane("lane")
        ran: list[tuple[int, int]] = []
        futures = [lane(lambda n: ran.append((n, threading.get_ident())), n) for n in range(500)]
        for future in futures:
            await future
        assert [n for n, _ in ran] == list(range(500))
        assert len({thread for _, thread in ran}) == 1
        assert ran[0][1] != threading.get_ident()
        lane.close()

    asyncio.run(body())


def test_what_a_function_raises_reaches_its_caller() -> None:
    async def body() -> None:
        lane = ThreadLane("lane")
        with pytest.raises(ZeroDivisionError):
            await lane(lambda: 1 // 0)
        with pytest.raises(RuntimeError):
            await lane(next, iter(()))
        assert await lane(len, b"abc") == 3
        lane.close()

    asyncio.run(body())


class Counting(ThreadLane):
    """Counts its wake-ups."""

    deliveries = 0

    def _deliver(self) -> None:
        self.deliveries += 1
        super()._deliver()


def test_results_of_a_burst_come_in_few_wake_ups() -> None:
    async def body() -> None:
        lane = Counting("lane")
        gate = threading.Event()
        futures = [lane(gate.wait)] + [lane(int, n) for n in range(100)]
        gate.set()
        loop_busy = threading.Event()
        last = lane(loop_busy.set)
        loop_busy.wait(10)  # the loop is blocked here while the lane finishes
        assert not any(future.done() for future in futures)
        await last
        assert [future.result() for future in futures[1:]] == list(range(100))
        assert lane.deliveries <= 2
        lane.close()

    asyncio.run(body())
