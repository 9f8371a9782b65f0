"""Which parts of a cluster were disturbed, and when: what failed elsewhere had no excuse.

Looks from outside, often, whatever the faults are: at nodes that are down or stopped, at devices
that do not serve, at cuts, at disks, clocks and a network that are not as they were in the
beginning, and at members of groups that do not count yet. A node is disturbed until all of that is
over.
"""

import asyncio
import dataclasses
from typing import Final

from pinfold.cluster.groups.results import RESULTS_MAX
from pinfold.cluster.map import METADATA
from pinfold.sim.checkers.history import Disturbance
from pinfold.sim.cluster import SimCluster
from pinfold.sim.faults.stage import Stage
from pinfold.sim.inspection import group_status_of

EVERYTHING: Final = "everything"
"""Disturbed when the network is, or who the members are, or by more changes than a group takes."""

_LOOK_S: Final = 0.025
"""Between two looks. What is over sooner is told by lives, which only grow."""

_STANDINGS: Final = frozenset(("member", "outside"))
"""Of a group's log on a device that owes it nothing."""

_FORGETFUL: Final = frozenset(("swap", "lost-index", "lost-memory", "rot", "rot-named", "rot-rows"))
"""Faults after which the victim's copies count for nothing until they are made again."""


class Weather:
    """Watches a cluster from now on."""

    def __init__(self, cluster: SimCluster, stage: Stage) -> None:
        self._cluster = cluster
        self._stage = stage
        world = cluster.world
        self._disks = {
            name: dataclasses.replace(world.node(name).disk.faults) for name in cluster.names
        }
        self._net = dataclasses.replace(world.net.faults)
        self._lives = dict(cluster.lives)
        self._skews = {name: world.node(name).skew_s for name in cluster.names}
        self._ring = cluster.map.rings[METADATA].epoch
        self._since: dict[str, float] = {}
        if _FORGETFUL & cluster.plan.faults.keys():
            self._since[str(stage.victim.node)] = world.loop.now

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            self._look()
            await asyncio.sleep(_LOOK_S)

    def end(self) -> None:
        """Tell the history of what still lasts."""
        for subject, since in self._since.items():
            self._tell(subject, since)

    def _look(self) -> None:
        for subject in (EVERYTHING, *self._cluster.names):
            if subject in self._since and self._for_good(subject):
                continue
            if self._is_disturbed(subject):
                self._since.setdefault(subject, self._cluster.world.loop.now - _LOOK_S)
            elif subject in self._since:
                self._tell(subject, self._since.pop(subject))

    def _tell(self, subject: str, since: float) -> None:
        now = self._cluster.world.loop.now
        self._cluster.recorder.disturbed(Disturbance(subject=subject, began=since, ended=now))

    def _for_good(self, name: str) -> bool:
        victim = name == self._stage.victim.node
        return victim and bool(_FORGETFUL & self._cluster.plan.faults.keys())

    def _is_disturbed(self, name: str) -> bool:
        cluster, world = self._cluster, self._cluster.world
        if name == EVERYTHING:
            before, self._ring = self._ring, cluster.map.rings[METADATA].epoch
            return before != self._ring or world.net.faults != self._net or self._is_crowded()
        node, life = world.node(name), cluster.lives.get(name, 0)
        skew_s, before_s = node.skew_s, self._skews[name]
        reborn = life != self._lives[name] or skew_s != before_s
        self._lives[name], self._skews[name] = life, skew_s
        process = cluster.storage.get(name) or cluster.gateways.get(name)
        if reborn or process is None or node.process is None or node.process.frozen:
            return True
        if node.disk.faults != self._disks[name] or self._is_cut(name):
            return True
        return name in cluster.plan.storage and name in self._since and self._owes(name)

    def _is_crowded(self) -> bool:
        """Whether a group refuses changes: it has made as many as it may for some time."""
        cluster = self._cluster
        if cluster.plan.limits.results_max == RESULTS_MAX:
            return False
        return any(
            one["crowded"] for name in cluster.storage for one in group_status_of(cluster, name)
        )

    def _is_cut(self, name: str) -> bool:
        """Whether a node does not hear another; of calm runs the victim is to blame."""
        victim = str(self._stage.victim.node)
        besides = victim if self._cluster.plan.calm and name != victim else ""
        return self._cluster.world.net.has_cut(name, besides=besides)

    def _owes(self, name: str) -> bool:
        """Whether a storage node that was disturbed is still behind with something."""
        process = self._cluster.storage[name]
        if any(device["state"] != "serving" for device in process.role.status()["devices"]):
            return True
        logs = group_status_of(self._cluster, name)
        return any(log["standing"] not in _STANDINGS for log in logs)
