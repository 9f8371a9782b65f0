"""Payloads made of journal headers: a client knows every format, but not the device's salt."""

import asyncio
from collections.abc import Callable

import pytest

from pinfold.codec.records import HEADER_BYTES, PAGE_BYTES, checksum, encode_header, record_seed
from pinfold.device import kinds
from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.device.volume import write_bytes
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from tests.device.model import whole
from tests.device.worlds import lives

V = VolumeId(b"v" * 16)
ONE = Token(1)
BLOCKS = 15
HEAD_BYTES = HEADER_BYTES + write_bytes(1)
"""Before the payload of a write that is alone in its batch."""

Forge = Callable[[int], bytes]
"""A record for the n-th page."""


def record(seed: int, sequence: int, *, flushed: int) -> bytes:
    """A record that drops the volume, as it would be in the journal under this seed."""
    header = encode_header(
        kinds.EXTENT_DROP, len(V), sequence, flushed, 1, checksum([V], seed), seed
    )
    return header + V


SEEDS = [0, record_seed(bytes(8), 0), *(record_seed(b"guessed!", life) for life in range(3))]

FORGERIES: dict[str, Forge] = {
    "a claim of a flush": lambda page: record(SEEDS[page % len(SEEDS)], 1 << 30, flushed=1 << 40),
    "a newer version": lambda _page: b"PFjr\xff\0\0\0",
    "a key": lambda _page: b"PFjr\x02\0\0\1",
    "a segment": lambda _page: b"PFjs\xff\xff\0\0",
}


def payload(forge: Forge) -> bytes:
    """Blocks of a write, of which every page of the journal behind the first begins with one."""
    forged = bytearray(BLOCKS * BLOCK_BYTES)
    for page in range(1, BLOCKS):
        place = page * PAGE_BYTES - HEAD_BYTES
        one = forge(page)
        forged[place : place + len(one)] = one
    return bytes(forged)


async def write(device: Device, index: int, content: bytes) -> None:
    op = ExtentOp(0, index, 0, len(content))
    device.extents.write(V, ONE, 0, 1, [op], memoryview(content))
    await device.extents.flush(V, ONE)


async def fill(device: Device, content: bytes) -> None:
    """Recycle every segment several times over with this payload."""
    await device.extents.claim(V, ONE)
    for number in range(40):
        await write(device, number % 4, content)
        if number % 4 == 3:
            await asyncio.sleep(0.1)


async def shows(device: Device, content: bytes) -> None:
    await device.extents.claim(V, ONE)
    spans = [(index, 0, len(content)) for index in range(4)]
    assert await whole(device.extents.read(V, ONE, spans)) == 4 * content


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_payload_that_looks_like_a_header_is_a_payload(forge: Forge, crash: bool) -> None:
    content = payload(forge)

    async def first(device: Device) -> None:
        await fill(device, content)

    async def then(device: Device) -> None:
        await shows(device, content)

    lives(first, then, then, crash=crash)


def test_a_payload_that_looks_like_the_next_record_is_not_executed() -> None:
    """The sequence is known to whoever counts: a forged drop of the volume would come next."""
    following = 1 << 20
    for seed in SEEDS:
        for _ in range(2):  # the first time only counts

            async def first(device: Device, seed: int = seed, sequence: int = following) -> None:
                nonlocal following
                await fill(device, payload(lambda _page: record(seed, sequence, flushed=1)))
                # End in a recycled segment, on a page that held a forgery.
                while device._journal._segments[-1].position != 3 * PAGE_BYTES:
                    await write(device, 4, bytes(BLOCK_BYTES))
                following = device._journal.appended + 1

            async def then(device: Device, seed: int = seed, sequence: int = following) -> None:
                await shows(device, payload(lambda _page: record(seed, sequence, flushed=1)))

            lives(first, then, crash=True)
