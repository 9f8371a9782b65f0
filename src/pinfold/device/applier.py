"""The applier: carries what the journal holds to where it stays, and then lets the journal go.

One pass: set aside what is in memory (blobs, extent blocks) at journal sequence S; wait until the
journal is flushed up to there; write it to packs and arena and flush those; put locations, marks
and S itself into the index; seal the index, wait for the journal again (rows may be newer than
S), commit. Whatever a crash interrupts is redone from the records behind the last committed S.
"""

import asyncio
import struct
from typing import Final, NamedTuple

from pinfold.codec.decoding import decodes, require_version
from pinfold.device import kinds
from pinfold.device.blobs import Blobs
from pinfold.device.extents import Extents
from pinfold.device.files import Superblock
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.log import Log
from pinfold.device.memory import Memory, encode_memory
from pinfold.device.packreclaim import PackReclaim
from pinfold.device.packs import Packs
from pinfold.device.reclaim import Reclaim
from pinfold.device.room import RETRY_S, NoRoom
from pinfold.device.segments import Recovered
from pinfold.env.api import Disk, Offload
from pinfold.model.errors import Corrupt, Full, PinfoldError
from pinfold.model.settings import DeviceSettings

APPLIED: Final = b"ma"
"""Index key of how far the index and the files have come."""

FULL_LOOK_S: Final = 1.0
"""A full device that nothing is written to looks so often whether there is room again."""

IDLE_LOOK_S: Final = 10.0
"""Any other looks so often whether somebody else has filled its file system."""

_APPLIED: Final = struct.Struct(">HQQQ")

INDEX_VERSION: Final = 3
"""Of every table of the index together: where a table's values have no version of their own, a
change to them is a new one of these."""


