"""Reading extents: from memory, from the page cache, or through a reader's lane.

A read through a lane takes time, and meanwhile the applier may write the same blocks in place. What
verifies is right all the same, old or new; what does not is read again from the start if a pass has
begun to write its extents since. A slot that was read from is never another extent's before every
read begun until then has ended: see `slots`.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, TypeVar

from pinfold.device.arena import Arena, BlockCorrupt
from pinfold.device.extentrows import ALL_BLOCKS, SLOT_BLOCKS, Row
from pinfold.device.health import Health
from pinfold.device.readers import Readers
from pinfold.device.volume import Volume
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES

T = TypeVar("T")

_ZEROES: Final = memoryview(bytes(EXTENT_BYTES))


class Run(NamedTuple):
    """Neighbouring blocks to read from the arena, and which of their bytes are wanted."""

    volume: Volume
    extent: int
    block: int
    place: int
    blocks: int
    start: int
    end: int


Part = Buffer | Run
"""Bytes at hand, or where to read them."""

Again = Callable[[], list[Buffer] | asyncio.Future[list[Buffer]]]
"""Starts a read over."""


class _Reading:
    """A read under way in a lane."""

    __slots__ = ("again", "answer", "overtaken", "parts")

    def __init__(self, parts: list[Part], again: Again) -> None:
        self.parts = parts
        self.again = again
        self.answer: asyncio.Future[list[Buffer]] = asyncio.get_running_loop().create_future()
        self.overtaken = False
        """A pass has begun to write extents that it reads."""


class ExtentReads:
    """Turns parts into verified bytes."""

    def __init__(self, arena: Arena, readers: Readers, health: Health) -> None:
        self._arena = arena
        self._readers = readers
        self._health = health
        self._readings: dict[_Reading, None] = {}

    def overtake(self) -> None:
        """A pass is about to write what is `applying`."""
        for reading in self._readings:
            reading.overtaken = reading.overtaken or any(
                isinstance(part, Run) and part.extent in part.volume.applying
                for part in reading.parts
            )

    def read(
        self, parts: list[Part], again: Again, deadline: float
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """The parts' bytes, at once when no device I/O is needed. Raises Corrupt and Busy.

        `again` is called to start over when the applier came in between.
        """
        found: list[Buffer] = []
        for part in parts:
            if isinstance(part, Run):
                content = self._read_cached(part)
                if content is None:
                    return self._read_far(parts, again, deadline)
                found.append(content)
            else:
                found.append(part)
        return found

    def block(self, volume: Volume, extent: int, row: Row, number: int) -> Buffer:
        """One whole block, now: waits for the device when it is in no memory. Raises Corrupt."""
        parts: list[Part] = []
        locate(volume, extent, row, number * BLOCK_BYTES, BLOCK_BYTES, parts)
        part = parts[0]
        if not isinstance(part, Run):
            return part
        cached = self._read_cached(part)
        if cached is not None:
            return cached
        try:
            return self._arena.read(part.place, 1, self._arena.seed(volume.life))
        except BlockCorrupt as error:
            raise _corrupt(part, error) from error
        except OSError as error:
            self._health.stop(f"arena: {error}")
            raise self._health.error() from error

    def _read_cached(self, run: Run) -> Buffer | None:
        try:
            seed = self._arena.seed(run.volume.life)
            found = self._arena.read_cached(run.place, run.blocks, seed)
        except BlockCorrupt as error:
            raise _corrupt(run, error) from error
        except OSError as error:
            self._health.stop(f"arena: {error}")
            raise self._health.error() from error
        return None if found is None else _wanted(run, found)

    def _read_far(
        self, parts: list[Part], again: Again, deadline: float
    ) -> asyncio.Future[list[Buffer]]:
        """Read every run of the arena in one job."""
        places = [
            (part.place, part.blocks, self._arena.seed(part.volume.life))
            for part in parts
            if isinstance(part, Run)
        ]
        doing = self._readers.read(
            places[0][0] // SLOT_BLOCKS,
            partial(self._read_places, places),
            size=BLOCK_BYTES * sum(blocks for _place, blocks, _seed in places),
            deadline=deadline,
        )
        reading = _Reading(parts, again)
        self._readings[reading] = None
        doing.add_done_callback(partial(self._read_done, reading))
        return reading.answer

    def _read_places(self, places: list[tuple[int, int, int]]) -> list[bytes | BlockCorrupt]:
        """In a reader's lane."""
        found: list[bytes | BlockCorrupt] = []
        for place, blocks, seed in places:
            try:
                found.append(self._arena.read(place, blocks, seed))
            except BlockCorrupt as error:
                found.append(error)
        return found

    def _read_done(
        self, reading: _Reading, doing: asyncio.Future[list[bytes | BlockCorrupt]]
    ) -> None:
        del self._readings[reading]
        answer = reading.answer
        if answer.done():
            return
        if doing.cancelled():
            answer.cancel()
            return
        try:
            results = doing.result()
            if reading.overtaken and any(isinstance(one, BlockCorrupt) for one in results):
                _chain(reading.again(), answer)
            else:
                found = iter(results)
                answer.set_result([_assembled(part, found) for part in reading.parts])
        except PinfoldError as error:
            answer.set_exception(error)


