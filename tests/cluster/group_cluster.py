"""Nodes with row groups in one process, for tests: kill, restart, cut, hang."""

import random

from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.groups.state import Limits
from pinfold.cluster.groups.status import GroupStatus
from pinfold.env.api import Clock, Env
from pinfold.model.errors import Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName
from tests.twins.log import AsyncLog, MemoryLog
from tests.twins.network import MemoryNetwork
from tests.twins.virtual import VirtualClock


def env_for(seed: int, clock: Clock | None = None) -> Env:
    unused = object()
    return Env(
        clock=clock or VirtualClock(),
        rng=random.Random(seed),
        disk=unused,  # type: ignore[arg-type]
        net=unused,  # type: ignore[arg-type]
        new_offload=unused,  # type: ignore[arg-type]
    )


class FixedMembership:
    """Every group on the first `size` devices until the wish changes; device n is on node n<n>."""

    def __init__(self, size: int, *, spare: int = 0) -> None:
        self._devices = tuple(DeviceId(n) for n in range(1, size + 1))
        self._known = tuple(DeviceId(n) for n in range(1, size + spare + 1))
        self._epoch = 1

    def copy(self, *devices: int) -> "FixedMembership":
        """What somebody knows who hears of no further change."""
        found = FixedMembership(0)
        found._known = self._known
        found._devices = tuple(map(DeviceId, devices)) or self._devices
        return found

    def change(self, *devices: int) -> None:
        """The ring wishes these from now on."""
        self._devices = tuple(map(DeviceId, devices))
        self._epoch += 1

    def members(self, group: GroupId) -> tuple[DeviceId, ...]:
        turn = group % len(self._devices)
        return self._devices[turn:] + self._devices[:turn]

    def founding(self) -> bool:
        return self._epoch == 1

    def node_of(self, device: DeviceId) -> NodeName:
        if device not in self._known:
            raise Unavailable(f"no device {device}")
        return NodeName(f"n{device}")


class Cluster:
    """`size` nodes of one device each, and a client on a node of its own.

    `spare` further ones are there and not started.
    """

    def __init__(
        self,
        size: int = 3,
        groups: int = 4,
        *,
        spare: int = 0,
        seed: int = 0,
        flush_s: float = 0.0005,
        delay_s: float = 0.0002,
        clock: Clock | None = None,
        limits: Limits | None = None,
        durable: bool = True,
    ) -> None:
        self.network = MemoryNetwork(delay_s)
        self.membership = FixedMembership(size, spare=spare)
        self.groups = [GroupId(group) for group in range(groups)]
        self._flush_s = flush_s
        self._clock = clock
        self._limits = limits
        self.rng = random.Random(seed)
        self._size = size
        self.stores = {n: MemoryLog(durable=durable) for n in range(1, size + spare + 1)}
        self.logs: dict[int, AsyncLog] = {}
        self.services: dict[int, GroupService] = {}
        self._boot = 0
        self.client = self.new_client("c1")

    def new_client(self, name: str, membership: FixedMembership | None = None) -> RowClient:
        peers = self.network.join(NodeName(name))
        env = env_for(len(name), self._clock)
        return RowClient(env, peers, membership or self.membership, self.group_of)

    def group_of(self, place: bytes) -> GroupId:
        return GroupId(sum(place) % len(self.groups))

    async def start(self) -> "Cluster":
        for n in range(1, self._size + 1):
            await self.start_node(n)
        return self

    async def start_node(self, n: int) -> None:
        self._boot += 1
        node = NodeName(f"n{n}")
        peers = self.network.join(node, self._boot)
        log = self.logs[n] = AsyncLog(self.stores[n], self._flush_s)
        env = env_for(1000 * n + self._boot, self._clock)
        service = GroupService(env, node, peers, peers, self.membership, self._limits)
        self.services[n] = service
        await service.add_device(DeviceId(n), log, log, self.groups)
        service.start()

    async def kill(self, n: int) -> None:
        """The process is gone with everything that was not flushed."""
        self.network.leave(NodeName(f"n{n}"))
        self.logs.pop(n).stopped = True
        await self.services.pop(n).close()
        self.stores[n].crash()

    def swap(self, n: int) -> None:
        """The device of a node that is down is an empty one from now on."""
        assert n not in self.services
        self.stores[n] = MemoryLog()

    def status(self, n: int, group: GroupId) -> GroupStatus:
        (found,) = [one for one in self.services[n].status() if one.group == group]
        return found

    def primary(self, group: GroupId) -> int:
        """The node that serves a group, by the highest view."""
        views = [
            (bound.replica.view, n)
            for n, service in self.services.items()
            for bound in service.led()
            if bound.group == group
        ]
        return max(views)[1]

    async def close(self) -> None:
        for service in self.services.values():
            await service.close()
