"""Faults of disks: slow, failing, full, rotten, or another disk altogether."""

import contextlib
import errno
from collections.abc import Iterator

from pinfold.cluster.groups.messages import Standing, Voted, encode_voted
from pinfold.codec.packs import decode_head, head_bytes, pack_seed
from pinfold.device.engines import remove_engine
from pinfold.device.files import decode_superblock, superblock_path
from pinfold.device.index import GUARDS, REPAIRED_TABLES
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.device.rebuild import rebuild_index
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId
from pinfold.sim.diskfaults import DiskFaults
from pinfold.sim.faults.stage import Stage
from pinfold.sim.inode import PAGE
from pinfold.sim.inspection import rows_of
from pinfold.sim.plan import DISK_BYTES
from pinfold.sim.world import SimNode


async def slow(stage: Stage) -> None:
    """Every call of one node's disks takes ten times as long, or a hundred times."""
    node = stage.storage_node()
    node.disk.faults.slowness = stage.rng.choice((10.0, 30.0, 100.0))
    stage.account.tell(node.name, f"has a disk {node.disk.faults.slowness:.0f} times as slow")
    await stage.wait(0.5, 5.0)
    node.disk.faults.slowness = 1.0
    stage.account.tell(node.name, "has a disk of normal speed")


async def fail_flush(stage: Stage) -> None:
    """Flushes fail once and say ok the next time, as Linux does: what they covered is clean.

    It is gone with the power only, when a process that was started again has built on it.
    """
    node = stage.storage_node()
    _, path = stage.device_on(node)
    node.disk.faults.under = path
    node.disk.faults.lost_flush_chance = 0.3
    stage.account.tell(node.name, f"has failing flushes under {path}")
    await stage.wait(0.2, 2.0)
    _mend(node)
    await _restart_stopped(stage, node)
    if stage.rng.random() < 0.5:
        await stage.wait(0.1, 1.5)
        stage.cluster.crash(node.name, silent=True)
        await stage.back_after(node.name, 0.05, 3.0)


async def fail_io(stage: Stage) -> None:
    """Reads, writes or both end with EIO for a while."""
    node = stage.storage_node()
    _, path = stage.device_on(node)
    faults = node.disk.faults
    faults.under = path
    what = stage.rng.choice(("reads", "writes", "reads and writes"))
    faults.read_error = errno.EIO if "reads" in what else 0
    faults.write_error = errno.EIO if "writes" in what else 0
    stage.account.tell(node.name, f"has EIO from {what} under {path}")
    await stage.wait(0.2, 3.0)
    _mend(node)
    await _restart_stopped(stage, node)


async def fill(stage: Stage) -> None:
    """A disk has little room, or none at all, for a while."""
    node = stage.storage_node()
    room = stage.rng.choice((0, 64 << 10, 512 << 10, 1 << 20))
    node.disk.faults.capacity_bytes = node.disk.used_bytes() + room
    stage.account.tell(node.name, f"has a disk with room for {room} bytes")
    await stage.wait(0.5, 5.0)
    node.disk.faults.capacity_bytes = DISK_BYTES
    stage.account.tell(node.name, "has room again")
    if stage.rng.random() < 0.5:
        await _restart_stopped(stage, node)


async def rot(stage: Stage) -> None:
    """A bit of the victim's payloads flips: what it reads there must not be believed."""
    node = stage.world.node(stage.victim.node)
    path = stage.path_of(stage.victim)
    if path in stage.pulled:
        return
    files = [
        (name, number)
        for name, inode in sorted(node.disk.names.items())
        if inode is not None and name.startswith((f"{path}/packs/", f"{path}/arena/"))
        for number in sorted(inode.pages)
    ]
    if not files:
        return
    name, number = stage.rng.choice(files)
    offset = number * PAGE + stage.rng.randrange(PAGE)
    named = _blobs_at(node, path, name, number)
    node.disk.rot(name, offset, bit=stage.rng.randrange(8))
    stage.hurt = True
    ledger = stage.cluster.auditor.of(stage.victim.uuid)
    ledger.rotten()
    ledger.blobs.lose_heads(named - _blobs_at(node, path, name, number))
    stage.account.tell(node.name, f"has a rotten bit in {name} at {offset}")


async def rot_named(stage: Stage) -> None:
    """A bit flips in a blob of the victim's that a row names and readers ask for there first."""
    node = stage.world.node(stage.victim.node)
    path = stage.path_of(stage.victim)
    if path in stage.pulled:
        return
    wanted = {
        bytes(ref.id): ref.length
        for _, row in rows_of(stage.cluster)
        for ref in row.blobs
        if ref.devices[ref.id[15] % len(ref.devices)] == stage.victim.id
    }
    salt = _salt(node, path)
    found = [
        (name, number * PAGE + head_bytes(len(checks)), length)
        for name, inode in sorted(node.disk.names.items())
        if inode is not None and name.startswith(f"{path}/packs/")
        for number, page in sorted(inode.pages.items())
        for blob, length, checks in _heads(page, pack_seed(salt, int(name.rpartition("/")[2])))
        if wanted.get(blob) == length
    ]
    if not found:
        return
    name, start, length = stage.rng.choice(found)
    offset = start + stage.rng.randrange(length)
    node.disk.rot(name, offset, bit=stage.rng.randrange(8))
    stage.hurt = True
    stage.cluster.auditor.of(stage.victim.uuid).rotten()
    stage.account.count("blob rotten")
    stage.account.tell(node.name, f"has a rotten blob in {name} at {offset}")


