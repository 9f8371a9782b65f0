"""A device that lost its index gets a new one, and claims nothing that it cannot know."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import cache

import pytest

from pinfold.codec.records import PAGE_BYTES
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.device.memory import Memory, decode_memory, encode_memory
from pinfold.device.rebuild import rebuild_index
from pinfold.env.api import Env
from pinfold.model.errors import Conflict, Corrupt, Fenced
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.sim.disk import Inode
from tests.device.model import whole
from tests.device.recorded import (
    ONE,
    SLOW,
    G,
    H,
    Names,
    Recorded,
    V,
    W,
    cut,
    differences,
    record,
)
from tests.device.test_check import look, on_files
from tests.device.test_cut_points import inode_of, pack_records, segments_of
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put

LOST = b"a vote that proves nothing"


@cache
def recorded(close: bool, rounds: int) -> Recorded:
    """With 40 rounds the journal has let its beginning go, with 3 it has everything."""
    return record(rounds=rounds, close=close)


def without_index(files: Recorded) -> Names:
    names = files.copy()
    for path in files.paths("index"):
        del names[path]
    return names


async def rebuilt(env: Env) -> None:
    rebuild_index(env.disk, PATH, SETTINGS, LOST)


@pytest.mark.parametrize("close", [True, False])
def test_blobs_come_back_and_groups_and_volumes_claim_nothing(close: bool) -> None:
    files = recorded(close, 40)
    assert segments_of(files)[0][1][0][0] > 1, "the journal's beginning is gone"
    state = files.told.states[-1][1]
    blobs = {kind: value for kind, value in state.items() if kind[0] == "blob" and value}

    async def serve(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert not await differences(device, blobs)
        assert device.log.groups() == [G, H]
        for group in (G, H):
            found = device.log.state(group)
            assert (found.last_op, found.applied_op, found.voted) == (0, 0, LOST)
            assert list(device.rows.scan(group, b"", None)) == []
        assert device.log.state(H).view == state["view", H]
        assert device.log.state(G).view >= 1
        for volume in (V, W):
            with pytest.raises(Fenced):
                device.extents.claim(volume, Token(0))
            claim = await device.extents.claim(volume, ONE)
            assert claim.lost
            with pytest.raises(Corrupt):
                device.extents.read(volume, ONE, [(0, 0, BLOCK_BYTES)])
        await device.close()

    async def restore(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert device.log.state(H).voted == LOST
        block = memoryview(b"b" * BLOCK_BYTES)
        device.extents.write(V, ONE, 9, 1, [ExtentOp(0, 0, 0, BLOCK_BYTES)], block)
        await device.extents.flush(V, ONE)
        await device.extents.restored(V, ONE)
        assert await whole(device.extents.read(V, ONE, [(0, 0, BLOCK_BYTES)])) == block

    async def again(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert not (await device.extents.claim(V, ONE)).lost
        assert (await device.extents.claim(W, ONE)).lost
        await device.close()
        assert look(env).findings == []

    on_files(without_index(files), rebuilt, serve, restore, again)


def test_what_was_written_again_before_an_index_was_lost_again_is_not_taken_for_there() -> None:
    """The journal tells that a loss was made good, but not all that made it good: that is lost."""

    async def restore(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.extents.restored(V, ONE)
        await device.close()

    async def lose_again(env: Env) -> None:
        lose_index(env)
        await rebuilt(env)

    async def serve(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert (await device.extents.claim(V, ONE)).lost
        await device.close()

    on_files(without_index(recorded(True, 40)), rebuilt, restore, lose_again, serve, serve, restore)


def test_a_journal_that_has_everything_gives_everything_back() -> None:
    files = recorded(False, 3)
    state = files.told.states[-1][1]

    async def act(env: Env) -> None:
        assert rebuild_index(env.disk, PATH, SETTINGS, LOST).whole
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert not await differences(device, state)
        await device.close()
        assert look(env).findings == []

    on_files(without_index(files), act)


def test_what_fails_its_checks_is_quarantined_and_what_has_no_head_is_passed() -> None:
    files = recorded(True, 40)
    names = without_index(files)
    state = files.told.states[-1][1]
    path, first, second = next(
        (path, *live[:2])
        for path in sorted(files.paths("packs"))
        if len(live := [one for one in pack_records(names, path) if state.get(("blob", one[0]))])
        > 1
    )
    cut(names, path, first[2] + 10, "rot")
    cut(names, path, second[1] + 30, "rot")

    async def act(env: Env) -> None:
        result = rebuild_index(env.disk, PATH, SETTINGS, LOST)
        assert result.quarantined == [first[0]]
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        with pytest.raises(Corrupt):
            device.blobs.read(BlobId(first[0]), 0, 1)
        assert device.blobs.state(BlobId(second[0])) is None
        assert device.status().quarantined == 1
        await device.close()

    on_files(names, act)


def test_a_pack_left_without_its_header_does_not_keep_the_device_from_opening() -> None:
    files = recorded(True, 40)
    names = without_index(files)
    state = files.told.states[-1][1]
    blobs = {kind: value for kind, value in state.items() if kind[0] == "blob" and value}
    last = max(files.paths("packs"))
    young = f"{last.rpartition('/')[0]}/{int(last.rpartition('/')[2]) + 1:08d}"
    names[young] = Inode()

    async def act(env: Env) -> None:
        rebuild_index(env.disk, PATH, SETTINGS, LOST)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert not await differences(device, blobs)
        await device.close()

    on_files(names, act)


def test_a_journal_that_lost_its_end_or_its_memory_is_refused() -> None:
    """Views and tokens that were promised there are not known: only a new device is safe."""
    files = recorded(True, 40)

    async def refused(env: Env) -> None:
        with pytest.raises(Corrupt):
            rebuild_index(env.disk, PATH, SETTINGS, LOST)

    segments = segments_of(files)
    torn = without_index(files)
    vouched = next(start for found, start, *_ in segments[-1][1] if found == files.closed_at)
    cut(torn, segments[-1][0], vouched, "cut")
    on_files(torn, refused)

    short = without_index(files)
    newest = segments[-1][0]
    for path, records in segments:
        if path != newest and records:
            del short[path]
    has_memory = any(
        inode_of(files.names, newest).read(1, start + 5) == b"\x02"
        for _, start, _, _ in segments[-1][1]
    )
    if not has_memory:
        on_files(short, refused)
    gone = without_index(files)
    for path in files.paths("journal"):
        del gone[path]
    on_files(gone, refused)


def test_an_index_that_can_be_read_is_only_given_up_by_force() -> None:
    files = recorded(True, 40)

    async def act(env: Env) -> None:
        with pytest.raises(Conflict):
            rebuild_index(env.disk, PATH, SETTINGS, LOST)
        assert look(env).findings == []
        assert rebuild_index(env.disk, PATH, SETTINGS, LOST, force=True).groups == [G, H]

    on_files(files.copy(), act)


def test_a_rebuild_that_was_interrupted_is_begun_again() -> None:
    files = recorded(True, 40)
    names = without_index(files)

    async def act(env: Env) -> None:
        rebuild_index(env.disk, PATH, SETTINGS, LOST)
        # The last commit says how far the index has come; take it away as a crash would.
        log = env.disk.read_file(f"{PATH}/index/log")
        file = env.disk.open(f"{PATH}/index/log")
        file.truncate(len(log) - 5)
        with pytest.raises(Corrupt):
            await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        rebuild_index(env.disk, PATH, SETTINGS, LOST)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.close()

    on_files(names, act)


def test_what_must_not_be_forgotten_fits_in_records_of_any_size() -> None:
    memory = Memory(
        {GroupId(number): (number * 7, b"vote") for number in range(50)},
        {VolumeId(bytes([number]) * 16): Token(number) for number in range(50)},
    )
    for size in (128, 1000, 1 << 20):
        parts = encode_memory(memory, size)
        assert all(len(part) <= size for part in parts)
        found = Memory()
        for position, part in enumerate(parts):
            number, count, said = decode_memory(part)
            assert (number, count) == (position, len(parts))
            found.groups.update(said.groups)
            found.volumes.update(said.volumes)
        assert found == memory


def test_a_young_journal_is_not_whole_when_a_group_was_copied_to_the_device() -> None:
    """The copy's rows went into the index alone, and entries behind it do not bring them back."""

    async def copy(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SETTINGS)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.log.create(G)
        await device.log.set_view(G, 4, b"member")
        await device.log.install(G, 90, 4, [(b"row", b"copied")], first=True, last=True)
        await device.log.append(G, [Entry(91, 5, b"entry")])
        await device.close()
        lose_index(env)

    async def serve(env: Env) -> None:
        result = rebuild_index(env.disk, PATH, SETTINGS, LOST)
        assert (result.whole, result.groups) == (False, [G])
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        found = device.log.state(G)
        assert (found.view, found.voted, found.last_op) == (5, LOST, 0)
        await device.close()

    on_files({"/": None}, copy, serve)


