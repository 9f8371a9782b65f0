"""A whole simulated cluster: storage nodes, gateways, the map; started, crashed and asked.

The scenario, its faults and its clients stand outside of every node. What they want done inside of
one goes through `ask`, which ends when the node dies, as a connection to it would.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from pinfold.cluster.map import (
    BLOBS,
    METADATA,
    VOLUMES,
    ClusterMap,
    DeviceEntry,
    NodeEntry,
    PolicyEntry,
)
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import DeviceUuid, NodeName
from pinfold.node.formation import first_rings
from pinfold.sim.account import Account
from pinfold.sim.audit.auditor import Auditor
from pinfold.sim.checkers.history import Recorder
from pinfold.sim.events import Events
from pinfold.sim.loop import NodeCrashed
from pinfold.sim.map import SharedMap
from pinfold.sim.plan import DISK_BYTES, Plan
from pinfold.sim.processes import (
    LAYOUT,
    GatewayProcess,
    Recipe,
    StorageProcess,
    run_gateway,
    run_storage,
)
from pinfold.sim.world import SimNode, World

T = TypeVar("T")

_AGED: Final = 50
"""Wall clocks are wrong by so much less where days are short."""

_DATA_POWER: Final = 4
"""16 partitions of blobs and extents: enough to use every device."""

_PARTS: Final = ("/journal/", "/packs/", "/arena/", "/index")
"""Parts of a device whose changes are told."""

Request = Callable[[GatewayProcess], Coroutine[Any, Any, T]]


class ProcessDied(Exception):
    """The node asked has died, or was down: whether the request had an effect is not known."""


class Down(Exception):
    """The node asked was not there: the request never began."""


class SimCluster:
    """The cluster of one run."""

    def __init__(self, world: World, plan: Plan, account: Account, recorder: Recorder) -> None:
        self.world = world
        self.plan = plan
        self.account = account
        self.recorder = recorder
        self.rng = random.Random(f"{plan.seed}/cluster")
        self.storage: dict[str, StorageProcess] = {}
        """Running storage nodes that have finished their start."""
        self.gateways: dict[str, GatewayProcess] = {}
        """Running gateways that have finished their start."""
        self.lives: dict[str, int] = {}
        """How often each node was started."""
        self._map: SharedMap | None = None
        self.events = Events()
        blobs = plan.settings.blobs
        keep_s = blobs.free_delay_short_s if "full-disk" in plan.faults else blobs.free_delay_s
        self.auditor = Auditor(account, self.events, keep_s)
        self.auditor.effects.time_of_day = self.time_of_day
        self._recipe = Recipe(
            settings=plan.settings,
            limits=plan.limits,
            auditor=self.auditor,
            events=self.events,
        )
        self._asked: dict[str, dict[asyncio.Future[Any], None]] = {}
        for name in (*plan.storage, *plan.front):
            node = world.node(name)
            node.drift = self.rng.uniform(-plan.drift, plan.drift)
            if plan.aged:
                node.skew_s /= _AGED
            node.disk.faults.capacity_bytes = DISK_BYTES
            node.disk.on_crash = partial(self.crash, name)
            node.disk.on_change = partial(self._changed, name)
            node.disk.on_failed_flush = partial(self._flush_failed, name)

    def replace_map(self, following: ClusterMap) -> None:
        """Agree on another map; every process hears of it a little later."""
        assert self._map is not None, "the cluster has been made"
        self._map.replace(following)

    @property
    def map(self) -> ClusterMap:
        """The agreed map."""
        assert self._map is not None
        return self._map.current

    def time_of_day(self) -> float:
        """The wall clock in the middle of the storage nodes'."""
        clocks = sorted(self.world.node(name).wall() for name in self.plan.storage)
        return clocks[len(clocks) // 2]

    @property
    def names(self) -> tuple[str, ...]:
        """Every node."""
        return (*self.plan.storage, *self.plan.front)

    # Lives

    async def found(self) -> None:
        """Format the devices, make the map, start everybody."""
        uuids: dict[tuple[str, int], DeviceUuid] = {}
        cluster_id = self.rng.randbytes(16)
        for name in self.plan.storage:
            node = self.world.node(name)
            env = node.boot()
            for number in range(1, self.plan.devices_per_node + 1):
                path = str(LAYOUT.device(_path(name, number)))
                work = Device.format(env, path, cluster_id, self.plan.settings.device)
                uuids[name, number] = await node.spawn(partial(_finish, work))
            node.crash()
        self._map = SharedMap(self._first_map(cluster_id, uuids), self.world.loop, self.plan.seed)
        self.auditor.know(self.map.devices)
        for name in self.names:
            self.start(name)

    def _first_map(self, cluster_id: bytes, uuids: dict[tuple[str, int], DeviceUuid]) -> ClusterMap:
        plan = self.plan
        policies = {
            METADATA: PolicyEntry(
                copies=plan.group_copies,
                write_quorum=plan.group_copies // 2 + 1,
                part_power=plan.groups_power,
            ),
            BLOBS: PolicyEntry(copies=3, write_quorum=2, part_power=_DATA_POWER),
            VOLUMES: PolicyEntry(copies=3, write_quorum=2, part_power=_DATA_POWER),
        }
        devices = tuple(
            DeviceEntry(id=number, uuid=uuid, node=name, path=_path(name, at), zone=f"z-{name}")
            for number, ((name, at), uuid) in enumerate(uuids.items())
        )
        nodes = {name: NodeEntry(role="storage") for name in plan.storage}
        nodes.update({name: NodeEntry(role="s3") for name in plan.front})
        return ClusterMap(
            cluster_id=cluster_id,
            nodes=nodes,
            devices=devices,
            policies=policies,
            rings=first_rings(policies, devices),
        )

    def start(self, name: str) -> None:
        """Start a node that is down. Its start may fail or be cut short by the next fault."""
        node = self.world.node(name)
        if node.alive:
            return
        self.lives[name] = life = self.lives.get(name, 0) + 1
        self.account.tell(name, f"starts, life {life}")
        work = self._run_storage if name in self.plan.storage else self._run_gateway
        node.start(lambda env: work(env, node, life))

    def life(self, gateway: str) -> str:
        """The name of a node's current life, as histories know it."""
        return f"{gateway}#{self.lives.get(gateway, 0)}"

    async def _run_storage(self, env: Env, node: SimNode, life: int) -> None:
        try:
            process = await run_storage(env, NodeName(node.name), self._map_of(node), self._recipe)
        except (PinfoldError, OSError) as error:
            self.account.tell(node.name, f"start failed: {error!r}")
            return
        if self.lives[node.name] == life:
            self.storage[node.name] = process
            self.account.tell(node.name, "has started")

    async def _run_gateway(self, env: Env, node: SimNode, life: int) -> None:
        try:
            process = await run_gateway(env, NodeName(node.name), self._map_of(node), self._recipe)
        except (PinfoldError, OSError) as error:
            self.account.tell(node.name, f"start failed: {error!r}")
            return
        if self.lives[node.name] == life:
            self.gateways[node.name] = process

    def _map_of(self, node: SimNode) -> Any:
        assert self._map is not None
        assert node.process is not None
        return self._map.of(node.process)

    def crash(self, name: str, *, silent: bool = False, power: bool = True) -> None:
        """End a node's process now, if it has one; see `SimNode.crash`."""
        node = self.world.node(name)
        if not node.alive:
            return
        how = "loses its power" if silent else "crashes" if power else "is killed"
        self.account.tell(name, how)
        self.storage.pop(name, None)
        self.gateways.pop(name, None)
        if name in self.plan.front:
            self.recorder.died(self.life(name))
            self.auditor.volumes.died(name)
        else:
            for device in self.map.devices_of(NodeName(name)) if self._map else ():
                self.recorder.died(str(device.id), power=power)
                self.auditor.of(device.uuid).extents.power_lost |= power
        node.crash(silent=silent, power=power)
        for future in self._asked.pop(name, {}):
            if not future.done():
                future.set_exception(ProcessDied(name))

    def _changed(self, name: str, path: str) -> None:
        for part in _PARTS:
            if part in path:
                self.events.tell(f"disk {part.strip('/')}", name)

    def _flush_failed(self, name: str, path: str) -> None:
        """What the device had answered and not flushed may go, as with a loss of its power."""
        for device in self.map.devices_of(NodeName(name)) if self._map else ():
            if path.startswith(f"/data/{device.path}/"):
                self.auditor.of(device.uuid).extents.power_lost = True

    async def stop(self, name: str, *, patience_s: float) -> None:
        """Have a process end as if it were asked to, with its disk's cache kept; or kill it."""
        process = self.storage.get(name) or self.gateways.get(name)
        if process is not None:
            try:
                async with asyncio.timeout(patience_s):
                    await self.within(name, process.stop)
            except (ProcessDied, TimeoutError):
                pass
            except (PinfoldError, OSError) as error:
                self.account.tell(name, f"its end failed: {error!r}")
        self.crash(name, power=False)

    def restart(self, name: str) -> None:
        """End a node's process, if it has one, and start it again; its machine goes on."""
        self.crash(name, power=False)
        self.start(name)

    # Asking

    async def ask(self, name: str, request: Request[T]) -> T:
        """Run a request in a gateway's process; what it returns or raises.

        Down when the gateway is not there, ProcessDied when it dies meanwhile. An asker that is
        cancelled cancels the request, as a client that hangs up does.
        """
        process = self.gateways.get(name)
        if process is None:
            raise Down(name)
        return await self.within(name, lambda: request(process))

    async def within(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in a node's process; ProcessDied when that dies meanwhile."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(name, {})[answer] = None

        async def carry() -> None:
            try:
                result = await work()
            except NodeCrashed:
                raise
            except Exception as error:  # noqa: BLE001 - it is the asker's
                _settle(answer, None, error)
            else:
                _settle(answer, result, None)

        task = self.world.node(name).spawn(carry)
        try:
            return await answer
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            self._asked.get(name, {}).pop(answer, None)


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    return await work


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def _path(node: str, number: int) -> str:
    return f"devices/{node}/d{number}"
