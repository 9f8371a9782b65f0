"""The cluster map of a simulated cluster: one agreed value, seen by each process a little late.

It stands for a store outside of the nodes that never loses anything: what is under test is the
cluster around it.
"""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Final

from pinfold.cluster.map import ClusterMap, Edit
from pinfold.sim.loop import Process, SimLoop

_NEWS_S: Final = 0.2
"""Longest delay after which a process sees a new map: twice the embedded map's polling."""

_UPDATE_S: Final = 0.02
"""Longest time that an update takes."""


class SharedMap:
    """What all processes agree on; `of` gives each its `MapStore`."""

    def __init__(self, first: ClusterMap, loop: SimLoop, seed: int | str) -> None:
        self.current = first
        self.loop = loop
        self.rng = random.Random(f"{seed}/map")
        self._stores: list[SimMapStore] = []

    def of(self, process: Process) -> "SimMapStore":
        """The map as one process sees it from now on."""
        self._stores = [store for store in self._stores if store.process.alive]
        store = SimMapStore(self, process)
        self._stores.append(store)
        return store

    def replace(self, following: ClusterMap) -> None:
        """Agree on a new map and let everybody hear of it."""
        self.current = following
        for store in self._stores:
            delay = self.rng.uniform(0, _NEWS_S)
            self.loop.after(delay, store.process, partial(store.adopt, following))


class SimMapStore:
    """The simulated `MapStore` of one process."""

    def __init__(self, shared: SharedMap, process: Process) -> None:
        self._shared = shared
        self.process = process
        self._seen = shared.current
        self._watchers: list[Callable[[ClusterMap], None]] = []
        self._closed = False

    def get(self) -> ClusterMap:
        """See `MapStore`."""
        return self._seen

    async def update(self, edit: Edit) -> ClusterMap:
        """See `MapStore`."""
        await asyncio.sleep(self._shared.rng.uniform(0, _UPDATE_S))
        current = self._shared.current
        following = edit(current)
        if following is not current:
            assert following.version == current.version + 1, "an edit makes the next version"
            self._shared.replace(following)
        self.adopt(following)
        return self._seen

    def watch(self, callback: Callable[[ClusterMap], None]) -> None:
        """See `MapStore`."""
        self._watchers.append(callback)

    async def close(self) -> None:
        """See `MapStore`."""
        self._closed = True

    def adopt(self, fresh: ClusterMap) -> None:
        """Hear of a map."""
        if self._closed or fresh.version <= self._seen.version:
            return
        self._seen = fresh
        for callback in self._watchers:
            callback(fresh)
