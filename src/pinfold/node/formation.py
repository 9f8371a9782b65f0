"""The cluster that `pinfold up` makes: which processes, which policies, the first rings.

Three nodes with one device each, every copy on all three: two of three copies are a majority and a
write quorum, so any one node may be lost. Pure but for the ring library's arithmetic.
"""

from collections.abc import Sequence
from typing import Final

from pinfold.cluster.map import (
    BLOBS,
    METADATA,
    VOLUMES,
    DeviceEntry,
    PolicyEntry,
    RingEntry,
    Role,
)
from pinfold_ring import Device as RingDevice
from pinfold_ring import build

STORAGE_NODES: Final = ("n1", "n2", "n3")

FRONT_ENDS: Final[tuple[tuple[str, Role], ...]] = (
    ("s3-1", "s3"),
    ("nbd-1", "nbd"),
    ("admin-1", "admin"),
)

METADATA_PART_POWER: Final = 5
"""32 groups: each of the three devices is in all, and 16 to 64 groups per device keep one log
entry's batch large while a failover stays short."""

DATA_PART_POWER: Final = 10
"""1,024 partitions: room to grow to some dozens of devices without a new ring size."""


def first_policies() -> dict[str, PolicyEntry]:
    """Three copies of everything, two to acknowledge a write."""
    return {
        METADATA: PolicyEntry(copies=3, write_quorum=2, part_power=METADATA_PART_POWER),
        BLOBS: PolicyEntry(copies=3, write_quorum=2, part_power=DATA_PART_POWER),
        VOLUMES: PolicyEntry(copies=3, write_quorum=2, part_power=DATA_PART_POWER),
    }


def first_rings(
    policies: dict[str, PolicyEntry], devices: Sequence[DeviceEntry]
) -> dict[str, RingEntry]:
    """Epoch 1 of each policy's ring."""
    placed = [
        RingDevice(
            id=device.id,
            region=device.region,
            zone=device.zone,
            node=device.node,
            weight=device.weight,
            uuid=device.uuid,
        )
        for device in devices
    ]
    rings = {}
    for name, policy in policies.items():
        ring = build(name, placed, policy.part_power, policy.copies)
        rings[name] = RingEntry(epoch=ring.epoch, table=ring.to_bytes())
    return rings
