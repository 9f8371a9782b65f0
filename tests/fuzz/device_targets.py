"""A device whose files were damaged while it was down: opened, checked, or refused by type."""

import asyncio
from functools import cache
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from pinfold.device.api import Entry, ExtentOp
from pinfold.device.check import check
from pinfold.device.device import Device
from pinfold.device.offline import look_at
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

TARGETS = (
    Target(
        name="damaged-device",
        inputs=_EDITS.map(msgspec.msgpack.encode),
        run=run_device,
        examples=60,
        memory_bytes=64 * MIB,
    ),
)
