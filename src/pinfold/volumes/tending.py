"""Volumes that nobody holds are looked after too: made whole again, and given back.

A worker (see `care.worker`) of the node that leads the group of the volumes' index. It takes a
volume as a gateway would, serves nobody, and makes room for whoever comes with a client: taking the
volume is then all it takes, for no answer was ever given that could be lost or contradicted. It
never takes a volume from a holder that lives.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pinfold.care.worker import Found
from pinfold.cluster.api import Rows
from pinfold.cluster.extents import ExtentClient
from pinfold.env.api import Env
from pinfold.model.errors import NotFound, PinfoldError, Unavailable
from pinfold.model.ids import Boot, DeviceId, DeviceUuid, NodeName, VolumeId
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.lease import Lease, Silence
from pinfold.volumes.placement import ExtentPlacement
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import Holder, Told, VolumeRow, decode_volume, key_of, place_of
from pinfold.volumes.session import Session

PAGE: Final = 64
"""Volumes looked at in one step."""

LOOK_S: Final = 0.05
"""How often a volume that is being tended is looked at."""

CLOSE_S: Final = 5.0
"""Time to flush a volume and give it back."""

Openings = Mapping[DeviceId, tuple[DeviceUuid, Boot]]
"""The devices that answered: which each is, and at which boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tend:
    """One volume to be made whole."""

    name: str
    rank: int
    """See `Job`: those with the fewest copies first."""

    @property
    def key(self) -> str:
        """See `Job`."""
        return self.name

    @property
    def size(self) -> int:
        """See `Job`: what a session copies has a pace of its own."""
        return 0


def needs(row: VolumeRow, openings: Openings) -> int | None:
    """How urgent it is to tend a volume that nobody holds: a rank, or None when it is well."""
    if row.state != "ready":
        return 0 if row.state == "deleting" else None  # its creator, or the next one, goes on
    if row.out:
        return 1 + row.copies - len(row.out)
    if row.trust:
        return 1 + row.copies
    if row.cut[0] < row.cut[1] or (row.seen and _changed(row, openings)):
        return 2 + row.copies
    return None


def _changed(row: VolumeRow, openings: Openings) -> bool:
    """Whether a device is not as it was when the volume was last known to be well."""
    return any(
        row.seen.get(device) != boot or row.uuids.get(device) != uuid
        for device, (uuid, boot) in openings.items()
    )


class Tending:
    """The worker; see `care.worker.Worker`."""

    name = "volumes"

    def __init__(
        self,
        env: Env,
        rows: Rows,
        extents: ExtentClient,
        placement: ExtentPlacement,
        *,
        node: NodeName,
        boot: Boot,
        leads: Callable[[], bool],
        settings: VolumeSettings,
    ) -> None:
        self._env = env
        self._now = env.clock.monotonic
        self._rows = rows
        self._extents = extents
        self._placement = placement
        self._node = node
        self._boot = boot
        self._leads = leads
        self._settings = settings
        self._registry = Registry(env, rows, extents, placement.devices, settings)
        self._next: str | None = None
        self._openings: Openings = {}
        self._silences: dict[str, Silence] = {}
        """Of held volumes met in this round and the one before."""
        self._heard: dict[str, Silence] = {}
        self._incarnations = 0

    async def find(self, room: int) -> Found[Tend]:
        """See `Worker`: a page of volumes."""
        if not self._leads():
            self._next, self._silences, self._heard = None, {}, {}
            return Found(wait_s=self._settings.takeover_s)
        if self._next is None:
            self._next, self._openings = "", await self._ask_devices()
        names = await self._registry.indexed(self._next, min(room, PAGE))
        jobs = [job for job in [await self._judge(name) for name in names] if job is not None]
        if names:
            self._next = names[-1]
            return Found(jobs=jobs)
        self._next = None
        self._silences, self._heard = self._heard, {}
        return Found(jobs=jobs, wait_s=self._settings.tend_round_s)

    async def run(self, job: Tend) -> int:
        """See `Worker`: what the session copied is not counted."""
        row = await self._row(job.name)
        if row is None:
            return 0
        if row.state == "deleting":
            with contextlib.suppress(NotFound):  # whoever deletes it has come to the end
                await self._registry.delete(job.name, only=VolumeId(row.id))
            return 0
        await self._tend(job.name, Told(row.id, row.size))
        return 0

    def gave_up(self, job: Tend) -> None:
        """See `Worker`: every round finds it again."""

    async def _ask_devices(self) -> Openings:
        found: dict[DeviceId, tuple[DeviceUuid, Boot]] = {}
        for device in self._placement.devices():
            deadline = self._now() + self._settings.claim_s
            try:
                found[device] = await self._extents.opening(device, deadline=deadline)
            except PinfoldError:
                continue  # it is away: its return is another boot
        return found

    async def _row(self, name: str) -> VolumeRow | None:
        found = await self._rows.get(place_of(name), key_of(name))
        return None if found is None else decode_volume(found.body)

    async def _judge(self, name: str) -> Tend | None:
        """What a volume needs. One whose row cannot be read now does not hold up the others."""
        try:
            found = await self._rows.get(place_of(name), key_of(name))
            if found is None:
                return None
            row = decode_volume(found.body)
        except PinfoldError:
            return None
        if row.holder is not None:
            silence = self._heard[name] = self._silences.get(name) or Silence()
            if silence.lasts(found.version, self._now()) <= self._settings.takeover_s:
                return None
            return Tend(name=name, rank=row.copies)
        rank = needs(row, self._openings)
        return None if rank is None else Tend(name=name, rank=rank)

    async def _tend(self, name: str, told: Told) -> None:
        """Hold the volume until it is whole; Unavailable when it gets no nearer to that."""
        self._incarnations += 1
        me = Holder(self._node, self._boot, self._incarnations, tending=True)
        lease = Lease(self._env, self._rows, name, me, self._settings)
        lost = asyncio.Event()
        session = Session(
            self._env,
            self._extents,
            lease,
            self._placement,
            self._settings,
            lambda _reason: lost.set(),
            told=told,
        )
        session.start()
        try:
            before, since = session.progress, self._now()
            while not session.whole and not lost.is_set():
                if session.progress != before:
                    before, since = session.progress, self._now()
                elif self._now() - since > self._settings.tend_stall_s:
                    raise Unavailable(f"volume {name!r} waits for a device")
                await asyncio.sleep(LOOK_S)
        finally:
            await session.close(deadline=self._now() + CLOSE_S)
