"""Sparse packs are emptied: what is left moves, verified and flushed, and nothing else does."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pinfold.codec.packs import checks_of
from pinfold.device.compaction import SPARSE
from pinfold.device.device import Device
from pinfold.device.packs import Pack
from pinfold.env.api import Buffer, Env
from pinfold.model.errors import Corrupt, NotFound
from pinfold.model.ids import BlobId
from pinfold.sim.world import SimNode, World
from tests.device.model import whole
from tests.device.test_check import look
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put

SETTINGS_HERE = msgspec.structs.replace(SETTINGS, compact_interval_s=5.0, pack_bytes=1 << 20)
RNG = random.Random(4)
BLOBS = {
    BlobId(number.to_bytes(16, "big")): RNG.randbytes(RNG.choice((0, 700, 60_000, 150_000)))
    for number in range(100)
}
KEPT = dict(list(BLOBS.items())[7::9])
"""One blob or two of each pack."""

Act = Callable[[Device], Awaitable[None]]


def lives(*acts: Act, crash: bool = False) -> None:
    async def live(env: Env, act: Act) -> None:
        device = await Device.open(env, PATH, SETTINGS_HERE, cluster_id=CLUSTER)
        await act(device)
        if not crash:
            await device.close()

    async def last(env: Env) -> None:
        report = look(env)
        assert report.findings == []
        assert report.blobs == len(KEPT)

    async def scenario(node: SimNode) -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS_HERE))
        for act in acts:
            node.crash()
            await node.start(lambda env, act=act: live(env, act))  # type: ignore[misc]
        node.crash()
        await node.start(last)

    with World(2) as world:
        world.run(scenario(world.node("n1")))


async def fill(device: Device) -> None:
    for blob, payload in BLOBS.items():
        await put(device, blob, payload)
    await asyncio.sleep(1)
    assert len(device.packs.all()) >= 5
    await device.blobs.delete([blob for blob in BLOBS if blob not in KEPT])
    await asyncio.sleep(1)
    assert len(device.packs.all()) >= 5


def sparse(device: Device) -> set[int]:
    packs = device.packs.all()
    return {p.number for p in packs if p.sealed and p.live_bytes * SPARSE < p.end}


async def all_there(device: Device) -> None:
    assert [blob for blob, _ in device.blobs.scan(b"", 999)] == list(KEPT)
    for blob, payload in KEPT.items():
        assert await whole(device.blobs.read(blob, 0, len(payload))) == payload
        assert device.blobs.state(blob) == (len(payload), True, checks_of(payload))


@pytest.mark.parametrize("crash", [False, True])
def test_what_is_left_in_sparse_packs_moves_and_they_go(crash: bool) -> None:
    async def wait(device: Device) -> None:
        before = sparse(device)
        assert len(before) >= 3
        await asyncio.sleep(60)
        assert not before & {pack.number for pack in device.packs.all()}
        assert not sparse(device)
        await all_there(device)

    lives(fill, wait, all_there, crash=crash)


@pytest.mark.parametrize("seconds", [5.01, 5.05, 5.2, 5.4, 5.8, 6.5])
def test_a_crash_in_between_leaves_every_blob_where_it_is_or_was(seconds: float) -> None:
    async def wait(device: Device) -> None:
        await asyncio.sleep(seconds)

    async def redone(device: Device) -> None:
        await all_there(device)
        await asyncio.sleep(60)
        await all_there(device)

    lives(fill, wait, redone, crash=True)


def test_what_is_deleted_while_it_is_copied_does_not_come_back() -> None:
    async def race(device: Device) -> None:
        blob = next(iter(KEPT))
        old = device.blobs.location(blob)
        assert old is not None
        stream = device.blobs.move(blob, old)
        await stream.write(KEPT[blob])
        await device.blobs.delete([blob])
        await stream.commit()
        with pytest.raises(NotFound):
            device.blobs.read(blob, 0, 1)
        await put(device, blob, KEPT[blob])
        again = device.blobs.location(blob)
        late = device.blobs.move(blob, old)
        await late.write(KEPT[blob])
        await late.commit()
        assert device.blobs.location(blob) == again
        await asyncio.sleep(1)

    lives(fill, race, all_there)


def test_a_copy_that_reads_back_otherwise_is_not_named() -> None:
    async def rot(device: Device) -> None:
        blob = max(KEPT, key=lambda one: len(KEPT[one]))
        old = device.blobs.location(blob)
        assert old is not None
        streams, write = device.blobs._streams, device.blobs._streams._write

        def damaged(pack: Pack, buffers: list[Buffer], offset: int) -> None:
            write(pack, buffers, offset)
            device.packs.created(pack).pwritev([b"rot"], offset + 1000)

        streams._write = damaged  # type: ignore[method-assign]
        stream = device.blobs.move(blob, old)
        with pytest.raises(Corrupt, match="reads back otherwise"):
            await device._compaction._copy(stream, [KEPT[blob]])
        stream.abort()
        streams._write = write  # type: ignore[method-assign]
        assert device.blobs.location(blob) == old

    lives(fill, rot, all_there)
