"""The order of a volume's writes, and when each request may be answered.

Synchronous: requests, answers and changes of standing come in, messages and answers go out through
`Wire`, by the rules of docs/volumes-protocol.md: R2, R3, R5 and R6 are decided here.

Every tick's writes become one numbered batch, sent to all members in the same order; so overlapping
writes end alike everywhere without waiting for each other. A read is linearizable because members
answer in the order they are asked, so it sees every write sent before it; and because its answer
waits for the batches in flight that overlap it, so that nobody sees bytes which a crash of the
holder could still take back.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from pinfold.env.api import Buffer
from pinfold.model.errors import Full, PinfoldError
from pinfold.model.ids import Boot, DeviceId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.activity import Activity
from pinfold.volumes.batch import Batch, operations
from pinfold.volumes.fences import Fences
from pinfold.volumes.flushes import FlushQueue, flushed_to
from pinfold.volumes.inflight import InFlight
from pinfold.volumes.io import CACHE, FLUSH, READ, STATUS, WRITE, Io, Owner
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.patches import Patches
from pinfold.volumes.reads import Reads
from pinfold.volumes.retained import Retained
from pinfold.volumes.routes import Route, Routes
from pinfold.volumes.spans import EXTENT_SHIFT, blocks, split
from pinfold.volumes.wire import Wire


class Sequencer:
    """One volume's requests, from arrival to answer."""

    def __init__(
        self,
        wire: Wire,
        lanes: dict[DeviceId, Lane],
        place: Callable[[int], tuple[DeviceId, ...]],
        settings: VolumeSettings,
        now: Callable[[], float],
        *,
        min_in_sync: int,
        first_sequence: int,
        epoch: int,
    ) -> None:
        self._wire = wire
        self.lanes = lanes
        self._settings = settings
        self._now = now
        self.sequence = first_sequence
        for lane in lanes.values():
            # What a former holder had answered may be unflushed: a flush is owed for it too.
            lane.last = first_sequence
        self.epoch = epoch
        self.serving = False
        self.resting = False
        """The volume is being given back: nothing is begun any more."""
        self.unsettled: set[int] = set()
        """Extents that must be made equal on all members before they are served."""
        self._routes = Routes(lanes, place, min_in_sync)
        self.route = self._routes.of
        self._waiting: list[Io] = []
        """Requests not yet begun, in order."""
        self._open: Batch | None = None
        self.retained = Retained(settings)
        self._activity = Activity(settings.dirty_extents)
        self.fences = Fences()
        """Blocks that are being copied."""
        self._flushes = FlushQueue()
        self._stable_barrier = 0
        self.stable = 0
        """Everything up to here is flushed on every member and marked for those out of sync."""
        self._answers: list[Io] = []
        self._in_flight = InFlight(self._written, self._answered)
        self.reads = Reads(wire, self.route, self._in_flight.hold, now)
        self._patches = Patches(self.reads.take)

    # Requests

    def submit(self, ios: Iterable[Io]) -> None:
        """Queue requests; `pump` begins them."""
        self._waiting.extend(ios)

    def withdraw(self, owner: Owner) -> list[Io]:
        """Forget the owner's requests that were not begun, which they are; see `Session`."""
        gone = [io for io in self._waiting if io.owner is owner]
        self._waiting = [io for io in self._waiting if io.owner is not owner]
        return gone + self._patches.withdraw(owner)

    @property
    def idle(self) -> bool:
        """Whether no request waits and nothing is unflushed."""
        if self._waiting or self._patches or self._in_flight or self.retained or self._flushes:
            return False
        return all(lane.clean for lane in self.lanes.values() if lane.in_sync)

    def pump(self) -> None:
        """Begin every waiting request that may begin, and send what that makes."""
        self._begin()
        self._answer()
        while (whole := self._patches.take_ready()) is not None:
            self._waiting[:0] = whole
            self._begin()
            self._answer()

    def _begin(self) -> None:
        may_begin = self.serving and not self.resting and self._wire.trusted()
        if may_begin and (self._waiting or self._patches.freed):
            waiting, self._waiting = self._waiting, []
            held = self._waiting
            while not self._crowded and (io := self._patches.follower()) is not None:
                if not self._begin_write(io):
                    held.append(io)
            for io in waiting:
                if io.kind == READ or io.kind == CACHE:
                    if not self._begin_read(io):
                        held.append(io)
                elif io.kind == FLUSH:
                    self._begin_flush(io)
                elif io.kind == STATUS:
                    self._wire.ask_status(io)
                elif not self._begin_write(io):
                    held.append(io)
            self._seal()
            self.reads.send()
            self._kick_flushes()

    def _begin_read(self, io: Io) -> bool:
        if ready := not self.unsettled or self._settled(io):
            self.reads.take(io)
        return ready

    def _begin_flush(self, io: Io) -> None:
        need = self._open.sequence if self._open is not None else self.sequence
        if not self.unsettled and flushed_to(self.lanes.values(), need) >= need:
            self._answers.append(io)
        else:
            self._flushes.add(io, need)

    @property
    def _crowded(self) -> bool:
        """Whether writes wait for those before them to be taken, or flushed."""
        return (
            self._in_flight.bytes >= self._settings.window_bytes
            or len(self._in_flight) >= self._settings.batches_max
            or self.retained.full
        )

    def _begin_write(self, io: Io) -> bool:
        """Put a write's pieces into batches, all or none."""
        if self._crowded:
            return False
        offset, length = io.offset, io.length
        pieces = split(offset, length)
        if not self._admissible(io, pieces):
            return False
        if self._patches and self._patches.keep(io, pieces):
            return True
        if (offset | length) & (BLOCK_BYTES - 1):
            self._patches.begin(io)
            return True
        io.pending = 1  # its own hold, so that no batch completes it before all pieces are in
        for op, payload in operations(io):
            self._add(io, op, payload)
        io.pending -= 1
        if io.fua:  # the flush leaves right behind the write
            self._flushes.goal = max(self._flushes.goal, io.sequence)
        return True

    def _admissible(self, io: Io, pieces: Sequence[tuple[int, int, int]]) -> bool:
        if self.unsettled and not self._settled(io):
            return False
        for extent, within, length in pieces:
            route = self.route(extent)
            if not route.writable or not self._activity.admits(extent):
                return False
            if self.fences and self.fences.holds(extent, blocks(within, length)):
                return False
        return True

    def _settled(self, io: Io) -> bool:
        """Whether all extents of a request may be served; asks for those that may not."""
        first, last = io.offset >> EXTENT_SHIFT, (io.offset + io.length - 1) >> EXTENT_SHIFT
        waiting = [extent for extent in range(first, last + 1) if extent in self.unsettled]
        for extent in waiting:
            self._wire.settle(extent)
        return not waiting

    def _add(self, io: Io | None, op: tuple[int, int, int, int], payload: Buffer | None) -> None:
        batch = self._open
        if batch is None:
            self.sequence += 1
            batch = self._open = Batch(self.sequence, self.epoch, self._now())
        batch.add(self.route(op[1]), op, payload)
        if io is not None:
            io.pending += 1
            io.sequence = batch.sequence
            batch.ios.append(io)
        if batch.full:
            self._seal()

    # Batches

    def _seal(self) -> None:
        """Number what has been gathered and send it to every member."""
        batch, self._open = self._open, None
        if batch is None:
            return
        if batch.uniform:
            route = batch.routes[0]
            batch.waiting.update(route.waiting)
            targets: Iterable[Lane] = route.targets
        else:
            routes = dict.fromkeys(batch.routes)
            batch.waiting.update(device for route in routes for device in route.waiting)
            targets = dict.fromkeys(lane for route in routes for lane in route.targets)
        self._launch(batch, targets)

    def _launch(self, batch: Batch, targets: Iterable[Lane]) -> None:
        if batch.waiting:  # a joining member that breaks is copied to from the beginning
            self.retained.add(batch)
            self._activity.touch(batch)
        self._in_flight.add(batch)
        for lane in targets:
            if lane.standing is Standing.JOINING and not lane.room(self._settings.window_bytes):
                lane.missed.update(dict.fromkeys(batch.extents(lane.device)))
                continue
            lane.last = batch.sequence
            lane.backlog.append(batch)
            self._send(lane)

    def copy(
        self, lanes: Sequence[Lane], ops: Sequence[tuple[int, int, int, int]], payload: list[Buffer]
    ) -> int:
        """Write given bytes to given members only, behind all that was sent; its sequence.

        What makes replicas equal: the caller holds a fence over the blocks or they are unsettled.
        """
        assert self._open is None, "copies are made between pumps"
        lanes = [lane for lane in lanes if lane.standing is not Standing.OUT]
        if not lanes:
            return self.sequence
        self.sequence += 1
        batch = Batch(self.sequence, self.epoch, self._now())
        members = tuple(lane.device for lane in lanes)
        route = Route(members, self.lanes, min_in_sync=0)
        buffers = iter(payload)
        for op in ops:
            batch.add(route, op, next(buffers) if op[0] == WRITE and op[3] else None)
        batch.waiting.update(route.waiting)
        self._launch(batch, lanes)
        return batch.sequence

    def _send(self, lane: Lane) -> None:
        """Send a member what waits for it, as far as its window reaches."""
        if not lane.open:
            return
        limit = 2 * self._settings.window_bytes
        while lane.backlog and lane.unacked_bytes <= limit:
            batch = lane.backlog.popleft()
            lane.unacked[batch] = None
            lane.unacked_bytes += batch.payload_bytes
            self._wire.send_write(lane, batch)
            lane.number += 1

    def taken(self, lane: Lane, batch: Batch) -> None:
        """A member has taken a batch, under its present stream."""
        if batch not in lane.unacked:
            return
        del lane.unacked[batch]
        lane.unacked_bytes -= batch.payload_bytes
        lane.failures = 0
        lane.full_at = 0
        batch.taken = True
        if lane.backlog:
            self._send(lane)
            if not lane.backlog:
                self.reads.retry()
        if lane.in_sync and lane.vouched != lane.boot:
            lane.unvouched[batch] = None
            if lane.whole:
                self._wire.vouch()
        else:
            self._in_flight.relied(lane.device, (batch,))

    def vouched(self, boots: Mapping[int, int]) -> None:
        """The row trusts members under these boots and no others (R4)."""
        for lane in self.lanes.values():
            lane.vouched = Boot(boots.get(lane.device, 0))
            if lane.unvouched and lane.vouched == lane.boot:
                unvouched, lane.unvouched = lane.unvouched, {}
                self._in_flight.relied(lane.device, unvouched)

    def _written(self, io: Io) -> None:
        durable = not io.fua or io.error is not None
        if durable or (
            not self.unsettled and flushed_to(self.lanes.values(), io.sequence) >= io.sequence
        ):
            self._answers.append(io)
        else:
            self._flushes.add(io, io.sequence)

    def _answered(self, io: Io) -> None:
        self._answers.append(io)

    def _answer(self) -> None:
        while self._answers:
            answers, self._answers = self._answers, []
            if self._patches:
                answers = self._patches.sift(answers)
            if answers:
                self._wire.answer(answers)

    # Flushes

    def flush(self) -> None:
        """Start to flush everything sent so far, if it is not."""
        self._flushes.goal = max(self._flushes.goal, self.sequence)
        self._kick_flushes()
        self._after_flush()

    def _kick_flushes(self) -> None:
        if self.retained.crowded or self._activity.crowded:
            self._flushes.goal = max(self._flushes.goal, self.sequence)
        for lane in self.lanes.values():
            self._kick_flush(lane)

    def _kick_flush(self, lane: Lane) -> None:
        if (
            lane.flushing
            or lane.clean
            or not lane.open
            or lane.backlog
            or lane.flushed >= self._flushes.goal
        ):
            return
        lane.flushing = True
        self._wire.send_flush(lane, lane.last)

    def flushed(self, lane: Lane, upto: int) -> None:
        """A member has flushed everything up to `upto`, under its present stream."""
        lane.flushing = False
        lane.flushed = max(lane.flushed, upto)
        self._after_flush()
        self._kick_flush(lane)

    def _after_flush(self) -> None:
        safe = self.retained.trim(flushed_to(self.lanes.values(), self.sequence))
        if self.unsettled:
            return
        self._answers += self._flushes.reach(flushed_to(self.lanes.values(), self.sequence))
        if safe >= self._stable_barrier and safe > self.stable:
            self.stable = safe
            self._activity.stable(safe)

    def flushed_to(self, sequence: int) -> int:
        """How far everybody counted has flushed, of `sequence`."""
        return flushed_to(self.lanes.values(), sequence)

    def settled(self, extents: Iterable[int]) -> None:
        """These are equal on all members in sync, and flushed there."""
        self.unsettled.difference_update(extents)
        self._after_flush()

    # Standings

    def _standing_changed(self) -> None:
        self._routes.forget()
        self.reads.retry()

    def opened(self, lane: Lane, stream: int, boot: Boot, *, joining: bool) -> None:
        """A member has flushed the token: it gets what it lacks, then everything new."""
        reborn = boot != lane.boot
        resend: list[Batch] = []
        if joining:
            lane.flushed = 0
            lane.missed = dict.fromkeys(self.retained.extents())
        elif reborn:
            resend = self.retained.lacked_by(lane)
            for batch in resend:
                if not batch.done:
                    batch.waiting.add(lane.device)
            unvouched, lane.unvouched = lane.unvouched, {}
            durable = [batch for batch in unvouched if batch.sequence <= lane.flushed]
            self._in_flight.relied(lane.device, durable)
        else:
            resend = [*lane.unacked, *lane.backlog]
        lane.forget()
        lane.boot = boot
        lane.stream = stream
        lane.number = 0
        lane.stable = 0
        lane.backlog.extend(resend)
        if resend:
            lane.whole_after = resend[-1].sequence
            lane.last = max(lane.last, lane.whole_after)
        lane.standing = Standing.JOINING if joining else Standing.LIVE
        self._send(lane)
        self._standing_changed()
        self._kick_flush(lane)

    def lost(self, lane: Lane) -> None:
        """A member's stream has ended; what it had not taken is kept for the next one."""
        for batch in lane.unacked:
            batch.taken = True  # for all that is known
        if lane.standing is Standing.LIVE:
            lane.standing = Standing.DOWN
        elif lane.standing in (Standing.JOINING, Standing.COUNTED):
            self._out(lane)
        lane.flushing = False
        self._standing_changed()

    def _out(self, lane: Lane) -> None:
        """Nothing waits for a member any more."""
        lane.standing = Standing.OUT
        lane.forget()
        lane.unvouched = {}
        lane.missed = {}
        self._in_flight.relied(lane.device)
        self._after_flush()

    def put_out(self, lane: Lane, epoch: int) -> None:
        """The row says that a member is out of sync since `epoch`: stop waiting for it."""
        assert lane.in_sync
        lane.standing = Standing.OUT
        self.epoch = epoch
        self._standing_changed()
        self._seal()
        self._touch_retained()
        self._out(lane)
        self._kick_flushes()
        self.pump()

    def _touch_retained(self) -> None:
        """Mark the extents of batches that the absent member may lack with the new epoch."""
        extents = self.retained.extents()
        for extent in extents:
            self._add(None, (WRITE, extent, 0, 0), None)
        self._seal()
        if extents:
            self._stable_barrier = self.sequence

    def count(self, lane: Lane) -> None:
        """A joining member has all but the last: whatever is sent from now on waits for it."""
        assert lane.standing is Standing.JOINING
        lane.standing = Standing.COUNTED
        self._standing_changed()

    def take_in(self, lane: Lane) -> None:
        """A counted member has flushed everything sent before it was one; the row follows."""
        assert lane.standing is Standing.COUNTED
        lane.standing = Standing.LIVE
        self._standing_changed()

    def full(self, lane: Lane, batch: Batch) -> None:
        """A member has no room for a batch. When that is true of all, its writes fail.

        What some member has, or may have, cannot be called off any more, nor what makes members
        equal: it waits for room, or until the member is put out.
        """
        lane.unsend(batch)
        if lane.in_sync:
            lane.full_at = batch.sequence
        if batch.taken or not batch.ios:
            return
        if any(self.lanes[device].full_at != batch.sequence for device in batch.waiting):
            return
        if any(batch in other.unacked for other in self.lanes.values()):
            return
        error = Full("no member has room")
        for io in batch.ios:
            io.error = error
        self.retained.remove(batch)
        for other in self.lanes.values():
            if other.full_at == batch.sequence:
                other.full_at = 0
            if batch in other.backlog:
                other.backlog.remove(batch)
        self._in_flight.complete(batch)

    def fail_all(self, error: PinfoldError) -> None:
        """The volume is not ours any more: every request fails, and every later one."""
        self.serving = False
        ios = dict.fromkeys((*self._waiting, *self._patches.drain()))
        ios.update(dict.fromkeys(self.reads.fail_all(error)))
        ios.update(dict.fromkeys(self._in_flight.drain()))
        ios.update(dict.fromkeys(self._flushes.drain()))
        self._waiting = []
        self.retained.clear()
        for lane in self.lanes.values():
            lane.forget()
            lane.unvouched = {}
        for io in ios:
            io.error = error
        self._answers += ios
        self._answer()
