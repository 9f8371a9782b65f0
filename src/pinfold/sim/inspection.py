"""Looking into every device of a cluster at rest, as no client could: what `checkers.convergence`
judges. Reads only, through what the devices offer to their own node.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import xxhash

from pinfold.cluster.api import Row
from pinfold.cluster.groups.entries import RESERVED, decode_row
from pinfold.cluster.map import BLOBS, METADATA
from pinfold.device.api import Device
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.model.ids import Boot, DeviceId, ExtentIndex, GroupId, NodeName, Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.rpc.api import Reply, Request
from pinfold.sim.checkers.convergence import Blob, Inspection, Member, Volume
from pinfold.sim.cluster import SimCluster
from pinfold.volumes.row import VolumeRow, decode_volume, key_of
from pinfold_ring import Ring

_ALL: Final = 1 << 30

_ZEROES: Final = bytes(BLOCK_BYTES)


def inspect_groups(cluster: SimCluster) -> Inspection:
    """Every member of every group, and who acknowledged the blobs that rows name."""
    groups: dict[str, dict[str, Member]] = {}
    for device, group, store in groups_of(cluster):
        if device not in wished(cluster, group):
            continue  # it was a member once
        state = store.log.state(group)
        member = Member(
            last_op=state.last_op, applied_op=state.applied_op, digest=_digest(store, group)
        )
        groups.setdefault(str(group), {})[str(device)] = member
    quorum = cluster.map.policies[BLOBS].write_quorum
    blobs = {
        ref.id.hex(): Blob(copies=quorum, holders=frozenset(map(str, ref.devices)))
        for _, row in rows_of(cluster)
        for ref in row.blobs
    }
    return Inspection(now_ms=0, grace_ms=0, groups=groups, blobs=blobs)


def wished(cluster: SimCluster, group: int) -> set[int]:
    """The devices that the ring wishes to be members of a group."""
    return set(Ring.from_bytes(cluster.map.rings[METADATA].table).devices_of(group))


def group_status(cluster: SimCluster) -> Iterator[dict[str, Any]]:
    """What every storage node says of every group on its devices."""
    for name in cluster.storage:
        yield from group_status_of(cluster, name)


def group_status_of(cluster: SimCluster, name: str) -> list[dict[str, Any]]:
    """What one storage node says."""
    dispatcher = cluster.storage[name].context.dispatcher
    reply = dispatcher.run(_status_request(name), now=0.0)
    assert isinstance(reply, Reply)
    statuses: list[dict[str, Any]] = reply.body
    return statuses


def _status_request(name: str) -> Request:
    return Request(
        peer=NodeName(name),
        peer_boot=Boot(0),
        operation="group.status",
        body=None,
        payload=memoryview(b""),
        deadline=float("inf"),
        epoch=0,
    )


async def inspect_volume(cluster: SimCluster, name: str) -> Volume:
    """What the row says of a volume, and the members' contents of each extent."""
    row = volume_row(cluster, name)
    volume, token = VolumeId(row.id), Token(row.token)
    extents: dict[int, dict[str, int]] = {}
    gateway = next(iter(cluster.gateways.values()))
    devices = dict(_devices(cluster))
    present: set[int] = set()
    for device, store in devices.items():
        if device not in row.out:
            present.update(_present(store, volume, token))
    for index in sorted(present):
        for device in gateway.clients.extent_placement.members(volume, index):
            if device in row.out or device not in devices:
                continue
            check = await _content(devices[device], volume, token, ExtentIndex(index))
            if check is not None:
                extents.setdefault(index, {})[str(device)] = check
    return Volume(out=frozenset(map(str, row.out)), extents=extents)


def _devices(cluster: SimCluster) -> Iterator[tuple[DeviceId, Device]]:
    for process in cluster.storage.values():
        yield from process.role.devices.items()


def groups_of(cluster: SimCluster) -> Iterator[tuple[DeviceId, GroupId, Device]]:
    """Every group on every device that serves."""
    for device, store in _devices(cluster):
        for group in store.log.groups():
            yield device, group, store


