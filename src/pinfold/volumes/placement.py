"""Where a volume's extents are, as the session needs to know it."""

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from pinfold.model.ids import DeviceId, VolumeId


class ExtentPlacement(Protocol):
    """One map version's placement of extents."""

    def members(self, volume: VolumeId, extent: int) -> tuple[DeviceId, ...]:
        """The devices that hold an extent."""
        ...

    def devices(self) -> tuple[DeviceId, ...]:
        """Every device that may hold an extent, in order."""
        ...

    def member_sets(self) -> Collection[tuple[DeviceId, ...]]:
        """Every set of members that occurs."""
        ...


class FunctionPlacement:
    """A placement made of a function and the member sets it yields."""

    def __init__(
        self,
        place: Callable[[VolumeId, int], tuple[DeviceId, ...]],
        member_sets: Iterable[tuple[DeviceId, ...]],
    ) -> None:
        self._place = place
        self._sets = tuple(dict.fromkeys(member_sets))
        self._devices = tuple(sorted({device for members in self._sets for device in members}))

    def members(self, volume: VolumeId, extent: int) -> tuple[DeviceId, ...]:
        """See `ExtentPlacement`."""
        return self._place(volume, extent)

    def devices(self) -> tuple[DeviceId, ...]:
        """See `ExtentPlacement`."""
        return self._devices

    def member_sets(self) -> Collection[tuple[DeviceId, ...]]:
        """See `ExtentPlacement`."""
        return self._sets


def spares(
    member_sets: Iterable[tuple[DeviceId, ...]], out: Collection[int], min_in_sync: int
) -> bool:
    """Whether every extent keeps `min_in_sync` members when `out` is out of sync (R3)."""
    return all(
        sum(device not in out for device in members) >= min_in_sync for members in member_sets
    )
