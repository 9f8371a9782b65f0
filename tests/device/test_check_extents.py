"""A check accounts for every slot of the arena, and a repair frees what nobody names."""

import asyncio

from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.device.extentrows import decode_row, encode_row
from pinfold.device.index import GUARDS, open_row, seal_row
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.device.repair import repair
from pinfold.device.slots import decode_chunk, encode_chunk
from pinfold.env.api import Env
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import SLOT_BYTES
from pinfold.sim.world import World
from tests.device.test_check import look
from tests.device.worlds import CLUSTER, PATH, SETTINGS

V = VolumeId(b"v" * 16)
ONE = Token(1)


async def fill(env: Env) -> None:
    """Ten extents of a block each, in slots 0 to 9."""
    device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
    await device.extents.claim(V, ONE)
    for extent in range(10):
        ops = [ExtentOp(0, extent, 0, 4096)]
        device.extents.write(V, ONE, 0, 1, ops, memoryview(bytes([extent]) * 4096))
    device.extents.stable(V, ONE, 1)
    await asyncio.sleep(1)
    await device.close()


def in_order(*acts: object) -> None:
    """Run acts on a device, each in a process of its own."""
    with World(3) as world:
        node = world.node("n1")

        async def scenario() -> None:
            await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
            for act in acts:
                node.crash()
                await node.start(act)  # type: ignore[arg-type]

        world.run(scenario())


def rows(engine: OrderedEngine, table: bytes) -> list[tuple[bytes, bytes]]:
    found = engine.scan(table, bytes([table[0] + 1]), False)
    return [(key, open_row(key, stored)) for key, stored in found if key not in GUARDS]


def test_slots_of_a_row_that_is_gone_are_told_and_freed() -> None:
    async def lose(env: Env) -> None:
        engine = OrderedEngine(env.disk, f"{PATH}/index")
        engine.commit([(rows(engine, b"e")[4][0], None)])
        engine.close()

    async def mend(env: Env) -> None:
        report = look(env)
        assert [found.what for found in report.findings] == ["1 slots from 4 on are nobody's"]
        assert report.blocks == 9
        assert report.opens
        await repair(env, PATH, report)

    async def again(env: Env) -> None:
        assert look(env).findings == []
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert device.status().extent_bytes == 9 * SLOT_BYTES
        await device.close()

    in_order(fill, lose, mend, again)


def test_a_slot_in_use_that_is_free_too_or_has_two_owners_is_told() -> None:
    async def confuse(env: Env) -> None:
        engine = OrderedEngine(env.disk, f"{PATH}/index")
        chunk, bits = rows(engine, b"a")[0]
        freed = encode_chunk(decode_chunk(bits) | 1 << 7)
        extent, value = rows(engine, b"e")[2]
        row = decode_row(value)
        row.slots[0] = 3
        changes = [(chunk, seal_row(chunk, freed)), (extent, seal_row(extent, encode_row(row)))]
        engine.commit(changes)
        engine.close()

    async def see(env: Env) -> None:
        report = look(env)
        told = {found.what for found in report.findings}
        assert "1 slots from 7 on are in use and free" in told
        assert "slot 3 has two owners" in told
        assert "1 slots from 2 on are nobody's" in told
        assert not report.opens

    in_order(fill, confuse, see)
