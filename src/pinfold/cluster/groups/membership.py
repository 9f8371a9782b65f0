"""What the row log needs to know about the cluster: who the members are and where they live."""

from collections.abc import Callable
from typing import Protocol

from pinfold.model.ids import DeviceId, GroupId, NodeName


class Membership(Protocol):
    """The metadata ring joined with the cluster map."""

    def members(self, group: GroupId) -> tuple[DeviceId, ...]:
        """The members of a group, in the ring's order; the same everywhere."""
        ...

    def node_of(self, device: DeviceId) -> NodeName:
        """The node that serves a device; Unavailable when it is not known."""
        ...


GroupOf = Callable[[bytes], GroupId]
"""The group that a placement key hashes to."""
