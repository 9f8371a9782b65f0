"""A finished ring: from a key to its partition, to its devices, to the handoffs behind them.

Invariant: a `Ring` never changes, and its bytes read back give an equal one. A lookup is one hash
and one index; the table may lie in a memory-mapped file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
import xxhash

from pinfold_ring import codec
from pinfold_ring.assign import Table, assign, check_size
from pinfold_ring.errors import BadRingFile, RingError
from pinfold_ring.topology import Device, Topology

SALT_BYTES_MAX = 64
"""Longest salt: it is hashed with every key."""

NAME_BYTES_MAX = 255
"""Longest ring name, UTF-8 bytes."""

EPOCH_MAX = (1 << 63) - 1
"""Highest epoch, so that it fits a signed 64-bit column anywhere."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Ring:
    """One epoch of a policy's placement.

    `table` is uint16 device ids [parts, replicas]. `previous_epoch` and `previous_checksum` name
    the ring this one was made from, 0 and empty for a first one. Compare rings by `checksum`.
    """

    name: str
    epoch: int
    part_power: int
    replicas: int
    salt: bytes
    topology: Topology
    table: Table = field(repr=False)
    previous_epoch: int = 0
    previous_checksum: bytes = b""

    def __post_init__(self) -> None:
        check_size(self.part_power, self.replicas)
        if not isinstance(self.name, str) or not 0 < len(self.name.encode()) <= NAME_BYTES_MAX:
            raise RingError(f"a ring's name has 1 to {NAME_BYTES_MAX} bytes")
        if not isinstance(self.salt, bytes) or len(self.salt) > SALT_BYTES_MAX:
            raise RingError(f"a ring's salt has at most {SALT_BYTES_MAX} bytes")
        for epoch in (self.epoch, self.previous_epoch):
            if type(epoch) is not int or not 0 <= epoch <= EPOCH_MAX:
                raise RingError(f"{epoch!r} is not an epoch")
        if self.previous_epoch >= self.epoch:
            raise RingError(f"epoch {self.epoch} does not follow epoch {self.previous_epoch}")
        if not isinstance(self.previous_checksum, bytes):
            raise RingError("the checksum of the previous ring is not bytes")
        if len(self.previous_checksum) != (codec.CHECKSUM_BYTES if self.previous_epoch else 0):
            raise RingError("the checksum of the previous ring has the wrong size")
        _check_table(self.table, self.topology, self.part_power, self.replicas)
        frozen = np.ascontiguousarray(self.table).view()
        frozen.flags.writeable = False
        object.__setattr__(self, "table", frozen)

    @property
    def parts(self) -> int:
        """The number of partitions."""
        return 1 << self.part_power

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices by id, also those with a weight of 0."""
        return self.topology.devices

    @property
    def checksum(self) -> bytes:
        """16 bytes that name exactly this ring."""
        return self._encoded[1]

    def partition(self, key: bytes) -> int:
        """The partition of a key."""
        return xxhash.xxh3_64_intdigest(self.salt + key) >> (64 - self.part_power)

    def devices_of(self, partition: int) -> tuple[int, ...]:
        """The ids of the partition's devices, one per replica, in the order of the columns."""
        start = partition * self.replicas
        row = self._flat[start : start + self.replicas]
        if partition < 0 or not row:
            raise IndexError(f"partition {partition} is not from 0 to {self.parts - 1}")
        return tuple(row)

    def handoffs(self, partition: int) -> Iterator[int]:
        """All other devices of weight above 0, each once, in an order fixed by the ring.

        First one in every region the partition is not in yet, then one in every new zone, then one
        in every new node, then the rest. Inside each of these four rounds devices are met in one
        walk around the cluster, which starts at another place for every partition.
        """
        row = self.devices_of(partition)
        places, order = self._places
        seen: list[set[Any]] = [set(), set(), set(), set(row)]
        for device_id in row:
            for depth, tier in enumerate(places[device_id]):
                seen[depth].add(tier)
        start = xxhash.xxh3_64_intdigest(partition.to_bytes(8, "little")) % max(1, len(order))
        stride = _stride(len(order), start)
        walk = [order[(start + step * stride) % len(order)] for step in range(len(order))]
        for depth in range(4):
            for device_id in walk:
                tiers = places[device_id]
                if device_id in seen[3] or (depth < 3 and tiers[depth] in seen[depth]):
                    continue
                for level in range(3):
                    seen[level].add(tiers[level])
                seen[3].add(device_id)
                yield device_id

    def follow(self, topology: Topology) -> "Ring":
        """The next epoch for these devices, with as few moves as possible (see `assign`)."""
        table = assign(topology, self.part_power, self.replicas, self.table, self.topology)
        return Ring(
            name=self.name,
            epoch=self.epoch + 1,
            part_power=self.part_power,
            replicas=self.replicas,
            salt=self.salt,
            topology=topology,
            table=table,
            previous_epoch=self.epoch,
            previous_checksum=self.checksum,
        )

    def to_bytes(self) -> bytes:
        """The ring as a file."""
        return self._encoded[0]

    @classmethod
    def from_bytes(cls, buffer: codec.Buffer) -> "Ring":
        """Read what `to_bytes` wrote; the table stays in `buffer`, which must not change.

        Raises BadRingFile for anything else.
        """
        header, body, _ = codec.decode(codec.RING_MAGIC, buffer)
        if set(header) != _HEADER_FIELDS:
            raise BadRingFile("header", "the header has missing or unknown fields")
        devices = header.pop("devices")
        try:
            check_size(header["part_power"], header["replicas"])
            shape = (1 << header["part_power"], header["replicas"])
            if len(body) != 2 * shape[0] * shape[1]:
                raise BadRingFile("table", "the table does not have the size the header tells")
            table = np.frombuffer(body, np.dtype("<u2")).reshape(shape)
            topology = Topology(Device.from_fields(fields) for fields in devices)
            return cls(**header, topology=topology, table=table)
        except BadRingFile:
            raise
        except (RingError, TypeError) as error:
            raise BadRingFile("header", f"the file contradicts itself: {error}") from error

    @cached_property
    def _encoded(self) -> tuple[bytes, bytes]:
        header = {
            "name": self.name,
            "epoch": self.epoch,
            "part_power": self.part_power,
            "replicas": self.replicas,
            "salt": self.salt,
            "previous_epoch": self.previous_epoch,
            "previous_checksum": self.previous_checksum,
            "devices": [device.to_fields() for device in self.devices],
        }
        data = codec.encode(codec.RING_MAGIC, header, self.table.astype("<u2").tobytes())
        return data, codec.decode(codec.RING_MAGIC, data)[2]

    @cached_property
    def _flat(self) -> memoryview:
        return self.table.reshape(-1).data

    @cached_property
    def _places(self) -> tuple[dict[int, tuple[Any, Any, Any]], list[int]]:
        """Per device its region, zone and node as paths; and the usable devices, by place."""
        places = {
            device.id: (device.region, (device.region, device.zone), device.place)
            for device in self.devices
        }
        usable = sorted((device.place, device.id) for device in self.devices if device.weight > 0)
        return places, [device_id for _, device_id in usable]


