import asyncio
import random

import pytest

from pinfold.codec.packs import checks_of
from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.model.errors import Corrupt, Invalid, NotFound, Unavailable
from pinfold.model.ids import BlobId, Token, VolumeId
from pinfold.sim.world import SimNode
from tests.device.model import whole
from tests.device.worlds import PATH, lives, put

SMALL = random.Random(1).randbytes(5000)
LARGE = random.Random(2).randbytes(300_000)
A, B, C = (BlobId(letter * 16) for letter in (b"a", b"b", b"c"))


def rot_packs(node: SimNode) -> None:
    """Flip a bit in the middle of every page of every pack, past the packs' headers."""
    disk = node.disk
    for name in [name for name in disk.names if name.startswith(f"{PATH}/packs/")]:
        for page in range(1, disk.file(name).size // 4096):
            disk.rot(name, page * 4096 + 1000)


@pytest.mark.parametrize("crash", [False, True])
def test_blobs_are_read_from_memory_and_from_packs_alike(crash: bool) -> None:
    async def write(device: Device) -> None:
        await put(device, A, SMALL)
        await put(device, B, LARGE)
        await put(device, C, b"")
        await read(device)

    async def read(device: Device) -> None:
        for blob, payload in ((A, SMALL), (B, LARGE), (C, b"")):
            for start, length in ((0, len(payload)), (len(payload) // 2, len(payload) // 3)):
                found = await whole(device.blobs.read(blob, start, length))
                assert found == payload[start : start + length]
            with pytest.raises(Invalid):
                device.blobs.read(blob, 1, len(payload))
            assert device.blobs.state(blob) == (len(payload), True, checks_of(payload))
        assert device.blobs.scan(b"", 2) == [(A, len(SMALL)), (B, len(LARGE))]
        assert device.blobs.scan(A, 10) == [(B, len(LARGE)), (C, 0)]
        with pytest.raises(NotFound):
            device.blobs.read(BlobId(b"z" * 16), 0, 1)

    lives(write, read, read, crash=crash)


def test_what_differs_from_its_checks_is_not_stored() -> None:
    async def life(device: Device) -> None:
        with pytest.raises(Corrupt):
            device.blobs.put(A, memoryview(SMALL), [1])
        with pytest.raises(Invalid):
            device.blobs.put(A, memoryview(LARGE), checks_of(LARGE))
        stream = device.blobs.begin(A, len(LARGE), checks_of(LARGE))
        with pytest.raises(Corrupt):
            stream.write(bytes(len(LARGE)))
        short = device.blobs.begin(A, len(LARGE), checks_of(LARGE))
        await short.write(LARGE[:1000])
        with pytest.raises(Invalid):
            short.commit()
        with pytest.raises(Invalid):
            device.blobs.begin(A, len(LARGE), checks_of(LARGE)[1:])
        assert device.blobs.state(A) is None
        assert device.blobs.scan(b"", 10) == []

    lives(life)


def test_a_damaged_blob_is_quarantined_until_it_is_put_again() -> None:
    async def write(device: Device) -> None:
        await put(device, A, SMALL)
        await put(device, B, LARGE)

    async def find_damage(device: Device) -> None:
        for blob in (A, B):
            with pytest.raises(Corrupt):
                await whole(device.blobs.read(blob, 0, 2000))
            with pytest.raises(Corrupt):  # not "there is none": another copy must be looked for
                device.blobs.read(blob, 0, 2000)
            assert device.blobs.state(blob) is None
        assert device.status().quarantined == 2
        assert device.blobs.scan_quarantined(b"", 9) == [(A, len(SMALL)), (B, len(LARGE))]
        assert device.blobs.scan_quarantined(A, 9) == [(B, len(LARGE))]

    async def repair(device: Device) -> None:
        assert device.status().quarantined == 2
        await put(device, A, SMALL)
        await device.blobs.delete([B])
        assert await whole(device.blobs.read(A, 0, 5000)) == SMALL
        await asyncio.sleep(1.0)
        assert device.status().quarantined == 0
        assert device.blobs.scan_quarantined(b"", 9) == []

    damaged: list[SimNode] = []

    def damage_once(node: SimNode) -> None:
        if not damaged:
            rot_packs(node)
            damaged.append(node)

    lives(write, find_damage, repair, between=damage_once)


def test_deleted_blobs_give_their_space_back() -> None:
    used: list[int] = []
    blobs = [BlobId(bytes([number]) * 16) for number in range(30)]

    async def fill(device: Device) -> None:
        for blob in blobs:
            await put(device, blob, LARGE)

    async def empty(device: Device) -> None:
        await device.blobs.delete(blobs)
        await device.blobs.delete(blobs)
        await asyncio.sleep(1.0)
        await put(device, A, SMALL)
        await asyncio.sleep(1.0)
        assert device.blobs.scan(b"", 100) == [(A, len(SMALL))]
        assert (device.status().blobs, device.status().blob_bytes) == (1, len(SMALL))

    async def look(device: Device) -> None:
        assert await whole(device.blobs.read(A, 0, 10)) == SMALL[:10]

    def measure(node: SimNode) -> None:
        packs = [name for name in node.disk.names if name.startswith(f"{PATH}/packs/")]
        used.append(sum(len(node.disk.file(name).pages) for name in packs))

    lives(fill, empty, look, between=measure)
    assert used[0] * 4096 > 30 * len(LARGE)
    assert used[1] <= 6


def test_more_packs_than_may_be_open_are_read() -> None:
    blobs = [BlobId(bytes([number]) * 16) for number in range(24)]

    async def fill(device: Device) -> None:
        for blob in blobs:
            await put(device, blob, LARGE)

    async def read(device: Device) -> None:
        for _ in range(2):
            for blob in blobs:
                assert await whole(device.blobs.read(blob, 0, len(LARGE))) == LARGE

    lives(fill, read, open_packs=2, pack_bytes=1 << 20)


def test_an_old_delete_that_is_redone_spares_the_blob_put_after_it() -> None:
    async def write(device: Device) -> None:
        await put(device, A, LARGE)
        await asyncio.sleep(1)

    async def replace_while_the_applier_is_at_work(device: Device) -> None:
        volume, token = VolumeId(b"v" * 16), Token(1)
        await device.extents.claim(volume, token)
        await asyncio.sleep(1)
        ops = [ExtentOp(0, 0, 0, 65_536)]
        device.extents.write(volume, token, 0, 1, ops, memoryview(LARGE[:65_536]))
        before = device.status().journal_bytes
        await asyncio.sleep(0.03)  # the pass has begun, and its flushes take 0.15 s
        deleted = device.blobs.delete([A])
        await put(device, A, LARGE)
        await deleted
        while device.status().journal_bytes >= before:  # noqa: ASYNC110 - a pass sets no event
            await asyncio.sleep(0.001)
        assert device.status().journal_bytes, "the pass began before the delete"

    async def read(device: Device) -> None:
        await asyncio.sleep(2)
        assert await whole(device.blobs.read(A, 0, len(LARGE))) == LARGE

    def slow(node: SimNode) -> None:
        node.disk.faults.sync_s = (0.05, 0.05)

    lives(write, replace_while_the_applier_is_at_work, read, crash=True, between=slow)


def test_space_of_an_aborted_stream_comes_back_behind_its_writes() -> None:
    """A client that leaves does so while its bytes wait for a slow disk."""

    async def start(device: Device) -> None:
        await put(device, A, SMALL)

    async def life(device: Device) -> None:
        await asyncio.sleep(10)
        await put(device, C, SMALL)
        await asyncio.sleep(10)
        before = device.status().free_bytes
        streams = [device.blobs.begin(B, len(LARGE), checks_of(LARGE)) for _ in range(40)]
        for stream in streams:
            stream.write(LARGE)
            stream.abort()
        for letter in b"defghij":
            await put(device, BlobId(bytes([letter]) * 16), SMALL)
            await asyncio.sleep(10)
        assert device.status().state == "serving"
        assert device.status().free_bytes > before - 2 * len(LARGE)

    def slow(node: SimNode) -> None:
        node.disk.faults.call_s = (0.3, 0.3)

    lives(start, life, between=slow)


@pytest.mark.parametrize("named", [False, True])
def test_space_of_a_stream_that_a_crash_cut_short_comes_back(named: bool) -> None:
    nodes: list[SimNode] = []

    async def write(device: Device) -> None:
        await put(device, A, LARGE)
        stream = device.blobs.begin(B, len(LARGE), checks_of(LARGE))
        await stream.write(LARGE[:200_000])
        await put(device, C, LARGE)
        await asyncio.sleep(1)  # in the index
        if named:
            await stream.write(LARGE[200_000:])
            await stream.commit()

    async def serve(device: Device) -> None:
        await asyncio.sleep(1)
        kept = [A, B, C] if named else [A, C]
        for blob in kept:
            assert await whole(device.blobs.read(blob, 0, len(LARGE))) == LARGE
        pages = sum(
            len(inode.pages)
            for path, inode in nodes[0].disk.names.items()
            if path.startswith(f"{PATH}/packs/") and inode is not None
        )
        assert pages <= len(kept) * (len(LARGE) // 4096 + 1) + 1

    lives(write, serve, serve, crash=True, between=nodes.append)


def test_streams_that_wait_for_a_flush_when_the_device_stops_begin_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = bytes(100_000)

    async def life(device: Device) -> None:
        streams = [
            device.blobs.begin(BlobId(letter * 16), len(content), checks_of(content))
            for letter in (b"a", b"b")
        ]
        for stream in streams:
            await stream.write(content)
        commits = [stream.commit() for stream in streams]  # the second waits for the first's flush
        device._health.stop("a disk failed")
        later: list[object] = []
        monkeypatch.setattr(device.blobs._streams, "_lane", later.append)
        for commit in commits:
            with pytest.raises(Unavailable):
                await commit
        await device.blobs._readers.drain()
        await asyncio.sleep(1)
        assert not device.blobs._streams._flushing
        assert later == []

    lives(life)