class Applier:
    """See the module. `run` is the device's only caller of the stores' applier methods."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        lane: Offload,
        journal: Journal,
        index: Index,
        reclaim: Reclaim,
        pack_reclaim: PackReclaim,
        packs: Packs,
        log: Log,
        blobs: Blobs,
        extents: Extents,
        space: Space,
        health: Health,
        settings: DeviceSettings,
        applied: "Applied",
    ) -> None:
        self._disk = disk
        self._path = path
        self._lane = lane
        self._journal = journal
        self._index = index
        self._reclaim = reclaim
        self._pack_reclaim = pack_reclaim
        self._packs = packs
        self._log = log
        self._blobs = blobs
        self._extents = extents
        self._space = space
        self._health = health
        self._settings = settings
        self._sealed = applied.sealed
        """Journal records up to here have their effect in files and index."""
        self._keep_from = applied.kept_from
        """Journal records that the next committed pass still promises to keep start here."""
        self._closing = False
        health.on_stop(lambda _: journal.activity.set())

    async def run(self) -> None:
        """Make passes until `close`, or until the device stops."""
        try:
            while True:
                await self._wait()
                if self._health.reason:
                    return
                if self._closing:
                    await self._finish()
                    return
                await self._pass()
        except OSError as error:
            self._health.stop(f"applier: {error}")
        except PinfoldError as error:
            self._health.stop(str(error))

    def close(self) -> None:
        """Let `run` return soon, with everything appended flushed; see `_finish`."""
        self._closing = True
        self._journal.activity.set()
        self._journal.urgent.set()

    async def _finish(self) -> None:
        """Leave the next opening little to redo, but never keep the process waiting for it.

        One pass when no more waits than a pass takes on anyway. A larger backlog, on a disk that
        cannot keep up, stays in the journal, which is all that anybody was promised; so does what
        is left to purge.
        """
        if self._journal.unapplied_bytes > self._settings.apply_bytes:
            await self._journal.flush()
        else:
            await self._pass()

    async def _wait(self) -> None:
        """Sleep while nothing happens, then let changes gather for the interval."""
        while not await self._active_within(FULL_LOOK_S if self._short else IDLE_LOOK_S):
            await self._measure(self._space.taken_bytes)
            self._journal.keep_spare()
        if self._closing:
            return
        try:
            async with asyncio.timeout(self._settings.apply_interval_s):
                await self._journal.urgent.wait()
        except TimeoutError:
            return

    @property
    def _short(self) -> bool:
        """Whether something is refused for lack of room that others may make."""
        return self._space.full or self._journal.no_room

    async def _active_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._journal.activity.wait()
        except TimeoutError:
            return False
        return True

    async def _measure(self, on_disk_bytes: int) -> None:
        """Look at the file system; of what was taken so much is in its files by now."""
        free, total = await self._lane(measure, self._disk, self._path)
        self._space.measured(free, total, self._space.taken_bytes - on_disk_bytes)
        self._space.index_bytes = self._index.spare_bytes()

    async def _pass(self) -> None:
        journal = self._journal
        journal.activity.clear()
        journal.urgent.clear()
        sealed, sealed_bytes = journal.appended, journal.appended_bytes
        taken_bytes = self._space.taken_bytes
        self._blobs.seal()
        self._extents.seal()
        await journal.flush()
        if not await self._written():
            # Nothing new is in its place, so nothing more of the journal counts as applied. The
            # rest of the pass goes on: what was deleted must become durable to give room.
            sealed, sealed_bytes = self._sealed, journal.applied_bytes
        self._blobs.settle()
        self._extents.settle()
        self._log.settle()
        self._packs.settle()
        kept_from = self._keep_from
        self._index.put(APPLIED, encode_applied(Applied(sealed, journal.appended, kept_from)))
        self._index.seal()
        await journal.flush()
        await self._commit()
        journal.applied_bytes, self._sealed = sealed_bytes, sealed
        self._log.committed()
        self._pack_reclaim.committed()
        self._reclaim.committed()
        journal.release(kept_from)
        await self._plan_release(sealed)
        await self._tidy()
        await self._measure(taken_bytes)
        journal.keep_spare()
        if self._log.purging or self._extents.purging:
            journal.activity.set()
        if self._space.exhausted:
            journal.activity.set()
            await asyncio.sleep(RETRY_S)

    async def _written(self) -> bool:
        """Write what was sealed; False, and it waits on, when there is no room for all of it."""
        written = True
        try:
            await self._lane(self._blobs.write)
        except NoRoom:
            written = False
        try:
            await self._extents.apply(self._lane)
        except NoRoom:
            written = False
        if not written:
            self._blobs.unseal()
        self._space.exhausted = not written
        return written

    async def _commit(self) -> None:
        """Commit the index, however long it takes until there is room for it."""
        while True:
            try:
                await self._index.commit(self._lane)
            except NoRoom as error:
                self._space.exhausted = True
                if self._closing:
                    raise Full(f"closed before there was room for the index: {error}") from error
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _plan_release(self, sealed: int) -> None:
        """Decide what the next pass lets go: applied segments beyond what is retained."""
        excess_bytes = self._journal.retained_bytes - self._settings.journal_retain_bytes
        last = self._journal.last_of_oldest(excess_bytes, sealed)
        if last < self._keep_from:
            return
        if self._log.pinned() <= last:
            self._log.carry(last)
            await self._journal.flush()
        # What is pinned still was applied since the index was sealed: the next pass settles it.
        if self._log.pinned() > last:
            self._repeat()
            self._keep_from = last + 1

    def _repeat(self) -> None:
        """Say again what must never be forgotten: the next pass flushes it, and then lets go."""
        memory = Memory(groups=self._log.promises(), volumes=self._extents.tokens())
        for part in encode_memory(memory, self._settings.record_bytes):
            self._journal.append(kinds.MEMORY, (part,), len(part))

    async def _tidy(self) -> None:
        """Give back the files of spare segments."""
        while (spare := self._journal.excess()) is not None:
            spare.file.close()
            await self._lane(self._disk.unlink, spare.path)


class Applied(NamedTuple):
    """How far the index and the files had come when the index was committed."""

    sealed: int
    """S: records up to here have their effect in files and index, log entries apart."""
    flushed: int
    """The journal was durable up to here before the index said so."""
    kept_from: int
    """Older records may have been overwritten."""


def encode_applied(applied: Applied) -> bytes:
    """The value of `APPLIED`."""
    return _APPLIED.pack(INDEX_VERSION, *applied)


@decodes("the index's record of what was applied")
def decode_applied(record: bytes | None) -> Applied:
    """The inverse of `encode_applied`; what holds for a device never applied without a record.

    Corrupt for an index of a version that this program does not know.
    """
    if record is None:
        return Applied(0, 0, 1)
    (version,) = struct.unpack_from(">H", record)
    require_version("the index", version, INDEX_VERSION, oldest=INDEX_VERSION)
    return Applied(*_APPLIED.unpack(record)[1:])


def check_memory(found: Recovered, applied: Applied, superblock: Superblock, boots: int) -> None:
    """Corrupt for a device whose files contradict each other: it lost what it acknowledged.

    `boots` is how often it was opened before.
    """
    if found.next_sequence <= superblock.flushed:
        raise Corrupt(
            f"the journal ends at {found.next_sequence - 1}, "
            f"{superblock.flushed} was flushed before the superblock was"
        )
    if found.next_sequence <= applied.flushed:
        raise Corrupt(
            f"the journal ends at {found.next_sequence - 1}, "
            f"{applied.flushed} was flushed before the index was"
        )
    if found.boot > boots:
        raise Corrupt(f"the journal has seen boot {found.boot}, the superblock has not")


def measure(disk: Disk, path: str) -> tuple[int, int]:
    """(free, total) bytes of the device's file system. Blocks."""
    return disk.free_bytes(path), disk.total_bytes(path)
