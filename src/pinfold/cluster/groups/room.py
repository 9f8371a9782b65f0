"""Which devices have room for rows that grow, by what their nodes tell in pings.

Deletes go on where everything else is refused, and need room themselves: for their entries, and for
the rows that say what they free. So a primary proposes nothing that grows once its own device is
half through its reserve, or so many of its members' are that no majority has room; members take
entries in for a while longer (`LogStore.append`). Members that acknowledge nothing at present help
no majority: while one is away the group needs a full one for every entry, deletes too, and would
use up its room for them.
"""

from collections.abc import Callable, Collection, Iterable

from pinfold.model.ids import DeviceId, NodeName


class Room:
    """See the module."""

    def __init__(self) -> None:
        self._own: dict[DeviceId, Callable[[], bool]] = {}
        self._elsewhere: dict[NodeName, frozenset[DeviceId]] = {}

    def watch(self, device: DeviceId, full: Callable[[], bool]) -> None:
        """A device of this node; `full` as `LogStore.full`."""
        self._own[device] = full

    def tell(self) -> list[DeviceId]:
        """The full devices of this node."""
        return [device for device, full in self._own.items() if full()]

    def heard(self, node: NodeName, full: Iterable[int]) -> None:
        """What another node tells of its devices."""
        self._elsewhere[node] = frozenset(map(DeviceId, full))

    def full(self, device: DeviceId) -> bool:
        """Whether a device, of any node, has no room for rows that grow."""
        own = self._own.get(device)
        return own() if own else any(device in told for told in self._elsewhere.values())

    def grows(
        self,
        primary: DeviceId,
        members: Collection[DeviceId],
        absent: Callable[[DeviceId], bool],
    ) -> bool:
        """Whether a group may take in what grows. `absent` members are away, or copy its rows.

        Where none is full that is not asked: a group without a majority is no full one.
        """
        if self.full(primary):
            return False
        without = set(filter(self.full, members))
        if without:
            without.update(filter(absent, members))
        return 2 * len(without) < len(members)
