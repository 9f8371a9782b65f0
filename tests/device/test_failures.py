"""What a device does when its disk fails, fills up, or comes back with less than it promised."""

import asyncio
import contextlib
import errno
import random

import pytest

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.applier import FULL_LOOK_S, IDLE_LOOK_S
from pinfold.device.device import Device
from pinfold.device.log import ROWLESS_BYTES
from pinfold.device.streams import Stream
from pinfold.env.api import Env
from pinfold.model.errors import Corrupt, Full, Unavailable
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.model.settings import BlobSettings
from pinfold.sim.inode import Inode
from pinfold.sim.world import SimNode, World
from tests.device.model import whole
from tests.device.worlds import CLUSTER, PATH, SETTINGS, lives, put

SMALL = random.Random(1).randbytes(5000)
A = BlobId(b"a" * 16)
G, V, ONE = GroupId(1), VolumeId(b"v" * 16), Token(1)
MIB = 1 << 20
GIB = 1 << 30


def test_a_failed_flush_stops_the_device_and_only_the_device() -> None:
    async def life(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SETTINGS)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.log.create(G)
        await put(device, A, SMALL)
        waiting = device.log.append(G, [Entry(1, 0, b"x")])
        world.node("n1").disk.faults.lost_flush_chance = 1.0
        also_waiting = device.blobs.put(BlobId(b"b" * 16), memoryview(SMALL), checks_of(SMALL))
        for future in (waiting, also_waiting):
            with pytest.raises(Unavailable):
                await future
        assert device.status().state == "stopped"
        assert "journal" in device.status().reason
        for call in (
            lambda: device.log.append(G, [Entry(2, 0, b"y")]),
            lambda: device.blobs.read(A, 0, 1),
            lambda: device.blobs.delete([A]),
            lambda: device.extents.claim(V, ONE),
        ):
            with pytest.raises(Unavailable):
                call()
        await device.close()

    with World(1) as world:

        async def scenario() -> None:
            await world.node("n1").start(life)

        world.run(scenario())


def test_a_read_error_stops_the_device() -> None:
    async def write(device: Device) -> None:
        await put(device, A, SMALL)

    async def read(device: Device) -> None:
        nodes[0].disk.faults.cached_chance = 0.0
        nodes[0].disk.faults.read_error = errno.EIO
        with pytest.raises(Unavailable):
            await whole(device.blobs.read(A, 0, 1))
        assert device.status().state == "stopped"
        nodes[0].disk.faults.read_error = 0

    nodes: list[SimNode] = []
    lives(write, read, between=nodes.append)


async def put_many(device: Device, payload: bytes, mark: bytes) -> None:
    for number in range(1000):
        await put(device, mark + number.to_bytes(2, "big") + bytes(13), payload)


def test_a_device_full_to_the_last_row_still_takes_what_a_primary_needs_to_begin() -> None:
    """Else a cluster whose devices are all full could not be read after a restart."""

    async def begin(device: Device) -> None:
        await device.log.create(G)
        await device.log.set_view(G, 3, b"voted")
        await device.log.append(G, [Entry(1, 3, b"none")])
        with pytest.raises(Full):
            device.log.append(G, [Entry(2, 3, bytes(ROWLESS_BYTES + 1))])
        assert device.log.state(G).last_op == 1

    lives(begin, reserve_bytes=1 << 40)


def test_a_full_device_refuses_early_and_still_reads_and_deletes() -> None:
    async def start(device: Device) -> None:
        await device.log.create(G)
        await device.extents.claim(V, ONE)

    async def fill(device: Device) -> None:
        with pytest.raises(Full):
            await put_many(device, SMALL * 10, b"l")
        with pytest.raises(Full):
            await put_many(device, b"small", b"s")
        assert device.status().state == "full"
        with pytest.raises(Full):
            device.blobs.begin(A, 300_000, checks_of(bytes(300_000)))
        write = [ExtentOp(0, 0, 0, 4096)]
        with pytest.raises(Full):
            device.extents.write(V, ONE, 0, 1, write, memoryview(bytes(4096)))
        await device.log.append(G, [Entry(1, 0, b"a delete")])
        copied = [(b"row%d" % number, bytes(60_000)) for number in range(15)]
        with pytest.raises(Full):
            device.log.install(G, 9, 0, copied, first=True, last=False)
        assert device.log.state(G).last_op == 1
        blobs = [blob for blob, _ in device.blobs.scan(b"", 1000)]
        assert len(blobs) > 20
        assert await whole(device.blobs.read(blobs[0], 0, 5000)) == SMALL
        await device.blobs.delete(blobs)
        await asyncio.sleep(1)
        await put(device, A, SMALL)
        await asyncio.sleep(1)
        assert device.status().state == "serving"

    def limit(node: SimNode) -> None:
        node.disk.faults.capacity_bytes = 12 * MIB

    lives(start, fill, between=limit)


