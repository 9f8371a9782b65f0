"""Blobs are stored on W devices before a put answers, and read from whoever still has them."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace

import pytest

from pinfold.cluster.api import BlobRef
from pinfold.cluster.blobs.client import HINT, BlobClient
from pinfold.cluster.placement import RingPlacement
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Busy, Corrupt, Full, NotFound, Unavailable
from pinfold.model.ids import DeviceId, NodeName
from pinfold.model.settings import BlobSettings
from pinfold.rpc.api import Reply, Request
from tests.twins.peers import TwinNet, TwinPeers

FAST = BlobSettings(
    put_timeout_s=0.3, read_timeout_s=0.3, retry_pause_s=0.01, hedge_s=0.01, behind_bytes=1 << 20
)


class Store:
    """A device's blobs, in a dict; `trouble` is raised instead of answering."""

    def __init__(self, net: TwinNet, device: int) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.trouble: Exception | None = None
        self.gate: asyncio.Event | None = None
        node = net.node(f"n{device}")
        node.bind("blob.put", self.put)
        node.bind("blob.read", self.read)
        node.bind("blob.delete", self.delete)
        node.bind_stream("blob.stream", self.stream)

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def put(self, request: Request) -> Reply:
        self._check()
        self.blobs[request.body[1]] = bytes(request.payload)
        return Reply()

    async def stream(self, request: Request, chunks) -> Reply:
        self._check()
        if self.gate is not None:
            await self.gate.wait()
        self.blobs[request.body[1]] = b"".join([bytes(chunk) async for chunk in chunks])
        return Reply()

    def read(self, request: Request) -> Reply:
        self._check()
        _, blob, offset, length = request.body
        if blob not in self.blobs:
            raise NotFound("no such blob")
        return Reply(None, [self.blobs[blob][offset : offset + length]])

    def delete(self, request: Request) -> Reply:
        for blob in request.body[1]:
            self.blobs.pop(blob, None)
        return Reply()


class FixedRing:
    """Every key has the same primaries and handoffs."""

    def __init__(self, devices: int) -> None:
        self.devices = devices

    def partition(self, key: bytes) -> int:
        return 0

    def devices_of(self, partition: int) -> tuple[int, ...]:
        return (0, 1, 2)

    def handoffs(self, partition: int):
        return iter(range(3, self.devices))


class World:
    def __init__(self, devices: int) -> None:
        self.net = TwinNet()
        self.stores = [Store(self.net, device) for device in range(devices)]
        nodes = {DeviceId(number): NodeName(f"n{number}") for number in range(devices)}
        placement = RingPlacement(FixedRing(devices), nodes)  # type: ignore[arg-type]
        self.nodes = nodes
        clock = SimpleNamespace(monotonic=asyncio.get_running_loop().time, wall=lambda: 1e9)
        env = SimpleNamespace(clock=clock, rng=random.Random(1))
        self.failures: list[BaseException] = []
        self.scope = TaskScope(self.failures.append)
        self.client = BlobClient(
            env,  # type: ignore[arg-type]
            TwinPeers(self.net),  # type: ignore[arg-type]
            lambda: placement,
            FAST,
            self.scope,
        )

    def down(self, *devices: int) -> None:
        self.net.down = {NodeName(f"n{device}") for device in devices}


def run(test: Callable[[World], Coroutine[None, None, None]], devices: int = 3) -> None:
    async def main() -> None:
        world = World(devices)
        await test(world)
        await world.scope.close()
        assert world.failures == []

    asyncio.run(main())


@pytest.mark.parametrize("length", [1, 4096, 65536, 65537, 1 << 20])
def test_a_put_is_on_two_devices_and_reads_back_in_any_range(length):
    payload = random.Random(length).randbytes(length)

    async def test(world: World) -> None:
        half = length // 2
        ref = await world.client.put([payload[:half], payload[half:]])
        assert ref.length == length
        assert len(ref.devices) >= 2
        for device in ref.devices:
            assert world.stores[device].blobs[ref.id] == payload
        offset = length // 3
        assert b"".join(await world.client.read(ref, offset, length - offset)) == payload[offset:]

    run(test)


def test_a_dead_primary_costs_nothing_and_its_copy_goes_to_a_handoff():
    async def test(world: World) -> None:
        world.down(1)
        ref = await world.client.put([b"x" * 100])
        await asyncio.sleep(0.01)
        assert 1 not in ref.devices
        assert ref.id in world.stores[3].blobs

    run(test, devices=4)


def test_without_a_quorum_the_put_fails_and_names_why():
    async def test(world: World) -> None:
        world.down(0, 1)
        with pytest.raises(Unavailable):
            await world.client.put([b"x"])
        world.down()
        for store in world.stores:
            store.trouble = Full("no room")
        with pytest.raises(Full):
            await world.client.put([b"x"])

    run(test)


@pytest.mark.parametrize("down", [False, True])
def test_a_copy_that_a_device_did_not_take_is_told_of(down):
    async def test(world: World) -> None:
        world.stores[2].trouble = Busy("for now")
        if down:
            world.down(2)
        ref = await world.client.put([b"x" * 100])
        await asyncio.sleep(0.01)
        assert world.net.told == [("n0", HINT, (ref.id, 100, [0, 1], [2]))]

    run(test)


