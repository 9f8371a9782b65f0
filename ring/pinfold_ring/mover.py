"""A table on its way from the previous one: which replacements are allowed, and what changed.

Invariants: a partition never has two replicas on one device, never gets more new replicas than its
budget, and never becomes less widely spread at any level.
"""

from math import ceil, floor

import numpy as np
import numpy.typing as npt

from pinfold_ring.shares import LEVELS, Ints, Shares
from pinfold_ring.spread import violations

Small = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]


class Mover:
    """The state of one rebalance, in device positions of the tree; tables are [replicas, parts].

    `gone` marks devices that no longer exist: their replicas must move, and a partition's budget is
    the number of those, or 1 if it has none.
    """

    def __init__(self, shares: Shares, quota: Ints, previous: Ints, gone: Bools) -> None:
        self.shares = shares
        self.quota = quota.copy()
        self.least = np.array([floor(share) for share in shares.fair[-1]])
        self.most = np.array([ceil(share) for share in shares.fair[-1]])
        self.gone = gone
        self.previous = previous
        self.table = previous.copy()
        self.have = np.bincount(previous.ravel(), minlength=len(quota)).astype(np.int64)
        self.forced = gone[previous].sum(0)
        self.budget = np.maximum(1, self.forced)
        self.moved = np.zeros(previous.shape[1], np.int64)
        self.worse = violations(shares, previous).sum(0)

    def copy(self) -> "Mover":
        """The same state, to try something on."""
        twin = Mover(self.shares, self.quota, self.previous, self.gone)
        twin.table, twin.have = self.table.copy(), self.have.copy()
        twin.moved, twin.worse = self.moved.copy(), self.worse.copy()
        return twin

    @property
    def surplus(self) -> Ints:
        """Replicas every device holds beyond its quota."""
        beyond: Ints = np.maximum(self.have - self.quota, 0)
        return beyond

    @property
    def deficit(self) -> Ints:
        """Replicas every device lacks to its quota."""
        lacking: Ints = np.maximum(self.quota - self.have, 0)
        return lacking

    def movable(self) -> tuple[Ints, Bools]:
        """Partitions where overfull devices may be relieved within the budget, and in which slots.

        Replicas of removed devices come before all others of their partition.
        """
        overfull = (self.surplus > 0)[self.table]
        overfull &= (self.forced == 0) & (self.moved == 0) | self.gone[self.table]
        parts = np.flatnonzero(overfull.any(0))
        return parts, overfull[:, parts]

    def try_moves(self, parts: Ints, slots: Ints, targets: Ints, aim: int) -> int:
        """Make those of the proposed replacements, one per partition, that are allowed.

        `aim` 0 takes what ends widest spread, 1 also what improves, 2 all that is not worse.
        """
        if not len(parts):
            return 0
        before = self.table[:, parts]
        fine = ~(before == targets).any(0)
        parts, slots, targets = parts[fine], slots[fine], targets[fine]
        before = before[:, fine]
        after = before.copy()
        after[slots, np.arange(len(parts))] = targets
        was, will = violations(self.shares, before), violations(self.shares, after)
        allowed = will.sum(0) == 0
        if aim:
            allowed |= (will <= was).all(0) & ((will.sum(0) < was.sum(0)) | (aim == 2))
        self.replace(parts[allowed], slots[allowed], targets[allowed])
        return int(allowed.sum())

    def replace(self, parts: Ints, slots: Ints, targets: Ints) -> None:
        """Put `targets` where they are told, one per partition, and keep count."""
        sources = self.table[slots, parts]
        self.table[slots, parts] = targets
        count = len(self.have)
        self.have += np.bincount(targets, minlength=count) - np.bincount(sources, minlength=count)
        self.moved[parts] += self.costs(parts, sources, targets)
        self.worse[parts] = violations(self.shares, self.table[:, parts]).sum(0)

    def costs(self, parts: Ints, sources: Ints, targets: Ints) -> Ints:
        """What each replacement adds to its partition's number of new replicas: -1, 0 or 1."""
        held = self.previous[:, parts]
        was_new = ~(held == sources).any(0)
        will_be_new = ~(held == targets).any(0)
        added: Ints = will_be_new.astype(np.int64) - was_new
        return added

    def allowed_targets(self, parts: Ints, slots: Ints) -> tuple[Bools, Small]:
        """For each slot, the devices that may replace it and what each costs: [n, devices] both."""
        every = np.arange(len(parts))
        rows = self.table[:, parts]
        own = rows[slots, every]
        kept = rows.T[np.arange(len(rows)) != slots[:, None]].reshape(len(parts), len(rows) - 1).T
        slack = violations(self.shares, rows) - violations(self.shares, kept)
        allowed = np.repeat(~self.gone[None], len(parts), axis=0)
        for level, tier in enumerate(self.shares.tree.tiers):
            fits = self._fits(level, tier[kept], slack[level])
            allowed &= fits if level == len(LEVELS) - 1 else fits[:, tier]
        for row in rows:
            allowed[every, row] = False
        costs = np.ones(allowed.shape, np.int8)
        for previous in self.previous[:, parts]:
            costs[every, previous] = 0
        costs -= costs[every, own][:, None]
        allowed &= costs <= (self.budget[parts] - self.moved[parts])[:, None]
        return allowed, costs

    def _fits(self, level: int, kept: Ints, slack: Ints) -> Bools:
        """Per slot and domain: one replica more there leaves this level no worse than it was."""
        low, high = self.shares.low[level], self.shares.high[level]
        every = np.arange(len(slack))
        empty = (high <= 0).astype(np.int8) - (low > 0)
        fits: Bools = empty[None] <= slack.astype(np.int8)[:, None]
        for domain in kept:
            inside = (kept == domain).sum(0)
            adds = (inside >= high[domain]).astype(np.int64) - (inside < low[domain])
            fits[every, domain] = adds <= slack
        return fits

    def improving_targets(self, part: int, slot: int) -> Ints:
        """The devices that would spread the partition wider in this slot, within its budget."""
        count = len(self.have)
        every = np.arange(count)
        row = self.table[:, part]
        rows = np.repeat(row[:, None], count, axis=1)
        rows[slot] = every
        was, will = violations(self.shares, row[:, None]), violations(self.shares, rows)
        better = (will <= was).all(0) & (will.sum(0) < was.sum(0))
        better &= ~self.gone & ~(every[:, None] == row).any(1)
        parts = np.full(count, part)
        costs = self.costs(parts, np.full(count, row[slot]), every)
        return np.flatnonzero(better & (self.moved[part] + costs <= self.budget[part]))

    def _keeps_spread(self, level: int, rows: Ints, others: Bools, was: Ints) -> Bools:
        """Per slot and device: putting it there leaves this level no worse than it was."""
        low, high = self.shares.low[level], self.shares.high[level]
        tier = self.shares.tree.tiers[level]
        inside = np.zeros((rows.shape[1], len(low)), np.int64)
        for row, counts in zip(tier[rows], others, strict=True):
            inside[np.arange(rows.shape[1]), row] += counts
        without = np.maximum(inside - high, 0).sum(1) + np.maximum(low - inside, 0).sum(1)
        after = without[:, None] + (inside >= high) - (inside < low)
        keeps: Bools = (after <= was[:, None])[:, tier]
        return keeps

    def aligned(self) -> Ints:
        """The table with every replica that stayed in its previous column."""
        result = np.full_like(self.table, -1)
        for column, previous in enumerate(self.previous):
            stayed = (self.table == previous).any(0)
            result[column, stayed] = previous[stayed]
        for current in self.table:
            new = np.flatnonzero(~(self.previous == current).any(0))
            free = (result[:, new] == -1).argmax(0)
            result[free, new] = current[new]
        return result
