"""Which devices hold which partition: the table of a ring, from nothing or from the one before.

What comes first when wishes collide, strictest first:

1. A partition never has two replicas on one device.
2. Replicas of devices that are no longer in the topology move. In a partition without any of those
   at most one replica moves per call; in a partition with some, only those move. A weight of 0 is
   not removal: such a device is emptied under the same limit.
3. Balance: every device gets its fair share (by weight, at most one replica of each partition, the
   excess going to the others), rounded down or up, as far as 2 lets it in one call.
4. Dispersion: in every partition every region, zone, node and device has its own fair share per
   partition, rounded down or up. From nothing this always holds, together with 3. A move never
   makes a partition less widely spread at any level, except for a removed device that has no other
   home.
5. As few moves as possible: of all roundings of the fair shares the one that takes least off the
   devices is chosen, and a device only loses what it has beyond it. More moves are made only for
   dispersion (a device changed its zone), or as the last resort where balance cannot be reached by
   direct moves.

When 2 stops a change half-way (doubling a cluster moves more than one replica of a partition), the
same call on the result does the next half; `remaining_moves` says how much there is left.

Tables are uint16 device ids of shape [parts, replicas]: a lookup reads one contiguous row. The
column of a replica that stays never changes.
"""

import numpy as np
import numpy.typing as npt

from pinfold_ring.errors import BadTopology, RingError
from pinfold_ring.rebalance import rebalance
from pinfold_ring.scatter import scatter
from pinfold_ring.shares import Ints, Shares, Tree, quotas
from pinfold_ring.topology import Device, Topology

Table = npt.NDArray[np.uint16]

PART_POWER_MAX = 22
"""Largest ring: 4 Mi partitions, some 100 MiB of table at 12 replicas."""

REPLICAS_MAX = 32
"""Most columns: replicas, or fragments of an erasure code."""


def assign(
    topology: Topology,
    part_power: int,
    replicas: int,
    previous: Table | None = None,
    departed: Topology | None = None,
) -> Table:
    """The table for `topology`, moving as little as possible from `previous`.

    `departed` may tell the places of devices that `previous` names and `topology` does not: knowing
    the zone a replica leaves gives a better choice of its next home, never a different promise.
    Same arguments, same table. Raises BadTopology if there are fewer usable devices than replicas.
    """
    check_size(part_power, replicas)
    topology.check_carries(replicas)
    parts = 1 << part_power
    if previous is None:
        shares = Shares.of(Tree.of(topology.devices), parts, replicas)
        quota = quotas(shares, [0] * len(topology))
        return _to_ids(shares.tree, scatter(shares, quota, replicas))
    shares, gone, positions = _prepare(topology, part_power, replicas, previous, departed)
    have = np.bincount(positions.ravel(), minlength=len(gone))
    quota = quotas(shares, have.tolist())
    return _to_ids(shares.tree, rebalance(shares, quota[-1], positions, gone))


def remaining_moves(topology: Topology, part_power: int, previous: Table) -> int:
    """Replicas that must leave their device before every device has its fair share.

    It is the least number of moves any rebalance to this topology needs for balance: the sum over
    devices of what they hold beyond what they may keep.
    """
    shares, _, positions = _prepare(topology, part_power, previous.shape[1], previous, None)
    have = np.bincount(positions.ravel(), minlength=len(shares.tree.devices))
    quota = quotas(shares, have.tolist())[-1]
    return int(np.maximum(have - quota, 0).sum())


def check_size(part_power: int, replicas: int) -> None:
    """Refuse a ring of a size this library does not support."""
    if not 0 <= part_power <= PART_POWER_MAX:
        raise RingError(f"part power {part_power} is not from 0 to {PART_POWER_MAX}")
    if not 1 <= replicas <= REPLICAS_MAX:
        raise RingError(f"{replicas} replicas are not from 1 to {REPLICAS_MAX}")


def _prepare(
    topology: Topology, part_power: int, replicas: int, previous: Table, departed: Topology | None
) -> tuple[Shares, npt.NDArray[np.bool_], Ints]:
    """Shares over present and departed devices, who is gone, and `previous` in tree positions."""
    if previous.shape != (1 << part_power, replicas):
        raise RingError(
            f"the previous table has {previous.shape[0]} x {previous.shape[1]} replicas, not "
            f"{1 << part_power} x {replicas}: part power and replicas of a ring cannot change"
        )
    ghosts = _ghosts(topology, previous, departed)
    tree = Tree.of((*topology.devices, *ghosts))
    gone_ids = {device.id for device in ghosts}
    gone = np.array([device.id in gone_ids for device in tree.devices])
    ids = np.array([device.id for device in tree.devices])
    order = np.argsort(ids)
    positions = order[np.searchsorted(ids[order], previous.T)].astype(np.int64)
    ranked = np.sort(positions, axis=0)
    if (ranked[1:] == ranked[:-1]).any():
        raise RingError("the previous table has two replicas of a partition on one device")
    return Shares.of(tree, 1 << part_power, replicas), gone, positions


def _ghosts(topology: Topology, previous: Table, departed: Topology | None) -> list[Device]:
    present = {device.id for device in topology}
    places = {device.id: device.place for device in departed or ()}
    ghosts: list[Device] = []
    for device_id in np.unique(previous).tolist():
        if device_id in present:
            continue
        region, zone, node = places.get(device_id, ("?", "?", "?"))
        try:
            ghost = Device(id=device_id, region=region, zone=zone, node=node, weight=0)
        except BadTopology as error:
            raise RingError(f"the previous table is not valid: {error}") from error
        ghosts.append(ghost)
    return ghosts


def _to_ids(tree: Tree, positions: Ints) -> Table:
    ids = np.array([device.id for device in tree.devices], np.uint16)
    return np.ascontiguousarray(ids[positions.T])
