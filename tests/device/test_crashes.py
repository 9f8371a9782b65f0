"""A device is killed at any disk call of a random workload, again and again, and reopened."""

import asyncio
import random

import pytest

from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Full
from pinfold.model.ids import BlobId, GroupId, VolumeId
from pinfold.model.limits import EXTENT_BYTES
from pinfold.model.settings import DeviceSettings
from pinfold.sim.world import SimNode, World
from tests.device.model import AREA_UNITS, UNIT, BlobModel, LogModel, VolumeModel, whole

PATH = "/device"
CLUSTER = b"c" * 16
LIVES = 6


class Story:
    """One device through several lives."""

    def __init__(
        self, rng: random.Random, *, churn: bool = False, cramped: SimNode | None = None
    ) -> None:
        self.rng = rng
        self.cramped = cramped
        """The node, if only volumes are written and its disk has no room now and then."""
        self.churn = churn
        """Use few blobs and whole extents again and again."""
        self.blobs = BlobModel()
        self.logs = [LogModel(GroupId(3)), LogModel(GroupId(4))]
        self.volumes = [VolumeModel(VolumeId(b"v" * 16)), VolumeModel(VolumeId(b"w" * 16))]
        self.lives = 0
        self.boot = 0

    async def live(self, env: Env) -> None:
        """Open, check, work until the crash."""
        settings = DeviceSettings.for_tests()
        device = await Device.open(env, PATH, settings, cluster_id=CLUSTER)
        assert device.boot > self.boot
        self.boot = device.boot
        for log in self.logs:
            await device.log.create(log.group)
            log.check(device)
        await self.blobs.check(device)
        for volume in self.volumes:
            await volume.check(device)
        self.lives += 1
        async with asyncio.TaskGroup() as group:
            if self.cramped is not None:
                group.create_task(self.cramp(self.cramped))
                for volume in self.volumes:
                    group.create_task(self.write_volume(device, volume))
                return
            for log in self.logs:
                group.create_task(self.write_log(device, log))
            for volume in self.volumes:
                group.create_task(self.write_volume(device, volume))
            for _ in range(3):
                group.create_task(self.write_blobs(device))

    async def cramp(self, node: SimNode) -> None:
        rng = self.rng
        while True:
            await asyncio.sleep(rng.random() * 0.1)
            faults = node.disk.faults
            faults.room_after, faults.room_failures = rng.randrange(20), rng.randint(1, 6)

    async def write_log(self, device: Device, log: LogModel) -> None:
        rng = self.rng
        while True:
            await asyncio.sleep(rng.random() * 0.01)
            choice = rng.random()
            waiting = max(log.entries, default=0) - len(log.applied)
            if choice < 0.1:
                await log.set_view(device, device.log.state(log.group).view + 1)
            elif waiting > 8 or (choice < 0.4 and waiting):
                log.apply(device)
                device.log.trim(log.group, len(log.applied) - rng.randrange(5))
            else:
                lowest = len(log.applied) + 1
                last = max(log.entries, default=0)
                first = rng.randint(lowest, last + 1) if rng.random() < 0.3 else last + 1
                view = device.log.state(log.group).view
                entries = [
                    Entry(op, view, rng.randbytes(rng.choice((10, 300, 9000))))
                    for op in range(first, first + rng.randint(1, 4))
                ]
                appended = asyncio.create_task(log.append(device, entries))
                if rng.random() < 0.7:
                    await appended

    async def write_blobs(self, device: Device) -> None:
        rng = self.rng
        while True:
            await asyncio.sleep(rng.random() * 0.01)
            held = list(self.blobs.held)
            choice = rng.random()
            if held and choice < (0.4 if self.churn else 0.25):
                await self.blobs.delete(device, rng.sample(held, rng.randint(1, min(4, len(held)))))
            elif choice < 0.5 and held:
                blob = rng.choice(held)
                payload = self.blobs.held[blob]
                start = rng.randint(0, len(payload))
                found = await whole(device.blobs.read(blob, start, len(payload) - start))
                assert found == payload[start:]
            else:
                gone = list(self.blobs.gone)
                again = gone and (self.churn or rng.random() < 0.2)
                blob = rng.choice(gone) if again else BlobId(rng.randbytes(16))
                self.blobs.gone.pop(blob, None)
                size = rng.choice((0, 1, 3000, 4096, 40_000, 65_536, 70_000, 200_000))
                await self.blobs.put(device, blob, rng.randbytes(size))

    async def write_volume(self, device: Device, volume: VolumeModel) -> None:
        rng = self.rng
        while True:
            await asyncio.sleep(rng.random() * 0.005)
            choice = rng.random()
            if choice < 0.2:
                await volume.flush(device)
            elif choice < 0.25 and volume.written:
                # A holder declares what it has flushed; here the device is its only member.
                volume.declare(device, min(volume.written.values()))
            elif choice < 0.4:
                index, first = rng.randrange(3), rng.randrange(AREA_UNITS)
                units = rng.randint(1, AREA_UNITS - first)
                expected = volume.expected(index, first, units)
                reading = device.extents.read(
                    volume.volume, volume.token, [(index, first * UNIT, units * UNIT)]
                )
                if isinstance(reading, list):
                    assert b"".join(reading) == expected
                else:
                    await reading
            else:
                self.write_ops(device, volume)

    def write_ops(self, device: Device, volume: VolumeModel) -> None:
        rng = self.rng
        ops = []
        size = 0
        if self.churn and rng.random() < 0.3:
            ops.append(ExtentOp(2, rng.randrange(3), 0, EXTENT_BYTES))
        for _ in range(rng.randint(1, 4)):
            step = rng.choice((1, 8))
            first = rng.randrange(0, AREA_UNITS, step)
            units = min(rng.randint(1, 3) * step, AREA_UNITS - first)
            if rng.random() < 0.1:
                first, units = 0, AREA_UNITS
            kind = rng.choice((0, 0, 0, 1, 2))
            ops.append(ExtentOp(kind, rng.randrange(3), first * UNIT, units * UNIT))
            size += units * UNIT if kind == 0 else 0
        try:
            volume.write(device, ops, rng.randbytes(size))
        except (Busy, Full) as error:
            assert self.cramped is not None, "the applier keeps up with this workload"
            if isinstance(error, Full):
                assert any(op.kind != 2 for op in ops), "a trim needs no room"


