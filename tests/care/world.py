"""A cluster with care workers in the simulator: real rpc, devices, row groups, blobs."""

import asyncio
from collections.abc import Callable
from typing import Any

from pinfold.care.host import Care
from pinfold.cluster.api import BlobRef, Change, Row
from pinfold.cluster.blobs.client import BlobClient
from pinfold.cluster.blobs.server import BlobServer
from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.groups.entries import FREES_RANGE, decode_free, decode_row
from pinfold.cluster.groups.frees import FreesWorker
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.groups.state import Limits
from pinfold.device.device import Device
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Unavailable
from pinfold.model.ids import Boot, DeviceId, GroupId, NodeName, OpId
from pinfold.model.settings import BlobSettings, CareSettings, DeviceSettings, WorkerSettings
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity, Keyring
from pinfold.rpc.peers import PeerTable
from pinfold.sim.checkers.convergence import Blob, Inspection, check
from pinfold.sim.world import World
from tests.cluster.group_cluster import FixedMembership

CLUSTER_ID = b"c" * 16
GROUPS = [GroupId(n) for n in range(3)]
NAME_WITHIN_S = 20.0
"""Twenty seconds stand for the day in which a blob may be named."""

CARE = CareSettings(
    worker=WorkerSettings(queue_max=64, backoff_s=0.5, operations_per_s=400),
    settle_s=1.0,
    round_s=600.0,
    again_s=2.0,
    quarantine_s=2.0,
    fetch_timeout_s=3.0,
    orphan_grace_s=60.0,
    orphan_recheck_s=30.0,
    orphan_round_s=60.0,
)
BLOBS = BlobSettings(put_timeout_s=3.0, read_timeout_s=3.0, free_delay_s=8.0, free_delay_short_s=8)


class Turning:
    """Blobs on three of the devices, turned by the id; the other is a handoff."""

    def __init__(self, size: int) -> None:
        self.size = size

    def _order(self, key: bytes) -> list[DeviceId]:
        turn = key[-1] % self.size
        return [DeviceId((turn + n) % self.size + 1) for n in range(self.size)]

    def primaries(self, key: bytes) -> tuple[DeviceId, ...]:
        return tuple(self._order(key)[:3])

    def handoffs(self, key: bytes) -> Any:
        return iter(self._order(key)[3:])

    def node_of(self, device: DeviceId) -> NodeName:
        if not 0 < device <= self.size:
            raise Unavailable(f"no device {device}")
        return NodeName(f"n{device}")


