"""No room, and EIO, at every single disk call of a mixed workload.

No room is an answer: the device says Full, goes on reading and deleting, and takes writes again
when there is room. EIO stops the device, never the process, and says why. Either way everything
that was acknowledged is there: at once, and after the next opening.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import cache

import msgspec
import pytest

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.device.repair import repair
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Corrupt, Full, PinfoldError, Unavailable
from pinfold.model.ids import BlobId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.sim.world import SimNode, World
from tests.device.model import whole
from tests.device.recorded import ONE, G, State, V, found_in
from tests.device.test_check import look
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put

QUICK = msgspec.structs.replace(SETTINGS, apply_interval_s=0.005, journal_retain_bytes=0)
ROUNDS = 6


class Story:
    """What was acknowledged, and what was asked and never answered."""

    def __init__(self) -> None:
        self.state: State = {}
        self.unsure: dict[tuple[object, ...], set[object]] = {}
        self.refused = 0

    async def attempt(self, changes: State, act: Callable[[], Awaitable[object]]) -> None:
        """Do something that makes these changes when it is acknowledged."""
        for kind, value in changes.items():
            self.unsure.setdefault(kind, {self.state.get(kind)}).add(value)
        try:
            async with asyncio.timeout(5):
                await act()
        except (Full, Busy):
            self.refused += 1
        except (Unavailable, TimeoutError):
            return
        else:
            self.state.update(changes)
            for kind in changes:
                del self.unsure[kind]

    async def check(self, device: Device) -> None:
        """Everything acknowledged is there; of the rest either all or nothing."""
        for kind, value in self.state.items():
            found = await found_in(device, kind)
            if kind in self.unsure:
                assert found in self.unsure[kind] | {value}, kind
            else:
                assert found == value, kind


async def work(device: Device, story: Story) -> None:
    """Small and large blobs, deletes, log entries, volume writes: with time for the applier."""
    rng = random.Random(5)
    blobs: list[BlobId] = []
    for number in range(ROUNDS):
        op = number + 1
        entry = Entry(op, 1, rng.randbytes(500))

        async def append(entry: Entry = entry) -> None:
            if device.log.state(G).last_op >= entry.op:
                return
            await device.log.append(G, [entry])
            device.log.apply(G, entry.op, [(b"row-%d" % entry.op, b"value")])

        if device.log.state(G).last_op == number:
            await story.attempt({("log", G): op}, append)
        for size in (4000, 100_000):
            blob, payload = BlobId(rng.randbytes(16)), rng.randbytes(size)
            await story.attempt(
                {("blob", blob): payload}, lambda b=blob, p=payload: put(device, b, p)
            )
            blobs.append(blob)
        if number % 2:
            gone = blobs.pop(0)
            await story.attempt(
                {("blob", gone): None}, lambda gone=gone: device.blobs.delete([gone])
            )
        await write_volume(device, story, rng, number)
        await asyncio.sleep(0.05)


async def write_volume(device: Device, story: Story, rng: random.Random, number: int) -> None:
    payload = rng.randbytes(2 * BLOCK_BYTES)
    extent = number % 3
    changes: State = {
        ("block", V, extent, 0): payload[:BLOCK_BYTES],
        ("block", V, extent, 1): payload[BLOCK_BYTES:],
    }
    if number == ROUNDS - 1:
        changes = {("block", V, 0, block): bytes(BLOCK_BYTES) for block in range(2)}

    async def write() -> None:
        kind = 2 if number == ROUNDS - 1 else 0
        index = 0 if kind else extent
        ops = [ExtentOp(kind, index, 0, 2 * BLOCK_BYTES)]
        data = memoryview(b"" if kind else payload)
        device.extents.write(V, ONE, 1, number + 1, ops, data)
        await device.extents.flush(V, ONE)

    await story.attempt(changes, write)


async def opened(env: Env) -> Device:
    device = await Device.open(env, PATH, QUICK, cluster_id=CLUSTER)
    await device.log.create(G)
    await device.extents.claim(V, ONE)
    return device


def on_a_new_device(*lives: Callable[[Env, SimNode], Awaitable[None]], seed: int = 1) -> None:
    """Format a device and live on it, one process after the other."""
    with World(seed) as world:
        node = world.node("n1")

        async def scenario() -> None:
            await node.start(lambda env: Device.format(env, PATH, CLUSTER, QUICK))
            for life in lives:
                node.crash()
                await node.start(lambda env, life=life: life(env, node))  # type: ignore[misc]

        world.run(scenario())


@cache
def calls_of(counter: str) -> int:
    """How many calls of a kind the workload makes."""
    counted = 0

    async def life(env: Env, node: SimNode) -> None:
        nonlocal counted
        device = await opened(env)
        setattr(node.disk.faults, counter, 1 << 40)
        story = Story()
        await work(device, story)
        await asyncio.sleep(0.2)
        counted = (1 << 40) - getattr(node.disk.faults, counter)
        assert not story.unsure
        await story.check(device)

    on_a_new_device(life)
    assert counted > 10
    return counted


async def reopened(env: Env, story: Story) -> None:
    """A later life: all there, a check finds nothing, and the device serves."""
    device = await Device.open(env, PATH, QUICK, cluster_id=CLUSTER)
    await story.check(device)
    await put(device, b"a" * 16, b"after it all")
    await device.close()
    assert look(env).findings == []


@pytest.mark.parametrize("failures", [6, -1])
def test_no_room_at_any_call_is_an_answer_and_no_failure(failures: int) -> None:
    seen: set[str] = set()
    for after in range(calls_of("room_after")):
        story = Story()

        async def life(env: Env, node: SimNode, after: int = after, story: Story = story) -> None:
            device = await opened(env)
            faults = node.disk.faults
            faults.room_after, faults.room_failures = after, failures
            await work(device, story)
            await asyncio.sleep(0.3)
            status = device.status()
            assert status.reason == ""
            seen.add(status.state)
            await story.check(device)
            kept = [kind for kind, value in story.state.items() if kind[0] == "blob" and value]
            gone = BlobId(kept[0][1]) if kept else None  # type: ignore[arg-type]
            if gone is not None:
                await asyncio.wait_for(device.blobs.delete([gone]), 5)
                story.state["blob", gone] = None
                story.unsure.pop(("blob", gone), None)
            faults.room_after = -1
            await asyncio.sleep(1)
            assert device.status().state == "serving"
            await put(device, b"n" * 16, b"there is room again")
            story.state["blob", BlobId(b"n" * 16)] = b"there is room again"
            await story.check(device)
            if after % 2:
                await device.close()

        on_a_new_device(life, lambda env, _node, story=story: reopened(env, story))
    assert "full" in seen


@pytest.mark.parametrize("failures", [1, -1])
@pytest.mark.parametrize("counter", ["reads_after", "changes_after"])
def test_an_error_at_any_call_stops_the_device_and_loses_nothing(
    counter: str, failures: int
) -> None:
    stopped = 0
    for after in range(calls_of(counter)):
        story = Story()

        async def life(env: Env, node: SimNode, after: int = after, story: Story = story) -> None:
            nonlocal stopped
            device = await opened(env)
            node.disk.faults.failures = failures
            setattr(node.disk.faults, counter, after)
            await work(device, story)
            await asyncio.sleep(0.2)
            status = device.status()
            if status.state == "stopped":
                stopped += 1
                assert status.reason
                for call in (
                    lambda: device.blobs.delete([BlobId(b"x" * 16)]),
                    lambda: device.blobs.put(BlobId(b"y" * 16), memoryview(b"y"), checks_of(b"y")),
                    lambda: device.extents.flush(V, ONE),
                ):
                    with pytest.raises(Unavailable):
                        await call()
            setattr(node.disk.faults, counter, -1)
            await device.close()

        on_a_new_device(life, lambda env, _node, story=story: reopened(env, story))
    assert stopped > calls_of(counter) * 0.9 - 3


@pytest.mark.parametrize("counter", ["reads_after", "changes_after", "room_after"])
def test_an_error_while_opening_is_told_and_does_no_harm(counter: str) -> None:
    refused = 0
    for after in range(60):
        story = Story()

        async def first(env: Env, node: SimNode, story: Story = story) -> None:
            device = await opened(env)
            await work(device, story)

        async def second(env: Env, node: SimNode, after: int = after) -> None:
            node.disk.faults.failures, node.disk.faults.room_failures = 1, 1
            setattr(node.disk.faults, counter, after)
            nonlocal refused
            try:
                device = await Device.open(env, PATH, QUICK, cluster_id=CLUSTER)
            except (PinfoldError, OSError):
                refused += 1
            else:
                await asyncio.sleep(0.2)
                await device.close()
            setattr(node.disk.faults, counter, -1)

        on_a_new_device(first, second, lambda env, _node, story=story: reopened(env, story))
    assert refused > 0


def test_an_unreadable_sector_stops_the_device_and_a_repair_sets_it_aside() -> None:
    blobs = {BlobId(bytes([number]) * 16): bytes([number]) * 100_000 for number in range(1, 5)}
    bad = BlobId(b"\x02" * 16)

    async def fill(env: Env, _node: SimNode) -> None:
        device = await opened(env)
        for blob, payload in blobs.items():
            await put(device, blob, payload)
        await device.close()

    async def read(env: Env, node: SimNode) -> None:
        for path in [path for path in node.disk.names if path.startswith(f"{PATH}/packs/")]:
            at = node.disk.file(path).read(1 << 20, 0).find(b"\x02" * 50_000)
            if at >= 0:
                node.disk.bad.add(path, at + 30_000, 512)
        device = await opened(env)
        assert await whole(device.blobs.read(BlobId(b"\x01" * 16), 0, 10)) == b"\x01" * 10
        with pytest.raises(Unavailable):
            await whole(device.blobs.read(bad, 0, 100_000))
        assert "read" in device.status().reason
        await device.close()

    async def mend(env: Env, _node: SimNode) -> None:
        report = look(env)
        assert report.bad_blobs == [bad]
        assert "cannot be read" in report.findings[0].what
        await repair(env, PATH, report)

    async def serve(env: Env, _node: SimNode) -> None:
        device = await opened(env)
        for blob, payload in blobs.items():
            if blob == bad:
                with pytest.raises(Corrupt):
                    device.blobs.read(blob, 0, 100_000)
            else:
                assert await whole(device.blobs.read(blob, 0, 100_000)) == payload
        await put(device, bad, blobs[bad])
        assert await whole(device.blobs.read(bad, 0, 100_000)) == blobs[bad]
        assert device.status().state == "serving"

    on_a_new_device(fill, read, mend, serve)


async def fill_journal(device: Device) -> list[asyncio.Future[None]]:
    """Views of 30 KiB until the journal has no segment for more: nothing refuses these."""
    waiting: list[asyncio.Future[None]] = []
    for view in range(1, 40):
        waiting.append(device.log.set_view(G, view, bytes(30_000)))
        await asyncio.sleep(0.02)
    return waiting


@pytest.mark.parametrize("returns", [True, False])
def test_a_journal_without_room_waits_and_a_closing_does_not(returns: bool) -> None:
    keeps = msgspec.structs.replace(QUICK, journal_retain_bytes=1 << 30)

    async def life(env: Env, node: SimNode) -> None:
        device = await Device.open(env, PATH, keeps, cluster_id=CLUSTER)
        await device.log.create(G)
        await put(device, b"a" * 16, b"before")
        node.disk.faults.room_after = 0
        waiting = await fill_journal(device)
        durable = sum(1 for future in waiting if future.done())
        assert 0 < durable < len(waiting)
        assert device.status().reason == ""
        with pytest.raises(Full):
            device.blobs.put(BlobId(b"b" * 16), memoryview(b"b"), checks_of(b"b"))
        assert await whole(device.blobs.read(BlobId(b"a" * 16), 0, 6)) == b"before"
        if returns:
            node.disk.faults.room_after = -1
            async with asyncio.timeout(5):
                for future in waiting:
                    await future
            await asyncio.sleep(0.5)  # a pass of the applier, and it takes payloads again
            await put(device, b"b" * 16, b"b")
        else:
            await asyncio.wait_for(device.close(), 5)
            for future in waiting[durable:]:
                with pytest.raises(Unavailable):
                    await future

    async def later(env: Env, node: SimNode) -> None:
        node.disk.faults.room_after = -1
        device = await Device.open(env, PATH, keeps, cluster_id=CLUSTER)
        assert await whole(device.blobs.read(BlobId(b"a" * 16), 0, 6)) == b"before"
        assert device.log.state(G).view == 39 or not returns
        await device.close()

    on_a_new_device(life, later)


def test_a_device_that_stops_while_its_journal_waits_for_room_can_be_closed_and_opened() -> None:
    keeps = msgspec.structs.replace(QUICK, journal_retain_bytes=1 << 30)

    async def life(env: Env, node: SimNode) -> None:
        device = await Device.open(env, PATH, keeps, cluster_id=CLUSTER)
        await device.log.create(G)
        node.disk.faults.room_after = 0
        waiting = await fill_journal(device)
        assert not waiting[-1].done()
        device._health.stop("arena: an error elsewhere")
        node.disk.faults.room_after = -1
        await asyncio.sleep(1)
        await asyncio.wait_for(device.close(), 5)
        again = await Device.open(env, PATH, keeps, cluster_id=CLUSTER)
        assert again.log.state(G).view >= 1
        await again.close()

    on_a_new_device(life)


@pytest.mark.parametrize("part", ["journal", "applier"])
def test_a_device_whose_task_has_failed_gives_its_lock_back(part: str) -> None:
    async def fails() -> None:
        raise AssertionError("a programmer's error")

    async def life(env: Env, node: SimNode) -> None:
        device = await Device.open(env, PATH, QUICK, cluster_id=CLUSTER)
        with pytest.MonkeyPatch.context() as patch:
            if part == "journal":
                patch.setattr(device._journal, "_step", fails)
            else:
                patch.setattr(device._applier, "_pass", fails)
            with contextlib.suppress(Unavailable):
                await put(device, b"a" * 16, b"payload")
            await asyncio.sleep(1)
            assert device.status().state == "stopped"
            await asyncio.wait_for(device.close(), 5)
        again = await Device.open(env, PATH, QUICK, cluster_id=CLUSTER)
        await again.close()

    on_a_new_device(life)


def test_a_stream_that_ends_with_its_device_is_unavailable_and_no_assertion() -> None:
    async def life(env: Env, node: SimNode) -> None:
        device = await opened(env)
        payload = bytes(200_000)
        stream = device.blobs.begin(BlobId(b"s" * 16), len(payload), checks_of(payload))
        await stream.write(payload[:100_000])
        node.disk.faults.changes_after = 0
        with pytest.raises(Unavailable):
            await device.log.set_view(G, 1)
        for call in (lambda: stream.write(payload[100_000:]), stream.commit):
            with pytest.raises(Unavailable):
                call()
        stream.abort()
        await device.close()

    on_a_new_device(life)


def test_an_unreadable_block_stops_the_device_and_a_repair_has_it_written_again() -> None:
    async def fill(env: Env, _node: SimNode) -> None:
        device = await opened(env)
        ops = [ExtentOp(0, 0, 0, 4 * BLOCK_BYTES)]
        payload = memoryview(b"x" * 4 * BLOCK_BYTES)
        device.extents.write(V, ONE, 1, 1, ops, payload)
        await device.extents.flush(V, ONE)
        device.extents.stable(V, ONE, 1)
        await device.close()

    async def read(env: Env, node: SimNode) -> None:
        node.disk.bad.add(f"{PATH}/arena/slots", BLOCK_BYTES + 512, 512)
        device = await opened(env)
        with pytest.raises(Unavailable):
            await whole(device.extents.read(V, ONE, [(0, 0, 2 * BLOCK_BYTES)]))
        assert device.status().state == "stopped"
        await device.close()

    async def mend(env: Env, _node: SimNode) -> None:
        report = look(env)
        assert report.bad_blocks == [(V, 0, 1)]
        await repair(env, PATH, report)

    async def settle(env: Env, _node: SimNode) -> None:
        """What a holder does with a dirty extent: it writes it again from another copy."""
        device = await opened(env)
        assert device.extents.marks(V, ONE, -1, 2, dirty=True) == [(0, 1, ONE, 0)]
        ops = [ExtentOp(0, 0, 0, 4 * BLOCK_BYTES)]
        payload = memoryview(b"x" * 4 * BLOCK_BYTES)
        device.extents.write(V, ONE, 1, 2, ops, payload)
        await device.extents.flush(V, ONE)
        await device.close()
        assert look(env).findings == []

    on_a_new_device(fill, read, mend, settle)


def test_a_journal_that_cannot_be_read_is_a_finding() -> None:
    async def fill(env: Env, _node: SimNode) -> None:
        device = await opened(env)
        await put(device, b"a" * 16, bytes(100_000))
        await device.close()

    async def act(env: Env, node: SimNode) -> None:
        node.disk.bad.add(f"{PATH}/journal/00000000", 4096, 512)
        report = look(env)
        assert [found.part for found in report.findings] == ["journal"]
        assert not report.opens
        assert report.blobs == 1  # the rest was checked all the same
        with pytest.raises(OSError, match="read error"):
            await Device.open(env, PATH, QUICK, cluster_id=CLUSTER)

    on_a_new_device(fill, act)
