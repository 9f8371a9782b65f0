"""The placement of each policy, kept current with the map.

Lookups read an attribute; decoding a ring happens once per epoch.
"""

from collections.abc import Callable
from functools import partial

from pinfold.cluster.map import ClusterMap, MapStore, RingEntry
from pinfold.cluster.placement import RingPlacement
from pinfold.model.errors import Unavailable
from pinfold.model.ids import DeviceId, NodeName
from pinfold_ring import Ring


class Placements:
    """The newest placement of every policy. Whoever asks twice may see two epochs."""

    def __init__(self, map_store: MapStore) -> None:
        self._rings: dict[str, tuple[RingEntry, Ring]] = {}
        self._current: dict[str, RingPlacement] = {}
        self._take(map_store.get())
        map_store.watch(self._take)

    def of(self, policy: str) -> RingPlacement:
        """The policy's placement now; Unavailable when the map has no ring for it."""
        try:
            return self._current[policy]
        except KeyError:
            raise Unavailable(f"the cluster map has no ring for {policy}") from None

    def following(self, policy: str) -> Callable[[], RingPlacement]:
        """`of(policy)` as a function, for clients that ask anew at every call."""
        return partial(self.of, policy)

    def _take(self, current: ClusterMap) -> None:
        nodes = {DeviceId(device.id): NodeName(device.node) for device in current.devices}
        for policy, entry in current.rings.items():
            known = self._rings.get(policy)
            if known is None or known[0] != entry:
                known = (entry, Ring.from_bytes(entry.table))
                self._rings[policy] = known
            self._current[policy] = RingPlacement(known[1], nodes)
