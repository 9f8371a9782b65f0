"""What a device's side of the extent streams takes and refuses."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from pinfold.cluster.extents import MARKS_PAGE, OP, SPAN, Address, ExtentClient, ExtentHost
from pinfold.device.api import Mark
from pinfold.model.errors import Conflict, Fenced, Invalid, Unavailable
from pinfold.model.ids import Boot, DeviceId, Token, VolumeId
from tests.twins.extents import MemoryDevice, MemoryNetwork, MemoryNode
from tests.twins.virtual import run_virtual

VOLUME = VolumeId(b"v" * 16)
DEVICE = DeviceId(0)
SOON = 100.0


class Stage:
    def __init__(self) -> None:
        self.node = MemoryNode("n0")
        self.device = MemoryDevice(0)
        ExtentHost(self.node.dispatcher, {DEVICE: self.device})
        self.network = MemoryNetwork([self.node])
        self.client = ExtentClient(
            self.network, lambda device: self.node.name if device == DEVICE else None
        )

    async def open(self, token: int, stream: int) -> Address:
        claimed = await self.client.claim(DEVICE, VOLUME, Token(token), stream, deadline=SOON)
        return Address(DEVICE, claimed.boot, VOLUME, Token(token), stream)

    async def write(self, address: Address, number: int, data: bytes = b"x" * 8) -> None:
        ops = OP.pack(0, 0, 0, len(data))
        await self.client.write(address, number, 1, number + 1, 0, ops, [data], deadline=SOON)

    async def read(self, address: Address, number: int, length: int = 8) -> bytes:
        spans = SPAN.pack(0, 0, length)
        answer = await self.client.read(address, number, spans, deadline=SOON)
        return bytes(answer.payload)


def on_stage(story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(Stage())

    run_virtual(run)


def test_messages_are_taken_in_order_or_not_at_all() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        await stage.write(address, 0, b"a" * 8)
        with pytest.raises(Conflict):
            await stage.write(address, 2, b"c" * 8)
        with pytest.raises(Conflict):
            await stage.write(address, 0, b"d" * 8)
        assert await stage.read(address, 1) == b"a" * 8
        await stage.write(address, 1, b"b" * 8)
        assert await stage.read(address, 2) == b"b" * 8

    on_stage(story)


def test_a_read_or_flush_that_overtook_a_write_is_refused() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        with pytest.raises(Conflict):
            await stage.read(address, 1)
        with pytest.raises(Conflict):
            await stage.client.flush(address, 1, deadline=SOON)
        await stage.client.flush(address, 0, deadline=SOON)

    on_stage(story)


def test_stragglers_of_an_older_stream_are_refused() -> None:
    async def story(stage: Stage) -> None:
        old = await stage.open(1, 1)
        new = await stage.open(1, 2)
        with pytest.raises(Conflict):
            await stage.write(old, 0)
        with pytest.raises(Conflict):
            await stage.read(old, 0)
        with pytest.raises(Conflict):
            await stage.open(1, 2)
        await stage.write(new, 0)

    on_stage(story)


def test_nothing_is_taken_under_another_boot() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        wrong = address._replace(boot=Boot(address.boot + 1))
        with pytest.raises(Conflict) as refused:
            await stage.write(wrong, 0)
        assert refused.value.detail == address.boot

    on_stage(story)


def test_a_lower_token_is_fenced_also_for_reads() -> None:
    async def story(stage: Stage) -> None:
        old = await stage.open(1, 1)
        await stage.open(2, 1)
        for attempt in (stage.write(old, 0), stage.read(old, 0)):
            with pytest.raises(Conflict):
                await attempt
        with pytest.raises(Fenced):
            await stage.open(1, 9)

    on_stage(story)


def test_devices_that_are_not_here_are_unavailable() -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(Unavailable):
            await stage.client.claim(DeviceId(5), VOLUME, Token(1), 1, deadline=SOON)

    on_stage(story)


@pytest.mark.parametrize(
    "body", [None, 7, [], [0] * 4, [0, 1, VOLUME, 1, 1, 0], [0, 1, VOLUME, 1, 1, 0, 1, 1, 0, b"xx"]]
)
def test_malformed_bodies_change_nothing(body: object) -> None:
    async def story(stage: Stage) -> None:
        await stage.open(1, 1)
        with pytest.raises(Invalid):
            await stage.network.call(stage.node.name, "extent.write", body, deadline=SOON)
        with pytest.raises(Invalid):
            await stage.network.call(stage.node.name, "extent.claim", [0], deadline=SOON)

    on_stage(story)


def test_a_busy_device_keeps_the_order_of_what_waits() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        await stage.write(address, 0, b"a" * 8)
        stage.device.extents.busy = True
        loop = asyncio.get_running_loop()
        writes = [loop.create_task(stage.write(address, n, b"%d" % n * 8)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        read = loop.create_task(stage.read(address, 4))
        flush = stage.client.flush(address, 4, deadline=SOON)
        await asyncio.sleep(1)
        assert not any(task.done() for task in (*writes, read, flush))
        stage.device.extents.busy = False
        assert await read == b"3" * 8
        await flush
        for task in writes:
            await task
        await stage.write(address, 4)

    on_stage(story)


def test_what_waits_for_a_busy_device_ends_with_its_stream_or_its_time() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        stage.device.extents.busy = True
        loop = asyncio.get_running_loop()
        waiting = loop.create_task(stage.write(address, 0))
        await asyncio.sleep(0.1)
        address = await stage.open(1, 2)
        with pytest.raises(Conflict):
            await waiting
        with pytest.raises(Unavailable):
            await stage.client.write(
                address, 0, 1, 1, 0, OP.pack(0, 0, 0, 1), [b"x"], deadline=loop.time() + 1
            )
        await asyncio.sleep(0.1)
        stage.device.extents.busy = False
        await stage.write(address, 0)

    on_stage(story)


def test_marks_flush_stable_and_drop() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        await stage.write(address, 0)
        await stage.client.flush(address, 1, deadline=SOON)
        marks = partial(stage.client.marks, address, deadline=SOON)
        assert await marks(-1, dirty=True) == [Mark(0, 1, 1, 1)]
        assert await marks(0, dirty=True) == []
        await stage.client.stable(address, 1, deadline=SOON)
        assert await marks(-1, dirty=True) == []
        assert await marks(-1, dirty=False) == [Mark(0, 1, 0, 0)]
        assert await stage.client.allocated(address, [0, 1], deadline=SOON) == [[(0, 4 << 20)], []]
        await stage.client.drop(DEVICE, VOLUME, deadline=SOON)
        assert not stage.device.extents.volumes(b"", 1)

    on_stage(story)


def test_a_volume_that_was_dropped_is_not_claimed_with_a_token_of_before() -> None:
    async def story(stage: Stage) -> None:
        await stage.open(2, 1)
        await stage.client.drop(DEVICE, VOLUME, deadline=SOON)
        with pytest.raises(Fenced):
            await stage.open(1, 9)

    on_stage(story)


def test_marks_come_in_pages() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        ops = b"".join(OP.pack(0, extent, 0, 0) for extent in range(5))
        await stage.client.write(address, 0, 1, 1, 0, ops, [], deadline=SOON)
        marks = partial(stage.client.marks, address, dirty=True, deadline=SOON)
        assert [mark.extent for mark in await marks(-1, limit=2)] == [0, 1]
        assert [mark.extent for mark in await marks(1, limit=2)] == [2, 3]
        assert [mark.extent for mark in await marks(3, limit=2)] == [4]
        for limit in (0, MARKS_PAGE + 1):
            with pytest.raises(Invalid):
                await marks(-1, limit=limit)

    on_stage(story)


def test_calls_that_nobody_waits_for_leave_no_trace() -> None:
    async def story(stage: Stage) -> None:
        address = await stage.open(1, 1)
        calls = [stage.client.read(address, 9, b"", deadline=SOON) for _ in range(3)]
        for call in calls:
            with pytest.raises(Conflict):
                await asyncio.shield(call)

    on_stage(story)
