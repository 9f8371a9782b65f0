"""Bringing members of a held volume up to date, and blocks that rotted on one of them.

- R7 resync: a member that was out gets every extent it may lack, piece by piece behind a fence,
  while new writes already go to it as far as it keeps up. Then it is counted: from there on
  whatever is sent waits for it. When it has flushed all that was sent before, the row takes it in.
- Repair: blocks that failed verification on one member are written again from another.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.ids import DeviceId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.copies import EVERYTHING, Copies, Holder
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.settling import Settling
from pinfold.volumes.spans import blocks

REPAIRS_MAX: Final = 256
"""Corrupt ranges remembered for repair; more will be found again by later reads."""

PASSES: Final = 8
"""Passes over what a joining member missed meanwhile, before writes are made to wait for it."""

MISSED_MAX: Final = 1 << 16
"""Extents that a joining member may have missed; with more the join begins again."""


class Care:
    """The copying for one held volume. One piece is under way at a time."""

    def __init__(
        self,
        holder: Holder,
        sequencer: Sequencer,
        copies: Copies,
        settling: Settling,
        settings: VolumeSettings,
        now: Callable[[], float],
    ) -> None:
        self._holder = holder
        self._sequencer = sequencer
        self._copies = copies
        self._settling = settling
        self._settings = settings
        self._now = now
        self._corrupt: dict[tuple[DeviceId, int, int, int], None] = {}
        self._corrupt_found = asyncio.Event()
        self._copying = asyncio.Lock()
        self._unread: dict[tuple[DeviceId, int, int, int], None] = {}
        """Device that joins, extent, offset, length: rotten on every member in sync."""

    def start(self, scope: TaskScope) -> None:
        """Repair what is reported, in the background."""
        scope.start(self._repair_all(), name="volume repair")

    # Resynchronising

    async def resync(self, lane: Lane, *, everything: bool) -> None:
        """Bring a joining member up to date, and count it; Unavailable when it was lost again.

        `everything` is for a device that has lost extents and cannot say which. Before everything
        is settled no member is a source: what it lacks, the one that has it must not be dispensed
        with.
        """
        while not self._settling.done:
            self.still_joining(lane)
            await self._holder.changed.wait()
        for known in self._unread_of(lane):
            del self._unread[known]
        copy = _Paced(self._copy_extent, self._settings.copy_bytes_per_s, self._now)
        async for extent in self._lacking(lane, everything=everything):
            await copy(lane, extent)
        for _ in range(PASSES):
            await self._copy_missed(lane, copy)
            await self._flushed(lane)
            await self._copy_unread(lane)
            if not lane.missed:
                break
        self._sequencer.count(lane)
        await self._copy_missed(lane, copy)
        await self._flushed(lane)
        if self._unread_of(lane):
            raise Unavailable(f"nobody can read some of what device {lane.device} lacks")

    async def _lacking(self, lane: Lane, *, everything: bool) -> AsyncIterator[int]:
        """Extents that the member may lack writes of, in order.

        Read in step with the copying: a page that is read later tells at least as much.
        """
        since = 0 if everything else self._holder.since[lane.device]
        after = -1
        while after < EVERYTHING:
            marks, told_to = await self._copies.present(after)
            mine, mine_to = await self._copies.marks(lane, after)
            self.still_joining(lane)
            told_to = min(told_to, mine_to)
            lacking = {mark.extent for mark in marks if mark.token or mark.epoch >= since}
            lacking.update(mark.extent for mark in mine if mark.token)
            # What no source has any more was trimmed away meanwhile.
            lacking.update({mark.extent for mark in mine} - {mark.extent for mark in marks})
            for extent in sorted(extent for extent in lacking if extent <= told_to):
                yield extent
            after = told_to

    async def _copy_missed(self, lane: Lane, copy: "_Paced") -> None:
        """Copy what the member has missed by now."""
        missed, lane.missed = lane.missed, {}
        for extent in sorted(missed):
            await copy(lane, extent)

    async def _copy_unread(self, lane: Lane) -> None:
        """Wait until blocks that are rotten on all others have been written anew, or trimmed.

        What the member has there may be old and verifies: it must not be asked before.
        """
        while unread := self._unread_of(lane):
            await asyncio.sleep(self._settings.rejoin_s)
            self.still_joining(lane)
            for known in unread:
                del self._unread[known]
                await self._copy(lane, *known[1:])

    def _unread_of(self, lane: Lane) -> list[tuple[DeviceId, int, int, int]]:
        return [known for known in self._unread if known[0] == lane.device]

    async def _flushed(self, lane: Lane) -> None:
        """Wait until the member has flushed everything that has been sent to it by now."""
        sequence = lane.last
        while lane.flushed < sequence:
            self.still_joining(lane)
            self._sequencer.flush()
            await self._holder.changed.wait()
        self.still_joining(lane)

    def still_joining(self, lane: Lane) -> None:
        """Unavailable when a member being brought back was lost, or left behind, meanwhile."""
        if lane.standing not in (Standing.JOINING, Standing.COUNTED):
            raise Unavailable(f"device {lane.device} was lost while joining")
        if len(lane.missed) > MISSED_MAX:
            raise Unavailable(f"device {lane.device} misses more than is copied to it")

    async def _copy_extent(self, lane: Lane, extent: int) -> int:
        """Copy an extent to a joining member, if it has it; the bytes that travelled."""
        copied = 0
        if lane.device in self._holder.members(extent):
            for within in range(0, EXTENT_BYTES, self._settings.piece_bytes):
                while not lane.room(self._settings.window_bytes):
                    self.still_joining(lane)
                    await self._holder.changed.wait()
                copied += await self._copy(lane, extent, within, self._settings.piece_bytes)
                self.still_joining(lane)
        return copied

    async def _copy(self, lane: Lane, extent: int, within: int, length: int) -> int:
        """Copy a piece to a member from the others, behind a fence; the bytes that travelled."""
        mask = blocks(within, length)
        async with self._copying:
            self._sequencer.fences.put(extent, mask)
            try:
                runs = await self._copies.gather(
                    self._sources(extent, lane), extent, within, length
                )
                if not lane.open:
                    return 0
                if not lane.in_sync:
                    rotten = [(at, size) for at, content, size in runs if content is None]
                    self._unread.update({(lane.device, extent, *run): None for run in rotten})
                return self._copies.send(lane, extent, runs)
            finally:
                self._sequencer.fences.lower(extent, mask)
                self._sequencer.pump()

    def _sources(self, extent: int, besides: Lane) -> Iterable[Lane]:
        """Members of the extent that have been sent everything, as they are when it is asked."""
        for device in self._holder.members(extent):
            lane = self._sequencer.lanes[device]
            if lane is not besides and lane.standing is Standing.LIVE and not lane.backlog:
                yield lane

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
                lane = self._sequencer.lanes[device]
                if lane.standing is not Standing.LIVE or extent in self._sequencer.unsettled:
                    continue
                try:
                    await self._copy(lane, extent, within, length)
                except PinfoldError:
                    continue  # found again by the next read


class _Paced:
    """A copier that is held to so many bytes a second."""

    def __init__(
        self,
        copy: Callable[[Lane, int], Awaitable[int]],
        bytes_per_s: int,
        now: Callable[[], float],
    ) -> None:
        self._copy = copy
        self._bytes_per_s = bytes_per_s
        self._now = now
        self._began = now()
        self._copied = 0

    async def __call__(self, lane: Lane, extent: int) -> None:
        self._copied += await self._copy(lane, extent)
        ahead = self._copied / self._bytes_per_s - (self._now() - self._began)
        if ahead > 0:
            await asyncio.sleep(ahead)