@pytest.mark.parametrize("size", [3000, 300_000])
@pytest.mark.parametrize("how", ["quarantined", "deleted"])
def test_a_blob_that_was_put_again_is_not_taken_for_the_one_before(how: str, size: int) -> None:
    blob, payload = BlobId(b"x" * 16), random.Random(1).randbytes(size)

    async def use(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SETTINGS)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.log.create(G)
        await device.log.install(G, 90, 4, [(b"row", b"copied")], first=True, last=True)
        await put(device, blob, payload)
        await asyncio.sleep(1)
        if how == "quarantined":
            device.blobs.quarantine(blob)
        else:
            await device.blobs.delete([blob])
        await asyncio.sleep(1)
        await put(device, blob, payload)
        await asyncio.sleep(1)
        await device.close()
        lose_index(env)

    async def serve(env: Env) -> None:
        rebuild_index(env.disk, PATH, SETTINGS, LOST)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await asyncio.sleep(1)
        assert await whole(device.blobs.read(blob, 0, size)) == payload
        assert (device.status().blobs, device.status().quarantined) == (1, 0)
        await device.close()
        assert look(env).findings == []

    on_files({"/": None}, use, serve, read_only(blob, payload))


def test_of_two_records_of_a_blob_the_one_that_verifies_is_kept() -> None:
    blob, payload = BlobId(b"x" * 16), random.Random(1).randbytes(300_000)

    async def use(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SLOW)
        device = await Device.open(env, PATH, SLOW, cluster_id=CLUSTER)
        await device.log.create(G)
        device.log.install(G, 90, 4, [(b"row", b"copied")], first=True, last=True)
        await put(device, blob, payload)
        device.blobs.quarantine(blob)
        await put(device, blob, payload)  # nothing has been applied: the first is there still

    async def serve(env: Env) -> None:
        lose_index(env)
        env.disk.open(f"{PATH}/packs/00000000").pwritev([b"rot"], 2 * PAGE_BYTES)
        result = rebuild_index(env.disk, PATH, SETTINGS, LOST)
        assert (result.whole, result.blobs, result.quarantined) == (False, 1, [])
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert await whole(device.blobs.read(blob, 0, len(payload))) == payload
        await device.close()

    on_files({"/": None}, use, serve, read_only(blob, payload))


