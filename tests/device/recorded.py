"""A device's files after a mixed workload, and what it had acknowledged at every journal record.

`record` makes the files once; a test damages a copy of them, opens it, and asks `Told.check`
whether anything acknowledged is missing without the device having said so.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from pinfold.codec.records import HEADER_BYTES, Scan, decode_segment_header, record_seed
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.device.files import decode_superblock, superblock_path
from pinfold.env.api import Env
from pinfold.model.errors import Corrupt, NotFound
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.model.settings import DeviceSettings
from pinfold.sim.disk import Inode, SimDisk
from pinfold.sim.world import SimNode, World
from tests.device.model import whole
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put

G, H = GroupId(7), GroupId(8)
V, W = VolumeId(b"v" * 16), VolumeId(b"w" * 16)
ONE = Token(1)
SLOW = msgspec.structs.replace(
    SETTINGS, apply_interval_s=1000.0, apply_bytes=SETTINGS.unapplied_bytes
)
"""Nothing is applied before the device closes: the journal alone holds what was acknowledged."""

Names = dict[str, Inode | None]
State = dict[tuple[object, ...], object]


@dataclass(slots=True)
class Told:
    """What was acknowledged, by the journal sequence that held it: a history of states."""

    states: list[tuple[int, State]] = field(default_factory=lambda: [(0, {})])

    def now(self, device: Device, **changes: State) -> None:
        """Everything acknowledged so far is held by records up to the newest one."""
        state = dict(self.states[-1][1])
        for change in changes.values():
            state.update(change)
        self.states.append((device._journal.flushed, state))

    def at(self, sequence: int) -> State:
        """What was acknowledged when the journal ended with this record."""
        return [state for known, state in self.states if known <= sequence][-1]


async def work(device: Device, told: Told, rng: random.Random, rounds: int) -> None:
    """Everything a device does, one call after the other, each awaited."""
    blobs: list[BlobId] = []
    for number in range(rounds):
        op = device.log.state(G).last_op + 1
        await device.log.append(G, [Entry(op + n, 1, rng.randbytes(200)) for n in range(2)])
        told.now(device, log={("log", G): op + 1})
        for one in (op, op + 1):
            device.log.apply(G, one, [(b"row-%d" % one, b"value")])
        await device.log.set_view(H, device.log.state(H).view + 1, b"\x01\x01")
        told.now(device, view={("view", H): device.log.state(H).view})
        for size in (3000, 70_000):
            blob = BlobId(rng.randbytes(16))
            payload = rng.randbytes(size)
            await put(device, blob, payload)
            told.now(device, put={("blob", blob): payload})
            blobs.append(blob)
        if number % 2:
            gone = blobs.pop(0)
            await device.blobs.delete([gone])
            told.now(device, deleted={("blob", gone): None})
        await write_blocks(device, told, rng, number)


async def write_blocks(device: Device, told: Told, rng: random.Random, number: int) -> None:
    """One write, one zero and sometimes a trim, flushed together."""
    sequence = 10 * number + 1
    first = number % 6
    payload = rng.randbytes(2 * BLOCK_BYTES)
    ops = [
        ExtentOp(0, 0, first * BLOCK_BYTES, 2 * BLOCK_BYTES),
        ExtentOp(1, 1, first * BLOCK_BYTES, BLOCK_BYTES),
    ]
    state: State = {
        ("block", V, 0, first): payload[:BLOCK_BYTES],
        ("block", V, 0, first + 1): payload[BLOCK_BYTES:],
        ("block", V, 1, first): bytes(BLOCK_BYTES),
    }
    if number % 3 == 2:
        ops.append(ExtentOp(2, 0, 0, BLOCK_BYTES))
        state["block", V, 0, 0] = bytes(BLOCK_BYTES)
    device.extents.write(V, ONE, 1, sequence, ops, memoryview(payload))
    await device.extents.flush(V, ONE)
    told.now(device, blocks=state)


@dataclass(slots=True)
class Recorded:
    """Files, and what they promise."""

    names: Names
    told: Told
    closed_at: int
    """Journal sequence at the last clean closing: the superblock vouches for it."""

    def copy(self) -> Names:
        """Files to damage."""
        return {name: None if one is None else twin(one) for name, one in self.names.items()}

    @property
    def salt(self) -> bytes:
        """The device's secret."""
        superblock = self.names[superblock_path(PATH)]
        assert superblock is not None
        return decode_superblock(PATH, superblock.read(superblock.size, 0)).salt

    def paths(self, directory: str) -> list[str]:
        """The files of one of the device's directories."""
        prefix = f"{PATH}/{directory}/"
        return [name for name in self.names if name.startswith(prefix)]


