"""A device's files are cut, zeroed and rotten at every record and inside it, and then opened.

What must come out: everything acknowledged by what is left, or a refusal that says why. Bytes
that are gone from packs and arena are Corrupt for whoever reads them, and nobody else notices.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import cache

import msgspec
import pytest

from pinfold.codec.packs import decode_head, head_bytes, pack_seed, record_bytes
from pinfold.codec.records import PAGE_BYTES
from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.device.files import decode_superblock, superblock_path
from pinfold.model.errors import Corrupt
from pinfold.model.limits import BLOCK_BYTES, SLOT_BYTES
from pinfold.sim.disk import Inode
from pinfold.sim.world import SimNode, World
from tests.device.recorded import (
    ONE,
    Names,
    Recorded,
    V,
    cut,
    differences,
    found_in,
    journal_records,
    record,
    reopen,
)
from tests.device.worlds import PATH, SETTINGS, put

HOWS = ("cut", "zero", "rot")
SUM_BYTES = 8
SUMS_OF_SLOT_BYTES = SLOT_BYTES // BLOCK_BYTES * SUM_BYTES


@cache
def recorded(close: bool) -> Recorded:
    return record(close=close)


def in_world(scenario: Callable[[SimNode], Awaitable[None]]) -> None:
    """Run a scenario that opens one device again and again."""
    with World(2) as world:
        node = world.node("n1")

        async def run() -> None:
            await scenario(node)

        world.run(run(), limit_s=100_000)


def segments_of(files: Recorded) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
    """(path, records) of the journal's segments, oldest first."""
    found = [
        (path, journal_records(inode_of(files.names, path), files.salt))
        for path in files.paths("journal")
    ]
    return sorted((one for one in found if one[1]), key=lambda one: one[1][0][0])


def inode_of(names: Names, path: str) -> Inode:
    inode = names[path]
    assert inode is not None
    return inode


