"""Removes orphans from this node's devices: blobs that no row names and none ever will.

They are left by puts whose client went away, by copies that came after a put was done with, by
copies made of a blob while it was freed. See `sweep` for how it is decided and why that is safe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from pinfold.care.namefilter import NameFilter, bits_for
from pinfold.care.names import PAGE_ROWS, names_page
from pinfold.care.sweep import SUSPECTS_MAX, Held, Suspects, Sweep
from pinfold.care.worker import Found
from pinfold.cluster.groups.client import RowClient
from pinfold.device.api import Device
from pinfold.env.api import Env
from pinfold.model.errors import Busy
from pinfold.model.ids import BlobId, DeviceId, GroupId
from pinfold.model.settings import CareSettings

_log: Final = structlog.get_logger("pinfold.care")

BATCH: Final = 64
"""Blobs in one job."""

WALK: Final = 1000
"""Blobs of a device looked at in one step: a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Orphans of one device."""

    device: DeviceId
    blobs: tuple[BlobId, ...]

    @property
    def key(self) -> tuple[DeviceId, BlobId]:
        """See `Job`."""
        return self.device, self.blobs[0]

    @property
    def rank(self) -> int:
        """See `Job`: none is urgent."""
        return 0

    @property
    def size(self) -> int:
        """See `Job`: nothing is moved."""
        return 0


class Collector:
    """The worker; see `worker.Worker`."""

    name = "collector"

    def __init__(
        self,
        env: Env,
        rows: RowClient,
        groups: Callable[[], Sequence[GroupId]],
        devices: Mapping[DeviceId, Device],
        settings: CareSettings,
    ) -> None:
        self._clock = env.clock
        self._rng = env.rng
        self._rows = rows
        self._groups = groups
        self._devices = devices
        self._settings = settings
        self._grace_ms = int(settings.orphan_grace_s * 1000)
        self._suspects = Suspects(settings.orphan_recheck_s)
        self._sweep: Sweep | None = None
        self._sweep_at = env.clock.monotonic() + settings.settle_s
        self._named = 0
        """Names that the latest sweep met: the next filter is made for as many."""
        self._walks: list[_Walk] = []
        self._unnamed: list[Held] = []
        self.collected = 0
        """Orphans removed."""

    @property
    def suspected(self) -> int:
        """Blobs that the latest sweep found unnamed."""
        return len(self._suspects)

    async def find(self, room: int) -> Found[Collect]:
        """See `Worker`: one page of names, or one stretch of a device's blobs."""
        now = self._clock.monotonic()
        if self._sweep is None:
            if now < self._sweep_at:
                return Found(wait_s=self._sweep_at - now)
            self._sweep = self._begin(now)
        sweep = self._sweep
        if sweep.question is not None:
            await self._ask(sweep)
        elif self._walks:
            self._walk(sweep)
        else:
            return Found(jobs=self._judge(sweep, room))
        return Found()

    async def run(self, job: Collect) -> int:
        """See `Worker`."""
        await self._devices[job.device].blobs.delete(job.blobs)
        self.collected += len(job.blobs)
        _log.info("orphans collected", device=job.device, blobs=len(job.blobs))
        return 0

    def gave_up(self, job: Collect) -> None:
        """See `Worker`: they are suspects still."""

    def _begin(self, now: float) -> Sweep:
        names = NameFilter(bits_for(2 * self._named), self._rng.getrandbits(64))
        self._walks = [
            _Walk(device, scan)
            for device, opened in self._devices.items()
            for scan in (opened.blobs.scan, opened.blobs.scan_quarantined)
        ]
        self._unnamed = []
        return Sweep(self._groups(), names, now, int(self._clock.wall() * 1000))

    async def _ask(self, sweep: Sweep) -> None:
        """One question. What fails is asked again: an answer late is as good."""
        assert sweep.question is not None
        group, start, only_token = sweep.question
        page = await names_page(self._rows, group, start, 0 if only_token else PAGE_ROWS)
        try:
            sweep.answered(page)
        except Busy:
            self._sweep = None
            self._sweep_at = self._clock.monotonic() + self._settings.orphan_recheck_s
            raise

    def _walk(self, sweep: Sweep) -> None:
        walk = self._walks[-1]
        held = walk.scan(walk.after, WALK)
        unnamed = ((walk.device, blob) for blob, _ in held if sweep.unnamed(blob, self._grace_ms))
        self._unnamed += islice(unnamed, SUSPECTS_MAX - len(self._unnamed))
        if len(held) < WALK:
            self._walks.pop()
        else:
            walk.after = held[-1][0]

    def _judge(self, sweep: Sweep, room: int) -> list[Collect]:
        """The sweep is over; what does not find room is a suspect still."""
        self._sweep = None
        self._named = sweep.names.count
        orphans: dict[DeviceId, list[BlobId]] = {}
        for device, blob in self._suspects.judge(sweep.began, self._unnamed):
            orphans.setdefault(device, []).append(blob)
        wait_s = self._suspects.next_sweep_s(sweep.began)
        if wait_s is None:
            wait_s = self._settings.orphan_round_s
        soonest_s = min(self._settings.orphan_recheck_s, self._settings.orphan_round_s)
        self._sweep_at = sweep.began + max(wait_s, soonest_s)
        self._unnamed = []
        jobs = [
            Collect(device=device, blobs=tuple(blobs[first : first + BATCH]))
            for device, blobs in orphans.items()
            for first in range(0, len(blobs), BATCH)
        ]
        return jobs[:room]


@dataclass(slots=True)
class _Walk:
    """How far the blobs of a device have been looked at."""

    device: DeviceId
    scan: Callable[[bytes, int], list[tuple[BlobId, int]]]
    after: bytes = b""