async def rot_rows(stage: Stage) -> None:
    """The victim is back with a flipped bit in a row of its index, or in a few."""
    node = stage.world.node(stage.victim.node)
    path = stage.path_of(stage.victim)
    if path in stage.pulled:
        return
    stage.cluster.crash(node.name)
    faults, node.disk.faults = node.disk.faults, DiskFaults(capacity_bytes=DISK_BYTES)
    engine = OrderedEngine(node.boot().disk, f"{path}/index")
    stored = engine.scan(b"", None, False)
    rows = [row for row in stored if row[0][:1] in REPAIRED_TABLES and row[0] not in GUARDS]
    hit = sorted(stage.rng.sample(rows, min(len(rows), stage.rng.choice((1, 1, 3)))))
    engine.commit([(key, _flipped(stage, stored)) for key, stored in hit])
    engine.close()
    node.crash(power=False)  # the tool has ended: nobody was told of a loss of power
    node.disk.faults = faults
    stage.hurt = stage.hurt or bool(hit)
    stage.cluster.auditor.of(stage.victim.uuid).rotten_rows([key for key, _ in hit])
    stage.account.tell(node.name, f"has rotten rows at {path}: {[key.hex() for key, _ in hit]}")
    await stage.back_after(node.name, 0.05, 1.0)


def _flipped(stage: Stage, stored: bytes) -> bytes:
    """With another bit somewhere, the checksum included."""
    bit = stage.rng.randrange(8 * len(stored))
    found = bytearray(stored)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def _salt(node: SimNode, path: str) -> bytes:
    """The secret of a device, whether it is served or not."""
    name = superblock_path(path)
    inode = node.disk.names[name]
    assert inode is not None, "the victim is a device"
    return decode_superblock(name, inode.read(inode.size, 0)).salt


def _blobs_at(node: SimNode, path: str, name: str, number: int) -> set[BlobId]:
    """The blob whose record in a pack begins with this page, if one does."""
    inode = node.disk.names[name]
    if inode is None or not name.startswith(f"{path}/packs/"):
        return set()
    seed = pack_seed(_salt(node, path), int(name.rpartition("/")[2]))
    page = inode.read(PAGE, number * PAGE)
    return {BlobId(blob) for blob, _length, _checks in _heads(page, seed)}


def _heads(page: bytes, seed: int) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
    """The head of a pack's record if a page begins with one."""
    with contextlib.suppress(Corrupt):
        yield decode_head(page, seed)


async def swap(stage: Stage) -> None:
    """The victim is swapped for an empty disk, which must be refused, and later put back."""
    node = stage.world.node(stage.victim.node)
    path = stage.path_of(stage.victim)
    if path in stage.pulled:
        return
    stage.cluster.crash(node.name)
    stage.pulled[path] = (node, node.disk.pull(path))
    stage.account.tell(node.name, f"has an empty disk at {path}")
    stage.cluster.start(node.name)
    await stage.wait(1.0, 6.0)
    _demand_refusal(stage, node)
    stage.put_back(path)
    stage.cluster.start(node.name)


async def lose_index(stage: Stage) -> None:
    """The victim's index is lost; an operator rebuilds it with the node stopped."""
    node = stage.world.node(stage.victim.node)
    path = stage.path_of(stage.victim)
    if path in stage.pulled:
        return
    stage.cluster.crash(node.name)
    faults, node.disk.faults = node.disk.faults, DiskFaults(capacity_bytes=DISK_BYTES)
    disk = node.boot().disk
    remove_engine(disk, f"{path}/index")
    rebuilt = rebuild_index(
        disk, path, stage.cluster.plan.settings.device, encode_voted(Voted(Standing.COPYING))
    )
    node.crash(power=False)  # the tool has ended: nobody was told of a loss of power
    node.disk.faults = faults
    stage.hurt = True
    stage.cluster.auditor.of(stage.victim.uuid).rebuilt(whole=rebuilt.whole)
    lost = "nothing" if rebuilt.whole else f"{rebuilt.groups} and {len(rebuilt.volumes)} volumes"
    stage.account.tell(node.name, f"has a new index at {path}, and lost {lost}")
    await stage.back_after(node.name, 0.05, 2.0)


def _demand_refusal(stage: Stage, node: SimNode) -> None:
    """A process that has finished its start serves no device from an empty disk."""
    process = stage.cluster.storage.get(node.name)
    if process is None:
        return
    for device in process.role.status()["devices"]:
        if device["id"] == stage.victim.id and device["state"] != "stopped":
            stage.account.violated("an empty disk is served", f"{node.name}: {device}")


def _mend(node: SimNode) -> None:
    calm, faults = DiskFaults(), node.disk.faults
    faults.under = calm.under
    faults.read_error = faults.write_error = 0
    faults.lost_flush_chance = 0.0


async def _restart_stopped(stage: Stage, node: SimNode) -> None:
    """An operator restarts the process whose device has stopped, sooner or later."""
    await stage.wait(0.1, 3.0)
    process = stage.cluster.storage.get(node.name)
    devices = process.role.status()["devices"] if process is not None else []
    if process is None or any(device["state"] == "stopped" for device in devices):
        stage.cluster.restart(node.name)
