"""What rows and devices of a healed cluster say of blobs: copies that lack, and strays.

Looked at from outside, all at once. Days pass in between: orphans are collected at the ages that
real clusters use, so what a run stored is made old, rather than the ages made small.
"""

from typing import Final

from pinfold.care.host import Local
from pinfold.cluster.map import BLOBS
from pinfold.model.ids import BlobId, DeviceId
from pinfold.sim.audit.dropped import forgotten
from pinfold.sim.cluster import SimCluster
from pinfold_ring import Ring

DAYS_S: Final = 4 * 86_400.0
"""What passes: an orphan's 72 h, and the 12 h that may lie between clocks."""


def let_days_pass(cluster: SimCluster) -> None:
    """Every wall clock goes on; what lies between them stays."""
    cluster.account.tell("world", "four days pass")
    cluster.auditor.effects.time_of_day = None  # not all hear of it at once
    for name in cluster.names:
        cluster.world.node(name).skew_s += DAYS_S


def lacking_copies(cluster: SimCluster) -> list[str]:
    """Copies of named blobs that are not where the ring wants them."""
    seen = _locals(cluster)
    ring = Ring.from_bytes(cluster.map.rings[BLOBS].table)
    named = {blob for one in seen for blob in one.named}
    held = {device: blobs for one in seen for device, blobs in one.held.items()}
    return [
        f"blob {blob.hex()} is not on device {device}"
        for blob in sorted(named)
        for device in ring.devices_of(ring.partition(blob))
        if blob not in held.get(DeviceId(device), ())
    ]


def unfreed(cluster: SimCluster) -> list[str]:
    """Blobs that wait to be given back, though every device is there to do so."""
    return [
        f"blob {blob.hex()} is dropped and not given back"
        for blob in sorted({blob for one in _locals(cluster) for blob in one.freed})
    ]


def strays(cluster: SimCluster) -> list[str]:
    """Copies that no row names and that do not wait to be given back."""
    return [
        f"device {device} has blob {blob.hex()}, which no row names"
        for device, blob in _strays(cluster)
    ]


def forgotten_drops(cluster: SimCluster) -> list[str]:
    """Strays that are not what a put or a late copy left, but what a row named."""
    return forgotten(cluster.auditor.rows, {blob for _, blob in _strays(cluster)})


def _strays(cluster: SimCluster) -> list[tuple[DeviceId, BlobId]]:
    seen = _locals(cluster)
    known = {blob for one in seen for blob in one.named | one.freed}
    return [
        (device, blob)
        for one in seen
        for device, blobs in sorted(one.held.items())
        for blob in sorted(blobs - known)
    ]


def _locals(cluster: SimCluster) -> list[Local]:
    return [process.role.care.local() for process in cluster.storage.values()]
