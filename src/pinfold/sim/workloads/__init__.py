"""Who uses a simulated cluster; `bench` says how to add somebody."""

from collections.abc import Coroutine
from typing import Any

from pinfold.sim.workloads.accounts import keeper
from pinfold.sim.workloads.bench import Bench
from pinfold.sim.workloads.managers import manager
from pinfold.sim.workloads.objects import object_client, watcher
from pinfold.sim.workloads.rivals import rivals
from pinfold.sim.workloads.volumes import volume_client


def start(bench: Bench) -> dict[str, Coroutine[Any, Any, None]]:
    """The clients of a run by name, not yet begun."""
    plan = bench.plan
    clients: dict[str, Coroutine[Any, Any, None]] = {}
    for number in range(1, plan.object_clients + 1):
        clients[f"o{number}"] = object_client(bench, f"o{number}")
    if plan.watched:
        for gateway in plan.front:
            clients[f"w-{gateway}"] = watcher(bench, f"w-{gateway}", gateway)
    if plan.keyed:
        clients["k"] = keeper(bench, "k")
    if plan.managed:
        clients["m"] = manager(bench, "m")
    if plan.rivals:
        clients["r"] = rivals(bench, "r")
        return clients
    for number in range(1, plan.volume_clients + 1):
        clients[f"v{number}"] = volume_client(bench, f"v{number}")
    return clients
