"""Runs a contract against the machine and against the simulator."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from pinfold.env.api import Env
from pinfold.env.real import real_env
from pinfold.sim.world import World

Run = Callable[[Callable[[Env], Awaitable[None]]], None]


async def _bounded(body: Callable[[Env], Awaitable[None]]) -> None:
    async with asyncio.timeout(10):
        await body(real_env())


def run_real(body: Callable[[Env], Awaitable[None]]) -> None:
    asyncio.run(_bounded(body))


def run_uvloop(body: Callable[[Env], Awaitable[None]]) -> None:
    uvloop.run(_bounded(body))


def run_simulated(body: Callable[[Env], Awaitable[None]]) -> None:
    async def scenario(env: Env) -> None:
        await body(env)

    for seed in range(5):
        with World(seed) as world:

            async def whole() -> None:
                await world.node("n1").start(scenario)

            world.run(whole())


@pytest.fixture(params=[run_real, run_uvloop, run_simulated])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found