class CareWorld:
    """Node n<k> serves device k; rows on the first three nodes, blobs on all of them.

    `care` may be replaced before a node starts.
    """

    def __init__(self, world: World, size: int = 4, care: CareSettings = CARE) -> None:
        self.world = world
        self.care_settings = care
        self.nodes = [f"n{n}" for n in range(1, size + 1)]
        self.placement = Turning(size)
        self.membership = FixedMembership(3)
        self.addresses = {NodeName(name): f"tcp://{name}:1" for name in self.nodes}
        self.services: dict[str, GroupService] = {}
        self.devices: dict[str, Device] = {}
        self.cares: dict[str, Care] = {}
        self.bugs: list[BaseException] = []
        self._boots = 0
        self._ops = 0

    def _peers(self, env, name, operations):
        self._boots += 1
        identity = Identity(
            node=NodeName(name),
            boot=Boot(self._boots),
            cluster=CLUSTER_ID,
            keyring=Keyring.of(b"s"),
        )
        table = PeerTable(env, identity, operations)
        table.set_addresses(self.addresses)
        return table

    def _rows(self, env, peers):
        return RowClient(env, peers, self.membership, lambda place: GroupId(place[0] % 3))

    async def _storage(self, env, name):
        settings = DeviceSettings.for_tests()
        if not env.disk.exists("/device"):
            await Device.format(env, "/device", CLUSTER_ID, settings)
        device = await Device.open(env, "/device", settings, cluster_id=CLUSTER_ID)
        number = DeviceId(int(name[1:]))
        operations, scope = Operations(), TaskScope(self.bugs.append)
        peers = self._peers(env, name, operations)
        devices = {number: device}
        BlobServer(devices, operations)
        limits = Limits(name_within_ms=int(NAME_WITHIN_S * 1000))
        service = GroupService(env, NodeName(name), peers, operations, self.membership, limits)
        care = Care(
            env,
            peers,
            operations,
            service,
            self._rows(env, peers),
            devices,
            placement=lambda: self.placement,
            group_ids=lambda: GROUPS,
            storage=lambda: [NodeName(node) for node in self.nodes],
            settings=self.care_settings,
            load=lambda: 0.0,
        )
        if number <= 3:
            await service.add_device(number, device.log, device.rows, GROUPS)
        await peers.listen(self.addresses[NodeName(name)])
        service.start()
        blobs = BlobClient(env, peers, lambda: self.placement, BLOBS, scope)
        frees = FreesWorker(env, service, blobs.discard, lambda: BLOBS.free_delay_s)
        scope.start(frees.run())
        care.start(scope)
        self.services[name], self.devices[name], self.cares[name] = service, device, care

    async def start(self, *names):
        for name in names or self.nodes:
            await self.world.node(name).start(lambda env, name=name: self._storage(env, name))

    def crash(self, *names):
        for name in names:
            self.world.node(name).crash()
            for part in (self.services, self.devices, self.cares):
                part.pop(name, None)

    async def client(self, name="client"):
        async def make(env):
            peers = self._peers(env, name, Operations())
            await asyncio.sleep(0.5)
            scope = TaskScope(self.bugs.append)
            blobs = BlobClient(env, peers, lambda: self.placement, BLOBS, scope)
            return Client(self, name, self._rows(env, peers), blobs)

        return await self.world.node(name).start(make)

    def op_id(self) -> OpId:
        self._ops += 1
        return OpId(self._ops.to_bytes(16, "big"))

    # What is there.

    def holders(self, blob: bytes) -> set[str]:
        """Nodes whose device has the blob, not quarantined."""
        return {name for name, device in self.devices.items() if device.blobs.state(blob)}

    def named(self) -> dict[bytes, BlobRef]:
        """The blobs that rows name, as the primaries have them."""
        return {
            ref.id: ref
            for service in self.services.values()
            for bound in service.led()
            for _, value in bound.scan(b"\x01", None)
            for ref in decode_row(value).blobs
        }

    def freed(self) -> set[bytes]:
        """The blobs that wait to be given back."""
        return {
            ref.id
            for service in self.services.values()
            for bound in service.led()
            for _, value in bound.scan(*FREES_RANGE)
            for ref in decode_free(value)
        }

    def findings(self) -> list[str]:
        """What the checker of convergence says of the blobs."""
        names = self.named()
        blobs = {
            blob.hex(): Blob(copies=3, holders=frozenset(self._placed(blob))) for blob in names
        }
        known = names.keys() | self.freed()
        strays = {
            name: {
                blob.hex(): int.from_bytes(blob[:6], "big")
                for blob, _ in device.blobs.scan(b"", 100_000)
                if blob not in known
            }
            for name, device in self.devices.items()
        }
        now_ms = int((1_750_000_000 + self.world.loop.now) * 1000)
        seen = Inspection(now_ms=now_ms, grace_ms=1, blobs=blobs, strays=strays)
        return [f"{found.subject}: {found.explanation}" for found in check(seen)]

    def _placed(self, blob: bytes) -> set[str]:
        return self.holders(blob) & {f"n{n}" for n in self.placement.primaries(blob)}

    async def until(self, done: Callable[[], bool], limit_s: float) -> float:
        """Wait for something; how long it took. Fails when it takes longer."""
        began = self.world.loop.now
        while not done():
            assert self.world.loop.now - began < limit_s, (self.findings(), self.bugs)
            await asyncio.sleep(0.25)
        return self.world.loop.now - began


class Client:
    """Puts and deletes as a gateway does: bytes first, then the row."""

    def __init__(self, cluster: CareWorld, name: str, rows: RowClient, blobs: BlobClient) -> None:
        self.cluster = cluster
        self.name = name
        self.rows = rows
        self.blobs = blobs

    def do(self, work):
        """Run a coroutine function in the client's process."""
        return self.cluster.world.node(self.name).spawn(work)

    async def put(self, key: bytes, payload: bytes) -> BlobRef:
        async def work():
            ref = await self.blobs.put([payload])
            await self.name_it(key, ref)
            return ref

        return await self.do(work)

    async def store(self, payload: bytes) -> BlobRef:
        return await self.do(lambda: self.blobs.put([payload]))

    async def name_it(self, key: bytes, *refs: BlobRef, **options) -> None:
        change = Change(self.cluster.op_id(), puts=((b"k" + key, Row(b"", blobs=refs)),), **options)
        await self.rows.change(key, change)

    async def delete(self, key: bytes) -> None:
        change = Change(self.cluster.op_id(), deletes=(b"k" + key,))
        await self.do(lambda: self.rows.change(key, change))

    async def read(self, ref: BlobRef) -> bytes:
        return b"".join(await self.do(lambda: self.blobs.read(ref, 0, ref.length)))
