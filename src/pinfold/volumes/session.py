"""A held volume: the shell that carries out what the sequencer decides.

It takes the lease with the first request, claims every member (R1), keeps each member's stream,
puts out members that fail, confirms the row and stops while it cannot (R10). What makes members
equal again is `care.py`. Everything runs on one event loop; nothing here decides about bytes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from pinfold.cluster.extents import Address, Claimed, ExtentClient
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Corrupt, Fenced, Full, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, Token, VolumeId
from pinfold.model.settings import VolumeSettings
from pinfold.rpc.api import Answer
from pinfold.volumes.batch import Batch
from pinfold.volumes.care import Care
from pinfold.volumes.io import Io, Owner
from pinfold.volumes.lane import FLAPPING, Lane, Standing
from pinfold.volumes.lease import Lease
from pinfold.volumes.placement import ExtentPlacement, spares
from pinfold.volumes.pulse import Pulse
from pinfold.volumes.reads import ReadMessage
from pinfold.volumes.row import VolumeRow
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.status import find_runs

SEQUENCE_SHIFT: Final = 40
"""A holder's sequences start at token << 40, above every earlier holder's: 10^12 batches each."""

TICK_S: Final = 0.1
"""How often time-outs that need no precision are looked at."""


class Session:
    """One gateway's service of one volume, from the first request to `close`.

    `size` is what clients were told. `on_lost` is called once when the volume turns out to have
    another holder, another size or to be gone: every request has then failed with Fenced (or what
    made it impossible), and so will later ones.
    """

    def __init__(
        self,
        env: Env,
        client: ExtentClient,
        lease: Lease,
        placement: ExtentPlacement,
        settings: VolumeSettings,
        on_lost: Callable[[PinfoldError], None],
        *,
        size: int,
    ) -> None:
        self._env = env
        self._now = env.clock.monotonic
        self._client = client
        self._lease = lease
        self._placement = placement
        self._settings = settings
        self._on_lost = on_lost
        self._size = size
        self._scope = TaskScope(self._on_task_error)
        self._early: list[Io] = []
        self._started = False
        self._dead: PinfoldError | None = None
        self._pump_due = False
        self._streams = 0
        self._volume = VolumeId(b"")
        self._token = Token(0)
        self._addresses: dict[DeviceId, Address] = {}
        self._broken: dict[DeviceId, asyncio.Event] = {}
        self._dirty: dict[int, None] = {}
        self._boots_changed = asyncio.Event()
        self.changed = Pulse()
        """Beats whenever a member's standing or progress changes."""
        self._sequencer: Sequencer | None = None
        self._care: Care | None = None

    # For front ends

    def submit(self, ios: Iterable[Io]) -> None:
        """Take requests; each is answered through its owner, in any order.

        The first one makes the session ask for the lease; until it has it, requests wait.
        """
        if self._dead is not None:
            self._refuse(list(ios), self._dead)
            return
        if self._sequencer is not None:
            self._sequencer.submit(ios)
            self._schedule()
            return
        self._early.extend(ios)
        if not self._started:
            self._started = True
            self._scope.start(self._open(), name="volume session")

    @property
    def lost(self) -> bool:
        """Whether the volume is not ours any more."""
        return self._dead is not None

    def withdraw(self, owner: Owner) -> None:
        """Forget the owner's requests that were not begun: it has gone.

        What a client repeats on its next connection can then not be overtaken by its past.
        """
        self._early = [io for io in self._early if io.owner is not owner]
        if self._sequencer is not None:
            self._sequencer.withdraw(owner)

    async def close(self, *, deadline: float) -> None:
        """Flush, declare everything stable and give the lease back; then stop.

        What cannot be flushed by `deadline` stays marked dirty on the devices and the lease is
        left to be taken over: nothing acknowledged is lost either way.
        """
        try:
            if self._sequencer is not None and self._dead is None:
                async with asyncio.timeout_at(deadline):
                    await self._settle_down(self._sequencer)
        except (TimeoutError, PinfoldError):
            pass
        finally:
            error = Unavailable("the volume has been closed")
            self._dead = self._dead or error
            await self._scope.close()
            if self._sequencer is not None:
                self._sequencer.fail_all(error)
            self._refuse(self._early, error)
            self._early = []

    async def _settle_down(self, sequencer: Sequencer) -> None:
        while sequencer.unsettled:
            await self.changed.wait()
        while not sequencer.idle:
            sequencer.flush()
            await self.changed.wait()
        for lane in sequencer.lanes.values():
            if lane.standing is Standing.LIVE and sequencer.stable > lane.stable:
                await self._client.stable(
                    self.address(lane), sequencer.stable, deadline=self._deadline()
                )
        sequencer.serving = False
        await self._lease.release()

    # Opening

    async def _open(self) -> None:
        try:
            before = await self._lease.acquire()
            self._check_size()
            sequencer = self._prepare(self._lease.row)
            for lane in sequencer.lanes.values():
                self._broken[lane.device].set()
                self._scope.start(self._tend(lane), name=f"volume member {lane.device}")
            while any(lane.standing is Standing.DOWN for lane in sequencer.lanes.values()):
                await self.changed.wait()
            await self._lease.beat(self._boots())
        except PinfoldError as error:
            self._lose(error)
            return
        self._scope.start(self._keep_lease(), name="volume lease")
        self._scope.start(self._tick(), name="volume clock")
        sequencer.unsettled.update(self._dirty)
        care = self._care
        assert care is not None
        care.start(self._scope, before.boots)
        sequencer.serving = True
        self._schedule()

    def _prepare(self, row: VolumeRow) -> Sequencer:
        self._volume = VolumeId(row.id)
        self._token = Token(row.token)
        lanes = {device: Lane(device) for device in self._placement.devices()}
        for device, lane in lanes.items():
            self._broken[device] = asyncio.Event()
            if device in row.out:
                lane.standing = Standing.OUT
        self._sequencer = sequencer = Sequencer(
            self,
            lanes,
            partial(self._placement.members, self._volume),
            self._settings,
            self._now,
            min_in_sync=row.min_in_sync,
            first_sequence=row.token << SEQUENCE_SHIFT,
            epoch=row.epoch,
        )
        sequencer.submit(self._early)
        self._early = []
        self._care = Care(self, sequencer, self._client, self._settings, self._now)
        return sequencer

    def _boots(self) -> dict[DeviceId, int]:
        assert self._sequencer is not None
        return {lane.device: lane.boot for lane in self._sequencer.lanes.values() if lane.whole}

    # Members

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

    async def _tend(self, lane: Lane) -> None:
        """Bring a member back whenever its stream has ended, or put it out of sync."""
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
        if lane.uuid and claimed.uuid != lane.uuid:
            raise Corrupt(f"device {lane.device} has become another one")
        lane.uuid = claimed.uuid
        self._addresses[lane.device] = Address(
            lane.device, claimed.boot, self._volume, self._token, stream
        )
        return claimed

    async def _reclaim(self, lane: Lane) -> None:
        sequencer = self._sequencer
        assert sequencer is not None
        patience = self._now() + self._settings.recover_s
        if lane.full_at:
            await asyncio.sleep(self._settings.retry_s)  # when all are full, the write fails
        if lane.full_at or lane.failures >= FLAPPING:
            patience = 0.0
        first = lane.stream == 0
        while True:
            if self._now() >= patience and self._may_put_out(lane):
                lane.failures = 0
                sequencer.put_out(lane, await self._lease.put_out(lane.device))
                self._broken[lane.device].set()
                break
            try:
                claimed = await self._claim(lane)
            except Fenced:
                raise
            except PinfoldError:
                await asyncio.sleep(self._settings.retry_s)
                continue
            if first:
                self._dirty.update(dict.fromkeys(index for index, _epoch in claimed.dirty))
            stream = self._addresses[lane.device].stream
            sequencer.opened(lane, stream, claimed.boot, joining=False)
            break
        self._schedule()

    def _may_put_out(self, lane: Lane) -> bool:
        row = self._lease.row
        out = {*row.out, lane.device}
        return spares(self._placement.member_sets(), out, row.min_in_sync)

    async def _rejoin(self, lane: Lane) -> None:
        sequencer, care = self._sequencer, self._care
        assert sequencer is not None
        assert care is not None
        while True:
            try:
                claimed = await self._claim(lane)
                stream = self._addresses[lane.device].stream
                sequencer.opened(lane, stream, claimed.boot, joining=True)
                await care.resync(lane, [index for index, _epoch in claimed.dirty])
                sequencer.take_in(lane)
                break
            except Fenced:
                raise
            except PinfoldError:
                if lane.open:
                    sequencer.lost(lane)
                self._schedule()
                await asyncio.sleep(self._settings.rejoin_s)
                self._broken[lane.device].clear()
        await self._lease.take_in(lane.device)
        self._schedule()

    def failed(self, lane: Lane, stream: int, error: PinfoldError) -> None:
        """A call to a member has failed: unless it is history, its stream has ended."""
        if self._dead is not None or stream != lane.stream or not lane.open:
            return
        assert self._sequencer is not None
        if isinstance(error, Fenced):
            self._lose(error)
            return
        lane.failures += 1
        self._sequencer.lost(lane)
        self._broken[lane.device].set()
        self._schedule()

    # What the sequencer asks for

    def _deadline(self) -> float:
        return self._now() + self._settings.silence_s

    def send_write(self, lane: Lane, batch: Batch) -> None:
        """See `Wire`."""
        assert self._sequencer is not None
        ops, payload = batch.message(lane.device)
        stable = 0
        if lane.standing is Standing.LIVE and self._sequencer.stable > lane.stable:
            stable = lane.stable = self._sequencer.stable
        self._client.write(
            self._addresses[lane.device],
            lane.number,
            batch.epoch,
            batch.sequence,
            stable,
            ops,
            payload,
            deadline=self._deadline(),
        ).add_done_callback(partial(self._wrote, lane, lane.stream, batch))

    def _wrote(self, lane: Lane, stream: int, batch: Batch, answer: asyncio.Future[Answer]) -> None:
        error = _error_of(answer)
        if self._dead is not None or stream != lane.stream or not lane.open:
            return
        assert self._sequencer is not None
        if error is None:
            self._sequencer.taken(lane, batch)
            self._schedule()
            return
        if isinstance(error, Full) and lane.in_sync:
            self._sequencer.full(lane, batch)
        self.failed(lane, stream, error)

    def send_read(self, message: ReadMessage) -> None:
        """See `Wire`."""
        lane = message.lane
        self._client.read(
            self._addresses[lane.device], lane.number, message.spans(), deadline=self._deadline()
        ).add_done_callback(partial(self._read, message, lane.stream))

    def _read(self, message: ReadMessage, stream: int, answer: asyncio.Future[Answer]) -> None:
        error = _error_of(answer)
        if self._dead is not None:
            return
        assert self._sequencer is not None
        if error is None:
            self._sequencer.reads.answered(message, answer.result().payload)
        else:
            if not isinstance(error, Corrupt):
                self.failed(message.lane, stream, error)
            if self._dead is None:
                self._sequencer.reads.failed(message, error)
        self._schedule()

    def send_flush(self, lane: Lane, upto: int) -> None:
        """See `Wire`."""
        self._client.flush(
            self._addresses[lane.device],
            lane.number,
            deadline=self._now() + self._settings.flush_s,
        ).add_done_callback(partial(self._flushed, lane, lane.stream, upto))

    def _flushed(self, lane: Lane, stream: int, upto: int, answer: asyncio.Future[Answer]) -> None:
        error = _error_of(answer)
        if self._dead is not None or stream != lane.stream or not lane.open:
            return
        assert self._sequencer is not None
        if error is not None:
            self.failed(lane, stream, error)
            return
        self._sequencer.flushed(lane, upto)
        self.changed.beat()
        self._schedule()

    def answer(self, ios: list[Io]) -> None:
        """See `Wire`."""
        owner = ios[0].owner
        if all(io.owner is owner for io in ios):
            owner.finished(ios)
            return
        by_owner: dict[int, list[Io]] = {}
        for io in ios:
            by_owner.setdefault(id(io.owner), []).append(io)
        for theirs in by_owner.values():
            theirs[0].owner.finished(theirs)

    def ask_status(self, io: Io) -> None:
        """See `Wire`. Rare, hence a task of its own."""
        self._scope.start(self._status(io), name="volume status")

    async def _status(self, io: Io) -> None:
        sequencer = self._sequencer
        assert sequencer is not None
        while self._dead is None:
            try:
                io.runs = await find_runs(self, sequencer, self._client, io, self._deadline())
            except PinfoldError:
                await asyncio.sleep(self._settings.retry_s)
                continue
            self.answer([io])
            return
        self._refuse([io], self._dead)

    def corrupt(self, device: DeviceId, extent: int, within: int, length: int) -> None:
        """See `Wire`."""
        if self._care is not None:
            self._care.report_corrupt(device, extent, within, length)

    def settle(self, extent: int) -> None:
        """See `Wire`."""
        if self._care is not None:
            self._care.want(extent)

    # Time

    def _schedule(self) -> None:
        """Pump once at the end of this loop tick: answers that arrive together go together."""
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if self._sequencer is not None and self._dead is None:
            self._sequencer.pump()
            self.changed.beat()

    async def _keep_lease(self) -> None:
        """Confirm the row; requests wait while that fails for too long."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.beat_s):
                        await self._boots_changed.wait()
                self._boots_changed.clear()
                await self._lease.beat(self._boots())
                self._check_size()
        except PinfoldError as error:
            self._lose(error)

    def _check_size(self) -> None:
        if self._lease.row.size != self._size:
            raise Fenced("the volume has been resized")

    async def _tick(self) -> None:
        sequencer, settings = self._sequencer, self._settings
        assert sequencer is not None
        while True:
            await asyncio.sleep(TICK_S)
            now = self._now()
            trusted = now - self._lease.confirmed < settings.trust_s
            if trusted != sequencer.serving:
                sequencer.serving = trusted
                self._schedule()
            if self._boots() != self._lease.row.boots:
                self._boots_changed.set()
            if sequencer.retained.due(now):
                sequencer.flush()
            sequencer.reads.hedge(now - settings.hedge_s, now + settings.silence_s)
            if not sequencer.retained:
                self._tell_stable(sequencer)

    def _tell_stable(self, sequencer: Sequencer) -> None:
        """An idle volume's members need no later message to learn that all is flushed."""
        for lane in sequencer.lanes.values():
            if lane.standing is Standing.LIVE and sequencer.stable > lane.stable:
                lane.stable = sequencer.stable
                self._client.stable(
                    self._addresses[lane.device], lane.stable, deadline=self._deadline()
                ).add_done_callback(partial(self._told, lane, lane.stream))

    def _told(self, lane: Lane, stream: int, answer: asyncio.Future[Answer]) -> None:
        error = _error_of(answer)
        if error is not None:
            self.failed(lane, stream, error)

    # Ends

    def _lose(self, error: PinfoldError) -> None:
        if self._dead is not None:
            return
        self._dead = error
        if self._sequencer is not None:
            self._sequencer.fail_all(error)
        self._refuse(self._early, error)
        self._early = []
        self._on_lost(error)

    def _refuse(self, ios: list[Io], error: PinfoldError) -> None:
        for io in ios:
            io.error = error
        if ios:
            self.answer(ios)

    def _on_task_error(self, error: BaseException) -> None:
        """A bug in a task must not leave a volume half served: it ends."""
        self._lose(Unavailable(f"the volume's session has failed: {error!r}"))
        if not isinstance(error, PinfoldError):
            raise error


def _error_of(answer: asyncio.Future[Answer]) -> PinfoldError | None:
    if answer.cancelled():
        return Unavailable("the call was cancelled")
    error = answer.exception()
    assert error is None or isinstance(error, PinfoldError), "rpc fails with our errors only"
    return error
