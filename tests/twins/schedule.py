"""Interleavings of tasks at their row operations, chosen one step at a time by a seed.

Every actor stops before and after each of its row operations (`MemoryRows.turn`); the schedule lets
one of those that stand there go on, then waits until it stands again, sleeps or has ended. Actors
have priorities that change now and then: so one may lie still in the middle of its work while the
others do all of theirs, which uniform choices would hardly ever give.

Run it on a `VirtualLoop`: actors that sleep wake when their time has come.
"""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

STEP_S = 0.002
"""Virtual time of one choice: pauses of the product are worth a few."""

CHOICES_MAX = 20_000
"""More means that some actor never ends."""


class Schedule:
    """Orders the steps of actors."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._unrest = rng.choice([0.03, 0.1, 0.3, 1.0])
        """How often a priority changes: each time, the choice is uniform."""
        self._standing: list[tuple[str, asyncio.Future[None]]] = []
        self._priorities: dict[str, float] = {}
        self._choices = 0

    async def turn(self) -> None:
        """Stand here until chosen."""
        task = asyncio.current_task()
        assert task is not None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._standing.append((task.get_name(), future))
        await future

    async def play(self, *actors: Coroutine[Any, Any, None]) -> None:
        """Run actors to their ends. What one raises is raised when all have ended."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(actor, name=f"actor {at}") for at, actor in enumerate(actors)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(STEP_S)
            self._standing = [one for one in self._standing if not one[1].done()]
            if self._standing:
                self._choose().set_result(None)
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in errors:
            if error is not None:
                raise error

    def _choose(self) -> "asyncio.Future[None]":
        self._choices += 1
        assert self._choices < CHOICES_MAX, "an actor that never ends"
        for name, _ in self._standing:
            if name not in self._priorities or self._rng.random() < self._unrest:
                self._priorities[name] = self._rng.random()
        chosen = max(self._standing, key=lambda one: self._priorities[one[0]])
        self._standing.remove(chosen)
        return chosen[1]
