"""Packs are read back by scanning: payloads made of pack records pass for none."""

import asyncio
import tracemalloc

import pytest

from pinfold.codec.packs import checks_of, encode_head, pack_seed
from pinfold.codec.records import PAGE_BYTES
from pinfold.device.checkpacks import check_packs
from pinfold.device.device import Device
from pinfold.device.files import read_superblock
from pinfold.device.offline import look_at
from pinfold.device.packwalk import records
from pinfold.env.api import Env
from pinfold.model.ids import BlobId
from tests.device.test_check import look
from tests.device.test_rotten_rows import lives
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put

A = BlobId(b"a" * 16)
FORGED = BlobId(b"f" * 16)


def payload(seed: int) -> bytes:
    """Of which every page, as it lies in a pack, begins with a record of another blob."""
    body = b"planted" * 100
    record = encode_head(FORGED, len(body), checks_of(body), seed) + body
    size = 12 * PAGE_BYTES
    head = len(encode_head(A, size, (0,), 0))
    forged = bytearray(size)
    for page in range(1, 12):
        place = page * PAGE_BYTES - head
        forged[place : place + len(record)] = record
    return bytes(forged)


@pytest.mark.parametrize("seed", [0, pack_seed(bytes(8), 0), pack_seed(b"guessed!", 1)])
def test_records_in_a_payload_are_neither_rebuilt_nor_freed(seed: int) -> None:
    async def write(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await put(device, A, payload(seed))
        await asyncio.sleep(1)
        await device.close()

    async def look_again(env: Env) -> None:
        file = env.disk.open(f"{PATH}/packs/00000000")  # its head rots: pages are all there is
        file.pwritev([b"rot"], PAGE_BYTES + 12)
        file.close()
        report = look(env)
        assert report.bad_blobs == [A]
        assert report.leftovers == []
        salt = read_superblock(env.disk, PATH).salt
        file = env.disk.open(f"{PATH}/packs/00000000")
        assert list(records(file, 0, pack_seed(salt, 0))) == []  # what a rebuild goes by
        file.close()

    lives(write, look_again)


def test_a_check_takes_no_memory_for_each_blob() -> None:
    peaks: list[int] = []

    async def fill(env: Env, first: int, last: int) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        for number in range(first, last):
            body = number.to_bytes(4, "big")
            await device.blobs.put(
                BlobId(number.to_bytes(16, "big")), memoryview(body), checks_of(body)
            )
        await asyncio.sleep(1)
        await device.close()

    async def measure(env: Env) -> None:
        device = look_at(env.disk, PATH)
        assert device.index is not None
        assert device.packs is not None
        list(device.index.keys(b"b", b"c"))
        tracemalloc.start()
        found = check_packs(
            env.disk, device.index, device.packs, device.superblock.salt, lambda _read: None
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.problems == []
        assert found.blobs == (300 if len(peaks) == 1 else 1500)
        device.close()

    lives(
        lambda env: fill(env, 0, 300),
        measure,
        lambda env: fill(env, 300, 1500),
        measure,
    )
    assert peaks[1] - peaks[0] < 128 * 1024
