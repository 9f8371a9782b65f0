"""What volumes take on a device: in memory and on its disk, and how they give it back."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from pinfold.device import extentrows
from pinfold.device.api import ExtentOp
from pinfold.device.arena import Arena, BlockCorrupt
from pinfold.device.device import Device
from pinfold.device.extents import UNAPPLIED_EXTENTS, ZEROES_BYTES
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Corrupt, Full
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES, SLOT_BYTES
from pinfold.sim.world import SimNode, World
from tests.device.model import whole
from tests.device.worlds import CLUSTER, PATH, SETTINGS, lives

V, W = VolumeId(b"v" * 16), VolumeId(b"w" * 16)
ONE = Token(1)
BLOCK = bytes(range(256)) * 16
MIB = 1 << 20


def write(
    device: Device,
    volume: VolumeId,
    extent: int,
    offset: int = 0,
    content: bytes = BLOCK,
    *,
    sequence: int = 1,
) -> None:
    ops = [ExtentOp(0, extent, offset, len(content))]
    device.extents.write(volume, ONE, 0, sequence, ops, memoryview(content))


def trim(device: Device, extents: range, *, sequence: int = 1, kind: int = 2) -> None:
    ops = [ExtentOp(kind, extent, 0, EXTENT_BYTES) for extent in extents]
    device.extents.write(V, ONE, 0, sequence, ops, memoryview(b""))


def trim_all(device: Device) -> None:
    """More extents than may wait."""
    for start in range(0, 2 * UNAPPLIED_EXTENTS, 512):
        trim(device, range(start, start + 512))


async def read(device: Device, volume: VolumeId, extent: int, offset: int = 0) -> bytes:
    return await whole(device.extents.read(volume, ONE, [(extent, offset, BLOCK_BYTES)]))


async def applied(device: Device) -> None:
    """Whatever was written has its place, and what was freed has been given back."""
    extents = device.extents
    while device.status().journal_bytes or extents.slots.held or extents.purging:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def slots_bytes(node: SimNode) -> int:
    """Space that the arena's slots take."""
    inode = node.disk.names[f"{PATH}/arena/slots"]
    assert inode is not None
    return len(inode.pages) * BLOCK_BYTES


def test_a_trimmed_terabyte_costs_little_memory_and_none_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 4096
    monkeypatch.setattr(extentrows, "ROWS_CACHED", 64)

    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        trim(device, range(count, count + 64))
        device.extents.stable(V, ONE, 1)
        await applied(device)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, count, 64):
            trim(device, range(start, start + 64), sequence=2)
        gc.collect()
        waiting = tracemalloc.get_traced_memory()[0] - before
        assert waiting < 1200 * count  # 1,024 entries for the blocks of each would be 50 KiB
        device.extents.stable(V, ONE, 2)
        await applied(device)
        await asyncio.sleep(1)
        gc.collect()
        # The simulated disk is in memory too: journal and index, some 100 bytes an extent.
        assert tracemalloc.get_traced_memory()[0] - before < 300 * count
        tracemalloc.stop()
        assert device.extents.marks(V, ONE, -1, 9, dirty=False) == []
        assert device.extents.volumes(b"", 9) == []

    lives(life)


def test_what_waits_is_bounded_in_extents_too() -> None:
    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        with pytest.raises(Busy):
            trim_all(device)
        assert device.extents._active <= UNAPPLIED_EXTENTS
        await applied(device)
        trim(device, range(9))

    lives(life, unapplied_bytes=64 * MIB, segment_bytes=4 * MIB, apply_interval_s=5.0)


