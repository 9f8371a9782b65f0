"""Faults that wait for an event strike when it comes; kills and graceful ends lose nothing."""

import asyncio
import dataclasses

import msgspec

from pinfold.sim.account import Account
from pinfold.sim.checkers.history import Recorder
from pinfold.sim.cluster import SimCluster
from pinfold.sim.faults import nodes
from pinfold.sim.faults.aimed import AIMS, seen
from pinfold.sim.faults.stage import Stage
from pinfold.sim.plan import make_plan
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.run import run_seed
from pinfold.sim.world import World
from pinfold.volumes.io import FLUSH, READ, WRITE

BLOCK = bytes(range(256)) * 16
QUIET = dataclasses.replace(make_plan(3), faults={}, volume_clients=0, object_clients=1)


def test_every_aim_but_the_rarest_is_told_of() -> None:
    counts: dict[str, int] = {}
    for seed in (2, 149):
        plan = make_plan(seed)
        objects = msgspec.structs.replace(
            plan.settings.s3.objects, shard_rows_max=1, split_interval_s=0.1
        )
        s3 = msgspec.structs.replace(plan.settings.s3, objects=objects)
        plan = dataclasses.replace(
            plan,
            settings=msgspec.structs.replace(plan.settings, s3=s3),
            buckets=1,
            names=3,
            object_clients=2,
            volume_clients=2,
            rivals=False,
            focus="buckets" if seed == 149 else "",
            faults={"crash": 1.0, "cut": 1.0},
        )
        result = run_seed(seed, plan=plan, events=counts)
        assert not result.violations
    missing = {aim for aim in AIMS if not counts.get(aim)}
    assert missing <= {"extents.restored", "extents.drop", "extents.drop done"}


def test_a_volume_keeps_what_was_answered_when_everything_is_killed() -> None:
    world = World("killed")
    account = Account(lambda: world.loop.now)
    cluster = SimCluster(world, QUIET, account, Recorder(lambda: world.loop.now))

    async def make(gateway: GatewayProcess) -> None:
        await gateway.sessions.registry.create("disk", 1 << 20)

    async def write(gateway: GatewayProcess) -> None:
        await gateway.guests.do("guest", "disk", WRITE, 4096, 4096, payload=BLOCK)

    async def read(gateway: GatewayProcess) -> bytes:
        return b"".join(await gateway.guests.do("guest", "disk", READ, 4096, 4096))

    async def flush(gateway: GatewayProcess) -> None:
        await gateway.guests.do("guest", "disk", FLUSH, 0, 0)

    async def story() -> None:
        await cluster.found()
        while len(cluster.gateways) < 2 or len(cluster.storage) < 3:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        stage = Stage(cluster)
        await cluster.ask("g1", make)
        strikes = asyncio.ensure_future(seen(stage, "extents.write done"))
        await cluster.ask("g1", write)
        assert await strikes is not None
        await nodes.kill_all(stage)
        while "g1" not in cluster.gateways:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        assert await cluster.ask("g1", read) == BLOCK
        await cluster.ask("g1", flush)
        await cluster.stop("g1", patience_s=10)
        cluster.start("g1")

    with world:
        world.run(story())
    assert not account.violations
