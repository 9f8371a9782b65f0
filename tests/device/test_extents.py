import asyncio
import random

import pytest

from pinfold.device.api import Claim, ExtentOp, Mark
from pinfold.device.device import Device
from pinfold.model.errors import Busy, Corrupt, Fenced, Invalid
from pinfold.model.ids import ExtentIndex, Token, VolumeId
from pinfold.sim.world import SimNode
from tests.device.model import whole
from tests.device.worlds import PATH, lives

BLOCK = 4096
MIB = 1 << 20
V = VolumeId(b"v" * 16)
W = VolumeId(b"w" * 16)
ONE, TWO = Token(1), Token(2)
RANDOM = random.Random(3).randbytes(4 * MIB)


def write(device: Device, extent: int, offset: int, content: bytes, *, sequence: int = 1) -> None:
    ops = [ExtentOp(0, extent, offset, len(content))]
    device.extents.write(V, ONE, 0, sequence, ops, memoryview(content))


async def read(device: Device, *spans: tuple[int, int, int]) -> bytes:
    return await whole(device.extents.read(V, ONE, spans))


async def written(device: Device) -> None:
    """Write what waits; a pass of the applier is over."""
    while device.status().journal_bytes:  # noqa: ASYNC110 - a device announces no such event
        await asyncio.sleep(0.05)


def test_only_the_highest_claimed_token_reads_and_writes() -> None:
    async def first(device: Device) -> None:
        with pytest.raises(Fenced):
            device.extents.read(V, ONE, [(0, 0, 1)])
        await device.extents.claim(V, ONE)
        write(device, 0, 0, RANDOM[:BLOCK])
        with pytest.raises(Fenced):
            device.extents.flush(V, TWO)
        claim = device.extents.claim(V, TWO)
        with pytest.raises(Fenced):
            write(device, 0, 0, bytes(BLOCK))
        assert await claim == Claim(lost=False)
        assert device.extents.marks(V, TWO, -1, 9, dirty=True) == [Mark(0, 0, ONE, 1)]

    async def second(device: Device) -> None:
        with pytest.raises(Fenced) as refused:
            device.extents.claim(V, ONE)
        assert refused.value.detail == TWO
        with pytest.raises(Fenced):
            await read(device, (0, 0, 1))
        found = device.extents.read(V, TWO, [(0, 0, BLOCK)])
        assert await whole(found) == RANDOM[:BLOCK]

    lives(first, second, crash=True)