def test_no_copy_is_told_of_that_is_there_or_should_not_be():
    async def test(world: World) -> None:
        await world.client.put([b"x" * 100])
        world.stores[1].trouble = world.stores[2].trouble = Busy("for now")
        with pytest.raises(Busy):
            await world.client.put([b"x" * 100])
        await asyncio.sleep(0.01)
        assert world.net.told == []

    run(test)


def test_a_handoff_is_asked_only_when_no_primary_has_the_blob():
    async def test(world: World) -> None:
        world.down(0)
        ref = await world.client.put([b"payload"])
        await asyncio.sleep(0.01)
        ref = BlobRef(ref.id, ref.length, (1, 3))
        world.down()
        world.stores[0].blobs[ref.id] = b"payload"
        world.net.calls.clear()
        assert b"".join(await world.client.read(ref, 0, 7)) == b"payload"
        assert [node for node, _ in world.net.calls] == ["n1"]
        for store in world.stores[:3]:
            store.blobs.clear()
        assert b"".join(await world.client.read(ref, 0, 7)) == b"payload"

    run(test, devices=4)


def test_a_put_waits_for_a_quorum_that_comes_back():
    async def test(world: World) -> None:
        world.down(0, 1)
        asyncio.get_running_loop().call_later(0.05, world.down)
        ref = await world.client.put([b"x"])
        assert len(ref.devices) >= 2

    run(test)


def test_a_read_passes_over_missing_corrupt_dead_and_silent_devices():
    async def test(world: World) -> None:
        ref = await world.client.put([b"payload"])
        await asyncio.sleep(0.01)
        world.stores[0].trouble = Corrupt("rotten")
        assert b"".join(await world.client.read(ref, 0, 7)) == b"payload"
        world.stores[1].blobs.clear()
        assert b"".join(await world.client.read(ref, 0, 7)) == b"payload"
        world.stores[0].trouble = None
        world.net.silent = {NodeName("n0")}
        world.down(1)
        assert b"".join(await world.client.read(ref, 0, 7)) == b"payload"

    run(test)


def test_a_read_that_nobody_can_answer_names_the_worst_reason():
    async def test(world: World) -> None:
        ref = await world.client.put([b"payload"])
        await asyncio.sleep(0.01)
        world.stores[2].trouble = Corrupt("rotten")
        world.stores[0].blobs.clear()
        world.stores[1].blobs.clear()
        with pytest.raises(Corrupt):
            await world.client.read(ref, 0, 7)

    run(test)


def test_discarded_blobs_are_gone_from_every_device():
    async def test(world: World) -> None:
        ref = await world.client.put([b"payload"])
        await asyncio.sleep(0.01)
        await world.client.discard([ref])
        assert all(not store.blobs for store in world.stores)

    run(test)


def test_a_put_that_devices_are_too_busy_for_is_busy_not_unavailable():
    async def test(world: World) -> None:
        for store in world.stores:
            store.trouble = Busy("too much to do")
        with pytest.raises(Busy):
            await world.client.put([b"x"])

    run(test)


def test_copies_behind_a_slow_device_do_not_pile_up_in_memory():
    """Answered puts whose third copy is under way hold their payload."""

    async def test(world: World) -> None:
        world.stores[2].gate = gate = asyncio.Event()
        size = FAST.behind_bytes // 4
        refs = [await world.client.put([bytes(size)]) for _ in range(7)]
        await asyncio.sleep(0.01)
        assert world.client.given_up == 3
        gate.set()
        await asyncio.sleep(0.01)
        held = [ref.id in world.stores[2].blobs for ref in refs]
        assert held == [False] * 3 + [True] * 4  # the oldest were given up
        assert len(world.net.told) == 3  # and are made up for
        for ref in refs:
            assert ref.devices == (0, 1)

    run(test)


@pytest.mark.parametrize("length", [4096, 1 << 20])
def test_a_device_that_has_left_the_cluster_keeps_nobody_from_the_others(length):
    """The ring names it still, and so do rows: puts, reads and discards go on without it."""
    payload = bytes(length)

    async def test(world: World) -> None:
        before = await world.client.put([payload])
        await asyncio.sleep(0.05)
        for gone in before.devices[:1]:
            del world.nodes[DeviceId(gone)]
        after = await world.client.put([payload])
        assert len(after.devices) == 2
        for ref in (before, after):
            assert b"".join(await world.client.read(ref, 0, length)) == payload
            await world.client.discard([ref])
        left = {
            blob
            for number, store in enumerate(world.stores)
            for blob in store.blobs
            if DeviceId(number) in world.nodes
        }
        assert not left

    run(test, devices=4)


def test_nobody_says_that_a_blob_is_nowhere_without_having_asked_everywhere():
    async def test(world: World) -> None:
        ref = await world.client.put([b"x" * 100])
        await asyncio.sleep(0.05)
        del world.nodes[DeviceId(0)]
        for store in world.stores[1:]:
            store.blobs.clear()
        with pytest.raises(Unavailable):
            await world.client.read(ref, 0, 100)

    run(test)
