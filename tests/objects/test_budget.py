"""The byte budget: never more out than there is, first come first served, nothing lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.model.errors import Busy
from pinfold.objects.budget import ByteBudget


def test_waiters_are_served_in_order_and_nobody_overtakes() -> None:
    async def run() -> list[str]:
        budget = ByteBudget(10, waiting_max=8)
        served: list[str] = []

        async def take(name: str, count: int) -> None:
            await budget.take(count, timeout_s=5)
            served.append(name)

        await budget.take(6, timeout_s=5)
        async with asyncio.TaskGroup() as group:
            group.create_task(take("large", 8))
            await asyncio.sleep(0)
            group.create_task(take("small", 1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert served == []
            budget.give(6)
        return served

    assert asyncio.run(run()) == ["large", "small"]


def test_who_is_told_to_be_content_gets_the_least_it_named() -> None:
    async def run() -> list[int]:
        budget = ByteBudget(10, waiting_max=8)
        await budget.take(8, timeout_s=5)
        async with asyncio.TaskGroup() as group:
            large = group.create_task(budget.take(9, timeout_s=5, least=1))
            fixed = group.create_task(budget.take(1, timeout_s=5))
            await asyncio.sleep(0)
            budget.make_content()
        assert budget.free == 0
        return [large.result(), fixed.result()]

    assert asyncio.run(run()) == [1, 1]


def test_too_many_waiting_is_busy_at_once() -> None:
    async def run() -> None:
        budget = ByteBudget(1, waiting_max=1)
        await budget.take(1, timeout_s=5)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(budget.take(1, timeout_s=5))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await budget.take(1, timeout_s=5)
            budget.give(1)
            await waiting

    asyncio.run(run())


def test_a_timeout_is_busy_and_takes_nothing() -> None:
    async def run() -> None:
        budget = ByteBudget(1, waiting_max=1)
        await budget.take(1, timeout_s=5)
        with pytest.raises(Busy):
            await budget.take(1, timeout_s=0)
        budget.give(1)
        assert budget.taken == 0

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(1, 10), st.booleans()), max_size=20), st.booleans())
def test_nothing_is_lost_whoever_is_cancelled(
    wishes: list[tuple[int, bool]], content: bool
) -> None:
    async def run() -> None:
        budget = ByteBudget(10, waiting_max=100)

        async def use(wish: int) -> None:
            count = await budget.take(wish, timeout_s=5, least=2)
            try:
                assert min(2, wish) <= count <= wish
                assert budget.taken <= 10
                await asyncio.sleep(0)
            finally:
                budget.give(count)

        tasks = []
        async with asyncio.TaskGroup() as group:
            for count, cancelled in wishes:
                tasks.append((group.create_task(use(count)), cancelled))
            await asyncio.sleep(0)
            if content:
                budget.make_content()
            for task, cancelled in tasks:
                if cancelled:
                    task.cancel()
        assert budget.taken == 0

    asyncio.run(run())
