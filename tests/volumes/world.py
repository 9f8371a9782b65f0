"""Three devices on three nodes, a row log and gateways, in virtual time, with faults."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from pinfold.cluster.extents import ExtentClient, ExtentHost
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import Boot, DeviceId, NodeName
from pinfold.model.limits import BLOCK_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import FLUSH, READ, WRITE, Io
from pinfold.volumes.placement import FunctionPlacement
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import VolumeRow, decode_volume, key_of, place_of
from pinfold.volumes.session import Session
from pinfold.volumes.sessions import Sessions
from tests.twins.cluster import MemoryRows
from tests.twins.extents import Keeps, MemoryDevice, MemoryNetwork, MemoryNode
from tests.twins.virtual import VirtualClock, run_virtual

NAME = "v"


class Client:
    """Submits requests and awaits their answers."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._waiting: dict[Io, asyncio.Future[Io]] = {}

    def finished(self, ios: list[Io]) -> None:
        for io in ios:
            waiting = self._waiting.pop(io, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(io)

    async def ask(self, io: Io) -> Io:
        self._waiting[io] = done = asyncio.get_running_loop().create_future()
        self.session.submit([io])
        await done
        if io.error is not None:
            raise io.error
        return io

    async def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        await self.ask(Io(WRITE, offset, len(data), self, payload=data, fua=fua))

    async def change(self, kind: int, offset: int, length: int, *, fua: bool = False) -> None:
        await self.ask(Io(kind, offset, length, self, fua=fua))

    async def read(self, offset: int, length: int) -> bytes:
        io = await self.ask(Io(READ, offset, length, self))
        found = b"".join(io.parts)
        assert len(found) == length
        return found

    async def flush(self) -> None:
        await self.ask(Io(FLUSH, 0, 0, self))


class Gateway:
    """One process that may hold the volume."""

    def __init__(self, world: "World", name: str, boot: int) -> None:
        self.network = MemoryNetwork(world.nodes, name)
        self.client = ExtentClient(self.network, lambda device: world.nodes[device].name)
        self.lost: PinfoldError | None = None
        self.sessions = Sessions(
            world.env,
            world.rows,
            self.client,
            world.placement,
            gateway=NodeName(name),
            boot=Boot(boot),
            settings=world.settings,
            on_error=self._failed,
        )
        self.session = self.sessions.attach(NAME, world.told, self)

    def ended(self, reason: PinfoldError) -> None:
        self.lost = reason

    def _failed(self, error: BaseException) -> None:
        raise error

    async def die(self) -> None:
        """The process ends at once: nothing it had in mind is sent any more."""
        self.network.isolated = True
        self.session._scope._on_error = lambda _error: None
        self.session._dead = PinfoldError("died")
        await self.session._scope.close()


class World:
    """The cluster around one volume."""

    def __init__(
        self,
        seed: int = 0,
        *,
        devices: int = 3,
        size: int = 16 << 20,
        settings: VolumeSettings | None = None,
        spread: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.size = size
        self.settings = settings or VolumeSettings()
        clock = VirtualClock()
        unused: Any = None
        self.env = Env(clock=clock, rng=self.rng, disk=unused, net=unused, new_offload=unused)
        self.rows = MemoryRows(clock, lambda _blobs: None)
        self.nodes = [MemoryNode(f"n{number}") for number in range(devices)]
        self.devices = [MemoryDevice(number) for number in range(devices)]
        for device in self.devices:
            device.extents.whole_blocks = True
        self.hosts = [
            ExtentHost(n.dispatcher, {DeviceId(i): self.devices[i]})
            for i, n in enumerate(self.nodes)
        ]
        sets = [
            tuple(DeviceId((first + i) % devices) for i in range(3)) for first in range(devices)
        ]
        if not spread:
            sets = sets[:1]
        self.placement = FunctionPlacement(lambda _v, extent: sets[extent % len(sets)], sets)
        self.boots = 0
        self.gateways: list[Gateway] = []

    async def create(self) -> None:
        gateway = ExtentClient(MemoryNetwork(self.nodes), lambda d: self.nodes[d].name)
        registry = Registry(self.env, self.rows, gateway, self.placement.devices, self.settings)
        self.told = (await registry.create(NAME, self.size)).told

    def gateway(self, name: str = "gw") -> Gateway:
        self.boots += 1
        self.gateways.append(Gateway(self, name, self.boots))
        return self.gateways[-1]

    async def row(self) -> VolumeRow:
        row = await self.rows.get(place_of(NAME), key_of(NAME))
        assert row is not None
        return decode_volume(row.body)

    def kill(self, gateway: Gateway, number: int, *, deliver: int = 0) -> None:
        """A node's process dies, with some of what was under way to it delivered."""
        gateway.network.kill(self.nodes[number], deliver=deliver)

    def start(self, number: int, *, keeps: Keeps = "some") -> None:
        """It comes back with a part of what it had not flushed: all if only its process died."""
        node = self.nodes[number]
        assert not node.up
        self.devices[number].restart(self.rng, keeps)
        node.dispatcher.handlers.clear()
        self.hosts[number] = ExtentHost(node.dispatcher, {DeviceId(number): self.devices[number]})
        node.up = True

    def restart(self, gateway: Gateway, number: int) -> None:
        """It dies and is there again at once."""
        self.kill(gateway, number)
        self.start(number)

    def swap(self, number: int) -> None:
        """Another device, freshly formatted, gets its number."""
        fresh = self.devices[number] = MemoryDevice(number + len(self.nodes))
        node = self.nodes[number]
        node.dispatcher.handlers.clear()
        self.hosts[number] = ExtentHost(node.dispatcher, {DeviceId(number): fresh})

    def contents(self, number: int, volume: bytes, blocks: range) -> list[bytes]:
        extents = self.devices[number].extents
        return [extents.content(volume, block * BLOCK_BYTES, BLOCK_BYTES) for block in blocks]

    async def in_sync(self) -> None:
        """Wait until no device is out of sync."""
        while (await self.row()).out:  # noqa: ASYNC110 - virtual time, and rows cannot tell
            await asyncio.sleep(0.1)

    async def whole(self, device: int) -> None:
        """Wait until a device that had lost the volume was told that it has all of it again."""
        volume = (await self.row()).id
        while self.devices[device].extents.claimed_lost(volume):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)


def play(story: Callable[[World], Awaitable[None]], **options: Any) -> None:
    """Tell a story to a fresh world, in virtual time."""

    async def run() -> None:
        world = World(**options)
        await world.create()
        async with asyncio.timeout(600):
            await story(world)

    run_virtual(run)


def pattern(number: int, length: int = BLOCK_BYTES) -> bytes:
    return number.to_bytes(8, "big") * (length // 8)