def test_a_full_device_that_is_left_alone_serves_again_once_others_made_room() -> None:
    nodes: list[SimNode] = []

    async def start(device: Device) -> None:
        await put(device, A, SMALL)

    async def wait(device: Device) -> None:
        await asyncio.sleep(5)
        assert device.status().state == "full"
        nodes[0].disk.faults.capacity_bytes = 64 * MIB
        await asyncio.sleep(5)
        assert device.status().state == "serving"
        await put(device, BlobId(b"b" * 16), SMALL)

    def limit(node: SimNode) -> None:
        node.disk.faults.capacity_bytes = node.disk.used_bytes() + 64 * 1024
        nodes.append(node)

    lives(start, wait, between=limit)


def test_room_of_streams_that_are_slow_is_counted_until_they_end() -> None:
    """Whatever is measured meanwhile: the reserve is for what makes room."""
    length = 1 * MIB
    payload = bytes(length)

    async def start(device: Device) -> None:
        await put(device, A, SMALL)

    async def begin_all(device: Device) -> list[Stream]:
        streams: list[Stream] = []
        with contextlib.suppress(Full):
            while len(streams) < 99:
                blob = BlobId(len(streams).to_bytes(16, "big"))
                streams.append(device.blobs.begin(blob, length, checks_of(payload)))
                await device.blobs.delete([A])
                await put(device, A, SMALL)
                await asyncio.sleep(1)
        return streams

    async def act(device: Device) -> None:
        aborted = await begin_all(device)
        for stream in aborted:
            stream.abort()
        await device.blobs.delete([A])
        await asyncio.sleep(1)
        streams = await begin_all(device)
        assert len(streams) == len(aborted)
        assert 2 < len(streams) < 99
        for stream in streams:
            await stream.write(payload)
            await stream.commit()
        await asyncio.sleep(1)
        assert device.status().free_bytes >= SETTINGS.reserve_bytes
        await device.blobs.delete([stream.blob for stream in streams])
        await asyncio.sleep(1)
        assert device.status().free_bytes >= len(streams) * length

    def limit(node: SimNode) -> None:
        node.disk.faults.capacity_bytes = node.disk.used_bytes() + 8 * MIB

    lives(start, act, between=limit, unapplied_bytes=8 * MIB)


async def create_group(device: Device) -> None:
    await device.log.create(G)


async def fill_the_journal(device: Device) -> int:
    """Append until there is no room for another segment; the op that was refused."""
    op = 1
    with contextlib.suppress(Full):
        while True:
            await device.log.append(G, [Entry(op, 0, bytes(4000))])
            device.log.apply(G, op, [])
            op += 1
    with pytest.raises(Full, match="segment"):
        device.log.append(G, [Entry(op, 0, b"x")])
    return op


def half_a_segment_left(node: SimNode) -> None:
    node.disk.faults.capacity_bytes = node.disk.used_bytes() + SETTINGS.segment_bytes // 2


