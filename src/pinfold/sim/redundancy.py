"""Whether every copy of every named blob of a cluster at rest gives its bytes back.

What has rotted unseen is found by reading it, quarantined, and has to be rebuilt by the workers; so
this looks again until all is well, or time runs out.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from pinfold.cluster.map import BLOBS
from pinfold.device.api import Device
from pinfold.model.errors import Corrupt, NotFound, PinfoldError
from pinfold.model.ids import BlobId
from pinfold.sim.checkers.convergence import Blob, Inspection, check
from pinfold.sim.cluster import SimCluster
from pinfold.sim.inspection import rows_of
from pinfold.sim.workloads.bench import Bench

CLIENT: Final = "auditor"
"""Who looks, in accounts."""

_LOOK_S: Final = 0.5
"""Between two looks."""


async def redundant(bench: Bench) -> None:
    """Wait until every named blob has all its copies, each of which verifies."""
    while found := check(await inspect_blobs(bench.cluster)):
        bench.waiting[CLIENT] = "\n    ".join(str(finding) for finding in found[:4])
        await asyncio.sleep(_LOOK_S)
    bench.waiting.pop(CLIENT, None)


async def inspect_blobs(cluster: SimCluster) -> Inspection:
    """The blobs that rows name, and the devices whose copies verify."""
    named = {BlobId(ref.id): ref.length for _, row in rows_of(cluster) for ref in row.blobs}
    holders: dict[BlobId, set[str]] = {blob: set() for blob in named}
    for name, process in cluster.storage.items():
        for device, store in process.role.devices.items():
            verified = await cluster.within(name, partial(_verified, store, named))
            for blob in verified:
                holders[blob].add(str(device))
    copies = cluster.map.policies[BLOBS].copies
    return Inspection(
        now_ms=0,
        grace_ms=0,
        blobs={
            blob.hex(): Blob(copies=copies, holders=frozenset(devices))
            for blob, devices in holders.items()
        },
    )


async def _verified(store: Device, named: Mapping[BlobId, int]) -> list[BlobId]:
    """The blobs among these of which a device gives back every byte."""
    found = []
    for blob, length in named.items():
        try:
            reading = store.blobs.read(blob, 0, length)
            if isinstance(reading, asyncio.Future):
                await reading
        except (NotFound, Corrupt):
            continue
        except PinfoldError:
            break  # it has stopped: `missing_devices` tells of it
        found.append(blob)
    return found
