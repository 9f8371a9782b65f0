"""The whole row log in the simulator: real rpc and real devices on simulated disks and network."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Row
from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.groups.service import GroupService
from pinfold.device.device import Device
from pinfold.model.ids import Boot, DeviceId, GroupId, NodeName, OpId
from pinfold.model.settings import DeviceSettings
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity, Keyring
from pinfold.rpc.peers import PeerTable
from pinfold.sim.world import World
from tests.cluster.group_cluster import FixedMembership
from tests.cluster.history import History, client_work

NODES = ("n1", "n2", "n3")
FIVE = (*NODES, "n4", "n5")
GROUPS = [GroupId(n) for n in range(4)]
ADDRESSES = {NodeName(name): f"tcp://{name}:1" for name in FIVE}
CLUSTER_ID = b"c" * 16


class Pinfold:
    """Storage nodes and clients in a world."""

    def __init__(self, world: World, nodes=NODES) -> None:
        self.world = world
        self.nodes = nodes
        self.membership = FixedMembership(len(nodes))
        self.services: dict[str, GroupService] = {}
        self.boots = 0

    def peers(self, env, name, operations):
        self.boots += 1
        identity = Identity(
            node=NodeName(name), boot=Boot(self.boots), cluster=CLUSTER_ID, keyring=Keyring.of(b"s")
        )
        table = PeerTable(env, identity, operations)
        table.set_addresses(ADDRESSES)
        return table

    async def storage(self, env, name):
        settings = DeviceSettings.for_tests()
        if not env.disk.exists("/device"):
            await Device.format(env, "/device", CLUSTER_ID, settings)
        device = await Device.open(env, "/device", settings, cluster_id=CLUSTER_ID)
        operations = Operations()
        peers = self.peers(env, name, operations)
        service = GroupService(env, NodeName(name), peers, operations, self.membership)
        await service.add_device(DeviceId(int(name[1:])), device.log, device.rows, GROUPS)
        await peers.listen(ADDRESSES[NodeName(name)])
        service.start()
        self.services[name] = service

    async def start(self, *names):
        for name in names:
            self.world.node(name).start(lambda env, name=name: self.storage(env, name))

    async def client(self, name):
        async def make(env):
            peers = self.peers(env, name, Operations())
            await asyncio.sleep(0.2)
            return RowClient(env, peers, self.membership, lambda place: GroupId(place[0] % 4))

        return await self.world.node(name).start(make)

    def crash(self, name):
        self.services.pop(name, None)
        self.world.node(name).crash()

    def primary(self, group):
        views = [
            (bound.replica.view, name)
            for name, service in self.services.items()
            for bound in service.led()
            if bound.group == group
        ]
        return max(views)[1]


def put(number, key, body):
    return Change(OpId(number.to_bytes(16, "big")), (), ((key, Row(body)),))


@pytest.mark.parametrize("how", ["crash", "silent", "freeze"])
def test_a_primary_that_is_gone_is_replaced_within_two_seconds_and_rows_stay(how):
    with World(how) as world:
        pinfold = Pinfold(world)

        async def load(rows):
            for number in range(40):
                await rows.change(b"%c" % (number % 4), put(number, b"k%d" % number, b"x"))

        async def check(rows):
            for number in range(40):
                row = await rows.get(b"%c" % (number % 4), b"k%d" % number)
                assert row.body == b"x"

        async def write(rows):
            began = world.loop.now
            await rows.change(b"\x00", put(100, b"new", b"y"))
            return world.loop.now - began

        async def scenario():
            await pinfold.start(*NODES)
            rows = await pinfold.client("client")
            client = world.node("client")
            await client.spawn(lambda: load(rows))
            primary = pinfold.primary(GROUPS[0])
            if how == "freeze":
                world.node(primary).freeze()
            else:
                world.node(primary).crash(silent=how == "silent")
                pinfold.services.pop(primary)
            began = world.loop.now
            while not any(  # noqa: ASYNC110 - in virtual time
                bound.group == GROUPS[0] and name != primary
                for name, service in pinfold.services.items()
                for bound in service.led()
            ):
                await asyncio.sleep(0.01)
            assert world.loop.now - began < 2.0
            await client.spawn(lambda: write(rows))
            await client.spawn(lambda: check(rows))

        world.run(scenario(), limit_s=60)


async def trouble(world, pinfold, until):
    rng = world.rng
    while world.loop.now < until:
        await asyncio.sleep(rng.random() * 2)
        name = rng.choice(pinfold.nodes)
        what = rng.choice(["crash", "silent", "freeze", "isolate", "cut", "power"])
        if what in ("crash", "silent"):
            world.node(name).crash(silent=what == "silent")
            await asyncio.sleep(rng.random() * 3)
            await pinfold.start(name)
        elif what == "freeze":
            world.node(name).freeze()
            await asyncio.sleep(rng.random() * 3)
            world.node(name).thaw()
        elif what == "isolate":
            world.net.isolate(name, [other for other in pinfold.nodes if other != name])
            await asyncio.sleep(rng.random() * 3)
            world.net.heal()
        elif what == "cut":
            world.net.cut(name, rng.choice([other for other in pinfold.nodes if other != name]))
            await asyncio.sleep(rng.random() * 3)
            world.net.heal()
        else:
            for one in pinfold.nodes:
                world.node(one).crash(silent=True)
            await pinfold.start(*pinfold.nodes)


def run_history(seed, nodes=NODES):
    with World(seed) as world:
        pinfold, history = Pinfold(world, nodes), History()
        world.net.faults.reset_chance = world.rng.choice([0.0, 0.0005])
        world.net.faults.spike_chance = world.rng.choice([0.0, 0.01])

        async def scenario():
            await pinfold.start(*pinfold.nodes)
            until = world.loop.now + 15
            work = []
            for number in range(3):
                name = f"c{number}"
                rows = await pinfold.client(name)
                work.append(
                    world.node(name).spawn(
                        lambda rows=rows, name=name: client_work(
                            rows, history, name, world.rng, lambda: world.loop.now < until
                        )
                    )
                )
            await trouble(world, pinfold, until)
            world.net.faults.reset_chance = world.net.faults.spike_chance = 0.0
            for task in work:
                await task
            rows = await pinfold.client("last")
            began = world.loop.now
            await world.node("last").spawn(lambda: rows.change(b"p", put(1, b"z", b"")))
            assert world.loop.now - began < 6, "not serving again after the faults"

        world.run(scenario(), limit_s=300)
        return history, world.trace.digest()


@pytest.mark.parametrize("seed", range(3))
def test_histories_in_a_world_are_linearizable(seed):
    history, _ = run_history(seed)
    assert history.writes > 10
    assert history.reads > 10


@pytest.mark.parametrize("seed", range(2))
def test_histories_of_five_members_in_a_world_are_linearizable(seed):
    history, _ = run_history(100 + seed, FIVE)
    assert history.writes > 10
    assert history.reads > 10


def test_equal_seeds_give_equal_histories():
    assert run_history(77)[1] == run_history(77)[1]
