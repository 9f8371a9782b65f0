"""From the previous table towards the quotas, with as few moves as possible.

The bulk is done in rounds over the whole table: every partition that may move proposes one replica
of an overfull device, proposals are dealt to underfull devices, and those that keep the partition
spread are made. What is left is settled by `repair`, exactly, one replica at a time.
"""

import numpy as np

from pinfold_ring.mover import Bools, Mover
from pinfold_ring.repair import repair, trim, unlock, widen
from pinfold_ring.scatter import hashes, hashes_of
from pinfold_ring.shares import LEVELS, Ints, Shares
from pinfold_ring.spread import violations

CYCLES_MAX = 12
"""Cycles over the levels for one aim; each makes most of the moves still possible, and a cycle
without a move ends them early."""

WIDEN_ONE_BY_ONE = 256
"""Partitions not widest spread up to which each gets the cheapest remedy; more are treated in bulk
first, which may cost up to one more move each."""

URGENT_ROUNDS = 6
"""First rounds that give away only half of what is left, so that devices whose replicas are hard to
place are served before the partitions they need are used up."""


def rebalance(shares: Shares, quota: Ints, previous: Ints, gone: Bools) -> Ints:
    """The next table [replicas, parts], in device positions of the tree."""
    mover = Mover(shares, quota, previous, gone)
    least = int(mover.surplus.sum())
    _settle(mover)
    if np.count_nonzero(mover.worse) > WIDEN_ONE_BY_ONE:
        mover = _widen(mover)
    widen(mover)
    if int(mover.moved.sum()) > least:
        trim(mover)
    if mover.surplus.any() and not mover.moved.any():
        unlock(mover)
    return mover.aligned()


def _settle(mover: Mover) -> None:
    """Bring every device as near to its quota as the budgets allow."""
    turn = 0
    for aim in range(3):
        for _ in range(CYCLES_MAX):
            made = 0
            for level in range(len(LEVELS)):
                if not mover.surplus.any():
                    return
                made += _round(mover, level, aim, turn)
                turn += 1
            if not made:
                break
    repair(mover)
    if mover.gone[mover.table].any():
        _evacuate(mover)
        repair(mover)


def _round(mover: Mover, level: int, aim: int, turn: int) -> int:
    """Offer replicas of overfull devices to underfull ones inside the same domain above `level`."""
    parts, slots = _sources(mover, turn)
    if not len(parts):
        return 0
    targets = np.repeat(np.arange(len(mover.have)), mover.deficit)
    above = mover.shares.tree.tiers[level - 1] if level else np.zeros_like(mover.have)
    noise = hashes(len(parts) + len(targets), 1000 + turn)
    offered = np.lexsort((noise[: len(parts)], above[mover.table[slots, parts]]))
    wanted = np.lexsort((noise[len(parts) :], above[targets]))
    parts, slots, targets = parts[offered], slots[offered], targets[wanted]
    from_domain, to_domain = above[mover.table[slots, parts]], above[targets]
    rank = np.arange(len(parts)) - np.searchsorted(from_domain, from_domain)
    pick = np.searchsorted(to_domain, from_domain) + rank
    met = pick < np.searchsorted(to_domain, from_domain, side="right")
    return mover.try_moves(parts[met], slots[met], targets[pick[met]], aim)


def _sources(mover: Mover, turn: int) -> tuple[Ints, Ints]:
    """One replica of every partition that may move, no more per device than it should lose."""
    surplus = mover.surplus
    parts, movable = mover.movable()
    devices = mover.table[:, parts]
    offers = np.bincount(devices[movable], minlength=len(surplus))
    urgency = surplus / np.maximum(1, offers)
    noise = hashes_of(parts * len(devices) + np.arange(len(devices))[:, None], turn)
    score = urgency[devices] + (noise >> np.uint64(11)) * (0.05 / 2**53)
    slots = np.where(movable, score, -1.0).argmax(0)
    device = devices[slots, np.arange(len(parts))]
    order = np.lexsort((noise[0], mover.worse[parts] == 0, device))
    device = device[order]
    rank = np.arange(len(order)) - np.searchsorted(device, device)
    give = (surplus + 1) // 2 if turn < URGENT_ROUNDS else surplus
    chosen = order[rank < give[device]]
    return parts[chosen], slots[chosen]


def _evacuate(mover: Mover) -> None:
    """Find a home for the last replicas of removed devices, spread or not: they cannot stay."""
    for slot, part in np.argwhere(mover.gone[mover.table]).tolist():
        row = mover.table[:, part]
        free = np.flatnonzero((mover.quota > 0) & ~np.isin(np.arange(len(mover.have)), row))
        rows = np.repeat(row[:, None], len(free), axis=1)
        rows[slot] = free
        worse = violations(mover.shares, rows).sum(0)
        load = mover.have[free] - mover.quota[free]
        best = free[np.lexsort((free, load, worse))[0]]
        mover.replace(np.array([part]), np.array([slot]), np.array([best]))


def _widen(mover: Mover) -> Mover:
    """Also move replicas of partitions that could be spread wider though no device is overfull.

    Each such move unbalances two devices and others must make up for it; when that does not work
    out the state before is kept.
    """
    before_worse, before_surplus = int(mover.worse.sum()), int(mover.surplus.sum())
    trial = mover.copy()
    for turn in range(URGENT_ROUNDS):
        _spread_round(trial, turn)
    _settle(trial)
    better = int(trial.worse.sum()) < before_worse
    return trial if better and int(trial.surplus.sum()) <= before_surplus else mover


def _spread_round(mover: Mover, turn: int) -> None:
    """Move one replica of partitions that are not widest spread to wherever that helps."""
    parts = np.flatnonzero((mover.worse > 0) & (mover.moved == 0) & (mover.forced == 0))
    if not len(parts):
        return
    table, noise = mover.table, hashes(len(parts) * len(mover.table), turn)
    weights = np.maximum(mover.quota, 0)
    homes = np.repeat(np.arange(len(weights)), weights)
    slots = (noise[: len(parts)] % np.uint64(len(table))).astype(np.int64)
    picks = (noise[-len(parts) :] >> np.uint64(8)) % np.uint64(len(homes))
    mover.try_moves(parts, slots, homes[picks.astype(np.int64)], 1)