def test_the_place_of_a_blob_that_rotted_before_a_rebuild_is_not_given_back() -> None:
    """Its arrival, and that the one before it was set aside, are still in the journal."""
    blob, payload = BlobId(b"x" * 16), random.Random(1).randbytes(300_000)

    async def use(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SLOW)
        device = await Device.open(env, PATH, SLOW, cluster_id=CLUSTER)
        await device.log.create(G)
        device.log.install(G, 90, 4, [(b"row", b"copied")], first=True, last=True)
        await put(device, blob, payload)

    async def serve(env: Env) -> None:
        lose_index(env)
        env.disk.open(f"{PATH}/packs/00000000").pwritev([b"rot"], 2 * PAGE_BYTES)
        result = rebuild_index(env.disk, PATH, SETTINGS, LOST)
        assert (result.whole, result.quarantined) == (False, [blob])
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await asyncio.sleep(2)
        with pytest.raises(Corrupt):
            await whole(device.blobs.read(blob, 0, len(payload)))
        assert (device.status().blobs, device.status().quarantined) == (0, 1)
        await device.close()
        assert look(env).findings == []
        file = env.disk.open(f"{PATH}/packs/00000000")
        assert any(file.pread(PAGE_BYTES, PAGE_BYTES)), "its record, which only the index may end"
        file.close()

    on_files({"/": None}, use, serve)


def read_only(blob: BlobId, payload: bytes) -> Callable[[Env], Awaitable[None]]:
    """A further life in which the blob is there as before."""

    async def read(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert await whole(device.blobs.read(blob, 0, len(payload))) == payload
        await device.close()

    return read


def lose_index(env: Env) -> None:
    for name in env.disk.list(f"{PATH}/index"):
        env.disk.unlink(f"{PATH}/index/{name}")
    env.disk.sync_dir(f"{PATH}/index")
