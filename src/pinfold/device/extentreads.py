"""Reading extents: from memory, from the page cache, or through a reader's lane.

A read through a lane takes time, and meanwhile the applier may move the blocks or give the slot
to another extent. Every run therefore remembers its extent's version, and a read that finds
another version afterwards is done again from the start: whatever it got is not looked at.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from pinfold.device.arena import Arena, BlockCorrupt
from pinfold.device.health import Health
from pinfold.device.readers import Readers
from pinfold.device.volume import ZERO_BLOCK, Extent
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.model.limits import BLOCK_BYTES

T = TypeVar("T")


class Run(NamedTuple):
    """Neighbouring blocks to read from the arena, and which of their bytes are wanted."""

    extent: Extent
    version: int
    block: int
    blocks: int
    start: int
    end: int


Part = Buffer | Run
"""Bytes at hand, or where to read them."""


class ExtentReads:
    """Turns parts into verified bytes."""

    def __init__(self, arena: Arena, readers: Readers, health: Health) -> None:
        self._arena = arena
        self._readers = readers
        self._health = health

    def read(
        self,
        parts: list[Part],
        again: Callable[[], list[Buffer] | asyncio.Future[list[Buffer]]],
        deadline: float,
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

    def block(self, extent: Extent, number: int) -> Buffer:
        """One whole block, now: waits for the device when it is in no memory. Raises Corrupt."""
        parts: list[Part] = []
        locate(extent, number * BLOCK_BYTES, BLOCK_BYTES, parts)
        part = parts[0]
        if not isinstance(part, Run):
            return part
        try:
            cached = self._arena.read_cached(extent.slot, number, 1)
            return cached if cached is not None else self._arena.read(extent.slot, number, 1)
        except BlockCorrupt as error:
            raise _corrupt(extent, error.block) from error
        except OSError as error:
            self._health.stop(f"arena: {error}")
            raise self._health.error() from error

    def _read_cached(self, run: Run) -> Buffer | None:
        try:
            found = self._arena.read_cached(run.extent.slot, run.block, run.blocks)
        except BlockCorrupt as error:
            raise _corrupt(run.extent, error.block) from error
        except OSError as error:
            self._health.stop(f"arena: {error}")
            raise self._health.error() from error
        return None if found is None else _wanted(run, found)

    def _read_far(
        self,
        parts: list[Part],
        again: Callable[[], list[Buffer] | asyncio.Future[list[Buffer]]],
        deadline: float,
    ) -> asyncio.Future[list[Buffer]]:
        """Read every run of the arena in one job."""
        places = [(p.extent.slot, p.block, p.blocks) for p in parts if isinstance(p, Run)]
        reading = self._readers.read(
            places[0][0],
            partial(self._read_places, places),
            size=BLOCK_BYTES * sum(blocks for _slot, _block, blocks in places),
            deadline=deadline,
        )
        answer: asyncio.Future[list[Buffer]] = asyncio.get_running_loop().create_future()
        reading.add_done_callback(partial(_read_done, answer, again, parts))
        return answer

    def _read_places(self, places: list[tuple[int, int, int]]) -> list[bytes | BlockCorrupt]:
        """In a reader's lane."""
        found: list[bytes | BlockCorrupt] = []
        for slot, block, blocks in places:
            try:
                found.append(self._arena.read(slot, block, blocks))
            except BlockCorrupt as error:
                found.append(error)
        return found


def locate(extent: Extent, offset: int, length: int, parts: list[Part]) -> None:
    """Append where the bytes are: buffers in memory, zeroes, or runs of the arena."""
    active, applying, bitmap = extent.active, extent.applying, extent.bitmap
    block, end = offset // BLOCK_BYTES, offset + length
    while offset < end:
        base = block * BLOCK_BYTES
        stop = min(end, base + BLOCK_BYTES)
        if block in active or block in applying:
            buffer = active[block] if block in active else applying[block]
            whole = ZERO_BLOCK if buffer is None else buffer
            parts.append(
                whole if stop - offset == BLOCK_BYTES else whole[offset - base : stop - base]
            )
            block += 1
        elif bitmap >> block & 1:
            first = block
            block += 1
            while (
                block * BLOCK_BYTES < end
                and bitmap >> block & 1
                and block not in active
                and block not in applying
            ):
                block += 1
            stop = min(end, block * BLOCK_BYTES)
            parts.append(
                Run(extent, extent.version, first, block - first, offset - base, stop - base)
            )
        else:
            parts.append(ZERO_BLOCK[: stop - offset])
            block += 1
        offset = stop


def _read_done(
    answer: asyncio.Future[list[Buffer]],
    again: Callable[[], list[Buffer] | asyncio.Future[list[Buffer]]],
    parts: list[Part],
    reading: asyncio.Future[list[bytes | BlockCorrupt]],
) -> None:
    if answer.done():
        return
    if reading.cancelled():
        answer.cancel()
        return
    try:
        found = iter(reading.result())
        if any(isinstance(part, Run) and part.version != part.extent.version for part in parts):
            _chain(again(), answer)
        else:
            answer.set_result([_assembled(part, found) for part in parts])
    except PinfoldError as error:
        answer.set_exception(error)


def _corrupt(extent: Extent, block: int) -> Corrupt:
    return Corrupt(
        f"extent {extent.index} fails its checksum at block {block}", detail=(extent.index, block)
    )


def _wanted(run: Run, found: bytes) -> Buffer:
    return found if run.end - run.start == len(found) else memoryview(found)[run.start : run.end]


def _assembled(part: Part, found: Iterator[bytes | BlockCorrupt]) -> Buffer:
    """The part's bytes; a run takes the next of what was read."""
    if not isinstance(part, Run):
        return part
    content = next(found)
    if isinstance(content, BlockCorrupt):
        raise _corrupt(part.extent, content.block)
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
