"""Pieces of extents, read from members and written to others so that they are equal.

Copies travel in the members' ordered streams. A piece is read from a member and sent to another
with no write to these blocks sent in between (the caller has fenced them, or the extent is not
settled and no request may touch it), so both have the same bytes at the same place of their order,
and later writes come behind it on both. What fails verification is looked for block by block: one
rotten block costs one block.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from pinfold.cluster.extents import MARKS_PAGE, SPAN, Address, ExtentClient
from pinfold.device.api import Mark
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.rpc.api import Answer
from pinfold.volumes.io import TRIM, WRITE
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.pulse import Pulse
from pinfold.volumes.sequencer import Sequencer

_ZEROES: Final = bytes(EXTENT_BYTES)

EVERYTHING: Final = 1 << 32
"""Behind the last extent of any volume."""

Run = tuple[int, bytes | None, int]
"""Offset in the extent, verified bytes or None for what is rotten, length."""

_Asked = tuple[int, asyncio.Future[Answer]]
"""A member's stream and its answer."""


class Holder(Protocol):
    """What the session offers: streams and the row's knowledge."""

    changed: Pulse

    def address(self, lane: Lane) -> Address:
        """The open stream to a member."""
        ...

    @property
    def since(self) -> Mapping[int, int]:
        """Devices out of sync and the epoch since which they are."""
        ...

    def members(self, extent: int) -> tuple[DeviceId, ...]:
        """The devices that hold an extent."""
        ...

    def failed(self, lane: Lane, stream: int, error: PinfoldError) -> None:
        """A call to a member has failed."""
        ...


