"""Extents of volumes that are gone: a device that was away during a deletion has them still.

A worker (see `care.worker`) of each storage node, for its own devices. What a device has is listed
first, then every volume's row is read; no volume is without an index row (see `Registry`), so one
that has extents and no row by then was deleted, or never came to be. It is dropped when the next
round finds the same.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Final

import structlog

from pinfold.care.worker import Found
from pinfold.cluster.api import Rows
from pinfold.cluster.extents import ExtentClient
from pinfold.device.api import Device
from pinfold.model.ids import DeviceId, VolumeId
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.registry import DROP_S, Registry
from pinfold.volumes.row import decode_volume, key_of, place_of

_log: Final = structlog.get_logger("pinfold.care")

PAGE: Final = 64
"""Rows read in one step."""

VOLUMES_PAGE: Final = 1000
"""Volumes of a device listed in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A volume's extents on one device, named by nobody."""

    device: DeviceId
    volume: VolumeId

    @property
    def key(self) -> tuple[DeviceId, VolumeId]:
        """See `Job`."""
        return self.device, self.volume

    @property
    def rank(self) -> int:
        """See `Job`: none is urgent."""
        return 0

    @property
    def size(self) -> int:
        """See `Job`: nothing is moved."""
        return 0


class Leftovers:
    """The worker; see `care.worker.Worker`.

    Invariant: `_held` was complete before the first row of the round was asked for.
    """

    name = "extents"

    def __init__(
        self,
        now: Callable[[], float],
        rows: Rows,
        extents: ExtentClient,
        registry: Registry,
        devices: Mapping[DeviceId, Device],
        settings: VolumeSettings,
    ) -> None:
        self._now = now
        self._rows = rows
        self._extents = extents
        self._registry = registry
        self._devices = devices
        self._settings = settings
        self._held: set[tuple[DeviceId, VolumeId]] = set()
        self._suspects: Set[tuple[DeviceId, VolumeId]] = frozenset()
        """Without a row in the round before."""
        self._next: str | None = None
        """The name behind which rows are read; None before the round begins."""

    async def find(self, room: int) -> Found[Drop]:
        """See `Worker`: what devices have, then a page of rows."""
        if self._next is None:
            self._held = self._list()
            if not self._held:
                self._suspects = frozenset()
                return Found(wait_s=self._settings.tend_round_s)
            self._next = ""
        names = await self._registry.indexed(self._next, PAGE)
        for name in names:
            found = await self._rows.get(place_of(name), key_of(name))
            if found is not None:
                living = decode_volume(found.body).id
                self._held = {held for held in self._held if held[1] != living}
        if names:
            self._next = names[-1]
            return Found()
        self._next = None
        unnamed, again = self._held, self._held & self._suspects
        self._held, self._suspects = set(), unnamed
        jobs = [Drop(device=device, volume=volume) for device, volume in sorted(again)[:room]]
        return Found(jobs=jobs, wait_s=self._settings.tend_round_s)

    async def run(self, job: Drop) -> int:
        """See `Worker`."""
        deadline = self._now() + DROP_S
        await self._extents.drop(job.device, job.volume, deadline=deadline)
        _log.info("dropped a deleted volume", device=job.device, volume=job.volume.hex())
        return 0

    def gave_up(self, job: Drop) -> None:
        """See `Worker`: later rounds find it again."""

    def _list(self) -> set[tuple[DeviceId, VolumeId]]:
        found: set[tuple[DeviceId, VolumeId]] = set()
        for device, opened in self._devices.items():
            page = opened.extents.volumes(b"", VOLUMES_PAGE)
            while page:
                found.update((device, volume) for volume in page)
                page = opened.extents.volumes(page[-1], VOLUMES_PAGE)
        return found