def test_a_segment_whose_making_a_power_cut_interrupted_is_not_written_to() -> None:
    """It has its size, and holes: the record that meets one would stop a device without room."""

    async def act(device: Device) -> None:
        await fill_the_journal(device)
        assert device.status().state != "stopped"

    def half_filled(node: SimNode) -> None:
        unused = [
            inode
            for name, inode in node.disk.names.items()
            if inode is not None
            and name.startswith(f"{PATH}/journal/")
            and not any(inode.pages.get(0, b""))
        ]
        assert unused
        for inode in unused:
            for number in sorted(inode.pages)[len(inode.pages) // 2 :]:
                del inode.pages[number]
        half_a_segment_left(node)
        node.disk.faults.capacity_bytes -= SETTINGS.segment_bytes // 4

    lives(create_group, act, between=half_filled)


def test_a_journal_that_found_no_room_takes_records_again_once_others_made_room() -> None:
    nodes: list[SimNode] = []

    async def fill(device: Device) -> None:
        op = await fill_the_journal(device)
        await asyncio.sleep(5)
        with pytest.raises(Full, match="segment"):
            device.log.append(G, [Entry(op, 0, b"x")])
        nodes[0].disk.faults.capacity_bytes = 64 * MIB
        await asyncio.sleep(5)
        await device.log.append(G, [Entry(op, 0, b"x")])

    def limit(node: SimNode) -> None:
        half_a_segment_left(node)
        nodes.append(node)

    lives(create_group, fill, between=limit, reserve_bytes=4096)


def test_a_journal_that_found_no_room_takes_records_again_once_it_has_let_a_segment_go() -> None:
    async def fill(device: Device) -> None:
        op = await fill_the_journal(device)
        device.log.trim(G, op)
        await asyncio.sleep(5)
        await device.log.append(G, [Entry(op, 0, b"x")])

    lives(
        create_group,
        fill,
        between=half_a_segment_left,
        reserve_bytes=4096,
        journal_retain_bytes=0,
    )


def flushed_then_lost(place: str) -> None:
    """Damage one flushed journal record that is not applied; the next opening must refuse."""

    async def write(device: Device) -> None:
        await device.log.create(G)
        for op in range(1, 6):
            await device.log.append(G, [Entry(op, 0, b"%d" % op * 100)])

    async def reopen(device: Device) -> None:
        raise AssertionError("it opened")

    def damage(node: SimNode) -> None:
        disk = node.disk
        for name in [name for name in disk.names if name.startswith(f"{PATH}/journal/")]:
            image = disk.file(name).read(SETTINGS.segment_bytes, 0)
            found = image.find(b"3" * 100)
            if found >= 0:
                disk.rot(name, found if place == "payload" else found - 70)
                return
        raise AssertionError("the record is in no segment")

    with pytest.raises(Corrupt):
        lives(write, reopen, crash=True, between=damage, apply_interval_s=1000.0)


@pytest.mark.parametrize("place", ["payload", "header"])
def test_a_device_that_lost_a_flushed_record_is_refused(place: str) -> None:
    flushed_then_lost(place)


def test_a_device_that_lost_its_journal_is_refused() -> None:
    async def write(device: Device) -> None:
        await put(device, A, SMALL)
        await asyncio.sleep(1)

    async def reopen(device: Device) -> None:
        raise AssertionError("it opened")

    def lose(node: SimNode) -> None:
        for name in [name for name in node.disk.names if name.startswith(f"{PATH}/journal/")]:
            node.disk.leave(name)
        node.disk.sync_dir(f"{PATH}/journal")

    with pytest.raises(Corrupt):
        lives(write, reopen, crash=True, between=lose)


def test_a_superblock_older_than_the_journal_is_refused() -> None:
    """A boot would be used twice: holders would take what was lost for what they have sent."""
    name = f"{PATH}/device.pinfold"
    saved: list[Inode | None] = []

    async def first(device: Device) -> None:
        await put(device, A, SMALL)

    async def second(device: Device) -> None:
        await put(device, BlobId(b"b" * 16), SMALL)

    async def reopen(device: Device) -> None:
        raise AssertionError("it opened")

    def restore(node: SimNode) -> None:
        saved.append(node.disk.names[name])
        if len(saved) == 2:
            node.disk.names[name] = saved[0]
            node.disk.sync_dir(PATH)

    with pytest.raises(Corrupt, match="boot"):
        lives(first, second, reopen, crash=True, between=restore)


@pytest.mark.parametrize(
    ("free_share", "full", "takes"), [(0.6, False, True), (0.4, True, True), (0.1, True, False)]
)
def test_entries_are_taken_for_a_while_after_rows_should_not_grow(
    free_share: float, full: bool, takes: bool
) -> None:
    async def act(device: Device) -> None:
        assert device.status().state == "full"
        assert device.status().reserve_bytes == SETTINGS.reserve_bytes
        # What frees blobs hurries, however large the reserve is beside the disk.
        shares = [device.status().free_share]
        assert BlobSettings().free_delay(shares) == BlobSettings().free_delay_short_s
        assert device.log.full() is full
        entry = Entry(1, 3, bytes(1000))
        if takes:
            await device.log.append(G, [entry])
        else:
            with pytest.raises(Full):
                device.log.append(G, [entry])

    def limit(node: SimNode) -> None:
        free = int(SETTINGS.reserve_bytes * free_share)
        node.disk.faults.capacity_bytes = node.disk.used_bytes() + free

    lives(create_group, act, between=limit)


def test_an_idle_device_notices_that_others_have_filled_its_file_system() -> None:
    async def life(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SETTINGS)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await put(device, A, SMALL)
        await asyncio.sleep(60)
        faults = world.node("n1").disk.faults
        assert device.status().state == "serving"
        faults.capacity_bytes = world.node("n1").disk.used_bytes() + 1000
        await asyncio.sleep(IDLE_LOOK_S + 1)
        assert device.status().state == "full"
        assert device.log.full()
        faults.capacity_bytes = 64 * GIB
        await asyncio.sleep(FULL_LOOK_S + 1)
        assert device.status().state == "serving"
        await device.close()

    with World(1) as world:

        async def scenario() -> None:
            await world.node("n1").start(life)

        world.run(scenario())
