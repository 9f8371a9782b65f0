"""A device whose files were damaged while it was down: opened, checked, or refused by type."""

import asyncio
import struct
from functools import cache
from typing import Any, NamedTuple

import msgspec
import xxhash
from hypothesis import strategies as st

from pinfold.codec import records
from pinfold.device import kinds
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.check import check
from pinfold.device.device import Device
from pinfold.device.offline import look_at
from pinfold.device.volume import write_bytes
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.sim.inode import Inode
from pinfold.sim.world import World
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put
from tests.fuzz.harness import MIB, Target

VOLUME = VolumeId(b"v" * 16)
GROUP = GroupId(1)
BLOBS = {b"a" * 16: b"small", b"b" * 16: b"m" * 70_000, b"c" * 16: b"l" * 3000}

Edit = tuple[int, int, int, bytes]
"""Which file, what is done to it, where, and with which bytes."""


class Stored(NamedTuple):
    """A file's bytes without the zeroes at its end, and its size with them."""

    head: bytes
    size: int


@cache
def content() -> tuple[tuple[str, Stored | None], ...]:
    """Every path of a device that has a bit of everything, applied and not; None: a directory."""

    async def live(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.log.create(GROUP)
        for op in range(1, 4):
            await device.log.append(GROUP, [Entry(op, 1, b"body")])
        device.log.apply(GROUP, 1, [(b"key", b"value"), (b"k" * 700, b"long")])
        for blob, payload in BLOBS.items():
            await put(device, blob, payload)
        await device.blobs.delete([BlobId(b"c" * 16)])
        await device.extents.claim(VOLUME, Token(1))
        ops = [ExtentOp(0, 0, 4096, 4096), ExtentOp(0, 1, 10, 5)]
        device.extents.write(VOLUME, Token(1), 1, 1, ops, memoryview(b"x" * 4101))
        await asyncio.sleep(1)
        device.extents.write(VOLUME, Token(1), 1, 2, ops[:1], memoryview(b"y" * 4096))
        await device.extents.flush(VOLUME, Token(1))
        await device.close()

    with World(1) as world:
        machine = world.node("n")

        async def story() -> None:
            await machine.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
            machine.crash()
            await machine.start(live)

        world.run(story())
        return tuple(
            (path, entry and Stored(entry.read(entry.size, 0).rstrip(b"\0"), entry.size))
            for path, entry in sorted(machine.disk.names.items())
            if path.startswith(PATH)
        )


def _edited(edits: list[Edit]) -> dict[str, Stored | None]:
    files = dict(content())
    names = [path for path, stored in content() if stored is not None]
    for which, kind, place, data in edits:
        path = names[which % len(names)]
        head, size = files.get(path) or Stored(b"", 0)
        at = place % (len(head) + 1)
        if kind == 2:
            files.pop(path, None)
        elif kind == 4:
            files[f"{path}{place % 10}"] = Stored(head, size)
        elif kind == 5:
            other = f"{path.rpartition('/')[0]}/{'9' * (place % 30 + 1)}"
            files[other] = Stored(data, len(data))
        elif kind == 1:
            files[path] = Stored(head[:at], at)
        else:
            changed = _changed(head, kind, at, data)
            files[path] = Stored(changed, max(size, len(changed)))
    return files


def _changed(head: bytes, kind: int, at: int, data: bytes) -> bytes:
    if kind == 0:
        return head[:at] + data + head[at + len(data) :]
    if kind == 3:
        return head + data
    if kind == 6:
        page = at // 4096 * 4096
        return head[:page] + bytes(4096) + head[page + 4096 :]
    return (
        head[:at] + bytes(byte ^ (data or b"\1")[0] for byte in head[at : at + 1]) + head[at + 1 :]
    )


def _inode(stored: Stored) -> Inode:
    inode = Inode()
    inode.write(stored.head, 0)
    inode.size = stored.size
    inode.flush()
    return inode


def run_device(data: bytes) -> str:
    """Nothing but errors of ours; what opens serves no byte that it was not given."""
    try:
        edits = msgspec.msgpack.decode(data, type=list[Edit])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "no input"
    with World(1) as world:
        machine = world.node("n")
        files = _edited(edits)
        machine.disk.plug(PATH, {path: stored and _inode(stored) for path, stored in files.items()})

        async def story() -> str:
            looked = await machine.start(_look)
            machine.crash()
            return f"{looked}; {await machine.start(_open)}"

        return world.run(story())


async def _look(env: Env) -> str:
    """Without writing a byte."""
    try:
        device = look_at(env.disk, PATH)
    except PinfoldError as error:
        return f"{error.code} {error.message}"
    try:
        report = check(env.disk, PATH, device, lambda _done, _all: None)
    except PinfoldError as error:
        return f"check {error.code}"
    finally:
        device.close()
    return " ".join(sorted({finding.part for finding in report.findings})) or "clean"


async def _open(env: Env) -> str:
    try:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
    except PinfoldError as error:
        return f"{error.code} {error.message}"
    except OSError as error:
        return f"OSError {error.errno}"
    told = []
    for blob, payload in BLOBS.items():
        told.append(await _outcome(device.blobs.read, BlobId(blob), 0, len(payload), payload))
    try:
        for _ in range(2):
            await device.extents.claim(VOLUME, Token(9))
            found = device.extents.read(VOLUME, Token(9), [(0, 4096, 4096)])
            found = found if isinstance(found, list) else await found
            assert b"".join(map(bytes, found)) in (b"x" * 4096, b"y" * 4096, bytes(4096))
    except PinfoldError as error:
        told.append(error.code)
    await device.close()
    return "open " + " ".join(told)


async def _outcome(read: Any, blob: BlobId, start: int, length: int, payload: bytes) -> str:
    try:
        found = read(blob, start, length)
        found = found if isinstance(found, list) else await found
    except PinfoldError as error:
        return error.code
    assert b"".join(map(bytes, found)) == payload
    return "read"


_EDITS = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.integers(0, 7),
        st.one_of(st.integers(0, 0xFFFF), st.integers(0, 4 << 20)),
        st.binary(max_size=30),
    ),
    max_size=4,
)

