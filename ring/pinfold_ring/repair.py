"""The last replicas: augmenting paths over devices, the textbook way to the exact optimum.

An overfull device a gives a replica to b, b gives one of its own to c, and so on until an underfull
device is reached. Each step is one allowed replacement in one partition. Because the rules of a
partition form a tree, such paths reach every table that single steps can reach. A step is free
when it redirects a replica that was moving anyway, and costs 1 when it adds a move; the cheapest
path is taken.
"""

from dataclasses import dataclass

import numpy as np

from pinfold_ring.mover import Bools, Mover
from pinfold_ring.shares import Ints

WORK_MAX = 1 << 26
"""Replacements (replica, device) weighed per rebalance: some 4 s. What is left then waits for the
next rebalance. A ring of 4,096 partitions x 3 on 100 devices comes to 10,000 steps."""

SLOTS_MAX = 4096
"""Replicas of one device considered at a time: bounds memory to slots times devices."""

LEFT_PER_MILLE = 50
"""Share of a table still to move beyond which no path is looked for: the budget of one move per
partition is used up, another rebalance is due and would do the same work again."""

SMALL_TABLE = 1 << 14
"""Replicas up to which paths are looked for whatever is left: it takes a moment."""

UNREACHED = 1 << 30
"""More than any path can cost."""

NOT_ALLOWED = 100
"""Marks a replacement that is not allowed among costs of at most 1."""


def repair(mover: Mover) -> None:
    """Bring devices to their quota along cheapest paths, as far as such paths exist."""
    left = int(mover.surplus.sum())
    if mover.table.size > SMALL_TABLE and left * 1000 > LEFT_PER_MILLE * mover.table.size:
        return
    work_left = WORK_MAX
    hopeless = np.zeros(len(mover.have), bool)
    while work_left > 0:
        sources = np.flatnonzero((mover.surplus > 0) & ~hopeless)
        if not len(sources) or not mover.deficit.any():
            return
        search = _Search.start(mover, sources[:1], mover.deficit > 0, hopeless)
        path = search.run()
        work_left -= search.work
        if path is None:
            hopeless |= search.done
        elif not _walk(mover, path):
            hopeless[sources[0]] = True


def widen(mover: Mover) -> None:
    """Spread partitions that could be spread wider, letting other partitions make up for it."""
    work_left = WORK_MAX
    slots = range(len(mover.table))
    for part in np.flatnonzero(mover.worse).tolist():
        worse = UNREACHED
        while work_left > 0 and mover.worse[part] < worse:
            worse = mover.worse[part]
            work_left -= sum(_widen_slot(mover, part, slot) for slot in slots)


def _widen_slot(mover: Mover, part: int, slot: int) -> int:
    """Move one replica to where it helps most cheaply, if anywhere; gives the work it took."""
    source = int(mover.table[slot, part])
    helps = mover.improving_targets(part, slot)
    if not len(helps):
        return 0
    search = _Search.start(mover, helps, np.arange(len(mover.have)) == source)
    path = search.run()
    if path is not None:
        first = path[0].source
        _walk(mover, [_Step(part, source, first), *path], unchecked=1)
    return search.work


def trim(mover: Mover) -> None:
    """Take back moves that free steps elsewhere can make up for."""
    work_left = WORK_MAX
    for home in np.flatnonzero(~mover.gone).tolist():
        while work_left > 0:
            guests = _returnable(mover, home)
            search = _Search.start(mover, np.array([home]), guests > 0)
            path = search.run() if (guests > 0).any() else None
            work_left -= search.work
            if path is None or search.distance[path[-1].target] > 0:
                break
            guest = path[-1].target
            if not _walk(mover, [_Step(int(guests[guest]) - 1, guest, home), *path]):
                break


def _returnable(mover: Mover, home: int) -> Ints:
    """Per device, 1 + a partition it took over from `home` and may give back for one move less."""
    left = (mover.previous == home).any(0) & ~(mover.table == home).any(0)
    parts = np.flatnonzero(left)
    result = np.zeros(len(mover.have), np.int64)
    for row in range(len(mover.table)):
        allowed, costs = mover.allowed_targets(parts, np.full(len(parts), row))
        fine = allowed[:, home] & (costs[:, home] < 0)
        result[mover.table[row, parts[fine]]] = parts[fine] + 1
    return result


