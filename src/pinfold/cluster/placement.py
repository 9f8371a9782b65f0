"""Where things are: the arithmetic of rings joined with the map's devices and nodes.

A `Placement` is one policy's view of one map version; it is replaced whole when the map changes,
so every lookup within a call sees one ring. No I/O.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from pinfold.model.errors import Unavailable
from pinfold.model.ids import DeviceId, NodeName
from pinfold_ring import Ring


class Placement(Protocol):
    """One policy's placement, as of now."""

    def primaries(self, key: bytes) -> tuple[DeviceId, ...]:
        """The devices that should hold what hashes from `key`, in the ring's order."""
        ...

    def handoffs(self, key: bytes) -> Iterator[DeviceId]:
        """Every other device, in the order to try when a primary cannot take a copy."""
        ...

    def node_of(self, device: DeviceId) -> NodeName:
        """The node that serves a device; Unavailable when the map does not know it."""
        ...


def known_node(placement: Placement, device: DeviceId) -> NodeName | None:
    """The node that serves a device; None when it has left the cluster."""
    try:
        return placement.node_of(device)
    except Unavailable:
        return None


class RingPlacement:
    """A ring and the nodes that serve its devices."""

    def __init__(self, ring: Ring, nodes: Mapping[DeviceId, NodeName]) -> None:
        self._ring = ring
        self._nodes = nodes

    @property
    def partitions(self) -> int:
        """How many partitions the ring has."""
        return self._ring.parts

    @property
    def epoch(self) -> int:
        """The ring's number: 1 for a cluster's first."""
        return self._ring.epoch

    def partition(self, key: bytes) -> int:
        """The partition that `key` hashes to; for the metadata policy this is a group."""
        return self._ring.partition(key)

    def members(self, partition: int) -> tuple[DeviceId, ...]:
        """The devices of a partition, in the ring's order."""
        return tuple(map(DeviceId, self._ring.devices_of(partition)))

    def primaries(self, key: bytes) -> tuple[DeviceId, ...]:
        """See `Placement`."""
        return self.members(self._ring.partition(key))

    def handoffs(self, key: bytes) -> Iterator[DeviceId]:
        """See `Placement`."""
        return map(DeviceId, self._ring.handoffs(self._ring.partition(key)))

    def node_of(self, device: DeviceId) -> NodeName:
        """See `Placement`."""
        try:
            return self._nodes[device]
        except KeyError:
            raise Unavailable(f"device {device} is not in the cluster map") from None
