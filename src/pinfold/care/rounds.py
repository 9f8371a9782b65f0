"""When each group's named blobs are compared with the devices, and how far that has come.

A round reads all rows of a group, a page at a time from the last to the
first, and asks the nodes what their devices lack. A full round asks every
node: soon after this node begins to lead the group, and once a `round_s` after that. A short one
asks only nodes whose devices may lack something: returned ones, ones that did not answer, ones
where a repair was given up. The rule of this file: no I/O and no clock.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from pinfold.model.ids import GroupId, NodeName

AGAIN_MAX_S: Final = 3600.0
"""Longest pause before a node that did not answer is asked again: a full device may have room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next page to look at."""

    group: GroupId
    end: bytes | None
    """The page's rows come before this; None: from the last row on."""
    only: frozenset[NodeName] | None
    """Nodes to ask; None: all."""


@dataclass(slots=True)
class _Group:
    full_at: float
    running: bool = False
    end: bytes | None = None
    only: frozenset[NodeName] | None = None
    wanted: set[NodeName] = field(default_factory=set)
    """Nodes that the next round must ask."""
    wanted_at: float = 0.0
    retries: int = 0
    failed: set[NodeName] = field(default_factory=set)
    """Nodes that did not answer in the running round."""


@dataclass(slots=True, kw_only=True)
class Rounds:
    """The groups led here. Invariant: whoever is wanted is asked about every page from then on."""

    settle_s: float
    round_s: float
    again_s: float
    _groups: dict[GroupId, _Group] = field(default_factory=dict)
    _turn: int = 0

    def lead(self, groups: Collection[GroupId], now: float) -> None:
        """These are led now: a new one begins with a full round, one that is gone is forgotten."""
        for group in [group for group in self._groups if group not in groups]:
            del self._groups[group]
        for group in groups:
            if group not in self._groups:
                self._groups[group] = _Group(full_at=now + self.settle_s)

    def returned(self, nodes: Collection[NodeName], now: float) -> None:
        """These may have missed something until now."""
        for group in self._groups.values():
            group.wanted.update(nodes)
            group.wanted_at = now + self.settle_s
            group.retries = 0

    def missed(self, node: NodeName, now: float, group: GroupId | None = None) -> None:
        """A copy that this node lacks was not made: look again in its group, or in all.

        Later and later: it may be one that nobody has any more.
        """
        for number, known in self._groups.items():
            if group is None or number == group:
                self._again(known, {node}, now)

    def next(self, now: float) -> Step | None:
        """The page to look at, in turn among the groups; None when no round is due."""
        groups = list(self._groups.items())
        for offset in range(len(groups)):
            number, group = groups[(self._turn + offset) % len(groups)]
            if not group.running and not self._begin(group, now):
                continue
            self._turn += offset + 1
            return Step(group=number, end=group.end, only=group.only)
        return None

    def looked(
        self, group: GroupId, next_end: bytes | None, failed: Collection[NodeName], now: float
    ) -> None:
        """A page was compared; None: it was the round's last. `failed` could not be asked."""
        known = self._groups.get(group)
        if known is None or not known.running:
            return
        known.failed.update(failed)
        known.end = next_end
        if next_end is not None:
            return
        known.running = False
        if known.only is None:
            known.full_at = now + self.round_s
        if known.failed:
            self._again(known, known.failed, now)
            known.failed = set()
        elif known.only is None:
            known.retries = 0

    def wait_s(self, now: float) -> float:
        """Until a round is due."""
        if any(group.running for group in self._groups.values()):
            return 0.0
        due = [group.full_at for group in self._groups.values()]
        due += [group.wanted_at for group in self._groups.values() if group.wanted]
        return max(0.0, min(due, default=now + self.round_s) - now)

    def _again(self, group: _Group, nodes: Collection[NodeName], now: float) -> None:
        pause_s = min(self.again_s * 2.0 ** min(group.retries, 32), self.round_s, AGAIN_MAX_S)
        if not group.wanted:
            group.wanted_at = now + pause_s
            group.retries += 1
        group.wanted.update(nodes)

    def _begin(self, group: _Group, now: float) -> bool:
        if now >= group.full_at:
            group.only = None
        elif group.wanted and now >= group.wanted_at:
            group.only = frozenset(group.wanted)
        else:
            return False
        group.wanted.clear()
        group.running = True
        return True
