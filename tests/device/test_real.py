"""The same promises on real files and LMDB: open, use, die without closing, open again."""

import asyncio
import random
from pathlib import Path

import msgspec
import pytest
import uvloop

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.device.rebuild import rebuild_index
from pinfold.env.real import real_env
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.model.settings import DeviceSettings
from tests.device.model import whole

CLUSTER = b"c" * 16
G, V, ONE = GroupId(1), VolumeId(b"v" * 16), Token(1)
SETTINGS = msgspec.structs.replace(
    DeviceSettings.for_tests(), index_engine="lmdb", reserve_bytes=1 << 20
)
LARGE = random.Random(1).randbytes(300_000)


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(16, "big"))


async def use(device: Device) -> None:
    await device.log.create(G)
    await device.extents.claim(V, ONE)
    for number in range(1, 200):
        payload = LARGE[number : number + 5000]
        stored = device.blobs.put(blob(number), memoryview(payload), checks_of(payload))
        appended = device.log.append(G, [Entry(number, 1, b"%d" % number * 50)])
        device.log.apply(G, number, [(b"%d" % number * 200, b"row")])
        ops = [ExtentOp(0, number % 3, number * 4096, 4096)]
        device.extents.write(V, ONE, 0, number, ops, memoryview(LARGE[:4096]))
        await stored
        await appended
    stream = device.blobs.begin(blob(0), len(LARGE), checks_of(LARGE))
    await stream.write(LARGE)
    await stream.commit()
    await device.extents.flush(V, ONE)


async def check(device: Device) -> None:
    await device.extents.claim(V, ONE)
    state = device.log.state(G)
    assert state.last_op == 199
    for op in range(state.applied_op + 1, 200):
        device.log.apply(G, op, [(b"%d" % op * 200, b"row")])
    expected = sorted(b"%d" % number * 200 for number in range(1, 200))
    assert [key for key, _ in device.rows.scan(G, b"", None)] == expected
    assert await whole(device.blobs.read(blob(0), 0, len(LARGE))) == LARGE
    for number in range(1, 200):
        found = await whole(device.blobs.read(blob(number), 0, 5000))
        assert found == LARGE[number : number + 5000]
        span = [(number % 3, number * 4096, 4096)]
        assert await whole(device.extents.read(V, ONE, span)) == LARGE[:4096]
    assert device.status().blobs == 200


async def die(device: Device) -> None:
    """Stop the tasks where they are and let the lock go, as the process's end would."""
    await device._scope.close()
    device._close_files()


def test_a_device_on_real_files_survives_a_kill_and_a_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        env, path = real_env(), str(tmp_path / "d")
        uuid = await Device.format(env, path, CLUSTER, SETTINGS)
        for act, end in ((use, die), (check, Device.close), (check, die), (check, Device.close)):
            device = await Device.open(env, path, SETTINGS, cluster_id=CLUSTER, uuid=uuid)
            await act(device)
            await end(device)

    uvloop.run(scenario())
    asyncio.run(scenario_again(tmp_path))


async def scenario_again(directory: Path) -> None:
    """asyncio's own loop reads what uvloop wrote."""
    device = await Device.open(real_env(), str(directory / "d"), SETTINGS, cluster_id=CLUSTER)
    await check(device)
    await device.close()


def test_an_index_on_real_files_is_rebuilt_from_packs_and_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        env, path = real_env(), str(tmp_path / "d")
        await Device.format(env, path, CLUSTER, SETTINGS)
        device = await Device.open(env, path, SETTINGS, cluster_id=CLUSTER)
        await use(device)
        await device.close()
        (tmp_path / "d" / "index" / "data.mdb").write_bytes(b"rubbish" * 5000)
        with pytest.raises(Corrupt, match="index"):
            await Device.open(env, path, SETTINGS, cluster_id=CLUSTER)
        rebuilt = rebuild_index(env.disk, path, SETTINGS, b"lost")
        assert (rebuilt.whole, rebuilt.groups, rebuilt.volumes) == (False, [G], [V])
        device = await Device.open(env, path, SETTINGS, cluster_id=CLUSTER)
        assert device.status().blobs == 200
        assert await whole(device.blobs.read(blob(0), 0, len(LARGE))) == LARGE
        for number in range(1, 200):
            found = await whole(device.blobs.read(blob(number), 0, 5000))
            assert found == LARGE[number : number + 5000]
        assert (device.log.state(G).voted, device.log.state(G).last_op) == (b"lost", 0)
        assert (await device.extents.claim(V, ONE)).lost
        await device.close()

    asyncio.run(scenario())
