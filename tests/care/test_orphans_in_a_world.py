"""Blobs that no row names go, and none that a row names does, whatever happens meanwhile."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Row
from pinfold.model.errors import Corrupt, Invalid, PinfoldError
from tests.care.test_repair_in_a_world import payloads, put_all, rot, run
from tests.care.world import NAME_WITHIN_S
from tests.device.model import whole


def holders(cluster, refs):
    return [cluster.holders(ref.id) for ref in refs]


def test_blobs_that_were_never_named_go_after_their_grace_and_two_looks():
    async def scenario(cluster, client):
        stored = await put_all(client, payloads(cluster.world, 12))
        orphans = [await client.store(payload) for payload in payloads(cluster.world, 12)]
        began = cluster.world.loop.now
        await asyncio.sleep(85)
        assert all(holders(cluster, orphans)), "grace and the time between two looks are not over"
        await cluster.until(lambda: not any(holders(cluster, orphans)), 200)
        assert cluster.world.loop.now - began > 90
        assert cluster.findings() == []
        collected = sum(care.status()[1]["collected"] for care in cluster.cares.values())
        assert collected == 36
        for ref, payload in stored.values():
            assert await client.read(ref) == payload

    run(scenario)


def test_a_blob_that_is_old_when_it_is_named_is_refused_and_goes():
    async def scenario(cluster, client):
        late = await client.store(b"x" * 5000)
        await asyncio.sleep(NAME_WITHIN_S + 5)
        with pytest.raises(Invalid):
            await client.do(lambda: client.name_it(b"late", late))
        await cluster.until(lambda: not cluster.holders(late.id), 200)

    run(scenario)


def test_an_orphan_goes_only_when_every_group_has_answered():
    async def scenario(cluster, client):
        stored = await put_all(client, payloads(cluster.world, 9))
        orphan = await client.store(b"x" * 5000)
        cluster.crash("n1", "n2")
        await asyncio.sleep(200)
        left = [ref for ref, _ in stored.values() if "n4" in cluster.holders(ref.id)]
        assert cluster.holders(orphan.id) | {"n3", "n4"} == {"n3", "n4"}
        assert cluster.holders(orphan.id)
        assert left
        await cluster.start("n1", "n2")
        await cluster.until(lambda: not cluster.findings(), 300)
        assert not cluster.holders(orphan.id)

    run(scenario)


def test_a_damaged_orphan_goes_too():
    async def scenario(cluster, client):
        orphan = await client.store(b"x" * 5000)
        await asyncio.sleep(1)
        for name, device in cluster.devices.items():
            if name in cluster.holders(orphan.id):
                rot(cluster.world.node(name))
                await cluster.world.node(name).spawn(lambda device=device: read(device, orphan))
        counts = [device.status().quarantined for device in cluster.devices.values()]
        assert sum(counts) == 3
        await cluster.until(
            lambda: not any(d.status().quarantined for d in cluster.devices.values()), 300
        )

    async def read(device, ref):
        with pytest.raises(Corrupt):
            await whole(device.blobs.read(ref.id, 0, ref.length))

    run(scenario)


async def mover(cluster, client, number, until, named):
    """An old blob's name goes from row to row, as parts become objects, faster than any look."""
    rng = cluster.world.rng
    ref = await client.put(b"%d-0" % number, rng.randbytes(3000))
    named.append(ref)
    at = 0
    while cluster.world.loop.now < until:
        await asyncio.sleep(rng.random() * rng.choice([0.1, 5.0]))
        old, new = b"k%d-%d" % (number, at), b"k%d-%d" % (number, (at + rng.randrange(1, 5)) % 5)
        if old == new:
            continue
        change = Change(cluster.op_id(), puts=((new, Row(b"", blobs=(ref,))),), deletes=(old,))
        await client.do(lambda change=change: client.rows.change(b"%d" % number, change))
        at = int(new.rsplit(b"-", 1)[1])


async def trouble(cluster, until):
    rng = cluster.world.rng
    while cluster.world.loop.now < until:
        await asyncio.sleep(rng.random() * 40)
        name = rng.choice(cluster.nodes)
        cluster.crash(name)
        await asyncio.sleep(rng.random() * 10)
        await cluster.start(name)


@pytest.mark.parametrize("seed", range(4))
def test_no_named_blob_goes_while_names_move_and_nodes_fall_and_rise(seed):
    async def scenario(cluster, client):
        world = cluster.world
        until = world.loop.now + 400
        named, orphans = [], []
        async with asyncio.TaskGroup() as work:
            for number in range(4):
                work.create_task(mover(cluster, client, number, until, named))
            work.create_task(leave_orphans(cluster, client, until, orphans))
            work.create_task(trouble(cluster, until))
        assert len(orphans) > 5
        await asyncio.sleep(10)
        assert set(cluster.named()) == {ref.id for ref in named}
        await cluster.until(lambda: not cluster.findings(), 400)
        assert not any(holders(cluster, orphans))

    async def leave_orphans(cluster, client, until, orphans):
        while cluster.world.loop.now < until - 100:
            await asyncio.sleep(cluster.world.rng.random() * 20)
            try:
                orphans.append(await client.store(b"orphan" * 100))
            except PinfoldError:
                continue

    run(scenario, seed, limit_s=2000)
