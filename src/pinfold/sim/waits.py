"""Who waits for what when a run does not end: clients first, then the tasks of every node."""

import asyncio
from collections import Counter
from types import CoroutineType
from typing import Any, Final

from pinfold.sim.workloads.bench import Bench
from pinfold.sim.world import World

_PLACES: Final = 6
"""Innermost places told of one task."""


def who_waits(world: World, bench: Bench) -> list[str]:
    """Lines about everything that is waiting, equal tasks of a node counted together."""
    lines = [f"  {client} waits for {what}" for client, what in bench.waiting.items()]
    for name, node in world.nodes.items():
        if node.process is None:
            lines.append(f"  {name} is down")
            continue
        state = " (frozen)" if node.process.frozen else ""
        stacks = Counter(_stack(task) for task in node.process.tasks)
        lines += [f"  {name}{state}: {count} x {stack}" for stack, count in stacks.items()]
    return lines


def _stack(task: asyncio.Task[Any]) -> str:
    """The chain of coroutines that a task is in, innermost last."""
    places: list[str] = []
    coroutine: Any = task.get_coro()
    while isinstance(coroutine, CoroutineType):
        line = coroutine.cr_frame.f_lineno if coroutine.cr_frame is not None else 0
        file = coroutine.cr_code.co_filename.rsplit("/", 1)[-1]
        places.append(f"{coroutine.cr_code.co_name} ({file}:{line})")
        coroutine = coroutine.cr_await
    return " > ".join(places[-_PLACES:])