def test_zeroes_that_wait_are_bounded_and_most_are_never_written() -> None:
    written: list[int] = []
    arena_write = Arena.write

    def counted(self: Arena, places: list[int], *rest: Any) -> None:
        written.append(len(places))
        arena_write(self, places, *rest)

    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        trim(device, range(ZEROES_BYTES // EXTENT_BYTES), kind=1)
        with pytest.raises(Busy):
            trim(device, range(1), kind=1)
        device._journal.urgent.set()
        await applied(device)
        assert sum(written) == 0
        write(device, V, 3)
        trim(device, range(3, 5), kind=1)
        device._journal.urgent.set()
        await applied(device)
        assert sum(written) == 2 * EXTENT_BYTES // BLOCK_BYTES
        found = await whole(device.extents.read(V, ONE, [(3, 0, EXTENT_BYTES)]))
        assert found == bytes(EXTENT_BYTES)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arena, "write", counted)
        lives(life, apply_interval_s=5.0)


def test_zeroes_of_a_whole_extent_take_their_space_and_read_back() -> None:
    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        write(device, V, 1, 8 * BLOCK_BYTES)
        trim(device, range(2), kind=1)
        write(device, V, 1, 3 * BLOCK_BYTES)
        await applied(device)
        assert device.status().extent_bytes == 2 * EXTENT_BYTES
        assert device.extents.allocated(V, ONE, 1) == [(0, EXTENT_BYTES)]
        found = await whole(device.extents.read(V, ONE, [(1, 0, EXTENT_BYTES)]))
        expected = bytearray(EXTENT_BYTES)
        expected[3 * BLOCK_BYTES : 4 * BLOCK_BYTES] = BLOCK
        assert found == expected

    lives(life, unapplied_bytes=64 * MIB)


def test_an_opening_reads_no_extent(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[bytes] = []
    get, scan = OrderedEngine.get, OrderedEngine.scan

    def seen_get(self: OrderedEngine, key: bytes) -> bytes | None:
        tables.append(key[:1])
        return get(self, key)

    def seen_scan(self, start, end, reverse, **options):  # type: ignore[no-untyped-def]
        for row in scan(self, start, end, reverse, **options):
            tables.append(row[0][:1])
            yield row

    async def fill(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for extent in range(300):
            write(device, V, extent)
        device.extents.stable(V, ONE, 1)
        await applied(device)
        monkeypatch.setattr(OrderedEngine, "get", seen_get)
        monkeypatch.setattr(OrderedEngine, "scan", seen_scan)

    async def look(device: Device) -> None:
        assert b"v" in tables
        assert not {b"e", b"d"} & set(tables)
        await device.extents.claim(V, ONE)
        assert await read(device, V, 299) == BLOCK
        assert tables.count(b"e") == 1

    lives(fill, look)


def on_node(act: Callable[[Device, SimNode], Awaitable[None]], **changed: object) -> None:
    """One life of a device, with its disk at hand."""
    settings = msgspec.structs.replace(SETTINGS, **changed)

    async def live(env: Env) -> None:
        device = await Device.open(env, PATH, settings, cluster_id=CLUSTER)
        await act(device, node)
        await device.close()

    async def scenario() -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, settings))
        node.crash()
        await node.start(live)

    with World(1) as world:
        node = world.node("n1")
        world.run(scenario())


@pytest.mark.parametrize("crash_after", [1, 3, 5, 8, 12, 16, 20, 25, 30, 36, 44, 60])
def test_a_crash_at_any_step_of_a_drop_forgets_no_space(crash_after: int) -> None:
    async def fill(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        for volume in (V, W):
            await device.extents.claim(volume, ONE)
        for extent in range(40):
            for volume in (V, W):
                write(device, volume, extent, (extent % 3) * SLOT_BYTES)
            await asyncio.sleep(0.01)
        await applied(device)
        assert device.status().extent_bytes == 80 * SLOT_BYTES
        node.disk.faults.crash_after = crash_after
        await device.extents.drop(V)
        for extent in range(40, 50):
            write(device, W, extent)
            await asyncio.sleep(0.01)
        await applied(device)

    async def look(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.extents.claim(W, ONE)
        await device.extents.claim(V, Token(2))
        dropped = not device.extents.marks(V, Token(2), -1, 1, dirty=False)
        trimmed = [ExtentOp(2, extent, 0, EXTENT_BYTES) for extent in range(50)]
        device.extents.write(W, ONE, 0, 1, trimmed, memoryview(b""))
        if not dropped:
            await device.extents.drop(V)
        await asyncio.sleep(1)
        await applied(device)
        assert device.status().extent_bytes == 0
        assert slots_bytes(node) == 0

    with World(1) as world:
        node = world.node("n1")

        async def scenario() -> None:
            await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
            node.crash()
            task = node.start(fill)
            while node.alive and not task.done():  # noqa: ASYNC110 - a crash announces nothing
                await asyncio.sleep(0.05)
            if node.alive:
                task.result()
                node.crash()
            await node.start(look)

        world.run(scenario())


def test_the_applier_goes_on_while_a_dropped_volume_is_given_back() -> None:
    """Each punch takes 50 ms here, all of them 10 s."""

    async def life(device: Device, node: SimNode) -> None:
        every_other = [ExtentOp(2, extent, 0, EXTENT_BYTES) for extent in range(1, 400, 2)]
        for volume in (V, W):
            await device.extents.claim(volume, ONE)
        for extent in range(400):
            write(device, V, extent)
        await applied(device)
        device.extents.write(V, ONE, 0, 2, every_other, memoryview(b""))
        await applied(device)
        for extent in range(200):  # these take the slots between those of the other volume
            write(device, W, extent)
        await applied(device)
        node.disk.faults.call_s = (0.05, 0.05)
        now = asyncio.get_running_loop().time
        await device.extents.drop(V)
        began = now()
        await asyncio.sleep(1)
        write(device, W, 0, BLOCK_BYTES)
        while device.status().journal_bytes:  # noqa: ASYNC110 - a device announces no such event
            await asyncio.sleep(0.05)
        assert now() - began < 4
        assert device.extents.slots.held > 100  # the rest has still to be given back
        node.disk.faults.call_s = (0.0, 0.0)
        await applied(device)
        assert slots_bytes(node) == 200 * SLOT_BYTES

    on_node(life)


def test_a_slot_is_nobody_elses_before_every_read_of_it_has_ended() -> None:
    """The read waits for its lane; meanwhile its extent is trimmed and another one written."""
    other = bytes(reversed(BLOCK))

    async def life(device: Device, node: SimNode) -> None:
        await device.extents.claim(V, ONE)
        write(device, V, 0)
        await applied(device)
        node.disk.faults.cached_chance = 0.0
        node.disk.faults.call_s = (1.0, 1.0)
        ahead = [asyncio.ensure_future(read(device, V, 0))]
        await asyncio.sleep(0.01)
        ahead.append(asyncio.ensure_future(read(device, V, 0)))
        await asyncio.sleep(0.01)
        node.disk.faults.call_s = (0.0, 0.0)
        trim(device, range(1))
        write(device, V, 1, content=other)
        await asyncio.sleep(0.5)
        assert device.extents.slots.held == 1
        assert not ahead[1].done()
        write(device, V, 2, content=other)
        assert [await one for one in ahead] == [BLOCK, BLOCK]
        await applied(device)
        write(device, V, 3)
        await applied(device)
        assert device.status().extent_bytes == 3 * SLOT_BYTES

    on_node(life, read_lanes=1)


def test_a_full_device_takes_overwrites_and_trims_and_refuses_the_rest_unchanged() -> None:
    async def life(device: Device, node: SimNode) -> None:
        await device.extents.claim(V, ONE)
        for extent in range(4):
            write(device, V, extent)
        await applied(device)
        node.disk.faults.capacity_bytes = node.disk.used_bytes() + SETTINGS.reserve_bytes
        write(device, V, 0, content=bytes(BLOCK_BYTES))
        await asyncio.sleep(2)
        assert device.status().state == "full"
        with pytest.raises(Full):
            device.extents.write(
                V,
                ONE,
                9,
                9,
                [ExtentOp(0, 1, 0, BLOCK_BYTES), ExtentOp(0, 4, 0, BLOCK_BYTES)],
                memoryview(bytes(2 * BLOCK_BYTES)),
            )
        assert await read(device, V, 1) == BLOCK
        assert device.extents.marks(V, ONE, 0, 1, dirty=True)[0].epoch == 0
        write(device, V, 1, content=BLOCK[::-1])
        trim(device, range(2, 4))
        await applied(device)
        await asyncio.sleep(2)
        assert await read(device, V, 1) == BLOCK[::-1]
        assert device.status().extent_bytes == 2 * SLOT_BYTES
        write(device, V, 4)  # there is room again

    on_node(life)


def test_without_room_for_fresh_slots_trims_are_obeyed_and_make_some() -> None:
    async def life(device: Device, node: SimNode) -> None:
        await device.extents.claim(V, ONE)
        for extent in range(20):
            write(device, V, extent)
        await applied(device)
        for extent in range(20, 30):
            write(device, V, extent)  # room was counted, and somebody else takes it
        trim(device, range(15))
        write(device, V, 19, content=BLOCK[::-1])
        node.disk.faults.capacity_bytes = node.disk.used_bytes() + 2 * SLOT_BYTES
        await asyncio.sleep(3)
        await applied(device)
        for extent in range(15, 30):
            expected = BLOCK[::-1] if extent == 19 else BLOCK
            assert await read(device, V, extent) == expected
        assert device.status().extent_bytes == 15 * SLOT_BYTES

    on_node(life)


@pytest.mark.parametrize("crash_after", range(1, 15))
def test_what_a_pass_that_a_crash_cut_short_wrote_takes_no_space(crash_after: int) -> None:
    """What it wrote is trimmed meanwhile: redoing all of it needs no slot."""

    async def fill(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.extents.claim(V, ONE)
        for extent in range(10):
            write(device, V, extent)
        await device.extents.flush(V, ONE)
        node.disk.faults.crash_after = crash_after
        await asyncio.sleep(0.0205)  # a pass has begun
        trim(device, range(10))
        await device.extents.flush(V, ONE)
        await applied(device)

    async def look(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.extents.claim(V, ONE)
        trim(device, range(10))
        await asyncio.sleep(1)
        await applied(device)
        assert device.status().extent_bytes == 0
        assert slots_bytes(node) == 0

    with World(crash_after) as world:
        node = world.node("n1")

        async def scenario() -> None:
            await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
            node.crash()
            task = node.start(fill)
            while node.alive and not task.done():  # noqa: ASYNC110 - a crash announces nothing
                await asyncio.sleep(0.05)
            if node.alive:
                node.crash()
            await node.start(look)

        world.run(scenario())


@pytest.mark.parametrize("overtaken", [True, False])
def test_a_mismatch_is_read_again_if_a_pass_has_come_in_between(
    overtaken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mismatches = 1 if overtaken else 2
    arena_read = Arena.read

    def torn(self: Arena, place: int, count: int, seed: int) -> bytes:
        nonlocal mismatches
        mismatches -= 1
        if mismatches >= 0:
            raise BlockCorrupt(place)
        return arena_read(self, place, count, seed)

    async def life(device: Device, node: SimNode) -> None:
        await device.extents.claim(V, ONE)
        write(device, V, 0)
        write(device, V, 1)
        await applied(device)
        node.disk.faults.cached_chance = 0.0
        node.disk.faults.call_s = (1.0, 1.0)
        ahead = asyncio.ensure_future(read(device, V, 1))
        await asyncio.sleep(0.01)
        monkeypatch.setattr(Arena, "read", torn)
        reading = asyncio.ensure_future(read(device, V, 0))
        await asyncio.sleep(0.01)
        node.disk.faults.call_s = (0.0, 0.0)
        write(device, V, 0 if overtaken else 1, content=BLOCK[::-1])
        await asyncio.sleep(0.5)
        await ahead
        if overtaken:
            assert await reading == BLOCK[::-1]
        else:
            with pytest.raises(Corrupt):
                await reading

    on_node(life, read_lanes=1)
