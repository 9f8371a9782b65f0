"""What an operator does who finds a healed cluster with stopped devices, or groups without primary.

A device that has stopped serves again when its node is restarted, the handbook says.

A group is forced to the members that are whole when it stays without a primary, as one may that
lost a member's memory, while another was copying, before it had named all members' births.
Everything acknowledged must be there afterwards, as always.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from pinfold.model.errors import PinfoldError
from pinfold.node.groups import Groups
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess, StorageProcess
from pinfold.sim.workloads.bench import Bench

NAME: Final = "operator"
"""Who acts, in histories and accounts."""

WATCH_S: Final = 15.0
"""Groups find a primary within seconds of a quorum being up: later somebody has to act."""

RESTART_S: Final = 2.0
"""Time for a node to start."""

LOOK_S: Final = 0.25
"""Between two looks."""

FORCE_S: Final = 20.0
"""Patience of one command."""


async def restart_stopped(bench: Bench) -> None:
    """Restart nodes whose devices have stopped, until none has: an error may come late."""
    cluster = bench.cluster
    while stopped := [name for name, process in cluster.storage.items() if _has_stopped(process)]:
        for name in stopped:
            bench.account.tell(NAME, f"restarts {name}, of which a device has stopped")
            cluster.crash(name)
            cluster.start(name)
        await asyncio.sleep(RESTART_S)


def _has_stopped(process: StorageProcess) -> bool:
    return any(device["state"] == "stopped" for device in process.role.status()["devices"])


async def attend(bench: Bench, unserved: Callable[[], list[int]]) -> None:
    """Give all groups time to find a primary, then force those that have none."""
    loop = asyncio.get_running_loop()
    until = loop.time() + WATCH_S
    while unserved():
        if loop.time() >= until:
            break
        await asyncio.sleep(LOOK_S)
    for group in unserved():
        await _force(bench, group)


async def _force(bench: Bench, group: int) -> None:
    async def force(process: GatewayProcess) -> str:
        context = process.context
        groups = Groups(context.env.clock, context.map, context.peers)
        told = (await groups.show(group))["devices"]
        whole = [one["device"] for one in told if one["standing"] == "member"]
        done = await groups.force_members(group, whole)
        return f"forces group {group} to {whole}, up to op {done['kept_op']}"

    gateway = bench.plan.front[0]
    try:
        done = await bench.ask(NAME, gateway, f"force group {group}", force, FORCE_S)
        bench.account.count("operator force")
    except (PinfoldError, Down, ProcessDied, TimeoutError) as error:
        done = f"cannot force group {group}: {error}"
    bench.account.tell(NAME, done)
