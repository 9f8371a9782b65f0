"""Flipped bits in an index: never served, told by whoever looks, and given up or made good."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.check import Report, check
from pinfold.device.device import Device
from pinfold.device.index import GUARDS, Index, seal_rows
from pinfold.device.lmdb_engine import LmdbEngine
from pinfold.device.offline import look_at
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.device.rebuild import rebuild_index
from pinfold.device.repair import repair
from pinfold.env.api import Env
from pinfold.model.errors import Conflict, Corrupt, NotFound
from pinfold.model.ids import BlobId, ExtentIndex, GroupId, Token, VolumeId
from pinfold.sim.world import World
from tests.device.model import whole
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put

G = GroupId(7)
V = VolumeId(b"v" * 16)
ONE = Token(1)
BLOBS = [BlobId(bytes([number]) * 16) for number in range(5)]
PAYLOAD = bytes(range(250)) * 4
ROWS = [(b"key%d" % number, b"value%d" % number) for number in range(5)]


# The engine that maps its file.


def rows() -> dict[bytes, bytes]:
    return {b"b%07d" % (number * 9): b"payload%03d" % number for number in range(30)}


def stored_at(image: bytes) -> list[int]:
    """Where in the file bytes of a row stand: its key, its value, its checksum."""
    places = []
    for key, value in rows().items():
        start = image.index(key + value)
        places += range(start, start + len(key) + len(value) + 8)
    return places


def found_by(index: Index, key: bytes) -> bytes | None:
    try:
        return index.get(key)
    except Corrupt:
        return b"told"


def test_no_flipped_bit_of_a_row_is_served_nor_hides_another_row(tmp_path: Path) -> None:
    """Keys too: one that is missed where it was, and those that a search is led astray from."""
    engine = LmdbEngine(str(tmp_path), 1 << 20)
    engine.commit(seal_rows(sorted(rows().items())))
    engine.close()
    file = tmp_path / "data.mdb"
    image = file.read_bytes()
    told = 0
    for number, at in enumerate(stored_at(image)[::3]):
        for bit in (number % 8, (number + 5) % 8):
            damaged = bytearray(image)
            damaged[at] ^= 1 << bit
            file.write_bytes(damaged)
            index = Index(LmdbEngine(str(tmp_path), 1 << 20, read_only=True))
            answers = {key: found_by(index, key) for key in rows()}
            told += sum(answer == b"told" for answer in answers.values())
            assert [k for k, v in answers.items() if v not in (rows()[k], b"told")] == []
            assert b"told" in answers.values()
            for reverse in (False, True):
                with pytest.raises(Corrupt):
                    list(index.scan(b"", None, reverse=reverse))
                middle = b"b%07d" % 130
                for low, high in ((b"", middle), (middle, None)):
                    expected = [(k, v) for k, v in rows().items() if low <= k < (high or b"c")]
                    try:
                        found = list(index.scan(low, high, reverse=reverse))
                    except Corrupt:
                        continue
                    assert found == (expected[::-1] if reverse else expected)
            assert list(index.rotten()) != []
            index.close()
    assert told < 10_000  # most rows are still read beside a rotten one


# A device.

Act = Callable[[Env], Awaitable[None]]


def lives(*acts: Act) -> None:
    """Each act is a process of its own, on the disk that the one before left."""
    with World(3) as world:
        node = world.node("n1")

        async def scenario() -> None:
            await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
            for act in acts:
                node.crash()
                await node.start(act)

        world.run(scenario())


async def opened(env: Env) -> Device:
    return await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)


async def fill(env: Env) -> None:
    """Rows of every table, all of them in the index."""
    device = await opened(env)
    await device.log.create(G)
    device.log.append(G, [Entry(1, 1, b"entry")])
    device.log.apply(G, 1, ROWS)
    for blob in BLOBS:
        await put(device, blob, PAYLOAD)
    await device.extents.claim(V, ONE)
    device.extents.write(V, ONE, 1, 1, [ExtentOp(0, 3, 0, 4096)], memoryview(bytes([7]) * 4096))
    await device.extents.flush(V, ONE)
    await asyncio.sleep(1.0)
    await device.close()


def rot(table: bytes, number: int = 1, bit: int = 100) -> Act:
    """Flip a bit in a row of a table, as it is stored."""

    async def act(env: Env) -> None:
        engine = OrderedEngine(env.disk, f"{PATH}/index")
        rows = engine.scan(b"", None, False)
        found = [row for row in rows if row[0].startswith(table) and row[0] not in GUARDS]
        key, stored = found[min(number, len(found) - 1)]
        damaged = bytearray(stored)
        damaged[bit // 8 % len(stored)] ^= 1 << bit % 8
        engine.commit([(key, bytes(damaged))])
        engine.close()

    return act


def rot_served(device: Device, table: bytes) -> None:
    """The same while the device is open: in what its engine holds."""
    engine = device._index._engine
    assert isinstance(engine, OrderedEngine)
    key = next(key for key, _ in device._index.scan(table, None))
    damaged = bytearray(engine._rows[key])
    damaged[0] ^= 1
    engine._rows[key] = bytes(damaged)


def looked(env: Env) -> Report:
    device = look_at(env.disk, PATH)
    try:
        return check(env.disk, PATH, device, lambda _done, _total: None)
    finally:
        device.close()


@pytest.mark.parametrize("bit", [0, 100, 3000])
def test_a_blob_whose_row_rotted_is_set_aside_until_it_is_put_again(bit: int) -> None:
    async def act(env: Env) -> None:
        assert [found.part for found in looked(env).findings][:1] == ["row"]
        device = await opened(env)
        assert [blob for blob, _ in device.blobs.scan(b"", 9)] == [*BLOBS[:1], *BLOBS[2:]]
        assert device.blobs.state(BLOBS[1]) is None
        with pytest.raises(Corrupt):  # not "there is none": another copy must be looked for
            await whole(device.blobs.read(BLOBS[1], 0, 10))
        assert await whole(device.blobs.read(BLOBS[2], 0, 10)) == PAYLOAD[:10]
        assert device.blobs.scan_quarantined(b"", 9) == [(BLOBS[1], 0)]
        await put(device, BLOBS[1], PAYLOAD)
        await asyncio.sleep(1.0)
        assert (device.status().quarantined, device.status().blobs) == (0, 5)
        assert await whole(device.blobs.read(BLOBS[1], 0, 10)) == PAYLOAD[:10]
        await device.close()

    async def again(env: Env) -> None:
        device = await opened(env)
        assert device.blobs.state(BLOBS[1]) == (len(PAYLOAD), True, checks_of(PAYLOAD))
        await device.close()
        assert looked(env).rotten == []

    lives(fill, rot(b"b", bit=bit), act, again)


def test_a_repair_sets_aside_what_a_check_found_rotten() -> None:
    async def mend(env: Env) -> None:
        report = looked(env)
        assert report.opens
        assert report.rotten == [b"b" + BLOBS[1]]
        await repair(env, PATH, report)
        report = looked(env)
        assert report.rotten == []
        assert report.quarantined == [BLOBS[1]]

    lives(fill, rot(b"b"), mend)


def test_a_quarantined_blob_whose_row_rotted_stays_quarantined() -> None:
    async def quarantine(env: Env) -> None:
        device = await opened(env)
        device.blobs.quarantine(BLOBS[0])
        await asyncio.sleep(1.0)
        await device.close()

    async def act(env: Env) -> None:
        device = await opened(env)
        with pytest.raises(Corrupt):
            await whole(device.blobs.read(BLOBS[0], 0, 10))
        assert device.blobs.scan_quarantined(b"", 9) == [(BLOBS[0], 0)]
        await device.blobs.delete([BLOBS[0]])
        with pytest.raises(NotFound):
            device.blobs.read(BLOBS[0], 0, 10)
        assert device.status().quarantined == 0
        await device.close()

    lives(fill, quarantine, rot(b"q"), act)


def test_a_groups_rotten_row_is_not_served_and_a_copy_makes_it_good() -> None:
    async def act(env: Env) -> None:
        assert [found.part for found in looked(env).findings] == ["row"]
        device = await opened(env)
        assert device.rows.get(G, b"key0") == b"value0"
        assert not device.log.rotten(G)
        with pytest.raises(Corrupt):
            device.rows.get(G, b"key1")
        assert device.log.rotten(G)
        with pytest.raises(Corrupt):
            list(device.rows.scan(G, b"", None))
        page = device.log.install(G, 5, 1, ROWS[:2], first=True, last=False)
        await page
        await device.log.install(G, 5, 1, ROWS[2:], first=False, last=True)
        assert not device.log.rotten(G)
        assert list(device.rows.scan(G, b"", None)) == ROWS
        await asyncio.sleep(2.0)
        await device.close()

    async def again(env: Env) -> None:
        assert looked(env).findings == []

    lives(fill, rot(b"r"), act, again)


def test_a_copy_of_some_buckets_does_not_make_a_rotten_row_good() -> None:
    """A key whose bits flipped may have been another's: which bucket is rotten is not known."""

    async def act(env: Env) -> None:
        device = await opened(env)
        with pytest.raises(Corrupt):
            device.rows.get(G, b"key1")
        known = device.log.group(G)
        device.log._start_install(known, keep_rows=True)
        assert device.log.rotten(G)
        await device.close()

    lives(fill, rot(b"r"), act)