async def tell(node: SimNode, story: Story) -> None:
    """Crash the node at random disk calls until it has lived often enough."""
    rng = story.rng
    life = node.start(lambda env: Device.format(env, PATH, CLUSTER, DeviceSettings.for_tests()))
    await life
    node.crash()
    while story.lives < LIVES:
        node.disk.faults.crash_after = rng.choice((rng.randrange(40), rng.randrange(600)))
        node.disk.faults.room_after = -1
        life_task = node.start(story.live)
        while node.alive:
            await asyncio.sleep(0.05)
            if node.alive and life_task.done():
                life_task.result()


@pytest.mark.parametrize("seed", range(20))
def test_nothing_acknowledged_is_lost(seed: int) -> None:
    with World(seed) as world:
        story = Story(random.Random(seed))
        world.run(tell(world.node("n1"), story))


@pytest.mark.parametrize("seed", [*range(12), 26, 36, 46, 66])
def test_what_is_freed_and_used_again_is_never_freed_twice(seed: int) -> None:
    with World(seed) as world:
        story = Story(random.Random(seed), churn=True)
        world.run(tell(world.node("n1"), story))


@pytest.mark.parametrize("seed", range(12))
def test_volumes_lose_nothing_on_a_disk_without_room_now_and_then(seed: int) -> None:
    with World(seed) as world:
        node = world.node("n1")
        story = Story(random.Random(seed), churn=True, cramped=node)
        world.run(tell(node, story))
