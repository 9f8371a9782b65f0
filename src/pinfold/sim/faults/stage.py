"""Where faults are played: what they may touch, what they must respect, and how all of it ends.

A fault is a coroutine function of a `Stage`, listed by name in `pinfold.sim.faults`. It breaks
something, perhaps waits, and mends it; the stage repeats it at seeded pauses until the safety phase
is over, then `heal` undoes whatever is still broken, also where a fault was cut short.

To add one: write the function in a module beside this one, draw every choice from `stage.rng`,
tell `stage.account` what happens, list it in `FAULTS` and give it a pause in `plan.FAULT_RATES`.
What it breaks for good (memory, bytes) may be on `stage.victim` only: policies promise to survive
the loss of one device, and crashes of any number.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pinfold.cluster.map import DeviceEntry
from pinfold.env.tasks import TaskScope
from pinfold.model.ids import NodeName
from pinfold.sim.account import Account
from pinfold.sim.cluster import SimCluster
from pinfold.sim.diskfaults import DiskFaults
from pinfold.sim.net import NetFaults
from pinfold.sim.plan import DISK_BYTES
from pinfold.sim.world import SimNode, World

Fault = Callable[["Stage"], Coroutine[Any, Any, None]]


_END_OF_ALL_CHANCE: Final = 0.4
"""How likely the last of all faults ends every process, amid the clients' last requests."""


class Stage:
    """One run's cluster with everything that is broken in it."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.account: Account = cluster.account
        self.world: World = cluster.world
        self.rng = random.Random(f"{cluster.plan.seed}/faults")
        self.victim: DeviceEntry = self.rng.choice(cluster.map.devices)
        """The only device that may lose what it acknowledged."""
        self.hurt = False
        """Whether it has."""
        self.pulled: dict[str, tuple[SimNode, dict[str, Any]]] = {}
        """Contents of devices that were swapped for empty ones, by path."""
        self._scope = TaskScope(self._failed)

    def play(self, faults: dict[str, tuple[Fault, float]]) -> None:
        """Begin to play: by name, the fault and its mean pause in seconds."""
        for name, (fault, pause_s) in faults.items():
            self._scope.start(self._repeat(name, fault, pause_s), name=f"fault {name}")

    async def _repeat(self, name: str, fault: Fault, pause_s: float) -> None:
        while True:
            await asyncio.sleep(min(self.rng.expovariate(1 / pause_s), 3 * pause_s))
            self.account.count(f"fault {name}")
            await fault(self)

    def _failed(self, error: BaseException) -> None:
        self.account.violated("simulator", f"a fault failed: {error!r}")
        raise error

    # What faults choose from

    def storage_node(self) -> SimNode:
        """One of the storage nodes; the victim's in calm runs."""
        if self.cluster.plan.calm:
            return self.world.node(self.victim.node)
        return self.world.node(self.rng.choice(self.cluster.plan.storage))

    def any_node(self) -> SimNode:
        """One of all nodes; storage nodes more often."""
        if self.cluster.plan.calm:
            return self.storage_node()
        names = (*self.cluster.plan.storage * 2, *self.cluster.plan.front)
        return self.world.node(self.rng.choice(names))

    def pair(self) -> tuple[str, str]:
        """Two different nodes, one of them the victim's in calm runs."""
        if self.cluster.plan.calm:
            others = [name for name in self.cluster.names if name != self.victim.node]
            return str(self.victim.node), self.rng.choice(others)
        one, other = self.rng.sample(self.cluster.names, 2)
        return one, other

    def device_on(self, node: SimNode) -> tuple[DeviceEntry, str]:
        """One of a node's devices and its path."""
        entry = self.rng.choice(self.cluster.map.devices_of(NodeName(node.name)))
        return entry, self.path_of(entry)

    def path_of(self, entry: DeviceEntry) -> str:
        """Where a device is on its node's disk."""
        return f"/data/{entry.path}"

    async def wait(self, low: float, high: float) -> None:
        """Some time, mostly short."""
        await asyncio.sleep(low + (high - low) * self.rng.random() ** 2)

    async def back_after(self, name: str, low: float, high: float) -> None:
        """Start a node again after a while."""
        await self.wait(low, high)
        self.cluster.start(name)

    # The end

    async def heal(self) -> None:
        """Stop breaking, mend everything, start everybody."""
        await self._scope.close()
        self.account.tell("world", "everything is healed")
        for name in self.cluster.names:
            node = self.world.node(name)
            if node.process is not None and node.process.frozen:
                node.thaw()
            node.disk.faults = DiskFaults(capacity_bytes=DISK_BYTES)
        self.world.net.faults = NetFaults()
        self.world.net.heal()
        for path in list(self.pulled):
            self.put_back(path)
        if self.rng.random() < _END_OF_ALL_CHANCE:
            self.account.tell("world", "everything ends once more")
            power = self.rng.random() < 0.5
            for name in self.cluster.names:
                self.cluster.crash(name, power=power)
        for name in self.cluster.names:
            if self._needs_restart(name):
                self.cluster.crash(name)
            self.cluster.start(name)

    def _needs_restart(self, name: str) -> bool:
        """A process whose device has stopped serves it again only after a restart."""
        process = self.cluster.storage.get(name)
        if process is None:
            return name in self.cluster.plan.storage or self.rng.random() < 0.2
        devices = process.role.status()["devices"]
        return any(device["state"] == "stopped" for device in devices) or self.rng.random() < 0.2

    def put_back(self, path: str) -> None:
        """Mount the device again that was swapped for an empty one."""
        node, content = self.pulled.pop(path)
        self.cluster.crash(node.name)
        node.disk.plug(path, content)
        self.account.tell(node.name, f"has its own device back at {path}")
