"""Making a volume's members equal: settling, resynchronising, repairing.

- R8 settle: extents that a former holder left dirty are compared; the bytes of a member that has
  all it ever acknowledged win, are written to the others and flushed, and then served.
- R7 resync: a member that was out gets every extent it may lack, piece by piece behind a fence,
  while every new write already goes to it; then the row takes it in.
- Repair: blocks that failed verification on one member are written again from another.

Copies travel in the members' ordered streams. A piece is read from a member and sent to the other
with no write to these blocks sent in between, so both have the same bytes at the same place of
their order, and later writes come behind it on both.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final, Protocol

from pinfold.cluster.extents import SPAN, Address, ExtentClient
from pinfold.device.api import Mark
from pinfold.env.api import Buffer
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Corrupt, PinfoldError, Unavailable
from pinfold.model.ids import Boot, DeviceId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.rpc.api import Answer
from pinfold.volumes.io import TRIM, WRITE
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.pulse import Pulse
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.spans import blocks

SETTLED_TOGETHER: Final = 8
"""Extents settled under one flush."""

REPAIRS_MAX: Final = 256
"""Corrupt ranges remembered for repair; more will be found again by later reads."""

_ZEROES: Final = bytes(EXTENT_BYTES)


class Holder(Protocol):
    """What the session offers: streams and the row's knowledge."""

    changed: Pulse

    def address(self, lane: Lane) -> Address:
        """The open stream to a member."""
        ...

    @property
    def since(self) -> dict[int, int]:
        """Devices out of sync and the epoch since which they are."""
        ...

    def members(self, extent: int) -> tuple[DeviceId, ...]:
        """The devices that hold an extent."""
        ...

    def failed(self, lane: Lane, stream: int, error: PinfoldError) -> None:
        """A call to a member has failed."""
        ...


