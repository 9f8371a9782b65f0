"""Freed space of packs: on a list that survives, given back piece by piece, never too early."""

import asyncio
import random
from typing import Any

import pytest

from pinfold.codec.packs import (
    Location,
    checks_of,
    decode_head,
    decode_location,
    head_bytes,
    record_bytes,
)
from pinfold.device import packreclaim
from pinfold.device.device import Device
from pinfold.device.health import Health
from pinfold.device.index import Index
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.device.packs import Packs
from pinfold.device.readers import Readers
from pinfold.env.api import Env
from pinfold.model.ids import BlobId
from pinfold.sim.world import World
from tests.device.model import whole
from tests.device.test_check import look
from tests.device.test_rotten_rows import lives
from tests.device.worlds import CLUSTER, PATH, SETTINGS

PAYLOAD = bytes(3000)
BLOBS = [BlobId(number.to_bytes(16, "big")) for number in range(400)]


async def opened(env: Env) -> Device:
    return await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)


async def fill(env: Env) -> None:
    device = await opened(env)
    for blob in BLOBS:
        await device.blobs.put(blob, memoryview(PAYLOAD), checks_of(PAYLOAD))
    await asyncio.sleep(2)
    await device.close()


def used(env: Env) -> int:
    return env.disk.total_bytes(PATH) - env.disk.free_bytes(PATH)


def waiting(device: Device) -> int:
    return len(list(device._index.scan(b"f", b"g")))


def test_space_that_a_crash_left_unfreed_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[int] = []

    async def delete(env: Env) -> None:
        monkeypatch.setattr(packreclaim, "PIECE", 0)  # as if it never had its turn
        device = await opened(env)
        before.append(used(env))
        await device.blobs.delete(BLOBS[1:])
        await asyncio.sleep(2)
        assert waiting(device) == len(BLOBS) - 1
        monkeypatch.undo()

    async def again(env: Env) -> None:
        device = await opened(env)
        assert waiting(device)
        await asyncio.sleep(2)
        assert waiting(device) == 0
        assert used(env) < before[0] - 300 * 4096
        assert device.blobs.scan(b"", 9) == [(BLOBS[0], len(PAYLOAD))]
        assert len(device.packs.all()) <= 2  # those that nothing is in are gone
        await device.close()

    lives(fill, delete, again)


def test_a_long_list_is_worked_off_in_pieces_beside_the_passes() -> None:
    pieces: list[int] = []

    async def delete(env: Env) -> None:
        device = await opened(env)
        given_back = device.packs.given_back

        def count(ranges: Any) -> None:
            pieces.append(len(ranges))
            given_back(ranges)

        device.packs.given_back = count  # type: ignore[method-assign]
        await device.blobs.delete(BLOBS[:-1])
        await asyncio.sleep(3)
        assert waiting(device) == 0
        await device.close()

    lives(fill, delete)
    assert sum(pieces) >= len(BLOBS) - 1
    assert max(pieces) <= packreclaim.PIECE < len(BLOBS)


def test_a_pack_goes_only_when_it_is_durable_that_nothing_names_it() -> None:
    """A drop that came after the index was sealed may be taken back by a crash."""

    async def act(env: Env) -> None:
        env.disk.mkdir("/packs")
        index, health = Index(OrderedEngine(env.disk, "/index")), Health()
        readers = Readers([env.new_offload("read")], health, env.clock.monotonic)
        packs = Packs(env.disk, "/packs", bytes(8), index, readers, SETTINGS, health)
        size = record_bytes(10, 1)
        pack, start = packs.reserve(size, stream=False)
        packs.keep(pack, size)
        pack.sealed = True
        packs.settle()
        packs.drop(Location(pack.number, start + head_bytes(1), 10, 1, (5,)))
        packs.committed()
        assert packs.pop_empty() is None
        packs.settle()
        assert packs.pop_empty() is None
        packs.committed()
        assert packs.pop_empty() is pack
        assert packs.pop_empty() is None

    lives(act)


