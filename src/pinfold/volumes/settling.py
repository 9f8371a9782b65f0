"""Making extents equal that a former holder left dirty, before they are served (R8).

Whatever a member has of such an extent may be more than was ever answered, or less: less when it
restarted and lost what it had not flushed. The bytes of the member that is vouched for best win;
where nobody is vouched for, all have restarted, and who got further wins.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final

from pinfold.device.api import Mark
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.ids import DeviceId
from pinfold.model.limits import EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.copies import Copies, Holder
from pinfold.volumes.io import WRITE
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.trust import Trust, further, rank

SETTLED_TOGETHER: Final = 8
"""Extents settled at once: their reads and flushes overlap, and they take 24 MiB of memory."""

Marked = Mapping[int, Mapping[DeviceId, Mark]]
"""Extent -> member -> how it is marked dirty there."""


class Settling:
    """What one holder found unsettled when it took the volume."""

    def __init__(
        self, holder: Holder, sequencer: Sequencer, copies: Copies, settings: VolumeSettings
    ) -> None:
        self._holder = holder
        self._sequencer = sequencer
        self._copies = copies
        self._settings = settings
        self._marked: Marked = {}
        self._trust: Trust = {}
        self._waiting: deque[int] = deque()
        self._wanted: dict[int, None] = {}
        self._under_way: set[int] = set()
        self.begun = False
        """Whether it is known what is unsettled."""

    def begin(self, marked: Marked, trust: Trust) -> None:
        """Every member in sync has told its marks; `trust` is the row's, as it was found."""
        self._marked, self._trust = marked, trust
        self._sequencer.unsettled.update(marked)
        self._waiting.extend(sorted(marked))
        self.begun = True
        self._holder.changed.beat()

    @property
    def done(self) -> bool:
        """Whether nothing that a former holder left is unsettled any more."""
        return self.begun and not self._sequencer.unsettled

    def want(self, extent: int) -> None:
        """Somebody waits for this extent: settle it first."""
        self._wanted[extent] = None

    def start(self, scope: TaskScope) -> None:
        """Settle in the background; after `begin`."""
        for _ in range(min(SETTLED_TOGETHER, len(self._waiting))):
            scope.start(self._work(), name="volume settle")

    async def _work(self) -> None:
        while (extent := self._next()) is not None:
            self._under_way.add(extent)
            try:
                await self._settle(extent)
                await self._copies.flush(self._sequencer.sequence)
            except PinfoldError:
                await asyncio.sleep(self._settings.retry_s)
                self._waiting.append(extent)
            else:
                self._sequencer.settled([extent])
                self._sequencer.pump()
                self._holder.changed.beat()
            self._under_way.discard(extent)

    def _next(self) -> int | None:
        while self._wanted or self._waiting:
            if self._wanted:
                extent = next(iter(self._wanted))
                del self._wanted[extent]
            else:
                extent = self._waiting.popleft()
            if extent in self._sequencer.unsettled and extent not in self._under_way:
                return extent
        return None

    async def _settle(self, extent: int) -> None:
        """Make one extent equal on its members; no request touches it meanwhile."""
        lanes = self._members(extent)
        marks = self._marked[extent]
        newest = max(mark.token for mark in marks.values())
        lanes.sort(
            key=lambda lane: (
                -rank(self._trust, newest, lane.device, lane.boot),
                further(marks.get(lane.device)),
            )
        )
        streams = [lane.stream for lane in lanes]
        piece = self._settings.piece_bytes
        for within in range(0, EXTENT_BYTES, piece):
            await self._copies.equalise(lanes, extent, within, piece)
            if streams != [lane.stream for lane in lanes]:
                raise Unavailable(f"a member of extent {extent} was lost while it was settled")
        self._sequencer.copy(lanes, [(WRITE, extent, 0, 0)], [])

    def _members(self, extent: int) -> list[Lane]:
        """The members in sync, all of which must answer; Unavailable when one cannot now.

        One that was not sent everything yet would answer without what an earlier attempt gave it.
        """
        lanes = [self._sequencer.lanes[device] for device in self._holder.members(extent)]
        in_sync = [lane for lane in lanes if lane.in_sync]
        if not in_sync or any(lane.standing is Standing.DOWN or lane.backlog for lane in in_sync):
            raise Unavailable(f"a member of extent {extent} is away, or behind")
        return in_sync
