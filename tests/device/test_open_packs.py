"""Pack files are kept open within their limit, whatever is done to how many of them."""

import asyncio
import dataclasses
import random
from typing import Any

import msgspec

from pinfold.codec.packs import checks_of
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId
from pinfold.sim.world import World
from tests.device.model import whole
from tests.device.worlds import CLUSTER, PATH, SETTINGS, lives, put

LARGE = random.Random(2).randbytes(300_000)
A = BlobId(b"a" * 16)


class CountingFile:
    def __init__(self, disk: "CountingDisk", file: Any) -> None:
        self._disk = disk
        self._file = file
        self._open = True

    def close(self) -> None:
        self._disk.open_packs -= self._open
        self._open = False
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class CountingDisk:
    """A disk that knows how many packs are open, and were at most."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk
        self.open_packs = 0
        self.most = 0

    def open(self, path: str, **how: Any) -> Any:
        file = self._disk.open(path, **how)
        if "/packs/" not in path:
            return file
        self.open_packs += 1
        self.most = max(self.most, self.open_packs)
        return CountingFile(self, file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


def test_writing_reading_and_freeing_keep_few_packs_open() -> None:
    settings = msgspec.structs.replace(SETTINGS, open_packs=4, pack_bytes=1 << 19, read_lanes=2)
    blobs = [BlobId(bytes([number]) * 16) for number in range(60)]
    most: list[int] = []

    async def life(env: Env, *, first: bool) -> None:
        disk = CountingDisk(env.disk)
        env = dataclasses.replace(env, disk=disk)
        if first:
            await Device.format(env, PATH, CLUSTER, settings)
        device = await Device.open(env, PATH, settings, cluster_id=CLUSTER)
        if first:
            for blob in blobs:
                await put(device, blob, LARGE)
            assert len(device.packs.all()) >= 60
        reads = [device.blobs.read(blob, 0, 10) for blob in blobs]  # all of them at once
        for read in reads:
            assert await whole(read) == LARGE[:10]
        kept = [await whole(device.blobs.read(blobs[-1], 0, 10)) for _ in range(9)]
        assert kept == [LARGE[:10]] * 9
        for pack in device.packs.all()[:40]:
            device.packs.reclaim(pack.number, 4096 * 100, 4096)
        await asyncio.sleep(2.0)
        await device.close()
        assert disk.open_packs == 0
        most.append(disk.most)

    with World(1) as world:
        node = world.node("n1")

        async def scenario() -> None:
            for first in (True, False):
                await node.start(lambda env, first=first: life(env, first=first))  # type: ignore[misc]
                node.crash()

        world.run(scenario())
    # Besides the limit: what each reading lane has open for itself, and each writing lane's pack.
    assert max(most) <= 4 + 2 + 2


def test_an_answer_about_an_old_place_does_not_set_the_new_copy_aside() -> None:
    async def life(device: Device) -> None:
        await put(device, A, LARGE)
        readers, original = device.blobs._readers, device.blobs._readers.read
        held: list[asyncio.Future[Any]] = []
        inner: list[asyncio.Future[Any]] = []

        def hold(*arguments: Any, **named: Any) -> asyncio.Future[Any]:
            inner.append(original(*arguments, **named))
            held.append(asyncio.get_running_loop().create_future())
            return held[-1]

        readers.read = hold  # type: ignore[method-assign]
        early, late = (device.blobs.read(A, 0, 1000) for _ in range(2))
        readers.read = original  # type: ignore[method-assign]
        for one in inner:
            assert await one == LARGE[: 1 << 16]
        held[0].set_exception(Corrupt("rotten"))
        assert isinstance(early, asyncio.Future)
        assert isinstance(late, asyncio.Future)
        assert isinstance(await asyncio.wait_for(_error(early), 5), Corrupt)
        assert device.blobs.state(A) is None
        await put(device, A, LARGE)
        held[1].set_exception(Corrupt("rotten"))
        assert await whole(late) == LARGE[:1000]
        assert device.blobs.state(A) == (len(LARGE), True, checks_of(LARGE))
        assert device.status().quarantined == 0

    def uncached(node: Any) -> None:
        node.disk.faults.cached_chance = 0.0

    async def nothing(_device: Device) -> None:
        pass

    lives(nothing, life, between=uncached)


async def _error(future: asyncio.Future[Any]) -> BaseException | None:
    try:
        await future
    except Corrupt as error:
        return error
    return None
