"""Who should hold how much: fair shares, what they allow each failure domain, and quotas.

All sums are exact fractions of the weights as written in decimal, so that three zones of
0.1 + 0.2 and 0.3 are equal. Invariant of `quotas`: every device gets its fair share rounded down or
up, and every domain a total that leaves room for the widest spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from pinfold_ring.topology import Device, Topology

Ints = npt.NDArray[np.int64]

LEVELS = ("region", "zone", "node", "device")
"""The failure domains, widest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The devices in the order of their place, with the failure domain of each at every level.

    `tiers[level][i]` numbers the domain of the i-th device; numbers grow along the devices, so the
    devices of a domain are neighbours. `parents[level][t]` is the domain above domain t (0 for
    regions: the cluster).
    """

    devices: tuple[Device, ...]
    tiers: tuple[Ints, ...]
    parents: tuple[Ints, ...]

    @classmethod
    def of(cls, devices: Sequence[Device]) -> "Tree":
        """Order the devices by place, then id, and number the domains."""
        ordered = tuple(sorted(devices, key=lambda device: (device.place, device.id)))
        tiers: list[Ints] = []
        parents: list[Ints] = []
        above = np.zeros(len(ordered), np.int64)
        for depth in range(1, len(LEVELS) + 1):
            numbers: dict[tuple[str | int, ...], int] = {}
            paths = [(*device.place, device.id)[:depth] for device in ordered]
            tier = np.array([numbers.setdefault(path, len(numbers)) for path in paths], np.int64)
            _, first = np.unique(tier, return_index=True)
            parents.append(above[first])
            tiers.append(tier)
            above = tier
        return cls(devices=ordered, tiers=tuple(tiers), parents=tuple(parents))

    def count(self, level: int) -> int:
        """How many domains a level has."""
        return len(self.parents[level])

    def children(self, level: int) -> list[list[int]]:
        """For each domain above `level`, the domains of `level` inside it."""
        inside: list[list[int]] = [[] for _ in range(self.count(level - 1) if level else 1)]
        for child, parent in enumerate(self.parents[level].tolist()):
            inside[parent].append(child)
        return inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The fair share of every domain, in replicas, and its bounds inside one partition.

    A partition with between `low` and `high` replicas in every domain is spread as widely as the
    weights allow: those are the domain's share per partition, rounded down and up.
    """

    tree: Tree
    parts: int
    fair: tuple[tuple[Fraction, ...], ...]
    low: tuple[Ints, ...]
    high: tuple[Ints, ...]

    @classmethod
    def of(cls, tree: Tree, parts: int, replicas: int) -> "Shares":
        """Split `parts * replicas` by weight, at most `parts` to a device."""
        Topology(tree.devices).check_carries(replicas)
        fair = [tuple(_capped(tree.devices, parts, replicas))]
        for level in reversed(range(len(LEVELS) - 1)):
            sums = [Fraction(0)] * tree.count(level)
            for parent, share in zip(tree.parents[level + 1].tolist(), fair[0], strict=True):
                sums[parent] += share
            fair.insert(0, tuple(sums))
        return cls(
            tree=tree,
            parts=parts,
            fair=tuple(fair),
            low=tuple(np.array([floor(s / parts) for s in row], np.int64) for row in fair),
            high=tuple(np.array([ceil(s / parts) for s in row], np.int64) for row in fair),
        )


def quotas(shares: Shares, have: Sequence[int]) -> tuple[Ints, ...]:
    """Whole replicas for every domain of every level, moving as few as possible off `have`.

    Of all roundings that keep the invariant this one has the least sum over devices of what they
    hold beyond their quota. Ties go to whoever is furthest below its fair share, then to the
    earlier domain.
    """
    ranges = _ranges(shares, have)
    totals: list[list[int]] = []
    above = [int(sum(shares.fair[0], Fraction(0)))]
    for level in range(len(LEVELS)):
        row = [room.least for room in ranges[level]]
        for total, inside in zip(above, shares.tree.children(level), strict=True):
            _hand_out(row, total, inside, shares.fair[level], ranges[level])
        totals.append(row)
        above = row
    return tuple(np.array(row, np.int64) for row in totals)


@dataclass(frozen=True, slots=True)
class _Range:
    """What a domain's total may be, and how many steps above the least save a move each."""

    least: int
    most: int
    saving: int


def _ranges(shares: Shares, have: Sequence[int]) -> list[list[_Range]]:
    """For every domain; a domain's steps are its children's, those that save a move first.

    That the saving steps come first everywhere is what makes handing out greedily optimal.
    """
    rows = [
        [
            _Range(floor(share), ceil(share), int(share % 1 > 0 and held > share))
            for held, share in zip(have, shares.fair[-1], strict=True)
        ]
    ]
    for level in reversed(range(len(LEVELS) - 1)):
        row: list[_Range] = []
        for domain, inside in enumerate(shares.tree.children(level + 1)):
            children = [rows[0][child] for child in inside]
            sum_least = sum(child.least for child in children)
            least = max(sum_least, int(shares.low[level][domain]) * shares.parts)
            most = sum(child.most for child in children)
            saving = sum(child.saving for child in children) - (least - sum_least)
            most = min(most, int(shares.high[level][domain]) * shares.parts)
            row.append(_Range(least, most, min(max(0, saving), most - least)))
        rows.insert(0, row)
    return rows


def _hand_out(
    row: list[int],
    total: int,
    inside: list[int],
    fair: Sequence[Fraction],
    ranges: Sequence[_Range],
) -> None:
    """Raise the children of one domain from their least to `total`, saving steps first."""

    def rank(child: int) -> tuple[bool, Fraction, int]:
        saves = row[child] - ranges[child].least < ranges[child].saving
        return (not saves, row[child] - fair[child], child)

    heap = [rank(child) for child in inside if row[child] < ranges[child].most]
    heapify(heap)
    for _ in range(total - sum(row[child] for child in inside)):
        child = heappop(heap)[-1]
        row[child] += 1
        if row[child] < ranges[child].most:
            heappush(heap, rank(child))


def _capped(devices: Sequence[Device], parts: int, replicas: int) -> list[Fraction]:
    weights = [Fraction(repr(float(device.weight))) for device in devices]
    shares = [Fraction(0)] * len(devices)
    open_ = [index for index, weight in enumerate(weights) if weight]
    left = Fraction(parts * replicas)
    while left:
        each = left / sum(weights[index] for index in open_)
        full = [index for index in open_ if weights[index] * each >= parts]
        if not full:
            for index in open_:
                shares[index] = weights[index] * each
            break
        for index in full:
            shares[index] = Fraction(parts)
        left -= parts * len(full)
        open_ = [index for index in open_ if not shares[index]]
    return shares