def record(*, rounds: int = 6, close: bool) -> Recorded:
    """Two lives of a device: the first applied and closed, the second cut short (or closed)."""
    told, rng = Told(), random.Random(4)
    closed_at = 0

    async def first(env: Env) -> None:
        nonlocal closed_at
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        for group in (G, H):
            await device.log.create(group)
        for volume in (V, W):
            await device.extents.claim(volume, ONE)
        await work(device, told, rng, rounds)
        await asyncio.sleep(1)
        await device.close()

    async def second(env: Env) -> None:
        nonlocal closed_at
        device = await Device.open(env, PATH, SLOW, cluster_id=CLUSTER)
        closed_at = device._journal.flushed
        await work(device, told, rng, rounds)
        if close:
            closed_at = device._journal.flushed
            await device.close()

    async def scenario() -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
        for life in (first, second):
            node.crash()
            await node.start(life)
        node.crash()

    with World(1) as world:
        node = world.node("n1")
        world.run(scenario())
        return Recorded(node.disk.names, told, closed_at)


async def reopen(
    node: SimNode,
    names: Names,
    look: Callable[[Device], Awaitable[object]],
    *,
    close: bool = False,
    settings: DeviceSettings = SETTINGS,
) -> None:
    """Open a device of these files, as after a crash, and let `look` see it."""
    if node.alive:
        node.crash()
    set_files(node.disk, names)

    async def life(env: Env) -> None:
        device = await Device.open(env, PATH, settings, cluster_id=CLUSTER)
        await look(device)
        if close:
            await device.close()

    await node.start(life)


def twin(inode: Inode) -> Inode:
    """A copy of a file, all of it flushed."""
    copied = Inode()
    copied.pages = dict(inode.pages)
    copied.size = copied.flushed_size = inode.size
    return copied


def set_files(disk: SimDisk, names: Names) -> None:
    """Let the disk hold these files, durably."""
    disk.wipe()
    for name, inode in names.items():
        disk.enter(name, inode)
    for name, inode in names.items():
        if inode is None:
            disk.sync_dir(name)


def journal_records(inode: Inode, salt: bytes) -> list[tuple[int, int, int, int]]:
    """(sequence, start, where its payload starts, end) of every record of a segment, in order."""
    image = memoryview(inode.read(inode.size, 0))
    header = decode_segment_header(image, salt)
    if header is None:
        return []
    scan = Scan(image, header.first_sequence, 0, record_seed(salt, header.number))
    return [
        (
            found.sequence,
            scan.end - len(found.payload) - HEADER_BYTES,
            scan.end - len(found.payload),
            scan.end,
        )
        for found in scan
    ]


async def found_in(device: Device, kind: tuple[object, ...]) -> object:
    """What a device says now; Corrupt as a value, because it is an honest answer."""
    try:
        match kind:
            case ("log", int() as group):
                return device.log.state(GroupId(group)).last_op
            case ("view", int() as group):
                return device.log.state(GroupId(group)).view
            case ("blob", bytes() as blob):
                return await whole(device.blobs.read(BlobId(blob), 0, _length(device, blob)))
            case ("block", bytes() as volume, int() as index, int() as block):
                span = [(index, block * BLOCK_BYTES, BLOCK_BYTES)]
                return await whole(device.extents.read(VolumeId(volume), ONE, span))
            case _:
                raise AssertionError(kind)
    except NotFound:
        return None
    except Corrupt as error:
        return error


def _length(device: Device, blob: bytes) -> int:
    state = device.blobs.state(BlobId(blob))
    return 0 if state is None else state.length


async def differences(device: Device, state: State) -> list[tuple[tuple[object, ...], object]]:
    """Where a device differs from a state that it must show; Corrupt answers are marked so."""
    wrong: list[tuple[tuple[object, ...], object]] = []
    for kind, expected in state.items():
        found = await found_in(device, kind)
        if found != expected:
            wrong.append((kind, found if isinstance(found, Corrupt) else "other"))
    return wrong


def cut(names: Names, path: str, offset: int, how: str) -> None:
    """Damage a file from `offset` on: `cut` short, `zero` to its end, or one bit `rot`ten."""
    inode = names[path]
    assert inode is not None
    if how == "cut":
        inode.clear(offset, inode.size - offset)
        inode.size = offset
    elif how == "zero":
        inode.clear(offset, inode.size - offset)
    else:
        inode.write(bytes([inode.read(1, offset)[0] ^ 1]), offset)
    inode.flush()
