"""A flipped bit costs the row that it is in: not the device, whatever stands beside that row."""

import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
import uvloop

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.check import Report, check
from pinfold.device.device import CLOSED, Device
from pinfold.device.extentrows import EXTENT_TABLE, of_key, row_key
from pinfold.device.index import GUARDS, REPAIRED_TABLES
from pinfold.device.offline import look_at
from pinfold.device.rebuild import rebuild_index
from pinfold.device.repair import repair
from pinfold.env.real import real_env
from pinfold.model.errors import Conflict, Corrupt
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from tests.device.model import whole
from tests.device.test_real import CLUSTER, SETTINGS

G, V, W = GroupId(1), VolumeId(b"v" * 16), VolumeId(b"w" * 16)
LONG = b"k" * 700
BLOBS = [BlobId(bytes([number]) * 16) for number in range(1, 6)]
NEW = BlobId(b"n" * 16)
PAYLOAD = bytes(5000)


def lived(path: Path, act: Callable[[Device], Awaitable[None]]) -> str:
    """Why the device had stopped, when it was closed behind the act: its last pass took that in."""

    async def life() -> str:
        device = await Device.open(real_env(), str(path), SETTINGS, cluster_id=CLUSTER)
        try:
            await act(device)
        finally:
            await device.close()
        return device.status().reason

    return uvloop.run(life())


async def store(device: Device, blob: BlobId) -> None:
    await device.blobs.put(blob, memoryview(PAYLOAD), checks_of(PAYLOAD))


async def fill(device: Device) -> None:
    """Rows in every table that is made good from other devices."""
    await device.log.create(G)
    await device.log.append(G, [Entry(1, 1, b"entry")])
    device.log.apply(G, 1, [(b"key%d" % number, b"value") for number in range(3)])
    for blob in BLOBS:
        await store(device, blob)
    await device.extents.claim(V, Token(1))
    for extent in range(3):
        ops = [ExtentOp(0, extent, 0, 4096)]
        device.extents.write(V, Token(1), 1, extent, ops, memoryview(bytes([7]) * 4096))
    await device.extents.flush(V, Token(1))
    device.extents.stable(V, Token(1), 9)


async def quarantine(device: Device) -> None:
    for blob in BLOBS[:2]:
        device.blobs.quarantine(blob)


async def come(device: Device) -> None:
    """Something new of everything."""
    await store(device, NEW)
    await device.extents.claim(W, Token(1))
    ops = [ExtentOp(0, 1, 0, 4096)]
    device.extents.write(W, Token(1), 1, 1, ops, memoryview(bytes([8]) * 4096))
    await device.extents.flush(W, Token(1))


async def go(device: Device) -> None:
    """All of that leaves again."""
    await device.blobs.delete([NEW])
    await device.extents.drop(W)
    await device.log.set_view(G, 9)


async def nothing(_device: Device) -> None:
    """Only what an opening and a closing do."""


def opened(path: Path) -> tuple[Any, Any]:
    env = lmdb.open(f"{path}/index", max_dbs=2)
    return env, env.open_db(b"keys")


def rows(path: Path) -> list[bytes]:
    env, keys = opened(path)
    with env.begin(db=keys) as txn:
        found = [bytes(key) for key, _ in txn.cursor()]
    env.close()
    return found


def rot(path: Path, key: bytes) -> None:
    env, keys = opened(path)
    with env.begin(write=True, db=keys) as txn:
        stored = bytearray(txn.get(key))
        stored[0] ^= 1
        txn.put(key, bytes(stored))
    env.close()


def looked(path: Path) -> Report:
    disk = real_env().disk
    device = look_at(disk, str(path))
    try:
        return check(disk, str(path), device, lambda _done, _total: None)
    finally:
        device.close()


def formatted(path: Path) -> None:
    uvloop.run(Device.format(real_env(), str(path), CLUSTER, SETTINGS))


def test_a_rotten_row_at_the_edge_of_its_table_neither_refuses_nor_stops_the_device(
    tmp_path: Path,
) -> None:
    made, damaged = tmp_path / "made", tmp_path / "damaged"
    formatted(made)
    for act in (fill, quarantine):
        assert lived(made, act) == CLOSED
    assert looked(made).findings == []
    found = rows(made)
    assert set(found) >= GUARDS
    for table in REPAIRED_TABLES:
        own = [key for key in found if key[:1] == table and key not in GUARDS]
        assert len(own) > 1
        for key in (table, own[0], own[-1], max(GUARDS, key=lambda one: one.startswith(table))):
            shutil.copytree(made, damaged)
            rot(damaged, key)
            assert {finding.part for finding in looked(damaged).findings} >= {"row"}
            for use in (come, go, nothing):
                assert lived(damaged, use) == CLOSED, key
            shutil.rmtree(damaged)
            shutil.copytree(made, damaged)
            rot(damaged, key)
            uvloop.run(repair(real_env(), str(damaged), looked(damaged)))
            rotten = looked(damaged).rotten
            assert rotten == ([key] if table == b"r" and key not in GUARDS else []), key
            shutil.rmtree(damaged)


