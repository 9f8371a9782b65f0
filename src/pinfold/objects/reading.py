"""Bytes on their way out: an object's range, chunk by chunk, with one chunk read ahead.

Every chunk was verified by the device it came from. Chunks in memory count against a budget of the
whole process until they were handed to the client; those of a copy count as what it writes.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Final, Protocol

from pinfold.cluster.api import BlobRef, Blobs, Row
from pinfold.env.api import Buffer
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Corrupt
from pinfold.model.settings import ObjectSettings
from pinfold.objects.budget import ByteBudget
from pinfold.objects.records import ObjectRecord

Extract = tuple[BlobRef, int, int]
"""A blob, where to start in it, how many bytes."""

Chunks = AsyncGenerator[list[Buffer], None]


class Memory(Protocol):
    """What chunks count against; see `ByteBudget`."""

    async def take(self, count: int, *, timeout_s: float) -> int: ...  # noqa: D102

    def give(self, count: int) -> None: ...  # noqa: D102


class _TakenAlready:
    """Memory that whoever asks for the bytes has taken."""

    async def take(self, count: int, *, timeout_s: float) -> int:
        return count

    def give(self, count: int) -> None:
        return


_TAKEN_ALREADY: Final = _TakenAlready()


class Reading:
    """Reads objects' bytes."""

    def __init__(self, blobs: Blobs, settings: ObjectSettings) -> None:
        self._blobs = blobs
        self._settings = settings
        assert settings.read_memory_bytes >= 2 * settings.read_chunk_bytes
        self._budget = ByteBudget(
            settings.read_memory_bytes, waiting_max=settings.memory_waiting_max
        )

    @property
    def memory_taken(self) -> int:
        """Bytes of chunks held now."""
        return self._budget.taken

    @property
    def memory_wanted(self) -> bool:
        """Whether somebody waits for memory that others hold."""
        return self._budget.wanted

    def inline(self, row: Row, record: ObjectRecord, start: int, stop: int) -> bytes | None:
        """The bytes start <= i < stop of an object that its row holds; None if blobs hold them."""
        if row.blobs and start < stop:
            return None
        content = row.payload or b""
        if len(content) != record.size and start < stop:
            return None  # `chunks` tells what is wrong
        return content[start:stop] if stop - start < len(content) else content

    def chunks(self, row: Row, record: ObjectRecord, start: int, stop: int) -> Chunks:
        """The bytes start <= i < stop of an object, in order.

        Close the generator when done with it. A chunk counts as out of memory once the next is
        asked for. Errors (Corrupt, Unavailable, NotFound of a blob) come in place of a chunk.
        """
        assert 0 <= start <= stop <= record.size
        if start == stop or not row.blobs:
            return _inline(row.payload or b"", record.size, start, stop)
        extracts = self._extracts(row.blobs, start, stop)
        first, second = next(extracts), next(extracts, None)
        if second is None:
            return self._one(first)
        return self._ahead(itertools.chain((first, second), extracts), self._budget)

    def copied(self, row: Row, record: ObjectRecord, start: int, stop: int) -> Chunks:
        """The same for whoever stores the bytes again, segment by segment.

        He has taken memory for a segment when he asks for the first of its bytes, and no more of
        them are here at once; so no other memory is taken. Two copies that each held some of one
        kind and waited for the other would wait for ever.
        """
        assert 0 <= start <= stop <= record.size
        if start == stop or not row.blobs:
            return _inline(row.payload or b"", record.size, start, stop)
        return self._by_segments(row.blobs, start, stop)

    async def _by_segments(self, blobs: Sequence[BlobRef], start: int, stop: int) -> Chunks:
        segment_bytes = self._settings.segment_bytes
        for begin in range(start, stop, segment_bytes):
            extracts = self._extracts(blobs, begin, min(begin + segment_bytes, stop))
            async with contextlib.aclosing(self._ahead(extracts, _TAKEN_ALREADY)) as chunks:
                async for chunk in chunks:
                    yield chunk

    def _extracts(self, blobs: Sequence[BlobRef], start: int, stop: int) -> Iterator[Extract]:
        return extracts_of(blobs, start, stop, self._settings.read_chunk_bytes)

    async def _one(self, extract: Extract) -> Chunks:
        chunk = await self._read(extract, self._budget)
        try:
            yield chunk
        finally:
            self._budget.give(extract[2])

    async def _ahead(self, extracts: Iterator[Extract], memory: Memory) -> Chunks:
        """Chunk by chunk. `extracts` is asked as they go: an object may have half a million."""
        scope = TaskScope(_seen_by_whoever_awaits)
        pending: asyncio.Task[list[Buffer]] | None = None
        pending_bytes = held_bytes = 0
        try:
            following = next(extracts, None)
            while following is not None or pending is not None:
                chunk = None
                if pending is not None:
                    chunk = await pending
                    pending, held_bytes = None, pending_bytes
                if following is not None:
                    pending_bytes = following[2]
                    pending = scope.start(self._read(following, memory))
                    following = next(extracts, None)
                if chunk is not None:
                    yield chunk
                    memory.give(held_bytes)
                    held_bytes = 0
        finally:
            await scope.close()
            memory.give(held_bytes)
            if pending is not None and _succeeded(pending):
                memory.give(pending_bytes)

    async def _read(self, extract: Extract, memory: Memory) -> list[Buffer]:
        ref, offset, length = extract
        await memory.take(length, timeout_s=self._settings.memory_timeout_s)
        try:
            return await self._blobs.read(ref, offset, length)
        except BaseException:
            memory.give(length)
            raise


def extracts_of(
    blobs: Sequence[BlobRef], start: int, stop: int, chunk_bytes: int
) -> Iterator[Extract]:
    """What to read of which blob to have the bytes start <= i < stop of their concatenation."""
    blob_start = 0
    for blob in blobs:
        offset = max(0, start - blob_start)
        end = min(blob.length, stop - blob_start)
        while offset < end:
            length = min(chunk_bytes, end - offset)
            yield blob, offset, length
            offset += length
        blob_start += blob.length
        if blob_start >= stop:
            return


async def _inline(content: bytes, size: int, start: int, stop: int) -> Chunks:
    if start == stop:
        return
    if len(content) != size:
        raise Corrupt("an object with neither its bytes nor blobs")
    yield [memoryview(content)[start:stop]]


def _succeeded(task: asyncio.Task[list[Buffer]]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _seen_by_whoever_awaits(error: BaseException) -> None:
    """Failures of the scope's tasks are raised where the task is awaited."""
