"""The members of a held volume: claimed, kept, put out when they fail, taken in when they are back.

R1: a member is claimed (it flushes the token and opens a stream) before anything is asked of it.
R3: a member that fails is named out of sync in the row before any answer relies on its absence,
and only while every extent keeps `min_in_sync` members; else requests wait for it.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from pinfold.cluster.extents import Address, Claimed, ExtentClient
from pinfold.cluster.slowness import VOLUMES, SlowWatch
from pinfold.device.api import Mark
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Busy, Fenced, PinfoldError
from pinfold.model.ids import DeviceId, Token, VolumeId
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.care import Care
from pinfold.volumes.copies import Copies
from pinfold.volumes.cutting import Cutting
from pinfold.volumes.lane import FLAPPING, Lane, Standing
from pinfold.volumes.lease import Lease, Memory
from pinfold.volumes.placement import ExtentPlacement, spares
from pinfold.volumes.pulse import Pulse
from pinfold.volumes.row import VolumeRow
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.settling import Settling
from pinfold.volumes.trust import promised, rank


class Members:
    """One task per member brings it back whenever its stream has ended."""

    def __init__(
        self,
        sequencer: Sequencer,
        client: ExtentClient,
        lease: Lease,
        placement: ExtentPlacement,
        settings: VolumeSettings,
        now: Callable[[], float],
        *,
        changed: Pulse,
        lose: Callable[[PinfoldError], None],
        schedule: Callable[[], None],
    ) -> None:
        self._sequencer = sequencer
        self._client = client
        self._lease = lease
        self._placement = placement
        self._settings = settings
        self._now = now
        self.changed = changed
        self._lose = lose
        self._schedule = schedule
        self._volume = VolumeId(lease.row.id)
        self._token = Token(lease.row.token)
        self._streams = 0
        self._addresses: dict[DeviceId, Address] = {}
        self.writes = SlowWatch(VOLUMES, now)
        self.flushes = SlowWatch(VOLUMES, now)
        """How soon members take writes, and how soon they have flushed them: all get the same."""
        self._broken = {device: asyncio.Event() for device in sequencer.lanes}
        self.marked: dict[int, dict[DeviceId, Mark]] = {}
        """What former holders left dirty, as members told when they were claimed: see `Marked`."""
        self._trust = lease.row.trust
        self.copies = Copies(self, sequencer, client, settings, now)
        self.settling = Settling(self, sequencer, self.copies, settings)
        self.care = Care(self, sequencer, self.copies, self.settling, settings, now)

    def start(self, scope: TaskScope) -> None:
        """Begin to claim every member."""
        for lane in self._sequencer.lanes.values():
            self._broken[lane.device].set()
            scope.start(self._tend(lane), name=f"volume member {lane.device}")

    def address(self, lane: Lane) -> Address:
        """The open stream to a member."""
        return self._addresses[lane.device]

    @property
    def since(self) -> dict[int, int]:
        """Devices out of sync and the epoch since which they are."""
        return self._lease.row.out

    def members(self, extent: int) -> tuple[DeviceId, ...]:
        """The devices that hold an extent."""
        return self._placement.members(self._volume, extent)

    def failed(self, lane: Lane, stream: int, error: PinfoldError) -> None:
        """A call to a member has failed: unless it is history, its stream has ended."""
        if stream != lane.stream or not lane.open:
            return
        if isinstance(error, Fenced):
            self._lose(error)
            return
        if not isinstance(error, Busy):  # our own queue to it is full: no fault of the member's
            lane.failures += 1
        self._sequencer.lost(lane)
        self._broken[lane.device].set()
        self._schedule()

    def relieve(self) -> None:
        """Stop waiting for members that are far slower than the others, if they can be spared."""
        self.writes.look()
        self.flushes.look()
        for lane in self._sequencer.lanes.values():
            counted = lane.standing is Standing.COUNTED
            live = lane.standing is Standing.LIVE and self._spared(lane, self._lease.row)
            if (live or counted) and self.slow(lane):
                self._sequencer.lost(lane)
                self._broken[lane.device].set()
                self._schedule()

    def slow(self, lane: Lane) -> bool:
        """Whether a member holds the others up."""
        return self.writes.slow(lane.device) or self.flushes.slow(lane.device)

    async def _tend(self, lane: Lane) -> None:
        broken = self._broken[lane.device]
        try:
            while True:
                await broken.wait()
                broken.clear()
                if lane.standing is Standing.OUT:
                    await self._rejoin(lane)
                elif lane.standing is Standing.DOWN:
                    await self._reclaim(lane)
        except Fenced as error:
            self._lose(error)

    async def _claim(self, lane: Lane) -> Claimed:
        self._streams += 1
        stream = self._streams
        claimed = await self._client.claim(
            lane.device,
            self._volume,
            self._token,
            stream,
            deadline=self._now() + self._settings.claim_s,
        )
        self._addresses[lane.device] = Address(
            lane.device, claimed.boot, self._volume, self._token, stream
        )
        lane.uuid = claimed.uuid
        known = self._lease.row.uuids.get(lane.device, claimed.uuid)
        return claimed._replace(lost=claimed.lost or claimed.uuid != known)

    async def _reclaim(self, lane: Lane) -> None:
        """Open a new stream to a member in sync, or put it out when it does not answer."""
        if lane.full_at:
            await asyncio.sleep(self._settings.retry_s)  # when all are full, the write fails
        began = self._now()
        first = lane.stream == 0
        spared = partial(self._spared, lane)
        lost = False
        epoch: int | None = None
        while epoch is None:
            patience = 0.0 if lost else self._patience(lane)
            if self._now() >= began + patience and spared(self._lease.row):
                epoch = await self._lease.put_out(lane.device, spared)
                continue
            try:
                claimed = await self._claim(lane)
                marked = await self._marked(lane) if first and not claimed.lost else []
            except Fenced:
                raise
            except PinfoldError as error:
                if isinstance(error, Busy):
                    began = self._now()
                await asyncio.sleep(self._settings.retry_s)
                continue
            if claimed.lost:
                # It must be put out and written whole, however well it answers; what it lost does
                # not come back by waiting, so one member that has everything is enough to go on.
                lost, spared = True, partial(self._spared, lane, least=1)
                await asyncio.sleep(self._settings.retry_s)
                continue
            for mark in marked:
                self.marked.setdefault(mark.extent, {})[lane.device] = mark
            self._opened(lane, claimed, joining=False)
            return
        lane.failures = 0
        self._sequencer.put_out(lane, epoch)
        self._broken[lane.device].set()
        self._schedule()

    def _patience(self, lane: Lane) -> float:
        """How long a member may fail to answer before it is put out, if it can be spared."""
        if self._irreplaceable(lane):
            return self._settings.last_copy_s
        if lane.full_at or lane.failures >= FLAPPING or self.slow(lane):
            return 0.0
        return self._settings.recover_s

    def _irreplaceable(self, lane: Lane) -> bool:
        """Whether it may be the only one that has every write a former holder answered."""
        if not self._trust or self.settling.done:
            return False
        marked = max(self._trust)

        def known(other: Lane) -> int:
            return rank(self._trust, marked, other.device, other.boot)

        mine = known(lane) if lane.boot else promised(self._trust, lane.device)
        return any(
            all(
                known(self._sequencer.lanes[other]) < mine
                for other in members
                if other != lane.device and self._sequencer.lanes[other].in_sync
            )
            for members in self._placement.member_sets()
            if lane.device in members
        )

    async def _marked(self, lane: Lane) -> list[Mark]:
        """What a former holder left dirty on a member just claimed."""
        found: list[Mark] = []
        page = [Mark(-1, 0, 0, 0)]
        while page:
            page = await self._client.marks(
                self._addresses[lane.device],
                page[-1].extent,
                dirty=True,
                deadline=self._now() + self._settings.claim_s,
            )
            found += page
        return found

    def _opened(self, lane: Lane, claimed: Claimed, *, joining: bool) -> None:
        stream = self._addresses[lane.device].stream
        for watch in (self.writes, self.flushes):
            watch.forget(lane.device)  # it may have been hung; that is what failures are for
        self._sequencer.opened(lane, stream, claimed.boot, joining=joining)
        self._schedule()

    def _spared(self, lane: Lane, row: VolumeRow, least: int = 0) -> bool:
        """Whether every extent keeps enough members without this one (`least`: so many)."""
        out = {*row.out, lane.device}
        return spares(self._placement.member_sets(), out, least or row.min_in_sync)

    async def _probe(self, lane: Lane) -> None:
        """See whether a slow member has recovered: a claim waits for a flush as writes do."""
        await asyncio.sleep(self._settings.rejoin_s)
        began = self._now()
        try:
            await self._claim(lane)
        except Fenced:
            raise
        except PinfoldError:
            took_s = self._settings.claim_s
        else:
            took_s = self._now() - began
        for watch in (self.writes, self.flushes):
            if watch.slow(lane.device):
                watch.observed(lane.device, took_s)
                watch.look()

    async def _rejoin(self, lane: Lane) -> None:
        """Bring a member that is out of sync up to date, however often that takes."""
        while True:
            while self.slow(lane):
                await self._probe(lane)
            try:
                claimed = await self._claim(lane)
                self._opened(lane, claimed, joining=True)
                await self.care.resync(lane, everything=claimed.lost)
                if claimed.lost:
                    deadline = self._now() + self._settings.flush_s
                    await self._client.restored(self.address(lane), deadline=deadline)
                    self.care.still_joining(lane)
                self._sequencer.take_in(lane)
                break
            except Fenced:
                raise
            except PinfoldError:
                if lane.open:
                    self._sequencer.lost(lane)
                self._schedule()
                await asyncio.sleep(self._settings.rejoin_s)
                self._broken[lane.device].clear()
        await self._lease.take_in(lane.device, Memory(lane.uuid, claimed.boot))
        self.vouch()

    async def zero_what_was_cut(self) -> None:
        """What shrinking cut off is zeroed before anybody is served."""
        while (cut := self._lease.row.cut)[0] < cut[1]:  # it may be more when that is zeroed
            cutting = Cutting(self._sequencer, self.copies, self._schedule, self._settings)
            try:
                await cutting.zero(*cut)
                await self._lease.uncut(cut)
            except PinfoldError as error:
                self._lose(error)
                return

    def vouch(self) -> None:
        """Let answers rely on what the row says of the members by now."""
        self._sequencer.vouched(self._lease.row.trust.get(self._token, {}))
        self._schedule()
