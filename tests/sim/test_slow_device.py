"""One device of three becomes far slower than the others: what a whole cluster does about it."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import pytest

from pinfold.cluster.api import Change, Row
from pinfold.model.ids import OpId
from pinfold.model.limits import KIB
from pinfold.model.settings import DeviceSettings
from pinfold.node.settings import NodeSettings
from pinfold.sim.account import Account
from pinfold.sim.checkers.history import Recorder
from pinfold.sim.cluster import SimCluster
from pinfold.sim.plan import make_plan
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.world import World
from pinfold.volumes.io import FLUSH, WRITE

PLAN = dataclasses.replace(
    make_plan(0),
    nodes=3,
    devices_per_node=1,
    gateways=1,
    group_copies=3,
    groups_power=3,
    drift=0.0,
    settings=NodeSettings(device=DeviceSettings.for_tests()),
)


class Load:
    """Rows, blobs and a volume, written all the time; what they took, since the last look."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times: dict[str, list[float]] = {}
        self._count = 0
        self.stopping = False

    async def run(self, gateway: GatewayProcess) -> None:
        """Until `stopping`."""
        await gateway.sessions.registry.create("disk", 1 << 20)
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(self._repeat("row", lambda n=number: self._row(gateway, n)))
            group.create_task(self._repeat("blob", lambda: gateway.clients.blobs.put([bytes(900)])))
            large = [bytes(100 * KIB)]
            group.create_task(self._repeat("large", lambda: gateway.clients.blobs.put(large)))
            group.create_task(self._repeat("disk", lambda: self._disk(gateway)))

    async def _repeat(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        while not self.stopping:
            began = self._world.loop.now
            await work()
            self._times.setdefault(what, []).append(self._world.loop.now - began)
            await asyncio.sleep(0.05)

    async def _row(self, gateway: GatewayProcess, number: int) -> None:
        self._count += 1
        change = Change(OpId(self._count.to_bytes(16, "big")), puts=((b"k%d" % number, Row(b"x")),))
        await gateway.clients.rows.change(b"place %d" % number, change)

    async def _disk(self, gateway: GatewayProcess) -> None:
        await gateway.guests.do("guest", "disk", WRITE, 0, 4096, payload=bytes(4096))
        await gateway.guests.do("guest", "disk", FLUSH, 0, 0)

    async def over(self, seconds: float) -> dict[str, float]:
        """Medians of the next seconds."""
        self._times.clear()
        await asyncio.sleep(seconds)
        return {what: median(times) for what, times in self._times.items()}


def device_of(cluster: SimCluster, name: str) -> dict[str, Any]:
    [device] = cluster.storage[name].role.status()["devices"]
    found: dict[str, Any] = device
    return found


def led_by(cluster: SimCluster, name: str) -> int:
    return len(cluster.storage[name].role.status()["groups"])


async def volume_out(cluster: SimCluster) -> tuple[int, ...]:
    async def show(gateway: GatewayProcess) -> tuple[int, ...]:
        return (await gateway.sessions.registry.show("disk")).out_of_sync

    return await cluster.ask("g1", show)


async def until(condition: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("times", [10, 100])
def test_a_slow_device_holds_nobody_up_for_long_and_comes_back(times: int) -> None:
    with World(times) as world:
        cluster = SimCluster(
            world, PLAN, Account(lambda: world.loop.now), Recorder(lambda: world.loop.now)
        )

        async def scenario() -> None:
            await cluster.found()
            await until(lambda: sum(led_by(cluster, n) for n in cluster.storage) == 8, 40)
            load = Load(world)
            loading = asyncio.create_task(cluster.ask("g1", load.run))
            await asyncio.sleep(3)
            usual = await load.over(3)

            slow = max(cluster.storage, key=lambda name: led_by(cluster, name))
            assert led_by(cluster, slow) >= 3
            faults = world.node(slow).disk.faults
            sync_s, call_s = faults.sync_s, faults.call_s
            faults.sync_s = (sync_s[0] * times, sync_s[1] * times)
            faults.call_s = (call_s[0] * times, call_s[1] * times)
            await asyncio.sleep(8)
            while_slow = await load.over(3)
            for what, took_s in while_slow.items():
                assert took_s < 2 * usual[what] + 0.003, (what, took_s, usual[what])
            assert device_of(cluster, slow)["slow"]
            assert led_by(cluster, slow) == 0
            assert await volume_out(cluster) == (device_of(cluster, slow)["id"],)
            assert not any(
                device_of(cluster, name)["slow"] for name in cluster.storage if name != slow
            )

            faults.sync_s, faults.call_s = sync_s, call_s
            await until(lambda: not device_of(cluster, slow)["slow"], 20)
            await until(lambda: led_by(cluster, slow) > 0, 40)
            await asyncio.sleep(10)
            assert await volume_out(cluster) == ()
            load.stopping = True
            await loading

        world.run(scenario(), limit_s=300)
