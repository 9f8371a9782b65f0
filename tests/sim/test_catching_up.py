"""A member that fell behind the log comes back while clients write as fast as before.

Everything is 1/256 of a group of 1.5 GiB at 4,000 PUTs of 4 KiB a second on devices with default
settings, but for the rate of writes: that is at 1/64, four times what the sizes stand for.
"""

import asyncio
import dataclasses
import random

from pinfold.cluster.api import Change, Row
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.messages import Standing
from pinfold.cluster.groups.state import Limits
from pinfold.model.ids import OpId
from pinfold.model.limits import KIB, MIB
from pinfold.model.settings import DeviceSettings
from pinfold.node.settings import NodeSettings
from pinfold.sim.account import Account
from pinfold.sim.checkers.history import Recorder
from pinfold.sim.cluster import SimCluster
from pinfold.sim.plan import make_plan
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.world import World

RATE = 62
ROWS = 1_500
DEVICE = DeviceSettings(
    index_engine="ordered",
    segment_bytes=2560 * KIB,
    batch_bytes=256 * KIB,
    kick_bytes=64 * KIB,
    journal_retain_bytes=256 * KIB,
    unapplied_bytes=5 * MIB,
    apply_bytes=64 * KIB,
    apply_interval_s=0.5,
    log_tail_bytes=512 * KIB,
    pack_bytes=1 * MIB,
    open_packs=2,
    read_lanes=2,
    reserve_bytes=1 * MIB,
)
LIMITS = Limits(batch_bytes=16 * KIB, page_bytes=4 * KIB, retained_bytes=256 * KIB)
PLAN = dataclasses.replace(
    make_plan(0),
    nodes=3,
    devices_per_node=1,
    gateways=1,
    group_copies=3,
    groups_power=0,
    drift=0.0,
    settings=NodeSettings(device=DEVICE),
    limits=LIMITS,
)


class Story:
    def __init__(self, world: World) -> None:
        self.world = world
        now = lambda: world.loop.now  # noqa: E731
        self.cluster = SimCluster(world, PLAN, Account(now), Recorder(now))
        self.rng = random.Random(1)
        self.count = 0
        self.stop = False
        self.kept = 0

    def members(self) -> dict[str, BoundGroup]:
        return {
            name: bound
            for name, process in self.cluster.storage.items()
            for bound in process.role._groups._groups.values()
        }

    async def put(self, gateway: GatewayProcess, number: int) -> None:
        self.count += 1
        op_id = OpId(self.count.to_bytes(16, "big"))
        row = Row(self.rng.randbytes(3900))
        await gateway.clients.rows.change(b"p", Change(op_id, puts=((b"k%06d" % number, row),)))

    async def fill(self, gateway: GatewayProcess) -> None:
        for number in range(ROWS):
            await self.put(gateway, number)

    async def load(self, gateway: GatewayProcess) -> None:
        async with asyncio.TaskGroup() as group:
            while not self.stop:
                group.create_task(self.put(gateway, self.rng.randrange(ROWS)))
                await asyncio.sleep(1 / RATE)
                leaders = [one for one in self.members().values() if one.serving is not None]
                self.kept = max(
                    [self.kept, *(one.replica.state._retained_bytes for one in leaders)]
                )

    async def until(self, done, limit_s: float) -> float:
        began = self.world.loop.now
        while not done():
            assert self.world.loop.now - began < limit_s
            await asyncio.sleep(0.2)
        return self.world.loop.now - began

    async def run(self) -> None:
        await self.cluster.found()
        await self.until(lambda: any(one.serving for one in self.members().values()), 20)
        await self.cluster.ask("g1", self.fill)
        victim = next(name for name, one in sorted(self.members().items()) if one.serving is None)
        loading = asyncio.create_task(self.cluster.ask("g1", self.load))
        self.cluster.crash(victim)
        await asyncio.sleep(8)
        self.cluster.start(victim)

        def back() -> bool:
            state = self.members()[victim].replica.state
            leaders = [one.replica for one in self.members().values() if one.serving is not None]
            whole = state.standing is Standing.MEMBER and state.applied_op > 0
            return whole and any(state.last_op > one.state.last_op - 20 for one in leaders)

        await self.until(lambda: victim in self.members(), 20)
        await self.until(lambda: self.members()[victim].replica.state.standing.copying, 20)
        await self.until(back, 30)
        self.stop = True
        await loading


def test_a_member_behind_the_log_catches_up_under_full_load() -> None:
    with World(3) as world:
        story = Story(world)
        world.run(story.run(), limit_s=5000)
    assert story.kept < 2 * LIMITS.retained_bytes