def test_a_rotten_row_of_a_rebuilt_index_that_was_not_opened_yet_refuses_no_device(
    tmp_path: Path,
) -> None:
    """No commit of an opening has come between the rebuild and the rot."""
    made, damaged = tmp_path / "made", tmp_path / "damaged"
    formatted(made)

    async def copied(device: Device) -> None:
        """A group's copy is not in the journal, so redoing that is not everything."""
        await fill(device)
        await device.log.install(G, 9, 1, [(b"key", b"value")], first=True, last=True)

    async def read(device: Device, blob: BlobId) -> None:
        """The journal makes this one good: it still has all blobs."""
        assert await whole(device.blobs.read(blob, 0, len(PAYLOAD))) == PAYLOAD

    assert lived(made, copied) == CLOSED
    rebuilt = rebuild_index(real_env().disk, str(made), SETTINGS, b"lost", force=True)
    assert (rebuilt.whole, rebuilt.blobs) == (False, len(BLOBS))
    own = [key for key in rows(made) if key[:1] == b"b" and key not in GUARDS]
    assert own == [b"b" + blob for blob in BLOBS]
    for key in (own[0], own[-1]):
        shutil.copytree(made, damaged)
        rot(damaged, key)
        assert lived(damaged, partial(read, blob=BlobId(key[1:]))) == CLOSED
        shutil.rmtree(damaged)


def test_a_promise_that_looks_like_a_row_of_another_table_is_missed(tmp_path: Path) -> None:
    """One bit makes of the first volume's row the last of the groups' rows."""
    formatted(tmp_path / "d")
    assert lived(tmp_path / "d", fill) == CLOSED
    file = tmp_path / "d" / "index" / "data.mdb"
    image = file.read_bytes()
    assert b"v" + V in image
    file.write_bytes(image.replace(b"v" + V, b"r" + V))
    with pytest.raises(Corrupt):
        lived(tmp_path / "d", nothing)


def test_an_extents_row_that_names_no_volume_may_have_been_any_volumes(tmp_path: Path) -> None:
    """A bit of its key has flipped, and its place is right all the same."""
    path = tmp_path / "d"
    formatted(path)
    assert lived(path, fill) == CLOSED
    key = [key for key in rows(path) if key[:1] == EXTENT_TABLE and key not in GUARDS][-1]
    life, extent = of_key(key)
    file = path / "index" / "data.mdb"
    file.write_bytes(file.read_bytes().replace(key, row_key(life | 1 << 40, extent)))

    async def look(device: Device) -> None:
        assert not (await device.extents.claim(V, Token(2))).lost
        with pytest.raises(Conflict):
            device.extents.read(V, Token(2), [(extent, 0, 4096)])
        assert (await device.extents.claim(V, Token(2))).lost

    assert lived(path, look) == CLOSED


def test_a_group_whose_first_rows_cannot_be_proved_waits_for_a_copy_as_the_one_before_does(
    tmp_path: Path,
) -> None:
    path, after = tmp_path / "d", GroupId(G + 1)
    formatted(path)

    async def two(device: Device) -> None:
        await fill(device)
        await device.log.create(after)
        await device.log.append(after, [Entry(1, 1, b"entry")])
        device.log.apply(after, 1, [(b"key5", b"value")])

    async def look(device: Device, read: Callable[[Device], object]) -> None:
        assert device.rows.get(after, b"key5") == b"value"
        assert not device.log.rotten(after)
        with pytest.raises(Corrupt):
            read(device)
        assert device.log.rotten(G)
        assert device.log.rotten(after)

    def get(device: Device) -> object:
        return device.rows.get(after, b"key4")

    def scan(device: Device) -> object:
        return list(device.rows.scan(after, b"", b"key4"))

    assert lived(path, two) == CLOSED
    rot(path, next(key for key in rows(path) if key.endswith(b"key2")))
    for read in (get, scan):
        assert lived(path, partial(look, read=read)) == CLOSED


async def fill_with_a_long_key(device: Device) -> None:
    await fill(device)
    await device.log.append(G, [Entry(2, 1, b"entry")])
    device.log.apply(G, 2, [(LONG, b"value")])
    assert device.rows.get(G, LONG) == b"value"


def test_a_damaged_way_to_long_keys_is_damage_of_the_index_and_mended_as_such(
    tmp_path: Path,
) -> None:
    path = tmp_path / "d"
    formatted(path)

    async def look(device: Device) -> None:
        with pytest.raises(Corrupt):
            device.rows.get(G, LONG)

    assert lived(path, fill_with_a_long_key) == CLOSED
    (marker,) = [key for key in rows(path) if len(key) == 511]
    rot(path, marker)
    assert "rebuild its index" in lived(path, look)
    report = looked(path)
    assert [found.part for found in report.findings][:1] == ["index"]
    assert not report.opens
    rebuild_index(real_env().disk, str(path), SETTINGS, b"lost")
    assert lived(path, come) == CLOSED


def test_a_damaged_number_of_the_next_long_key_is_found_when_the_index_is_opened(
    tmp_path: Path,
) -> None:
    path = tmp_path / "d"
    formatted(path)

    assert lived(path, fill_with_a_long_key) == CLOSED
    env = lmdb.open(f"{path}/index", max_dbs=2)
    with env.begin(write=True, db=env.open_db(b"nodes")) as txn:
        txn.put(b"\x00", bytes(16))
    env.close()
    assert [found.part for found in looked(path).findings] == ["index"]
    with pytest.raises(Corrupt):
        lived(path, come)
    rebuild_index(real_env().disk, str(path), SETTINGS, b"lost")
    assert lived(path, come) == CLOSED