def unlock(mover: Mover) -> None:
    """Begin a path that needs two moves in one partition; the next rebalance can go on from there.

    For a table that is unbalanced though no path fits the budgets: without this a drained device
    could keep a replica for ever.
    """
    free = mover.copy()
    free.budget += len(mover.table)
    for source in np.flatnonzero(mover.surplus).tolist():
        path = _Search.start(free, np.array([source]), mover.deficit > 0).run()
        if path is None:
            continue
        for step in path:
            if not _replace(mover, step):
                return
        return


@dataclass(frozen=True, slots=True)
class _Step:
    """One replacement: in `part`, `target` takes over from `source`.

    Without a part (-1) only the rounding of two fair shares changes: `source` may keep what it was
    given, and `target` gives one up instead.
    """

    part: int
    source: int
    target: int


@dataclass(slots=True)
class _Search:
    """Dijkstra over devices; edges are looked up when a device is reached."""

    mover: Mover
    goals: Bools
    done: Bools
    distance: Ints
    part: Ints
    source: Ints
    work: int = 0

    @classmethod
    def start(
        cls, mover: Mover, devices: Ints, goals: Bools, dead: Bools | None = None
    ) -> "_Search":
        count = len(mover.have)
        distance = np.full(count, UNREACHED)
        distance[devices] = 0
        none = np.full(count, -1)
        done = np.zeros(count, bool) if dead is None else dead.copy()
        return cls(mover, goals, done, distance, none.copy(), none.copy())

    def run(self) -> list[_Step] | None:
        """The cheapest path to a goal, or None."""
        while True:
            open_ = np.where(self.done, UNREACHED, 2 * self.distance - self.goals)
            device = int(open_.argmin())
            if open_[device] >= UNREACHED:
                return None
            if self.goals[device]:
                return self._trace(device)
            self.done[device] = True
            self._expand(device)

    def _expand(self, device: int) -> None:
        slots, parts = np.nonzero(self.mover.table == device)
        self._round_up(device)
        for start in range(0, len(parts), SLOTS_MAX):
            some = slice(start, start + SLOTS_MAX)
            allowed, costs = self.mover.allowed_targets(parts[some], slots[some])
            costs[costs < 0] = 0
            costs[~allowed] = NOT_ALLOWED
            best = costs.argmin(0)
            cheapest = costs[best, np.arange(len(self.distance))].astype(np.int64)
            cheapest[cheapest == NOT_ALLOWED] = UNREACHED
            reached = self.distance[device] + cheapest
            nearer = ~self.done & (reached < self.distance)
            self.distance[nearer] = reached[nearer]
            self.part[nearer] = parts[some][best[nearer]]
            self.source[nearer] = device
        self.work += (1 + len(parts)) * len(self.distance)

    def _round_up(self, device: int) -> None:
        """If `device` may keep one more, every device that may do with one less can be next."""
        mover = self.mover
        if mover.quota[device] >= mover.most[device] or mover.have[device] > mover.quota[device]:
            return
        spare = (mover.quota > mover.least) & (mover.have >= mover.quota)
        spare &= ~self.done & (self.distance[device] < self.distance)
        self.distance[spare] = self.distance[device]
        self.part[spare] = -1
        self.source[spare] = device

    def _trace(self, device: int) -> list[_Step]:
        path: list[_Step] = []
        while self.source[device] >= 0:
            source = int(self.source[device])
            path.append(_Step(int(self.part[device]), source, device))
            device = source
        return path[::-1]


def _walk(mover: Mover, path: list[_Step], unchecked: int = 0) -> bool:
    """Make all steps of the path, or none if an earlier one forbids a later one.

    The first `unchecked` steps are known to be right.
    """
    made: list[_Step] = []
    for index, step in enumerate(path):
        if not _replace(mover, step, checked=index >= unchecked):
            for undone in reversed(made):
                back = _Step(undone.part, undone.target, undone.source)
                _replace(mover, back, checked=False)
            return False
        made.append(step)
    return True


def _replace(mover: Mover, step: _Step, *, checked: bool = True) -> bool:
    if step.part < 0:
        mover.quota[step.source] += 1
        mover.quota[step.target] -= 1
        return True
    parts = np.array([step.part])
    slots = np.flatnonzero(mover.table[:, step.part] == step.source)
    if checked and (not len(slots) or not mover.allowed_targets(parts, slots)[0][0, step.target]):
        return False
    mover.replace(parts, slots, np.array([step.target]))
    return True
