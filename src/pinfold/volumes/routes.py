"""Which members an extent's requests go to, as they stand now."""

from collections.abc import Callable, Mapping
from typing import Final

from pinfold.model.ids import DeviceId
from pinfold.volumes.lane import Lane, Standing

ROUTES_KEPT: Final = 1 << 16
"""Extents whose members are remembered: 256 GiB of working set, about 10 MB."""


class Route:
    """The members of some extents and how they stand; replaced when any standing changes."""

    __slots__ = ("members", "readers", "targets", "waiting", "writable")

    def __init__(
        self, members: tuple[DeviceId, ...], lanes: Mapping[DeviceId, Lane], min_in_sync: int
    ) -> None:
        self.members = members
        present = [lanes[device] for device in members]
        self.waiting = tuple(lane.device for lane in present if lane.counted)
        self.targets = tuple(lane for lane in present if lane.standing is not Standing.OUT)
        self.readers = tuple(lane for lane in present if lane.standing is Standing.LIVE)
        self.writable = sum(lane.in_sync for lane in present) >= min_in_sync


class Routes:
    """The routes of extents, remembered until a standing changes."""

    def __init__(
        self,
        lanes: Mapping[DeviceId, Lane],
        place: Callable[[int], tuple[DeviceId, ...]],
        min_in_sync: int,
    ) -> None:
        self._lanes = lanes
        self._place = place
        self._min_in_sync = min_in_sync
        self._by_extent: dict[int, Route] = {}
        self._by_members: dict[tuple[DeviceId, ...], Route] = {}

    def of(self, extent: int) -> Route:
        """How the members of an extent stand. Equal members share one object."""
        return self._by_extent.get(extent) or self._find(extent)

    def _find(self, extent: int) -> Route:
        members = self._place(extent)
        route = self._by_members.get(members)
        if route is None:
            route = self._by_members[members] = Route(members, self._lanes, self._min_in_sync)
        if len(self._by_extent) >= ROUTES_KEPT:
            self._by_extent.clear()
        self._by_extent[extent] = route
        return route

    def forget(self) -> None:
        """Some member's standing has changed."""
        self._by_extent.clear()
        self._by_members.clear()
