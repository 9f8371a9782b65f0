"""What the row log needs to know about the cluster: who should be members and where they live."""

from collections.abc import Callable
from typing import Protocol

from pinfold.model.ids import DeviceId, GroupId, NodeName


class Membership(Protocol):
    """The metadata ring joined with the cluster map."""

    def members(self, group: GroupId) -> tuple[DeviceId, ...]:
        """The devices that the ring wishes to be a group's members, in the ring's order.

        A wish: who the members are, the group's log says.
        """
        ...

    def founding(self) -> bool:
        """Whether the ring is the cluster's first: later ones never let empty logs begin a group,
        which exists already, on the members it had before.
        """
        ...

    def node_of(self, device: DeviceId) -> NodeName:
        """The node that serves a device; Unavailable when it is not known."""
        ...


GroupOf = Callable[[bytes], GroupId]
"""The group that a placement key hashes to."""