def _digest(store: Device, group: GroupId) -> bytes:
    """Of the rows as they are, and of what the device says was applied to them."""
    digest = xxhash.xxh3_128(store.log.digest(group))
    for key, value in store.rows.scan(group, b"", None):
        digest.update(len(key).to_bytes(4, "big") + key)
        digest.update(len(value).to_bytes(4, "big") + value)
    return digest.digest()


def rows_of(cluster: SimCluster) -> Iterator[tuple[bytes, Row]]:
    """Every row, as of its group's members whose rows verify the one that has applied most."""
    members: dict[GroupId, list[Device]] = {}
    for _, group, store in groups_of(cluster):
        members.setdefault(group, []).append(store)
    for group, stores in members.items():
        stores.sort(key=lambda store: -store.log.state(group).applied_op)
        for store in stores:
            with suppress(Corrupt):  # its member will find out, and have them copied
                found = list(store.rows.scan(group, b"", None))
                yield from ((k, decode_row(value)) for k, value in found if k[:1] != RESERVED)
                break


def rotten_rows(cluster: SimCluster) -> list[str]:
    """Groups of which a device holds rows that fail their checksums; reading them tells it so."""
    found = []
    for device, group, store in groups_of(cluster):
        if device not in wished(cluster, group):
            continue  # nobody copies rows to what was a member once
        try:
            deque(store.rows.scan(group, b"", None), maxlen=0)
        except Corrupt as error:
            found.append(f"device {device} of group {group}: {error.message}")
    return found


def volume_row(cluster: SimCluster, name: str) -> VolumeRow:
    """A volume's row, as the member of its group that has applied most has it."""
    return next(decode_volume(row.body) for key, row in rows_of(cluster) if key == key_of(name))


def owed_to(cluster: SimCluster, row: VolumeRow) -> list[str]:
    """What is left to be done for a volume that no client has, as its row and its devices say."""
    if row.holder is not None:
        return [f"{row.holder} has it"]
    devices = dict(_devices(cluster))
    owed = [f"device {device} is out of sync" for device in row.out]
    owed += [f"what token {token} left is not settled" for token in row.trust]
    owed += [f"{row.cut} is cut off and not zeroed"] if row.cut[0] < row.cut[1] else []
    owed += [
        f"device {device} was last seen at boot {boot}"
        for device, boot in row.seen.items()
        if device in devices and devices[DeviceId(device)].boot != boot
    ]
    owed += [
        f"device {device} has dirty extents"
        for device, store in devices.items()
        if not owed and _present(store, VolumeId(row.id), Token(row.token), dirty=True)
    ]
    return owed


def unnamed_extents(cluster: SimCluster) -> list[str]:
    """Extents on devices of volumes that no row names."""
    prefix = key_of("")[:1]
    named = {decode_volume(row.body).id for key, row in rows_of(cluster) if key.startswith(prefix)}
    return [
        f"device {device} has extents of volume {volume.hex()}, which no row names"
        for device, store in _devices(cluster)
        for volume in store.extents.volumes(b"", _ALL)
        if volume not in named
    ]


def _present(store: Device, volume: VolumeId, token: Token, *, dirty: bool = False) -> list[int]:
    try:
        return [
            mark.extent for mark in store.extents.marks(volume, token, -1, 1 << 20, dirty=dirty)
        ]
    except PinfoldError:
        return []  # it has no claim of this holder, so nothing was ever asked of it


async def _content(store: Device, volume: VolumeId, token: Token, index: ExtentIndex) -> int | None:
    """A checksum of an extent without its holes; None when it fails verification."""
    digest = xxhash.xxh3_64()
    try:
        for offset, length in store.extents.allocated(volume, token, index):
            found = store.extents.read(volume, token, [(index, offset, length)])
            buffers = await found if isinstance(found, asyncio.Future) else found
            for at, block in _blocks(buffers):
                if block != _ZEROES:
                    digest.update((offset + at).to_bytes(4, "big") + block)
    except PinfoldError:
        return None  # rotten on this device: the next read of it will repair it
    return digest.intdigest()


def _blocks(buffers: list[Buffer]) -> Iterator[tuple[int, bytes]]:
    content = b"".join(bytes(buffer) for buffer in buffers)
    for at in range(0, len(content), BLOCK_BYTES):
        yield at, content[at : at + BLOCK_BYTES]