Forgery = tuple[int, int, int, int, int, int, int, int]
"""A header that a client writes: which seed, version, kind, key, length, sequence from the present
one on, what it calls flushed from there on, boot."""

FORGED_SETTINGS = msgspec.structs.replace(SETTINGS, journal_retain_bytes=0)
"""Segments are used again as soon as they can be."""

FORGED_BYTES = 15 * 4096
SEEDS = (0, *(records.record_seed(salt, 1) for salt in (bytes(8), b"saltsalt", b"\xff" * 8)))


def _forged(forgery: Forgery, sequence: int) -> bytes:
    """Everything as the device would write it, but for the salt."""
    which, version, kind, key, length, ahead, flushed, boot = forgery
    seed = SEEDS[which % len(SEEDS)]
    body = bytes(VOLUME)[:length]
    numbers = (kind, length, sequence + ahead, sequence + flushed, boot)
    header = bytearray(records.encode_header(*numbers, records.checksum([body], seed), seed))
    header[4], header[7] = version, key
    header[-8:] = xxhash.xxh3_64(header[:-8], seed=seed).digest()
    return bytes(header) + body


def run_forged(data: bytes) -> str:
    """Payloads of headers are payloads: whatever they claim, a device opens and shows them."""
    try:
        forgeries = msgspec.msgpack.decode(data, type=list[Forgery])
        _forged(forgeries[0], 1)
    except (msgspec.MsgspecError, RecursionError, IndexError, struct.error, ValueError):
        return "no input"
    content = bytearray(FORGED_BYTES)
    with World(1) as world:
        machine = world.node("n")

        async def story() -> None:
            for life in (
                lambda env: Device.format(env, PATH, CLUSTER, FORGED_SETTINGS),
                lambda env: _write_forged(env, forgeries, content, crash=False),
                lambda env: _show_forged(env, bytes(content)),
                lambda env: _write_forged(env, forgeries, content, crash=True),
                lambda env: _show_forged(env, bytes(content)),
            ):
                await machine.start(life)
                machine.crash()

        world.run(story())
    return " ".join(sorted({f"{version} {kind} {key}" for _, version, kind, key, *_ in forgeries}))


async def _write_forged(
    env: Env, forgeries: list[Forgery], content: bytearray, *, crash: bool
) -> None:
    """Fill every segment with them, on the pages behind the first of each write."""
    device = await Device.open(env, PATH, FORGED_SETTINGS, cluster_id=CLUSTER)
    await device.extents.claim(VOLUME, Token(1))
    head_bytes = records.HEADER_BYTES + write_bytes(1)
    for page in range(1, FORGED_BYTES // 4096 + 1):
        forged = _forged(forgeries[page % len(forgeries)], device._journal.appended + 20)
        content[page * 4096 - head_bytes : page * 4096 - head_bytes + len(forged)] = forged
    del content[FORGED_BYTES:]
    for number in range(20):
        op = ExtentOp(0, number % 2, 0, FORGED_BYTES)
        device.extents.write(VOLUME, Token(1), 1, 1, [op], memoryview(bytes(content)))
        await device.extents.flush(VOLUME, Token(1))
        if number % 5 == 4:
            await asyncio.sleep(0.05)
    await device.log.create(GROUP)
    if not device.log.state(GROUP).last_op:
        await device.log.append(GROUP, [Entry(1, 1, bytes(content))])
        await put(device, b"f" * 16, bytes(content))
    if not crash:
        await device.close()


async def _show_forged(env: Env, content: bytes) -> None:
    device = await Device.open(env, PATH, FORGED_SETTINGS, cluster_id=CLUSTER)
    await device.extents.claim(VOLUME, Token(1))
    found = device.extents.read(VOLUME, Token(1), [(0, 0, FORGED_BYTES), (1, 0, FORGED_BYTES)])
    found = found if isinstance(found, list) else await found
    assert b"".join(map(bytes, found)) == content * 2
    assert device.log.groups() == [GROUP]
    assert device.blobs.state(BlobId(b"f" * 16)) is not None
    await device.close()


_FORGERIES = st.lists(
    st.tuples(
        st.integers(0, len(SEEDS) - 1),
        st.sampled_from((records.RECORD_VERSION, 0, 1, 255)),
        st.sampled_from((*sorted(kinds.KNOWN), 255)),
        st.sampled_from((0, 0, 1)),
        st.sampled_from((16, 0, 1, 1 << 20)),
        st.integers(0, 60),
        st.sampled_from((0, 1, 1 << 30)),
        st.sampled_from((1, 2, 3, 1 << 20)),
    ),
    min_size=1,
    max_size=15,
)

TARGETS = (
    Target(
        name="damaged-device",
        inputs=_EDITS.map(msgspec.msgpack.encode),
        run=run_device,
        examples=60,
        memory_bytes=64 * MIB,
    ),
    Target(
        name="forged-journal",
        inputs=_FORGERIES.map(msgspec.msgpack.encode),
        run=run_forged,
        examples=25,
        memory_bytes=64 * MIB,
    ),
)
