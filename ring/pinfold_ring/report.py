"""What a ring is like and what a change of it will cost, as plain numbers for people and programs.

`compare` is the plan of a rebalance; `balance` and `dispersion` judge one ring. Nothing here
changes anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pinfold_ring.assign import Table, remaining_moves
from pinfold_ring.errors import RingError
from pinfold_ring.lookup import Ring
from pinfold_ring.shares import LEVELS, Shares, Tree
from pinfold_ring.topology import DEVICE_ID_MAX, Device, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One device: replicas it holds and its fair share of them."""

    device: Device
    replicas: int
    fair: float

    @property
    def percent(self) -> float:
        """How far above (or below) its fair share, in per cent; 0 for a device without a share."""
        return 100 * (self.replicas / self.fair - 1) if self.fair else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSpread:
    """One failure domain: how its replicas lie over the partitions.

    `counts[i]` partitions have i replicas in it; losing it loses that many of theirs. `allowed` is
    the most a partition may have there at its weight, `crowded` counts partitions with more.
    """

    level: str
    path: tuple[str, ...]
    fair: float
    counts: tuple[int, ...]
    allowed: int
    crowded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChange:
    """One device before and after; `device` is as it will be, or as it was if it goes."""

    device: Device
    before: int
    after: int
    incoming: int
    outgoing: int
    incoming_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes to get from one ring to another.

    `partitions_by_moves[i]` partitions move i replicas. `forced` moves leave devices that are not
    in the new ring. `remaining` replicas still have to move after this plan, because a rebalance
    moves at most one per partition. `lowest_in_place` is the fewest replicas any partition has that
    do not move: what it can count on if every copy under way fails.
    """

    moves: int
    forced: int
    remaining: int
    partitions_by_moves: tuple[int, ...]
    lowest_in_place: int
    devices: tuple[DeviceChange, ...]
    bytes: int | None = None
    hours: float | None = None


def balance(ring: Ring) -> tuple[Holding, ...]:
    """What every device holds beside its fair share."""
    shares = Shares.of(Tree.of(ring.devices), ring.parts, ring.replicas)
    held = _held(ring.table)
    holdings = [
        Holding(device=device, replicas=int(held[device.id]), fair=float(fair))
        for device, fair in zip(shares.tree.devices, shares.fair[-1], strict=True)
    ]
    return tuple(sorted(holdings, key=lambda holding: holding.device.id))


def dispersion(ring: Ring) -> Iterator[DomainSpread]:
    """How the replicas of partitions lie in every region, then every zone, then every node."""
    shares = Shares.of(Tree.of(ring.devices), ring.parts, ring.replicas)
    tree = shares.tree
    position = np.zeros(DEVICE_ID_MAX + 2, np.int64)
    position[[device.id for device in tree.devices]] = np.arange(len(tree.devices))
    rows = position[ring.table]
    for level, name in enumerate(LEVELS[:-1]):
        counts = _counts(tree.tiers[level][rows], tree.count(level))
        _, first = np.unique(tree.tiers[level], return_index=True)
        for domain, histogram in enumerate(counts):
            allowed = int(shares.high[level][domain])
            yield DomainSpread(
                level=name,
                path=tree.devices[first[domain]].place[: level + 1],
                fair=float(shares.fair[level][domain] / ring.parts),
                counts=tuple(histogram.tolist()),
                allowed=allowed,
                crowded=int(histogram[allowed + 1 :].sum()),
            )


def compare(
    before: Ring,
    after: Ring,
    total_bytes: int | None = None,
    device_bytes_per_second: float | None = None,
) -> Plan:
    """The plan from one ring to another of the same size.

    `total_bytes` is what the ring holds, all replicas together; partitions are taken as equal.
    `device_bytes_per_second` is what one device may read or write for this; the hours are those of
    the busiest device.
    """
    if before.table.shape != after.table.shape:
        raise RingError("the rings differ in part power or replicas and cannot be compared")
    new = _not_in(after.table, before.table)
    old = _not_in(before.table, after.table)
    per_partition = new.sum(1)
    incoming, outgoing = _held(after.table[new]), _held(before.table[old])
    moves = int(per_partition.sum())
    replica_bytes = None if total_bytes is None else total_bytes / before.table.size
    changes = _changes(before, after, incoming, outgoing, replica_bytes)
    known = np.zeros(DEVICE_ID_MAX + 2, bool)
    known[[device.id for device in after.devices]] = True
    busiest = int(max(incoming.max(), outgoing.max()))
    hours = None
    if replica_bytes is not None and device_bytes_per_second:
        hours = busiest * replica_bytes / device_bytes_per_second / 3600
    return Plan(
        moves=moves,
        forced=int((~known[before.table]).sum()),
        remaining=remaining_moves(after.topology, after.part_power, after.table),
        partitions_by_moves=tuple(np.bincount(per_partition).tolist()),
        lowest_in_place=before.replicas - int(per_partition.max()),
        devices=changes,
        bytes=None if replica_bytes is None else round(moves * replica_bytes),
        hours=hours,
    )


def _changes(
    before: Ring,
    after: Ring,
    incoming: npt.NDArray[np.int64],
    outgoing: npt.NDArray[np.int64],
    replica_bytes: float | None,
) -> tuple[DeviceChange, ...]:
    was, will = _held(before.table), _held(after.table)
    kept = {device.id: device for device in (*before.devices, *after.devices)}
    return tuple(
        DeviceChange(
            device=device,
            before=int(was[device_id]),
            after=int(will[device_id]),
            incoming=int(incoming[device_id]),
            outgoing=int(outgoing[device_id]),
            incoming_bytes=(
                None if replica_bytes is None else round(incoming[device_id] * replica_bytes)
            ),
        )
        for device_id, device in sorted(kept.items())
    )


def changed_devices(
    before: Topology, after: Topology
) -> tuple[list[Device], list[Device], list[Device]]:
    """Devices only in `after`, only in `before`, and (as they will be) different in both."""
    was = {device.id: device for device in before}
    will = {device.id: device for device in after}
    added = [device for device in after if device.id not in was]
    removed = [device for device in before if device.id not in will]
    changed = [device for device in after if was.get(device.id, device) != device]
    return added, removed, changed


def _held(ids: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    return np.bincount(ids.ravel(), minlength=DEVICE_ID_MAX + 2).astype(np.int64)


def _not_in(table: Table, other: Table) -> npt.NDArray[np.bool_]:
    """Which replicas of `table` are on a device that `other` does not use for the partition."""
    result = np.empty(table.shape, bool)
    for column in range(table.shape[1]):
        result[:, column] = ~(other == table[:, column : column + 1]).any(1)
    return result


def _counts(domains: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Per domain a histogram [count, replicas + 1]: partitions with so many replicas in it."""
    parts, replicas = domains.shape
    histogram = np.zeros((count, replicas + 1), np.int64)
    ordered = np.sort(domains, axis=1)
    flat = ordered + np.arange(parts)[:, None] * count
    starts = np.flatnonzero(np.diff(flat.ravel(), prepend=-1))
    runs = np.diff(starts, append=flat.size)
    np.add.at(histogram, (ordered.ravel()[starts], runs), 1)
    histogram[:, 0] = parts - histogram[:, 1:].sum(1)
    return histogram
