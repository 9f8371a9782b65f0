"""The applier: carries what the journal holds to where it stays, and then lets the journal go.

One pass: set aside what is in memory (blobs, extent blocks) at journal sequence S; wait until the
journal is flushed up to there; write it to packs and arena and flush those; put locations, marks
and S itself into the index; seal the index, wait for the journal again (rows may be newer than
S), commit. Whatever a crash interrupts is redone from the records behind the last committed S.
"""

import asyncio
import struct
from typing import Final

from pinfold.device.arena import Arena
from pinfold.device.blobs import Blobs
from pinfold.device.extents import Extents
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.log import Log
from pinfold.device.packs import Packs
from pinfold.env.api import Disk, Offload
from pinfold.model.errors import PinfoldError
from pinfold.model.settings import DeviceSettings

APPLIED: Final = b"ma"
"""Index key of how far the index and the files have come."""

_APPLIED: Final = struct.Struct(">QQ")


class Applier:
    """See the module. `run` is the device's only caller of the stores' applier methods."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        lane: Offload,
        journal: Journal,
        index: Index,
        arena: Arena,
        packs: Packs,
        log: Log,
        blobs: Blobs,
        extents: Extents,
        space: Space,
        health: Health,
        settings: DeviceSettings,
    ) -> None:
        self._disk = disk
        self._path = path
        self._lane = lane
        self._journal = journal
        self._index = index
        self._arena = arena
        self._packs = packs
        self._log = log
        self._blobs = blobs
        self._extents = extents
        self._space = space
        self._health = health
        self._settings = settings
        self._closing = False
        health.on_stop(lambda _: journal.activity.set())

    async def run(self) -> None:
        """Make passes until `close`, or until the device stops."""
        try:
            while True:
                await self._wait()
                if self._health.reason:
                    return
                await self._pass()
                if self._closing and not self._journal.activity.is_set():
                    return
        except OSError as error:
            self._health.stop(f"applier: {error}")
        except PinfoldError as error:
            self._health.stop(str(error))

    def close(self) -> None:
        """Let `run` return once everything appended is applied."""
        self._closing = True
        self._journal.activity.set()
        self._journal.urgent.set()

    async def _wait(self) -> None:
        """Sleep while nothing happens, then let changes gather for the interval."""
        await self._journal.activity.wait()
        if self._closing:
            return
        try:
            async with asyncio.timeout(self._settings.apply_interval_s):
                await self._journal.urgent.wait()
        except TimeoutError:
            return

    async def _pass(self) -> None:
        journal = self._journal
        journal.activity.clear()
        journal.urgent.clear()
        sealed, sealed_bytes = journal.appended, journal.appended_bytes
        taken_bytes = self._space.taken_bytes
        self._blobs.seal()
        self._extents.seal()
        await journal.flush()
        await self._lane(self._write)
        self._blobs.settle()
        self._extents.settle()
        self._log.settle()
        self._packs.settle()
        self._index.put(APPLIED, encode_applied(sealed, journal.appended))
        self._index.seal()
        await journal.flush()
        await self._index.commit(self._lane)
        journal.applied_bytes = sealed_bytes
        self._log.committed()
        self._packs.committed()
        await self._tidy(sealed)
        free, total = await self._lane(measure, self._disk, self._path)
        self._space.measured(free, total, self._space.taken_bytes - taken_bytes)
        journal.keep_spare()
        if self._log.purging:
            journal.activity.set()

    def _write(self) -> None:
        self._blobs.write()
        self._extents.apply()

    async def _tidy(self, sealed: int) -> None:
        """Give back slots, journal segments beyond what is retained, and spare files."""
        slots = self._extents.committed()
        if slots:
            await self._lane(self._arena.punch, slots)
        journal = self._journal
        while journal.retained_bytes > self._settings.journal_retain_bytes:
            last = journal.oldest_last_sequence()
            if last is None or last > sealed:
                break
            if self._log.pinned() <= last:
                self._log.carry(last)
                await journal.flush()
            if self._log.pinned() <= last:
                break  # applied since the index was sealed: the next pass settles it
            journal.release_oldest()
        while (spare := journal.excess()) is not None:
            spare.file.close()
            await self._lane(self._disk.unlink, spare.path)


def encode_applied(sealed: int, flushed: int) -> bytes:
    """(S, journal end that was durable before the index said so), for `APPLIED`."""
    return _APPLIED.pack(sealed, flushed)


def decode_applied(record: bytes | None) -> tuple[int, int]:
    """The inverse of `encode_applied`; zeroes for a device never applied."""
    return _APPLIED.unpack(record) if record is not None else (0, 0)


def measure(disk: Disk, path: str) -> tuple[int, int]:
    """(free, total) bytes of the device's file system. Blocks."""
    return disk.free_bytes(path), disk.total_bytes(path)