class Care:
    """The copying for one held volume. One piece is under way at a time."""

    def __init__(
        self,
        holder: Holder,
        sequencer: Sequencer,
        client: ExtentClient,
        settings: VolumeSettings,
        now: Callable[[], float],
    ) -> None:
        self._holder = holder
        self._sequencer = sequencer
        self._client = client
        self._settings = settings
        self._piece_bytes = settings.piece_bytes
        self._now = now
        self._wanted: dict[int, None] = {}
        self._begun = False
        """Whether it is known what a former holder left unsettled."""
        self._trusted: dict[DeviceId, Boot] | None = None
        """While anything is unsettled: members that have all they acknowledged to the former
        holder, as long as they stay at this boot."""
        self._corrupt: dict[tuple[DeviceId, int, int, int], None] = {}
        self._corrupt_found = asyncio.Event()
        self._copying = asyncio.Lock()

    def begin(self, dirty: Iterable[int], boots: Mapping[int, int]) -> None:
        """Take over from a former holder: what it left dirty is unsettled.

        `boots` says under which boots members had everything, as the former holder knew it.
        """
        self._sequencer.unsettled.update(dirty)
        self._begun = True
        lanes = [lane for lane in self._sequencer.lanes.values() if lane.in_sync]
        whole = [lane for lane in lanes if boots.get(lane.device) == lane.boot]
        # Where all have lost their memory any of them may win.
        self._trusted = {lane.device: lane.boot for lane in whole or lanes}
        self._holder.changed.beat()

    def trusts(self, lane: Lane) -> bool:
        """Whether a member lacks nothing that a former holder had acknowledged."""
        return self._trusted is None or self._trusted.get(lane.device) == lane.boot

    def start(self, scope: TaskScope) -> None:
        """Settle what is unsettled and repair what is reported, in the background."""
        scope.start(self._settle_all(), name="volume settle")
        scope.start(self._repair_all(), name="volume repair")

    # Settling

    def want(self, extent: int) -> None:
        """Somebody waits for this extent: settle it first."""
        self._wanted[extent] = None

    async def _settle_all(self) -> None:
        sequencer = self._sequencer
        while sequencer.unsettled:
            extents = [extent for extent in self._wanted if extent in sequencer.unsettled]
            extents = extents or sorted(sequencer.unsettled)
            extents = extents[:SETTLED_TOGETHER]
            try:
                for extent in extents:
                    await self._settle(extent)
                await self._flush_all(sequencer.sequence)
            except PinfoldError:
                await asyncio.sleep(self._settings.retry_s)
                continue
            for extent in extents:
                sequencer.unsettled.discard(extent)
                self._wanted.pop(extent, None)
            sequencer.pump()
        self._trusted = None
        self._holder.changed.beat()

    async def _settle(self, extent: int) -> None:
        """Make one extent equal on its members; no request touches it meanwhile."""
        lanes = self._live_members(extent)
        lanes.sort(key=self.trusts, reverse=True)
        for within in range(0, EXTENT_BYTES, self._piece_bytes):
            async with self._copying:
                await self._settle_piece(lanes, extent, within)
        self._sequencer.copy(lanes, [(WRITE, extent, 0, 0)], [])

    def _live_members(self, extent: int) -> list[Lane]:
        """The members in sync, all of which must answer; Unavailable when one cannot now."""
        lanes = [self._sequencer.lanes[device] for device in self._holder.members(extent)]
        in_sync = [lane for lane in lanes if lane.in_sync]
        if not in_sync or any(lane.standing is Standing.DOWN for lane in in_sync):
            raise Unavailable(f"a member of extent {extent} is away")
        return in_sync

    async def _settle_piece(self, lanes: list[Lane], extent: int, within: int) -> None:
        # All are asked before any is awaited, and all are awaited whatever one of them says.
        reading = [(lane, self._read(lane, extent, within, self._piece_bytes)) for lane in lanes]
        found: list[tuple[Lane, memoryview | None]] = []
        failure: PinfoldError | None = None
        for lane, answer in reading:
            try:
                found.append((lane, await self._payload(lane, answer)))
            except Corrupt:
                found.append((lane, None))
            except PinfoldError as error:
                failure = error
        if failure is not None:
            raise failure
        winner = next((payload for _lane, payload in found if payload is not None), None)
        if winner is None:
            return  # no member can read it; reads will say so block by block
        good = winner.tobytes()  # memoryviews compare element by element, bytes by memcmp
        losers = [lane for lane, payload in found if payload is None or payload.tobytes() != good]
        if losers:
            self._send(losers, extent, within, winner)

    async def _flush_all(self, sequence: int) -> None:
        """Wait until every member in sync has flushed up to `sequence`."""
        sequencer = self._sequencer
        sequencer.flush()
        while any(
            lane.in_sync and not lane.clean and lane.flushed < sequence
            for lane in sequencer.lanes.values()
        ):
            await self._holder.changed.wait()
            sequencer.flush()

    # Resynchronising

    async def resync(self, lane: Lane, *, everything: bool = False) -> None:
        """Bring a joining member up to date and flush it; Unavailable when it was lost again.

        `everything` is for a device that has lost extents and cannot say which. Before the members
        in sync have all told what is unsettled, none of them is a source: what it lacks, the one
        that has it must not be dispensed with.
        """
        while not self._begun or self._sequencer.unsettled:
            self.still_joining(lane)
            await self._holder.changed.wait()
        began = self._now()
        copied = 0
        for extent in await self._lacking(lane, everything=everything):
            for within in range(0, EXTENT_BYTES, self._piece_bytes):
                copied += await self._copy_piece(lane, extent, within)
                ahead = copied / self._settings.copy_bytes_per_s - (self._now() - began)
                if ahead > 0:
                    await asyncio.sleep(ahead)
        sequence = lane.last
        while lane.flushed < sequence:
            self.still_joining(lane)
            self._sequencer.flush()
            await self._holder.changed.wait()
        self.still_joining(lane)

    async def _lacking(self, lane: Lane, *, everything: bool) -> list[int]:
        """Extents that the member may lack writes of, in order."""
        lanes = self._sequencer.lanes.values()
        sources = [other for other in lanes if other.standing is Standing.LIVE]
        absent = any(other.standing is Standing.DOWN for other in lanes)
        if not sources or (absent and len(lanes) > self._settings.copies):
            # One source knows every extent only where all extents have the same members.
            raise Unavailable("members that must be asked are away")
        since = 0 if everything else self._holder.since[lane.device]
        lacking: dict[int, None] = {}
        present: set[int] = set()
        for source in sources:
            async for mark in self._marks(source):
                present.add(mark.extent)
                if mark.token or mark.epoch >= since:
                    lacking[mark.extent] = None
        async for mark in self._marks(lane):
            if mark.token or mark.extent not in present:  # or trimmed away meanwhile
                lacking[mark.extent] = None
        self.still_joining(lane)
        return sorted(extent for extent in lacking if lane.device in self._holder.members(extent))

    def still_joining(self, lane: Lane) -> None:
        """Unavailable when a member being brought back was lost meanwhile."""
        if lane.standing is not Standing.JOINING:
            raise Unavailable(f"device {lane.device} was lost while joining")

    async def _copy_piece(self, lane: Lane, extent: int, within: int) -> int:
        """Copy one piece to a joining member; the bytes that travelled."""
        async with self._copying:
            self._sequencer.fence(extent, blocks(within, self._piece_bytes))
            try:
                payload = await self._read_any(extent, within, self._piece_bytes, lane)
                self.still_joining(lane)
                return self._send([lane], extent, within, payload)
            finally:
                self._sequencer.unfence(extent)
                self._sequencer.pump()

    async def _read_any(self, extent: int, within: int, length: int, besides: Lane) -> memoryview:
        """Verified bytes from any live member but one; Corrupt or Unavailable when none has."""
        problem: PinfoldError = Unavailable(f"no member can supply extent {extent}")
        for device in self._holder.members(extent):
            lane = self._sequencer.lanes[device]
            if lane is besides or lane.standing is not Standing.LIVE or lane.backlog:
                continue
            try:
                return await self._payload(lane, self._read(lane, extent, within, length))
            except PinfoldError as error:
                problem = error
        raise problem

    # Repairing

    def report_corrupt(self, device: DeviceId, extent: int, within: int, length: int) -> None:
        """A member failed verification there."""
        if len(self._corrupt) < REPAIRS_MAX:
            first = within - within % BLOCK_BYTES
            end = -(-(within + length) // BLOCK_BYTES) * BLOCK_BYTES
            self._corrupt[device, extent, first, end - first] = None
            self._corrupt_found.set()

    async def _repair_all(self) -> None:
        while True:
            await self._corrupt_found.wait()
            self._corrupt_found.clear()
            while self._corrupt:
                device, extent, within, length = next(iter(self._corrupt))
                del self._corrupt[device, extent, within, length]
                try:
                    await self._repair(self._sequencer.lanes[device], extent, within, length)
                except PinfoldError:
                    continue  # found again by the next read

    async def _repair(self, lane: Lane, extent: int, within: int, length: int) -> None:
        async with self._copying:
            if lane.standing is not Standing.LIVE or extent in self._sequencer.unsettled:
                return
            self._sequencer.fence(extent, blocks(within, length))
            try:
                payload = await self._read_any(extent, within, length, lane)
                if lane.standing is Standing.LIVE:
                    self._send([lane], extent, within, payload)
            finally:
                self._sequencer.unfence(extent)
                self._sequencer.pump()

    # Pieces

    def _deadline(self) -> float:
        return self._now() + self._settings.flush_s

    def _read(self, lane: Lane, extent: int, within: int, length: int) -> asyncio.Future[Answer]:
        """Sent before this returns, so that it has its place in the member's order."""
        answer = self._client.read(
            self._holder.address(lane),
            lane.number,
            SPAN.pack(extent, within, length),
            deadline=self._deadline(),
        )
        answer.add_done_callback(_look_at)
        return answer

    async def _payload(self, lane: Lane, answer: asyncio.Future[Answer]) -> memoryview:
        stream = lane.stream
        try:
            return (await answer).payload
        except Corrupt:
            raise
        except PinfoldError as error:
            self._holder.failed(lane, stream, error)
            raise

    async def _marks(self, lane: Lane) -> AsyncIterator[Mark]:
        stream = lane.stream
        after: int | None = -1
        while after is not None:
            try:
                page = await self._client.marks(
                    self._holder.address(lane), after, dirty=False, deadline=self._deadline()
                )
            except PinfoldError as error:
                self._holder.failed(lane, stream, error)
                raise
            for mark in page:
                yield mark
            after = page[-1].extent if page else None

    def _send(self, lanes: list[Lane], extent: int, within: int, payload: memoryview) -> int:
        """Send a piece to members in their streams; zeroes travel as a hole."""
        length = len(payload)
        if payload.tobytes() == _ZEROES[:length]:
            self._sequencer.copy(lanes, [(TRIM, extent, within, length)], [])
            return 0
        buffer: Buffer = payload
        self._sequencer.copy(lanes, [(WRITE, extent, within, length)], [buffer])
        return length


def _look_at(answer: asyncio.Future[Answer]) -> None:
    """An answer that nobody came to fetch, because its asker was cancelled, is no error."""
    if not answer.cancelled():
        answer.exception()
