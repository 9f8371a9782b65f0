"""Answers that many ask for at once."""

import asyncio

import pytest

from pinfold.admin.shared import FRESH_S, Shared
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Unavailable
from tests.twins.virtual import run_virtual


def test_a_run_is_shared_and_its_answer_for_a_moment() -> None:
    async def run() -> None:
        runs = 0

        async def make() -> int:
            nonlocal runs
            runs += 1
            await asyncio.sleep(1)
            return runs

        scope = TaskScope(lambda error: None)
        shared = Shared(scope, make)
        assert await asyncio.gather(*(shared.get() for _ in range(9))) == [1] * 9
        await asyncio.sleep(FRESH_S / 2)
        assert await shared.get() == 1
        await asyncio.sleep(FRESH_S)
        assert await shared.get() == 2
        await scope.close()

    run_virtual(run)


def test_a_failure_is_everybodys_who_asked_and_nobodys_behind_them() -> None:
    async def run() -> None:
        fails = True

        async def make() -> str:
            await asyncio.sleep(1)
            if fails:
                raise Unavailable("nobody answers")
            return "answer"

        scope = TaskScope(lambda error: None)
        shared = Shared(scope, make)
        outcomes = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2
        fails = False
        assert await shared.get() == "answer"
        await scope.close()

    run_virtual(run)


def test_who_leaves_takes_the_answer_from_nobody() -> None:
    async def run() -> None:
        async def make() -> str:
            await asyncio.sleep(1)
            return "answer"

        scope = TaskScope(lambda error: None)
        shared = Shared(scope, make)
        first = asyncio.ensure_future(shared.get())
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(shared.get())
        await asyncio.sleep(0.1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == "answer"
        await scope.close()

    run_virtual(run)
