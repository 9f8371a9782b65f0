"""Place every replica of an empty ring: exact quotas, widest spread, neighbours mixed.

The rule: a domain's replicas are dealt to its children in runs over one order of the partitions.
A run no longer than the order names a partition at most once, so every child ends with its share
of each partition rounded down or up, and with exactly its quota.
"""

import numpy as np
import numpy.typing as npt

from pinfold_ring.shares import LEVELS, Ints, Shares
from pinfold_ring.spread import violations

MIX_ROUNDS = 6
"""Rounds of random exchanges. After 4 a device of a flat cluster shares partitions with all others
as often as chance would have it; 6 leaves a margin and costs 0.1 s per 100,000 partitions."""


def hashes(count: int, seed: int) -> npt.NDArray[np.uint64]:
    """`count` well mixed numbers that depend on nothing but `seed` (splitmix64)."""
    return hashes_of(np.arange(count), seed)


def hashes_of(numbers: Ints, seed: int) -> npt.NDArray[np.uint64]:
    """The hash of each of `numbers` under `seed`."""
    start = (seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    state = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state ^= np.uint64(start)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def scatter(shares: Shares, quota: tuple[Ints, ...], replicas: int) -> Ints:
    """A table [replicas, parts] of device positions in the tree, from nothing."""
    slots: list[Ints] = [np.tile(np.arange(shares.parts, dtype=np.int64), replicas)]
    for level in range(len(LEVELS)):
        below: list[Ints] = [slots[0]] * shares.tree.count(level)
        for parent, inside in enumerate(shares.tree.children(level)):
            seed = level << 32 | parent
            dealt = _deal(slots[parent], [int(quota[level][child]) for child in inside], seed)
            for child, its_slots in zip(inside, dealt, strict=True):
                below[child] = its_slots
        slots = below
    parts = np.concatenate(slots)
    holders = np.repeat(np.arange(len(slots)), [len(its_slots) for its_slots in slots])
    rows = holders[np.argsort(parts, kind="stable")].reshape(shares.parts, replicas)
    table = np.ascontiguousarray(rows.T)
    _shuffle_columns(table)
    _mix(shares, table)
    return table


def _deal(slots: Ints, amounts: list[int], seed: int) -> list[Ints]:
    """Split the partitions of `slots` (with repeats) into one list per amount.

    A partition stands in each list as often as its count, times the list's part of the whole,
    rounded down or up.
    """
    parts, counts = np.unique(slots, return_counts=True)
    whole = [amount // max(1, len(parts)) for amount in amounts]
    extras = counts - sum(whole)
    deepest = int(extras.max(initial=0))
    order = np.lexsort((hashes(len(parts), seed), -extras))
    run = parts[order[:0]]
    if deepest > 0:
        last = order[: int((extras == deepest).sum())]
        run = parts[np.concatenate([np.tile(order, deepest - 1), last])]
    dealt: list[Ints] = []
    start = 0
    for amount, repeats in zip(amounts, whole, strict=True):
        end = start + amount - repeats * len(parts)
        dealt.append(np.concatenate([np.tile(parts, repeats), run[start:end]]))
        start = end
    assert start == len(run), (start, len(run))
    return dealt


def _shuffle_columns(table: Ints) -> None:
    """Give every device a fair part of the first column: its holder leads row groups."""
    order = np.argsort(hashes(table.size, 1).reshape(table.shape), axis=0, kind="stable")
    table[:] = np.take_along_axis(table, order, axis=0)


def _mix(shares: Shares, table: Ints) -> None:
    """Exchange replicas between random partitions where neither becomes less widely spread.

    Without it a device would share its partitions with a handful of others only, and they alone
    would have to rebuild it.
    """
    replicas, parts = table.shape
    half = parts // 2
    for turn in range(MIX_ROUNDS * replicas):
        order = np.argsort(hashes(parts, 2 + turn), kind="stable")
        left, right = order[:half], order[half : 2 * half]
        slot = turn % replicas
        after_left, after_right = table[:, left], table[:, right]
        after_left[slot], after_right[slot] = table[slot, right], table[slot, left]
        worse = violations(shares, after_left).sum(0) + violations(shares, after_right).sum(0)
        fine = worse == 0
        table[:, left[fine]] = after_left[:, fine]
        table[:, right[fine]] = after_right[:, fine]