def locate(
    volume: Volume, extent: int, row: Row, offset: int, length: int, parts: list[Part]
) -> None:
    """Append where the bytes are: buffers in memory, zeroes, or runs of the arena."""
    active, applying = volume.active.get(extent), volume.applying.get(extent)
    stored, held = row.data, 0
    if applying is not None:
        held = applying.written
        stored &= ~(held | applying.zeroed | applying.trimmed)
    if active is not None:
        gone = ~(active.zeroed | active.trimmed)
        held = held & gone | active.written
        stored &= gone & ~active.written
    block, end = offset // BLOCK_BYTES, offset + length
    last = -(-end // BLOCK_BYTES)
    while offset < end:
        base = block * BLOCK_BYTES
        if held >> block & 1:
            buffer = active.blocks.get(block) if active is not None else None
            if buffer is None:
                assert applying is not None, "a block in memory is in either"
                buffer = applying.blocks[block]
            block += 1
            stop = min(end, block * BLOCK_BYTES)
            whole = stop - offset == BLOCK_BYTES
            parts.append(buffer if whole else memoryview(buffer)[offset - base : stop - base])
        elif stored >> block & 1:
            count = _stored_run(row, stored, block, last)
            stop = min(end, base + count * BLOCK_BYTES)
            place = row.slots[block // SLOT_BLOCKS] * SLOT_BLOCKS + block % SLOT_BLOCKS
            parts.append(Run(volume, extent, block, place, count, offset - base, stop - base))
            block += count
        else:
            above = (stored | held) >> block
            count = (above & -above).bit_length() - 1 if above else last - block
            block = min(last, block + count)
            stop = min(end, block * BLOCK_BYTES)
            parts.append(_ZEROES[: stop - offset])
        offset = stop


def _stored_run(row: Row, stored: int, block: int, last: int) -> int:
    """How many blocks from one on lie in the arena, one behind the other, up to `last`."""
    beyond = ~(stored >> block) & ALL_BLOCKS
    stop = min(last, block + (beyond & -beyond).bit_length() - 1) if beyond else last
    sub = block // SLOT_BLOCKS
    while (sub + 1) * SLOT_BLOCKS < stop and row.slots[sub + 1] == row.slots[sub] + 1:
        sub += 1
    return min(stop, (sub + 1) * SLOT_BLOCKS) - block


def _corrupt(run: Run, error: BlockCorrupt) -> Corrupt:
    block = run.block + error.place - run.place
    return Corrupt(
        f"extent {run.extent} fails its checksum at block {block}", detail=(run.extent, block)
    )


def _wanted(run: Run, found: bytes) -> Buffer:
    return found if run.end - run.start == len(found) else memoryview(found)[run.start : run.end]


def _assembled(part: Part, found: Iterator[bytes | BlockCorrupt]) -> Buffer:
    """The part's bytes; a run takes the next of what was read."""
    if not isinstance(part, Run):
        return part
    content = next(found)
    if isinstance(content, BlockCorrupt):
        raise _corrupt(part, content)
    return _wanted(part, content)


def _chain(
    found: list[Buffer] | asyncio.Future[list[Buffer]], answer: asyncio.Future[list[Buffer]]
) -> None:
    if isinstance(found, list):
        answer.set_result(found)
    else:
        found.add_done_callback(partial(hand_over, answer))


def hand_over(answer: asyncio.Future[T], done: asyncio.Future[T]) -> None:
    """Give one future's outcome to another, unless nobody waits for it."""
    if answer.done():
        return
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
