"""What the devices that serve can still do, computed from the rings. Pure.

A partition is *readable* while one of its devices serves and *writable* while a write quorum does.
Blobs may go to handoffs, so they can be written while any quorum of devices takes them.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pinfold.cluster.map import BLOBS, ClusterMap
from pinfold_ring import Ring


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One policy, of `partitions` in all."""

    partitions: int
    unreadable: int
    unwritable: int
    single: int
    """Partitions of several copies with one serving device left."""


def reach(
    cluster: ClusterMap, policy: str, serving: Collection[int], taking: Collection[int]
) -> Reach:
    """How a policy stands when `serving` devices read and `taking` of them also write."""
    entry, ring = cluster.policies.get(policy), cluster.rings.get(policy)
    if entry is None or ring is None:
        return Reach(partitions=0, unreadable=0, unwritable=0, single=0)
    table = _table(ring.table)
    readable = np.isin(table, list(serving)).sum(axis=1)
    if policy == BLOBS:
        unwritable = len(table) if len(set(taking)) < entry.write_quorum else 0
    else:
        written = np.isin(table, list(taking)).sum(axis=1)
        unwritable = int((written < entry.write_quorum).sum())
    return Reach(
        partitions=len(table),
        unreadable=int((readable == 0).sum()),
        unwritable=unwritable,
        single=int((readable == 1).sum()) if table.shape[1] > 1 else 0,
    )


@lru_cache(maxsize=8)
def _table(encoded: bytes) -> "np.ndarray[tuple[int, int], np.dtype[np.uint16]]":
    return Ring.from_bytes(encoded).table
