"""Empties sparse packs: what is left in one is copied to where streams write, and then it goes.

A record is read, verified, written elsewhere, read back, flushed and named there by the index, in
the commit that frees its old place. A crash in between leaves it where it was. One that was
deleted, or put aside, or has another place by the time its copy is flushed keeps what it has: the
copy is given back. Work is done in small steps at a bounded rate, and not on a full device.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from pinfold.codec.packs import Location
from pinfold.codec.records import PAGE_BYTES
from pinfold.device.blobs import Blobs
from pinfold.device.health import Health
from pinfold.device.packs import Pack, Packs
from pinfold.device.packwalk import Record, records, verifies
from pinfold.device.readers import Readers
from pinfold.device.streams import Stream
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.model.ids import BlobId
from pinfold.model.limits import MIB

SPARSE: Final = 4
"""A pack is sparse when its records take less than one part in so many of it."""

STEP_BYTES: Final = 4 * MIB
"""Looked through for records at a time: some milliseconds of a reader's lane."""

BYTES_PER_S: Final = 32 * MIB
"""Looked through and copied: a tenth of what a disk does, so that clients hardly notice."""


class Compaction:
    """See the module."""

    def __init__(
        self, blobs: Blobs, packs: Packs, readers: Readers, health: Health, interval_s: float
    ) -> None:
        self._blobs = blobs
        self._packs = packs
        self._readers = readers
        self._health = health
        self._interval_s = interval_s
        self._tried: dict[int, int] = {}
        """Records that were left in a pack: quarantined ones, and those whose heads fail."""

    async def run(self) -> None:
        """Look for sparse packs now and then, until cancelled or until the device stops."""
        while not self._health.reason:
            await asyncio.sleep(self._interval_s)
            try:
                while (pack := self._sparsest()) is not None:
                    await self._empty(pack)
            except PinfoldError:
                continue  # full, busy, or stopped: another time

    def _sparsest(self) -> Pack | None:
        sparse = [
            pack
            for pack in self._packs.all()
            if pack.sealed
            and not pack.writers
            and pack.live not in (0, self._tried.get(pack.number))
            and pack.live_bytes * SPARSE < pack.end
        ]
        return min(sparse, key=lambda pack: pack.live_bytes / pack.end, default=None)

    async def _empty(self, pack: Pack) -> None:
        start = PAGE_BYTES
        while start < pack.end and pack.live:
            found, start = await self._readers.submit(
                pack.number, partial(_look, self._packs, pack, start)
            )
            await asyncio.sleep(STEP_BYTES / BYTES_PER_S)
            for blob, location in found:
                await self._move(blob, location)
        self._tried = {
            number: live for number, live in self._tried.items() if self._packs.has(number)
        }
        self._tried[pack.number] = pack.live

    async def _move(self, blob: BlobId, found: Location) -> None:
        """Copy one record, if it is the blob's own."""
        old = self._blobs.location(blob)
        if old is None or old._replace(sequence=found.sequence) != found:
            return
        try:
            reading = self._blobs.read(blob, 0, old.length)
            content = await reading if isinstance(reading, asyncio.Future) else reading
        except Corrupt:
            return  # set aside
        stream = self._blobs.move(blob, old)
        try:
            await self._copy(stream, content)
        finally:
            stream.abort()  # of no effect behind a commit
        await asyncio.sleep(old.record_bytes / BYTES_PER_S)

    async def _copy(self, stream: Stream, content: Sequence[Buffer]) -> None:
        for chunk in content or [b""]:
            await stream.write(chunk)
        good = await self._readers.submit(
            stream.pack.number, partial(_read_back, self._packs, stream)
        )
        if not good:
            raise Corrupt(f"blob {stream.blob.hex()} was copied and reads back otherwise")
        await stream.commit()


def _look(packs: Packs, pack: Pack, start: int) -> tuple[list[Record], int]:
    """In the pack's reader lane: the records of a stretch, and where the next one begins."""
    try:
        with packs.opened(pack) as file:
            end = start + STEP_BYTES
            found = list(records(file, pack.number, pack.seed, start, end))
    except FileNotFoundError:
        return [], pack.end  # it has gone meanwhile
    if found:
        _, last = found[-1]
        end = max(end, last.start + last.record_bytes)
    return found, end


def _read_back(packs: Packs, stream: Stream) -> bool:
    """In its pack's reader lane: whether a stream's bytes are in their place."""
    with packs.opened(stream.pack) as file:
        return verifies(file, stream.location)