def journal_cuts(files: Recorded, how: str) -> Iterator[tuple[str, int, int, bool]]:
    """(path, offset, last sequence before it, whether a later batch tells of what is lost)."""
    segments = segments_of(files)
    for path, records in segments:
        newest = path == segments[-1][0]
        last_batch = max(start for _, start, _, _ in records if start % PAGE_BYTES == 0)
        first = records[0][0]
        for offset in (0, 20):
            yield path, offset, first - 1, not newest or how == "rot"
        for sequence, start, payload, end in records:
            told = not newest or (how == "rot" and start < last_batch)
            offsets = {start, start + 20, payload, (payload + end) // 2, end - 1}
            for offset in sorted(offsets):
                if offset < end:
                    yield path, offset, sequence - 1, told
        if how != "rot":
            # Padding alone is lost: nothing may be missing, in no segment.
            yield path, records[-1][3], segments[-1][1][-1][0], False


@pytest.mark.parametrize("how", HOWS)
def test_a_journal_cut_anywhere_shows_all_that_is_left_of_it_or_is_refused(how: str) -> None:
    files = recorded(False)

    async def scenario(node: SimNode) -> None:
        opened = refused = 0
        for path, offset, sequence, told in journal_cuts(files, how):
            names = files.copy()
            cut(names, path, offset, how)

            async def look(device: Device, sequence: int = sequence) -> None:
                assert not await differences(device, files.told.at(sequence))

            must_refuse = told or sequence < files.closed_at
            if must_refuse:
                with pytest.raises(Corrupt, match=r"journal|segment"):
                    await reopen(node, names, look)
                refused += 1
            else:
                await reopen(node, names, look)
                opened += 1
        assert refused > 50
        assert opened > 50 or how == "rot"

    in_world(scenario)


@pytest.mark.parametrize("how", HOWS)
def test_a_journal_that_was_closed_is_never_opened_with_less(how: str) -> None:
    """The last batch has no later one that tells of it: the superblock does."""
    files = recorded(True)
    path, records = segments_of(files)[-1]

    async def look(device: Device) -> None:
        raise AssertionError("it opened")

    async def scenario(node: SimNode) -> None:
        for _, start, payload, end in records[-4:]:
            for offset in (start, payload, end - 1):
                names = files.copy()
                cut(names, path, offset, how)
                with pytest.raises(Corrupt, match="flushed"):
                    await reopen(node, names, look)

    in_world(scenario)
    in_world(lambda node: reopen(node, files.copy(), all_there, close=True))


async def all_there(device: Device) -> None:
    assert not await differences(device, recorded(True).told.states[-1][1])


def test_a_segment_whose_header_is_gone_is_not_taken_for_a_spare_one() -> None:
    """It would be filled again, and what it held be forgotten."""
    files = recorded(False)
    path, records = segments_of(files)[-1]
    assert records[-1][1] > 3 * PAGE_BYTES, "several batches are in it"

    async def look(device: Device) -> None:
        raise AssertionError("it opened")

    async def scenario(node: SimNode) -> None:
        names = files.copy()
        inode_of(names, path).write(bytes(PAGE_BYTES), 0)
        with pytest.raises(Corrupt, match="flushed and are missing"):
            await reopen(node, names, look)
        assert path in node.disk.names, "a refused device keeps what it has"

    in_world(scenario)


def pack_records(names: Names, path: str) -> Iterator[tuple[bytes, int, int, int]]:
    """(blob, start, where its payload starts, end) of every record of a pack."""
    inode, superblock = inode_of(names, path), inode_of(names, superblock_path(PATH))
    salt = decode_superblock(path, superblock.read(superblock.size, 0)).salt
    seed = pack_seed(salt, int(path.rpartition("/")[2]))
    offset = PAGE_BYTES
    while offset < inode.size:
        try:
            blob, length, checks = decode_head(inode.read(1 << 20, offset), seed)
        except Corrupt:
            offset += PAGE_BYTES  # a hole
            continue
        size = record_bytes(length, len(checks))
        yield blob, offset, offset + head_bytes(len(checks)), offset + size
        offset += size


@pytest.mark.parametrize("how", HOWS)
def test_a_pack_cut_anywhere_loses_only_what_was_cut_and_says_so(how: str) -> None:
    files = recorded(True)
    state = files.told.states[-1][1]

    async def scenario(node: SimNode) -> None:
        damaged = 0
        for path in files.paths("packs"):
            offsets = {0, 20, PAGE_BYTES}
            for _, start, payload, end in pack_records(files.names, path):
                offsets |= {start, start + 20, payload, (payload + end) // 2}
            for offset in sorted(offsets):
                names = files.copy()
                cut(names, path, offset, how)
                hurt = {
                    blob
                    for blob, start, payload, end in pack_records(files.names, path)
                    if end > offset
                    and (how != "rot" or payload <= offset)
                    and (how != "rot" or offset < end)
                }

                async def look(device: Device, hurt: set[bytes] = hurt) -> None:
                    nonlocal damaged
                    wrong = await differences(device, state)
                    assert all(isinstance(answer, Corrupt) for _, answer in wrong), wrong
                    assert {kind[1] for kind, _ in wrong} <= hurt
                    assert device.status().quarantined == len(wrong)
                    assert device.status().state == "serving"
                    damaged += len(wrong)

                await reopen(node, names, look)
        assert damaged > 20 or how == "rot"

    in_world(scenario)


def test_a_pack_that_is_gone_is_no_reason_to_stop() -> None:
    files = recorded(True)
    state = files.told.states[-1][1]

    async def scenario(node: SimNode) -> None:
        lost = 0
        for path in files.paths("packs"):
            names = files.copy()
            del names[path]

            async def look(device: Device) -> None:
                nonlocal lost
                wrong = await differences(device, state)
                assert all(isinstance(answer, Corrupt) for _, answer in wrong), wrong
                assert device.status().state == "serving"
                lost += len(wrong)

            await reopen(node, names, look, close=True)
        assert lost == sum(1 for kind, value in state.items() if kind[0] == "blob" and value)

    in_world(scenario)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["slots", "sums"])
def test_an_arena_cut_anywhere_loses_only_what_was_cut_and_says_so(name: str, how: str) -> None:
    files = recorded(True)
    state = files.told.states[-1][1]
    path = f"{PATH}/arena/{name}"
    blocks = [kind for kind in state if kind[0] == "block"]
    slot, unit = (SLOT_BYTES, BLOCK_BYTES)
    if name == "sums":
        slot, unit = (SUMS_OF_SLOT_BYTES, SUM_BYTES)

    async def scenario(node: SimNode) -> None:
        damaged = 0
        offsets = [
            number * slot + block * unit + within
            for number in range(2)
            for block in range(9)
            for within in (0, unit // 2)
            if number * slot + block * unit < inode_of(files.names, path).size
        ]
        for offset in offsets:
            names = files.copy()
            cut(names, path, offset, how)

            async def look(device: Device) -> None:
                nonlocal damaged
                wrong = await differences(device, state)
                assert all(isinstance(answer, Corrupt) for _, answer in wrong), wrong
                for kind, answer in wrong:
                    assert isinstance(answer, Corrupt)
                    assert answer.detail == (kind[2], kind[3])
                damaged += len(wrong)

            await reopen(node, names, look)
        assert damaged >= len(blocks)

    in_world(scenario)


def test_a_block_that_is_written_again_after_a_cut_is_readable() -> None:
    files = recorded(True)

    async def look(device: Device) -> None:
        assert isinstance(await found_in(device, ("block", V, 0, 1)), Corrupt)
        block = memoryview(b"n" * BLOCK_BYTES)
        ops = [ExtentOp(0, 0, BLOCK_BYTES, BLOCK_BYTES)]
        device.extents.write(V, ONE, 1, 999, ops, block)
        await device.extents.flush(V, ONE)
        await asyncio.sleep(1)  # applied
        assert await found_in(device, ("block", V, 0, 1)) == block
        assert isinstance(await found_in(device, ("block", V, 0, 2)), Corrupt)

    async def scenario(node: SimNode) -> None:
        names = files.copy()
        cut(names, f"{PATH}/arena/slots", 0, "zero")
        await reopen(node, names, look)

    in_world(scenario)


def test_a_device_that_lost_journal_and_index_is_not_taken_for_a_new_one() -> None:
    """Nothing is left in either that could tell of a loss: only the superblock is."""
    files = recorded(False)

    async def look(device: Device) -> None:
        raise AssertionError("it opened")

    async def scenario(node: SimNode) -> None:
        names = files.copy()
        for path in (*files.paths("journal"), *files.paths("index")):
            del names[path]
        with pytest.raises(Corrupt, match=f"{files.closed_at} was flushed"):
            await reopen(node, names, look)

    in_world(scenario)


def test_shorter_segments_than_before_lose_nothing_of_the_longer_ones() -> None:
    files = recorded(False)
    shorter = msgspec.structs.replace(SETTINGS, segment_bytes=SETTINGS.segment_bytes // 4)
    last_state = files.told.states[-1][1]

    async def look(device: Device) -> None:
        assert not await differences(device, last_state)
        await put(device, b"n" * 16, b"new")

    async def again(device: Device) -> None:
        assert not await differences(device, {**last_state, ("blob", b"n" * 16): b"new"})

    async def scenario(node: SimNode) -> None:
        await reopen(node, files.copy(), look, settings=shorter)
        node.crash()
        await reopen(node, dict(node.disk.names), again, settings=shorter)

    in_world(scenario)