def test_what_a_stream_is_writing_is_listed_for_a_crash_and_not_given_back_before() -> None:
    large = random.Random(5).randbytes(300_000)
    blob = BlobId(b"s" * 16)

    async def act(env: Env) -> None:
        device = await opened(env)
        stream = device.blobs.begin(blob, len(large), checks_of(large))
        await stream.write(large[:200_000])
        await device.blobs.delete(BLOBS[:10])
        await asyncio.sleep(2)  # the list is worked off, but for this
        assert waiting(device) == 1
        await stream.write(large[200_000:])
        await stream.commit()
        await asyncio.sleep(2)
        assert waiting(device) == 0
        assert await whole(device.blobs.read(blob, 0, len(large))) == large
        await device.close()

    async def again(env: Env) -> None:
        device = await opened(env)
        assert await whole(device.blobs.read(blob, 0, len(large))) == large
        await device.close()

    lives(fill, act, again)


def test_the_range_of_an_aborted_stream_comes_back_though_nothing_else_happens() -> None:
    async def act(env: Env) -> None:
        device = await opened(env)
        await asyncio.sleep(2)
        stream = device.blobs.begin(BlobId(b"s" * 16), len(PAYLOAD), checks_of(PAYLOAD))
        await stream.write(PAYLOAD)
        stream.abort()
        await asyncio.sleep(2)
        assert waiting(device) == 0
        await device.close()

    lives(act)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_crash_leaves_behind_a_pack_is_cut_off_for_good(seed: int) -> None:
    blob, more = BlobId(b"s" * 16), BlobId(b"t" * 16)

    async def stream(env: Env) -> Device:
        device = await opened(env)
        writer = device.blobs.begin(blob, len(PAYLOAD), checks_of(PAYLOAD))
        await writer.write(PAYLOAD)
        await writer.commit()
        return device

    async def scenario() -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
        node.crash()
        device = await node.start(stream)
        await asyncio.sleep(1)
        writer = device.blobs.begin(more, len(PAYLOAD), checks_of(PAYLOAD))
        await writer.write(PAYLOAD)  # and nothing else knows of it
        (pack,) = device.packs.all()
        node.disk.file(pack.path).flush()  # the kernel writes when it likes
        node.crash()
        device = await node.start(opened)
        await device.blobs.delete([more])
        await asyncio.sleep(1)
        node.crash()  # takes back what was not flushed
        assert look(node.boot()).leftovers == []

    with World(seed) as world:
        node = world.node("n1")
        world.run(scenario())


def test_what_streams_reserved_before_a_named_range_comes_back_after_a_crash() -> None:
    blobs = [BlobId(bytes([number]) * 16) for number in range(4)]

    async def scenario() -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
        node.crash()
        device = await node.start(opened)
        writers = [device.blobs.begin(one, len(PAYLOAD), checks_of(PAYLOAD)) for one in blobs]
        for writer in writers:
            await writer.write(PAYLOAD)
        await writers[1].commit()  # its record is all that is durable of what lies around it
        await writers[3].commit()
        node.crash(power=False)
        device = await node.start(opened)
        await asyncio.sleep(1)
        await device.close()
        node.crash(power=False)
        report = look(node.boot())
        assert (report.findings, report.leftovers, report.blobs) == ([], [], 2)

    with World(1) as world:
        node = world.node("n1")
        world.run(scenario())


def test_the_place_of_a_quarantined_blob_is_kept_though_its_records_are_redone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It came and was set aside in the middle of a pass: the index knows, the pass does not say."""
    blob, content = BLOBS[0], bytes(200_000)

    async def first(env: Env) -> None:
        device = await opened(env)
        committed = asyncio.Event()
        apply = device.extents.apply

        async def in_between(lane: Any) -> None:
            monkeypatch.undo()
            stream = device.blobs.begin(blob, len(content), checks_of(content))
            await stream.write(content)
            await stream.commit()
            device.blobs.quarantine(blob)
            await apply(lane)
            monkeypatch.setattr(device._reclaim, "committed", committed.set)

        monkeypatch.setattr(device.extents, "apply", in_between)
        await device.blobs.put(BLOBS[1], memoryview(PAYLOAD), checks_of(PAYLOAD))
        await committed.wait()
        assert device._packs.all()[-1].live == 1

    async def again(env: Env) -> None:
        device = await opened(env)
        assert device.status().quarantined == 1
        await asyncio.sleep(2)
        stored = device._index.get(b"q" + blob)
        assert stored is not None
        place = decode_location(stored)
        number = place.pack
        assert waiting(device) == 0
        file = env.disk.open(device._packs.get(number).path)
        head = file.pread(head_bytes(len(place.checks)), place.start)
        assert decode_head(head, device._packs.get(number).seed)[0] == blob
        file.close()
        assert device._packs.get(number).live == 1
        await device.close()

    lives(first, again)