def test_a_volume_of_which_an_extents_row_rotted_is_lost_here() -> None:
    async def act(env: Env) -> None:
        device = await opened(env)
        assert not (await device.extents.claim(V, Token(2))).lost
        for _ in range(2):  # found out by the first, and told to whoever claims again
            with pytest.raises(Conflict):
                device.extents.read(V, Token(2), [(3, 0, 4096)])
        with pytest.raises(Conflict):
            device.extents.marks(V, Token(2), -1, 9, dirty=False)
        assert (await device.extents.claim(V, Token(2))).lost
        with pytest.raises(Corrupt):
            device.extents.read(V, Token(2), [(3, 0, 4096)])
        await device.close()

    async def again(env: Env) -> None:
        device = await opened(env)
        assert (await device.extents.claim(V, Token(3))).lost
        await device.close()

    lives(fill, rot(b"e"), act, again)


def test_a_row_that_rotted_before_its_volume_was_dropped_costs_no_other_volume() -> None:
    other = VolumeId(b"w" * 16)

    async def neighbour(env: Env) -> None:
        device = await opened(env)
        await device.extents.claim(other, ONE)
        content = memoryview(bytes([8]) * 4096)
        await device.extents.write(other, ONE, 1, 1, [ExtentOp(0, 3, 0, 4096)], content)
        await device.extents.flush(other, ONE)
        await asyncio.sleep(1.0)
        await device.close()

    async def act(env: Env) -> None:
        device = await opened(env)
        await device.extents.drop(V)
        await asyncio.sleep(2.0)  # passes that remove what the volume had
        assert not (await device.extents.claim(other, Token(2))).lost
        found = await whole(device.extents.read(other, Token(2), [(3, 0, 4096)]))
        assert found == bytes([8]) * 4096
        assert [stored.volume for stored in device._extents.stored()] == [other]
        await device.close()

    lives(fill, neighbour, rot(b"e", 0), act)