_HEADER_FIELDS = {
    "name",
    "epoch",
    "part_power",
    "replicas",
    "salt",
    "previous_epoch",
    "previous_checksum",
    "devices",
}


def build(
    name: str,
    devices: Iterable[Device],
    part_power: int,
    replicas: int,
    previous: Ring | None = None,
    salt: bytes = b"",
) -> Ring:
    """A ring over these devices: a first epoch, or the one after `previous`.

    With `previous`, part power, replicas and salt must be those of the ring before (an empty salt
    means the same): keys would change their partition otherwise.
    """
    topology = Topology(devices)
    if previous is None:
        table = assign(topology, part_power, replicas)
        return Ring(
            name=name,
            epoch=1,
            part_power=part_power,
            replicas=replicas,
            salt=salt,
            topology=topology,
            table=table,
        )
    if (name, part_power, replicas) != (previous.name, previous.part_power, previous.replicas):
        raise RingError(
            f"ring {previous.name!r} has part power {previous.part_power} and {previous.replicas} "
            "replicas: name, part power and replicas cannot change from one epoch to the next"
        )
    if salt not in (b"", previous.salt):
        raise RingError("the salt of a ring cannot change from one epoch to the next")
    return previous.follow(topology)


def _check_table(table: Table, topology: Topology, part_power: int, replicas: int) -> None:
    if table.shape != (1 << part_power, replicas) or table.dtype != np.uint16:
        raise BadRingFile("table", "the table does not have the shape of the ring")
    known = np.zeros(1 << 16, bool)
    known[np.array([device.id for device in topology], np.int64)] = True
    if not known[table].all():
        raise BadRingFile("table", "the table names a device that is not in the ring")
    ordered = np.sort(table, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise BadRingFile("table", "a partition has two replicas on one device")


def _stride(count: int, seed: int) -> int:
    """A step that visits every one of `count` places before it returns."""
    stride = 1 + seed * 0x9E3779B1 % max(1, count - 1)
    while gcd(stride, count) != 1:
        stride += 1
    return stride