@pytest.mark.parametrize("crash", [False, True])
def test_any_alignment_reads_back_and_the_rest_is_zeroes(crash: bool) -> None:
    disk = bytearray(8 * MIB)
    rng = random.Random(4)

    async def check(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for _ in range(20):
            extent, offset = rng.randrange(2), rng.randrange(MIB)
            length = rng.choice((1, 511, 5000, 300_000))
            start = extent * 4 * MIB + offset
            assert await read(device, (extent, offset, length)) == disk[start : start + length]
        assert await read(device, (0, 0, 4 * MIB), (1, 0, 4 * MIB), (9, 5, 9)) == disk + bytes(9)

    async def change(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for number in range(60):
            kind, extent = rng.choice((0, 0, 0, 1, 2)), rng.randrange(2)
            offset, length = rng.randrange(MIB), rng.choice((1, 511, 4096, 9000, 200_000))
            if rng.random() < 0.3:
                offset, length = offset & ~4095, (length & ~4095) + 4096
            content = RANDOM[:length] if kind == 0 else b""
            start = extent * 4 * MIB + offset
            disk[start : start + length] = content or bytes(length)
            try:
                ops = [ExtentOp(kind, extent, offset, length)]
                device.extents.write(V, ONE, 0, number, ops, memoryview(content))
            except Busy:
                await written(device)
                device.extents.write(V, ONE, 0, number, ops, memoryview(content))
        await check(device)
        await device.extents.flush(V, ONE)

    lives(change, check, change, check, crash=crash)


def test_bad_ops_change_nothing() -> None:
    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for op, payload in (
            (ExtentOp(0, 0, 4 * MIB - 1, 2), b"xx"),
            (ExtentOp(0, 0, 0, 2), b"x"),
            (ExtentOp(3, 0, 0, 0), b""),
        ):
            with pytest.raises(Invalid):
                device.extents.write(V, ONE, 0, 1, [op], memoryview(payload))
        assert device.status().extent_bytes == 0
        assert await read(device, (0, 0, BLOCK)) == bytes(BLOCK)

    lives(life)


def test_trimmed_blocks_are_holes_and_an_empty_extent_gives_its_slot_back() -> None:
    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        write(device, 2, 0, RANDOM[: 10 * BLOCK])
        ops = [ExtentOp(2, 2, BLOCK, 2 * BLOCK), ExtentOp(1, 2, 8 * BLOCK, 100)]
        device.extents.write(V, ONE, 0, 2, ops, memoryview(b""))
        await written(device)
        runs = device.extents.allocated(V, ONE, ExtentIndex(2))
        assert runs == [(0, BLOCK), (3 * BLOCK, 7 * BLOCK)]
        assert device.status().extent_bytes == 64 << 10
        assert device.extents.volumes(b"", 9) == [V]
        assert device.extents.volumes(V, 9) == []
        expected = bytearray(RANDOM[: 10 * BLOCK])
        expected[BLOCK : 3 * BLOCK] = bytes(2 * BLOCK)
        expected[8 * BLOCK : 8 * BLOCK + 100] = bytes(100)
        assert await read(device, (2, 0, 10 * BLOCK)) == expected
        device.extents.write(V, ONE, 0, 3, [ExtentOp(2, 2, 0, 4 * MIB)], memoryview(b""))
        await written(device)
        assert device.status().extent_bytes == 0
        assert device.extents.allocated(V, ONE, ExtentIndex(2)) == []
        write(device, 7, 5 * BLOCK, RANDOM[:BLOCK])  # takes the same slot
        await written(device)
        assert device.status().extent_bytes == 64 << 10
        assert await read(device, (7, 0, 6 * BLOCK)) == bytes(5 * BLOCK) + RANDOM[:BLOCK]

    lives(life)


def test_marks_stay_until_their_holder_declares_the_writes_stable() -> None:
    async def first(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for extent, sequence in ((0, 1), (1, 2), (2, 3)):
            ops = [ExtentOp(0, extent, 0, BLOCK)]
            device.extents.write(V, ONE, 5 + extent, sequence, ops, memoryview(RANDOM[:BLOCK]))
        device.extents.stable(V, ONE, 2)
        await device.extents.flush(V, ONE)

    async def second(device: Device) -> None:
        await device.extents.claim(V, TWO)
        device.extents.stable(V, TWO, 100)
        marks = [Mark(0, 5, 0, 0), Mark(1, 6, 0, 0), Mark(2, 7, ONE, 3)]
        assert device.extents.marks(V, TWO, -1, 9, dirty=False) == marks
        assert device.extents.marks(V, TWO, -1, 1, dirty=False) == marks[:1]
        assert device.extents.marks(V, TWO, 0, 1, dirty=False) == marks[1:2]
        assert device.extents.marks(V, TWO, -1, 1, dirty=True) == marks[2:]
        assert device.extents.marks(V, TWO, 2, 9, dirty=False) == []
        device.extents.write(V, TWO, 8, 1, [ExtentOp(0, 2, 0, 0)], memoryview(b""))
        assert device.extents.marks(V, TWO, -1, 9, dirty=True) == [Mark(2, 8, TWO, 1)]
        device.extents.stable(V, TWO, 1)
        assert device.extents.marks(V, TWO, 1, 9, dirty=False) == [Mark(2, 8, 0, 0)]

    lives(first, second, crash=True)


def test_a_damaged_block_names_itself_and_heals_when_written() -> None:
    async def fill(device: Device) -> None:
        await device.extents.claim(V, ONE)
        write(device, 3, 0, RANDOM[: 20 * BLOCK])

    async def find(device: Device) -> None:
        with pytest.raises(Corrupt) as damage:
            await read(device, (3, 0, 20 * BLOCK))
        assert damage.value.detail == (3, 6)
        assert await read(device, (3, 7 * BLOCK, BLOCK)) == RANDOM[7 * BLOCK : 8 * BLOCK]
        with pytest.raises(Corrupt):
            write(device, 3, 6 * BLOCK + 10, b"part of a block")
        write(device, 3, 6 * BLOCK, RANDOM[:BLOCK])
        await written(device)
        assert await read(device, (3, 6 * BLOCK, BLOCK)) == RANDOM[:BLOCK]

    def rot(node: SimNode) -> None:
        node.disk.rot(f"{PATH}/arena/slots", 6 * BLOCK + 77)

    lives(fill, find, between=rot)


def test_a_dropped_volume_is_gone_and_its_slots_are_reused() -> None:
    async def first(device: Device) -> None:
        await device.extents.claim(V, ONE)
        await device.extents.claim(W, ONE)
        write(device, 0, 0, RANDOM[:BLOCK])
        await written(device)
        write(device, 1, 0, RANDOM[:BLOCK])
        await device.extents.drop(V)

    async def second(device: Device) -> None:
        assert device.extents.volumes(b"", 9) == []
        with pytest.raises(Fenced):
            device.extents.claim(V, Token(0))
        await device.extents.claim(V, ONE)
        assert await read(device, (0, 0, BLOCK), (1, 0, BLOCK)) == bytes(2 * BLOCK)
        await asyncio.sleep(1)
        assert device.status().extent_bytes == 0

    lives(first, second, crash=True)


def write_many(device: Device) -> None:
    for extent in range(100):
        write(device, extent, 0, RANDOM[: 16 * BLOCK])


def test_writes_beyond_the_limit_are_busy_and_succeed_later() -> None:
    async def life(device: Device) -> None:
        await device.extents.claim(V, ONE)
        with pytest.raises(Busy):
            write_many(device)
        await written(device)
        write(device, 0, 0, RANDOM[: 16 * BLOCK])

    lives(life)


def slow(node: SimNode) -> None:
    """A disk on which every call takes 20 ms."""
    node.disk.faults.call_s = node.disk.faults.sync_s = (0.02, 0.02)


def test_a_close_leaves_a_backlog_to_the_next_opening() -> None:
    """Applying these scattered blocks takes 8 s of the slow disk; the journal has them at once."""
    places = [(number % 8, number // 8 * 2 * BLOCK) for number in range(400)]

    async def nothing(device: Device) -> None:
        await device.extents.claim(V, ONE)

    async def fill(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for number, (extent, offset) in enumerate(places):
            write(device, extent, offset, RANDOM[number : number + BLOCK])
        now = asyncio.get_running_loop().time
        began = now()
        await device.close()
        assert now() - began < 3

    async def check(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for number, (extent, offset) in enumerate(places):
            assert await read(device, (extent, offset, BLOCK)) == RANDOM[number : number + BLOCK]

    lives(nothing, fill, check, between=slow)
