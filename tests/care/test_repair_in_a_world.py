"""Missing copies of named blobs come back, whatever made them go missing."""

import asyncio

import msgspec
import pytest

from pinfold.model.errors import Corrupt
from pinfold.sim.world import World
from tests.care.world import CARE, CareWorld
from tests.device.model import whole

LAZY = msgspec.structs.replace(CARE, again_s=600.0)
"""Nobody is asked again within a test only because it did not answer before."""


def run(scenario, seed=1, *, limit_s=900, **options):
    with World(seed) as world:
        cluster = CareWorld(world, **options)

        async def whole():
            await cluster.start()
            client = await cluster.client()
            await scenario(cluster, client)
            assert cluster.bugs == []

        world.run(whole(), limit_s=limit_s)


def payloads(world, count):
    """Payloads of all kinds: in the journal, of one stream chunk, of several."""
    sizes = (2000, 65_536, 65_537, 300_000)
    return [world.rng.randbytes(sizes[n % len(sizes)]) for n in range(count)]


async def put_all(client, payloads, first=0):
    return {
        b"%d" % n: (await client.put(b"%d" % n, payload), payload)
        for n, payload in enumerate(payloads, first)
    }


async def all_whole(cluster, client, stored):
    assert cluster.findings() == []
    for ref, payload in stored.values():
        assert await client.read(ref) == payload


@pytest.mark.parametrize("how", ["crash", "isolate"])
def test_blobs_put_while_a_node_was_away_get_their_copies_when_it_is_back(how):
    async def scenario(cluster, client):
        world = cluster.world
        await asyncio.sleep(20)
        if how == "crash":
            cluster.crash("n4")
        else:
            world.net.isolate("n4", ["n1", "n2", "n3", "client"])
        await asyncio.sleep(5)
        stored = await put_all(client, payloads(world, 30))
        assert any("2 copies" in finding for finding in cluster.findings())
        await asyncio.sleep(5)
        if how == "crash":
            await cluster.start("n4")
        else:
            world.net.heal()
        await cluster.until(lambda: not cluster.findings(), 15)
        await all_whole(cluster, client, stored)

    run(scenario, how, care=LAZY)


def test_a_copy_that_only_the_gateway_could_not_make_is_made_from_its_hint():
    async def scenario(cluster, client):
        await asyncio.sleep(20)
        cluster.world.net.cut("client", "n4")
        stored = await put_all(client, payloads(cluster.world, 12))
        await cluster.until(lambda: not cluster.findings(), 15)
        await all_whole(cluster, client, stored)

    run(scenario, care=LAZY)


def test_a_copy_that_stands_in_for_another_is_not_enough():
    async def scenario(cluster, client):
        cluster.crash("n4")
        stored = await put_all(client, payloads(cluster.world, 12))
        await cluster.start("n4")
        await cluster.until(lambda: not cluster.findings(), 30)
        cluster.crash("n1")
        for ref, payload in stored.values():
            assert await client.read(ref) == payload

    run(scenario)


def test_a_device_that_comes_back_empty_is_filled_again():
    async def scenario(cluster, client):
        stored = await put_all(client, payloads(cluster.world, 40))
        await cluster.until(lambda: not cluster.findings(), 30)
        cluster.crash("n4")
        cluster.world.node("n4").disk.wipe()
        await cluster.start("n4")
        assert cluster.findings()
        await cluster.until(lambda: not cluster.findings(), 60)
        await all_whole(cluster, client, stored)

    run(scenario)


def rot(node):
    for name in [name for name in node.disk.names if "/packs/" in name]:
        for page in range(1, node.disk.file(name).size // 4096):
            node.disk.rot(name, page * 4096 + 1000)


def test_what_rots_is_quarantined_when_it_is_read_and_rebuilt_from_others():
    async def scenario(cluster, client):
        stored = await put_all(client, payloads(cluster.world, 20))
        await cluster.until(lambda: not cluster.findings(), 30)
        await asyncio.sleep(20)
        rot(cluster.world.node("n2"))
        device = cluster.devices["n2"]

        async def read_all():
            held = device.blobs.scan(b"", 100)
            for blob, length in held:
                with pytest.raises(Corrupt):
                    await whole(device.blobs.read(blob, 0, length))
            return len(held)

        held = await cluster.world.node("n2").spawn(read_all)
        assert device.status().quarantined == held > 10
        await cluster.until(lambda: not cluster.findings(), 60)
        await cluster.until(lambda: device.status().quarantined == 0, 10)
        await all_whole(cluster, client, stored)

    run(scenario, care=LAZY)


def test_a_second_failure_while_copies_are_made_delays_them_and_no_more():
    async def scenario(cluster, client):
        cluster.crash("n3")
        stored = await put_all(client, payloads(cluster.world, 60))
        await cluster.start("n3")
        await asyncio.sleep(3)
        done = sum(care.replicator.status().done for care in cluster.cares.values())
        assert 0 < done < 60, "repair is under way"
        primary = max(cluster.services, key=lambda name: len(cluster.services[name].led()))
        cluster.crash(primary)
        await asyncio.sleep(5)
        await cluster.start(primary)
        await cluster.until(lambda: not cluster.findings(), 90)
        await all_whole(cluster, client, stored)

    slow = msgspec.structs.replace(CARE.worker, operations_per_s=10)
    run(scenario, care=msgspec.structs.replace(CARE, worker=slow))


def test_a_blob_deleted_while_it_lacks_a_copy_leaves_nothing_behind():
    async def scenario(cluster, client):
        cluster.crash("n3")
        await put_all(client, payloads(cluster.world, 20))
        await cluster.start("n3")
        for n in range(20):
            await client.delete(b"%d" % n)
        await asyncio.sleep(20)
        assert cluster.named() == {}
        await cluster.until(lambda: not cluster.freed(), 600)
        await cluster.until(lambda: not cluster.findings(), 300)

    run(scenario, limit_s=1500)


def test_a_full_device_gets_its_copies_once_it_has_room():
    async def scenario(cluster, client):
        await asyncio.sleep(20)
        faults = cluster.world.node("n4").disk.faults
        room, faults.capacity_bytes = faults.capacity_bytes, 1 << 20
        stored = await put_all(client, payloads(cluster.world, 24))
        assert cluster.devices["n4"].status().state == "full"
        await asyncio.sleep(20)
        assert any("2 copies" in finding for finding in cluster.findings())
        tried = sum(care.replicator.status().failed for care in cluster.cares.values())
        faults.capacity_bytes = room
        await cluster.until(lambda: not cluster.findings(), 200)
        await all_whole(cluster, client, stored)
        assert tried <= 24, "a full device is not pressed"

    run(scenario)