def test_an_extent_of_which_a_row_in_use_rotted_is_there_once_it_is_written_again() -> None:
    """What memory knew of the row must not be taken for what the index has."""

    async def act(env: Env) -> None:
        device = await opened(env)
        assert not (await device.extents.claim(V, Token(2))).lost
        await whole(device.extents.read(V, Token(2), [(3, 0, 4096)]))
        rot_served(device, b"e")
        with pytest.raises(Conflict):
            device.extents.marks(V, Token(2), -1, 9, dirty=False)
        assert (await device.extents.claim(V, Token(2))).lost
        content = memoryview(bytes([9]) * 4096)
        await device.extents.write(V, Token(2), 1, 2, [ExtentOp(0, 3, 0, 4096)], content)
        await device.extents.restored(V, Token(2))
        await asyncio.sleep(1.0)
        await device.close()

    async def again(env: Env) -> None:
        device = await opened(env)
        assert not (await device.extents.claim(V, Token(2))).lost
        found = await whole(device.extents.read(V, Token(2), [(3, 0, 4096)]))
        assert found == bytes([9]) * 4096
        await device.close()

    lives(fill, act, again)


def test_an_extent_whose_row_rotted_is_not_told_to_be_a_hole() -> None:
    async def act(env: Env) -> None:
        device = await opened(env)
        await device.extents.claim(V, Token(2))
        device.extents.check(V, Token(2))
        for _ in range(2):  # found out by the first
            with pytest.raises(Conflict):
                device.extents.allocated(V, Token(2), ExtentIndex(3))
        with pytest.raises(Conflict):
            device.extents.check(V, Token(2))
        assert (await device.extents.claim(V, Token(2))).lost
        with pytest.raises(Corrupt):
            device.extents.allocated(V, Token(2), ExtentIndex(3))
        await device.close()

    lives(fill, rot(b"e"), act)


def test_a_row_that_rots_a_second_time_is_told_a_second_time() -> None:
    async def act(env: Env) -> None:
        device = await opened(env)
        for _ in range(2):
            rot_served(device, b"b")
            with pytest.raises(Corrupt):
                await whole(device.blobs.read(BLOBS[0], 0, 10))
            assert device.status().quarantined == 1
            await put(device, BLOBS[0], PAYLOAD)
            await asyncio.sleep(1.0)
            assert await whole(device.blobs.read(BLOBS[0], 0, 10)) == PAYLOAD[:10]
        assert (device.status().quarantined, device.status().blobs) == (0, 5)
        await device.close()

    lives(fill, act)


@pytest.mark.parametrize("table", [b"g", b"v", b"p", b"ma", b"mb", b"mp"])
def test_what_a_device_promised_is_not_guessed_at(table: bytes) -> None:
    async def act(env: Env) -> None:
        report = looked(env)
        assert not report.opens
        assert report.findings[0].part == "index"
        with pytest.raises(Corrupt, match=f"the row {table.hex()}"):
            await opened(env)
        rebuild_index(env.disk, PATH, SETTINGS, b"lost")
        device = await opened(env)
        assert await whole(device.blobs.read(BLOBS[1], 0, 10)) == PAYLOAD[:10]
        await device.close()

    lives(fill, rot(table), act)


def test_an_index_with_rotten_rows_that_others_make_good_is_not_rebuilt() -> None:
    async def act(env: Env) -> None:
        with pytest.raises(Conflict):
            rebuild_index(env.disk, PATH, SETTINGS, b"lost")

    lives(fill, rot(b"r"), act)
