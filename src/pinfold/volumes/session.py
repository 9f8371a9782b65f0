"""A held volume: the shell that carries out what the sequencer decides.

It takes the lease with the first request, confirms the row and stops while it cannot (R10).
Members are claimed and excluded in `members.py` and made equal again in `care.py`. Everything runs
on one event loop; nothing here decides about bytes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Final

from pinfold.cluster.extents import ExtentClient
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Corrupt, Fenced, Full, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, VolumeId
from pinfold.model.settings import VolumeSettings
from pinfold.rpc.api import Answer
from pinfold.volumes.batch import Batch
from pinfold.volumes.io import Io, Owner, deliver
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.lease import Lease, Memory
from pinfold.volumes.members import Members
from pinfold.volumes.placement import ExtentPlacement
from pinfold.volumes.pulse import Pulse
from pinfold.volumes.reads import ReadMessage
from pinfold.volumes.row import Told, VolumeRow
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.status import find_runs
from pinfold.volumes.trust import TRUSTS_MAX

SEQUENCE_SHIFT: Final = 40
"""A holder's sequences start at token << 40, above every earlier holder's: 10^12 batches each."""

TICK_S: Final = 0.1
"""How often time-outs that need no precision are looked at."""


class Session:
    """One gateway's service of one volume, from the first request to `close`.

    `told` is what clients were told. `on_lost` is called once when the volume turns out to have
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
        told: Told,
    ) -> None:
        self._env = env
        self._now = env.clock.monotonic
        self._client = client
        self._lease = lease
        self._placement = placement
        self._settings = settings
        self._on_lost = on_lost
        self._promise = told
        lease.accept = self._accept
        self._scope = TaskScope(self._on_task_error)
        self._early: list[Io] = []
        self._started = self._vouches = self._ready = False
        self._dead: PinfoldError | None = None
        self._pump_due = False
        self._trust_changed = asyncio.Event()
        self._changed = Pulse()
        self._sequencer: Sequencer | None = None
        self._members: Members | None = None

    # For front ends

    def submit(self, ios: Iterable[Io]) -> None:
        """Take requests; each is answered through its owner, in any order.

        The first one makes the session ask for the lease; until it has it, requests wait.
        """
        if self._dead is not None:
            self._refuse(list(ios), self._dead)
            return
        if self._sequencer is not None and self._ready:
            self._sequencer.submit(ios)
            self._schedule()
        else:
            self._early.extend(ios)
            self.start()

    def start(self) -> None:
        """Take the volume without waiting for a request."""
        if not self._started and self._dead is None:
            self._started = True
            self._scope.start(self._open(), name="volume session")

    @property
    def whole(self) -> bool:
        """Whether every member is in sync, and nothing of the past is left to be done."""
        if not self._ready or self._sequencer is None or self._dead is not None:
            return False
        lanes = self._sequencer.lanes.values()
        return not self._lease.row.out and all(lane.standing is Standing.LIVE for lane in lanes)

    @property
    def progress(self) -> Hashable:
        """Differs from before when a volume that is not whole has come nearer to it."""
        sequencer = self._sequencer
        if sequencer is None:
            return None
        standings = tuple(lane.standing for lane in sequencer.lanes.values())
        return standings, sequencer.sequence, len(sequencer.unsettled)

    def withdraw(self, owner: Owner) -> None:
        """The owner has gone: its requests that were not begun fail, and never will be.

        What a client repeats on its next connection can then not be overtaken by its past.
        """
        gone = [io for io in self._early if io.owner is owner]
        self._early = [io for io in self._early if io.owner is not owner]
        if self._sequencer is not None:
            gone += self._sequencer.withdraw(owner)
        self._refuse(gone, Unavailable("the client has gone"))

    async def close(self, *, deadline: float) -> None:
        """Flush, declare everything stable and give the lease back; then stop. What cannot be
        flushed by `deadline` stays dirty on devices, and the lease is left to be taken over.
        """
        try:
            if self._sequencer is not None and self._members is not None and self._dead is None:
                async with asyncio.timeout_at(deadline):
                    await self._settle_down(self._sequencer, self._members)
        except Fenced as fenced:
            self._dead = fenced
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
            if isinstance(self._dead, Fenced):
                with contextlib.suppress(TimeoutError, PinfoldError):
                    async with asyncio.timeout_at(deadline):
                        await self._lease.leave()  # nobody has to wait for the end of our trust

    async def _settle_down(self, sequencer: Sequencer, members: Members) -> None:
        while not members.settling.done:
            await self._changed.wait()
        while not sequencer.resting:
            sequencer.flush()
            while not sequencer.idle:
                await self._changed.wait()
                sequencer.flush()
            for lane in sequencer.lanes.values():
                if lane.standing is Standing.LIVE and sequencer.stable > lane.stable:
                    await self._client.stable(
                        members.address(lane), sequencer.stable, deadline=self._deadline()
                    )
            sequencer.resting = sequencer.idle  # unless more was begun while members were told
        live = [lane for lane in sequencer.lanes.values() if lane.standing is Standing.LIVE]
        await self._lease.release({lane.device: lane.boot for lane in live})

    # Opening

    async def _open(self) -> None:
        try:
            before = await self._lease.acquire()
            sequencer, members = self._prepare(self._lease.row)
            members.start(self._scope)
            self._scope.start(self._keep_lease(), name="volume lease")
            while any(lane.standing is Standing.DOWN for lane in sequencer.lanes.values()):
                await self._changed.wait()
            members.settling.begin(members.marked, before.trust)
            members.settling.start(self._scope)
            while len(before.trust) >= TRUSTS_MAX and not members.settling.done:
                await self._changed.wait()
            self._vouches = True
            await self._beat()
        except PinfoldError as error:
            self.lose(error)
            return
        self._scope.start(self._tick(), name="volume clock")
        members.care.start(self._scope)
        sequencer.serving = True
        sequencer.flush()
        self._schedule()
        await members.zero_what_was_cut()
        self._ready = True
        sequencer.submit(self._early)
        self._early = []
        self._schedule()

    def _prepare(self, row: VolumeRow) -> tuple[Sequencer, Members]:
        lanes = {device: Lane(device) for device in self._placement.devices()}
        for device, lane in lanes.items():
            if device in row.out:
                lane.standing = Standing.OUT
        self._sequencer = sequencer = Sequencer(
            self,
            lanes,
            partial(self._placement.members, VolumeId(row.id)),
            self._settings,
            self._now,
            min_in_sync=row.min_in_sync,
            first_sequence=row.token << SEQUENCE_SHIFT,
            epoch=row.epoch,
        )
        self._members = members = Members(
            sequencer,
            self._client,
            self._lease,
            self._placement,
            self._settings,
            self._now,
            changed=self._changed,
            lose=self.lose,
            schedule=self._schedule,
        )
        return sequencer, members

    def _whole(self) -> dict[DeviceId, Memory]:
        """The members that have every write we have answered; none before the row may say so."""
        assert self._sequencer is not None
        if not self._vouches:
            return {}
        lanes = self._sequencer.lanes.values()
        return {lane.device: Memory(lane.uuid, lane.boot) for lane in lanes if lane.whole}

    async def _beat(self) -> None:
        """Confirm the row, and let it say whom it can trust."""
        assert self._members is not None
        await self._lease.beat(self._whole(), settled=self._members.settling.done)
        self._members.vouch()

    def vouch(self) -> None:
        """See `Wire`."""
        if self._trust_is_old():
            self._trust_changed.set()

    def _trust_is_old(self) -> bool:
        """Whether the row's trust is not what we know."""
        assert self._members is not None
        row = self._lease.row
        boots = {device: memory.boot for device, memory in self._whole().items()}
        older = any(token < row.token for token in row.trust)
        return boots != row.trust.get(row.token, {}) or (older and self._members.settling.done)

    # What the sequencer asks for

    def _deadline(self) -> float:
        return self._now() + self._settings.silence_s

    def send_write(self, lane: Lane, batch: Batch) -> None:
        """See `Wire`."""
        assert self._sequencer is not None
        assert self._members is not None
        ops, payload = batch.message(lane.device)
        stable = 0
        if lane.standing is Standing.LIVE and self._sequencer.stable > lane.stable:
            stable = lane.stable = self._sequencer.stable
        self._client.write(
            self._members.address(lane),
            lane.number,
            batch.epoch,
            batch.sequence,
            stable,
            ops,
            payload,
            deadline=self._deadline(),
        ).add_done_callback(partial(self._wrote, lane, lane.stream, batch, self._now()))

    def _wrote(
        self,
        lane: Lane,
        stream: int,
        batch: Batch,
        began: float,
        answer: asyncio.Future[Answer],
    ) -> None:
        error = _error_of(answer)
        if self._dead is not None or stream != lane.stream or not lane.open:
            return
        assert self._sequencer is not None
        assert self._members is not None
        if error is None:
            self._members.writes.observed(lane.device, self._now() - began)
            self._sequencer.taken(lane, batch)
            self._schedule()
            return
        if isinstance(error, Full):
            self._sequencer.full(lane, batch)
        self._members.failed(lane, stream, error)

    def send_read(self, message: ReadMessage) -> None:
        """See `Wire`."""
        assert self._members is not None
        lane = message.lane
        self._client.read(
            self._members.address(lane), lane.number, message.spans(), deadline=self._deadline()
        ).add_done_callback(partial(self._read, message, lane.stream))

    def _read(self, message: ReadMessage, stream: int, answer: asyncio.Future[Answer]) -> None:
        error = _error_of(answer)
        if self._dead is not None:
            return
        assert self._sequencer is not None
        assert self._members is not None
        if error is None:
            self._sequencer.reads.answered(message, answer.result().payload)
        else:
            if not isinstance(error, Corrupt):
                self._members.failed(message.lane, stream, error)
            if self._dead is None:
                self._sequencer.reads.failed(message, error)
        self._schedule()

    def send_flush(self, lane: Lane, upto: int) -> None:
        """See `Wire`."""
        assert self._members is not None
        self._client.flush(
            self._members.address(lane),
            lane.number,
            deadline=self._now() + self._settings.flush_s,
        ).add_done_callback(partial(self._flushed, lane, lane.stream, upto, self._now()))

    def _flushed(
        self, lane: Lane, stream: int, upto: int, began: float, answer: asyncio.Future[Answer]
    ) -> None:
        error = _error_of(answer)
        if self._dead is not None or stream != lane.stream or not lane.open:
            return
        assert self._sequencer is not None
        assert self._members is not None
        if error is not None:
            self._members.failed(lane, stream, error)
            return
        self._members.flushes.observed(lane.device, self._now() - began)
        self._sequencer.flushed(lane, upto)
        self._changed.beat()
        self._schedule()

    def answer(self, ios: list[Io]) -> None:
        """See `Wire`."""
        deliver(ios)

    def ask_status(self, io: Io) -> None:
        """See `Wire`. Rare, hence a task of its own."""
        self._scope.start(self._status(io), name="volume status")

    async def _status(self, io: Io) -> None:
        sequencer, members = self._sequencer, self._members
        assert sequencer is not None
        assert members is not None
        while self._dead is None:
            try:
                io.runs = await find_runs(members, sequencer, self._client, io, self._deadline())
            except PinfoldError:
                await asyncio.sleep(self._settings.retry_s)
                continue
            self.answer([io])
            return
        self._refuse([io], self._dead)

    def corrupt(self, device: DeviceId, extent: int, within: int, length: int) -> None:
        """See `Wire`."""
        if self._members is not None:
            self._members.care.report_corrupt(device, extent, within, length)

    def settle(self, extent: int) -> None:
        """See `Wire`."""
        if self._members is not None:
            self._members.settling.want(extent)

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
            self._changed.beat()

    async def _keep_lease(self) -> None:
        """Confirm the row; requests wait while that fails for too long."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.beat_s):
                        await self._trust_changed.wait()
                self._trust_changed.clear()
                await self._beat()
                self._look_after_members()
        except PinfoldError as error:
            self.lose(error)

    def _look_after_members(self) -> None:
        """Ask all members whether their streams are still open, which costs them nothing.

        A volume at rest would else not notice that a member has restarted, or lost what it had,
        until somebody needs it.
        """
        assert self._sequencer is not None
        for lane in self._sequencer.lanes.values():
            if lane.standing is Standing.LIVE:
                self._tell(lane)

    def trusted(self) -> bool:
        """See `Wire`. After a suspension this is asked before any timer has its turn."""
        return self._now() - self._lease.confirmed < self._settings.trust_s

    def _accept(self, row: VolumeRow) -> None:
        if row.id != self._promise.id:
            raise Fenced("another volume has the name by now")
        if row.size != self._promise.size or (self._ready and row.cut != (0, 0)):
            raise Fenced("the volume has been resized")  # maybe back: what was cut is zeroed first

    async def _tick(self) -> None:
        sequencer, settings = self._sequencer, self._settings
        assert sequencer is not None
        assert self._members is not None
        while True:
            await asyncio.sleep(TICK_S)
            now = self._now()
            trusted = self.trusted()
            if trusted != sequencer.serving:
                sequencer.serving = trusted
                self._schedule()
            self.vouch()
            if sequencer.retained.due(now):
                sequencer.flush()
            self._members.relieve()
            sequencer.reads.hedge(now - settings.hedge_s, now + settings.silence_s)
            if not sequencer.retained:
                self._tell_stable(sequencer)

    def _tell_stable(self, sequencer: Sequencer) -> None:
        """An idle volume's members need no later message to learn that all is flushed."""
        for lane in sequencer.lanes.values():
            if lane.standing is Standing.LIVE and sequencer.stable > lane.stable:
                lane.stable = sequencer.stable
                self._tell(lane)

    def _tell(self, lane: Lane) -> None:
        """Tell a member what is stable, which it may know: then only its answer matters."""
        assert self._members is not None
        self._client.stable(
            self._members.address(lane), lane.stable, deadline=self._deadline()
        ).add_done_callback(partial(self._told, lane, lane.stream))

    def _told(self, lane: Lane, stream: int, answer: asyncio.Future[Answer]) -> None:
        error = _error_of(answer)
        if error is not None and self._members is not None:
            self._members.failed(lane, stream, error)

    # Ends

    def lose(self, error: PinfoldError) -> None:
        """The volume is not ours any more, or not what clients were told: every request fails."""
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
            deliver(ios)

    def _on_task_error(self, error: BaseException) -> None:
        """A bug in a task must not leave a volume half served: it ends."""
        self.lose(Unavailable(f"the volume's session has failed: {error!r}"))
        if not isinstance(error, PinfoldError):
            raise error


def _error_of(answer: asyncio.Future[Answer]) -> PinfoldError | None:
    if answer.cancelled():
        return Unavailable("the call was cancelled")
    error = answer.exception()
    assert error is None or isinstance(error, PinfoldError), "rpc fails with our errors only"
    return error