class Copies:
    """Reads and writes of one held volume's pieces."""

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
        self._now = now

    async def equalise(self, lanes: Sequence[Lane], extent: int, within: int, length: int) -> None:
        """Give all members the bytes of the first one; blocks that it cannot read, of the next.

        A block that no member can read stays as it is: rotten, for those who read it.
        """
        # All are asked before any is awaited, and all are awaited whatever one of them says.
        asked = [self._ask(lane, extent, within, length) for lane in lanes]
        found: list[list[Run]] = []
        failure: PinfoldError | None = None
        for lane, answer in zip(lanes, asked, strict=True):
            try:
                found.append(await self._runs(lane, extent, within, length, answer))
            except PinfoldError as error:
                failure = error
        if failure is not None:
            raise failure
        for lane, runs in zip(lanes, _lacking(found), strict=True):
            self.send(lane, extent, runs)

    async def gather(
        self, sources: Iterable[Lane], extent: int, within: int, length: int
    ) -> list[Run]:
        """Verified bytes of a piece, from the first member that has them; Unavailable without any.

        Runs that are left None are rotten on all of them.
        """
        runs: list[Run] = [(within, None, length)]
        problem: PinfoldError | None = Unavailable(f"no member can supply extent {extent}")
        for source in sources:
            better: list[Run] = []
            try:
                for run in runs:
                    better += (
                        [run]
                        if run[1] is not None
                        else await self.read(source, extent, run[0], run[2])
                    )
            except PinfoldError as error:
                problem = error
                continue
            runs, problem = better, None
            if all(run[1] is not None for run in runs):
                return runs
        if problem is not None:
            raise problem
        return runs

    def send(self, lane: Lane, extent: int, runs: Iterable[Run]) -> int:
        """Send what was read to a member, in its stream; zeroes travel as a hole. Bytes sent."""
        ops = []
        payload: list[Buffer] = []
        for within, content, length in runs:
            if content is None:
                continue
            if content == _ZEROES[:length]:
                ops.append((TRIM, extent, within, length))
            else:
                ops.append((WRITE, extent, within, length))
                payload.append(content)
        if ops:
            self._sequencer.copy([lane], ops, payload)
        return sum(map(len, payload))

    async def read(self, lane: Lane, extent: int, within: int, length: int) -> list[Run]:
        """A member's bytes, as far as they verify."""
        answer = self._ask(lane, extent, within, length)
        return await self._runs(lane, extent, within, length, answer)

    async def marks(self, lane: Lane, after: int) -> tuple[list[Mark], int]:
        """A page of a member's marks, and the extent up to which it tells all of them."""
        stream = lane.stream
        deadline = self._now() + self._settings.flush_s
        try:
            page = await self._client.marks(
                self._holder.address(lane), after, dirty=False, deadline=deadline
            )
        except PinfoldError as error:
            self._holder.failed(lane, stream, error)
            raise
        return page, page[-1].extent if len(page) >= MARKS_PAGE else EVERYTHING

    async def present(self, after: int) -> tuple[list[Mark], int]:
        """What members in sync say of extents behind `after`, and the extent up to which this is
        all there is. Unavailable when members that must be asked are away.
        """
        lanes = self._sequencer.lanes.values()
        sources = [lane for lane in lanes if lane.standing is Standing.LIVE]
        absent = any(lane.standing is Standing.DOWN for lane in lanes)
        if not sources or (absent and len(lanes) > self._settings.copies):
            # One source knows every extent only where all extents have the same members.
            raise Unavailable("members that must be asked are away")
        found = [await self.marks(source, after) for source in sources]
        return [mark for page, _ in found for mark in page], min(told_to for _, told_to in found)

    async def flush(self, sequence: int) -> None:
        """Wait until every member counted has flushed up to `sequence`."""
        sequencer = self._sequencer
        sequencer.flush()
        while sequencer.flushed_to(sequence) < sequence:
            await self._holder.changed.wait()
            sequencer.flush()

    def _ask(self, lane: Lane, extent: int, within: int, length: int) -> _Asked:
        """Sent before this returns, so that it has its place in the member's order."""
        answer = self._client.read(
            self._holder.address(lane),
            lane.number,
            SPAN.pack(extent, within, length),
            deadline=self._now() + self._settings.flush_s,
        )
        answer.add_done_callback(_look_at)
        return lane.stream, answer

    async def _runs(
        self, lane: Lane, extent: int, within: int, length: int, asked: _Asked
    ) -> list[Run]:
        stream, answer = asked
        try:
            payload = (await answer).payload
            if len(payload) != length:
                raise Corrupt(f"device {lane.device} answered with another length")
        except Corrupt:
            if length <= BLOCK_BYTES:
                return [(within, None, length)]
            half = -(-length // (2 * BLOCK_BYTES)) * BLOCK_BYTES
            first = await self.read(lane, extent, within, half)
            return first + await self.read(lane, extent, within + half, length - half)
        except PinfoldError as error:
            self._holder.failed(lane, stream, error)
            raise
        if stream != lane.stream:
            raise Unavailable(f"device {lane.device} was lost while it was read")
        return [(within, payload.tobytes(), length)]


def _lacking(found: Sequence[Sequence[Run]]) -> list[list[Run]]:
    """For each member, of what it answered, the runs in which it is not as the first one."""
    wholes = [runs[0] for runs in found if len(runs) == 1 and runs[0][1] is not None]
    if len(wholes) == len(found):
        good = wholes[0]
        return [[] if whole[1] == good[1] else [good] for whole in wholes]
    members = [_blocks(runs) for runs in found]
    best = {
        at: next((blocks[at] for blocks in members if blocks[at] is not None), None)
        for at in members[0]
    }
    return [
        [(at, block, BLOCK_BYTES) for at, block in best.items() if block != blocks[at]]
        for blocks in members
    ]


def _blocks(runs: Sequence[Run]) -> dict[int, bytes | None]:
    return {
        within + at: None if content is None else content[at : at + BLOCK_BYTES]
        for within, content, length in runs
        for at in range(0, length, BLOCK_BYTES)
    }


def _look_at(answer: asyncio.Future[Answer]) -> None:
    """An answer that nobody came to fetch, because its asker was cancelled, is no error."""
    if not answer.cancelled():
        answer.exception()
