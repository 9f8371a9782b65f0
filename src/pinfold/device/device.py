"""One device, put together: `Device.format` makes it, `Device.open` serves it.

Opening flushes a higher boot, reads the index, redoes the journal behind what the index has
applied, and refuses a device that shows less than it acknowledged. The journal's writer and the
applier are the only two tasks; threads (lanes) do everything that blocks.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Final

import msgspec

from pinfold.codec.records import Record
from pinfold.codec.seeds import SALT_BYTES
from pinfold.device import kinds
from pinfold.device.api import (
    BlobStore,
    DeviceStatus,
    ExtentStore,
    IndexDamaged,
    LogStore,
    RowStore,
)
from pinfold.device.applier import APPLIED, Applied, Applier, check_memory, decode_applied, measure
from pinfold.device.arena import Arena
from pinfold.device.blobs import Blobs
from pinfold.device.compaction import Compaction
from pinfold.device.engines import open_engine
from pinfold.device.extents import Extents
from pinfold.device.files import Superblock, enter_device, make_device, write_superblock
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.log import Log, drop_rows, load_groups
from pinfold.device.logredo import LogRedo
from pinfold.device.packreclaim import PackReclaim
from pinfold.device.packs import Packs
from pinfold.device.readers import Readers
from pinfold.device.reclaim import Reclaim
from pinfold.device.room import NO_ROOM
from pinfold.device.rows import Rows
from pinfold.device.segments import recover
from pinfold.env.api import Env, Lock, Offload
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Corrupt
from pinfold.model.ids import Boot, DeviceUuid
from pinfold.model.settings import DeviceSettings

CLOSED: Final = "closed"
"""Why a device that was closed serves nothing."""

_REDO_BATCH: Final = 1000
"""Records redone before the loop may turn to somebody else: a few milliseconds."""


class Device:
    """An open device; see `api.Device`."""

    def __init__(
        self, env: Env, path: str, settings: DeviceSettings, superblock: Superblock, lock: Lock
    ) -> None:
        self._env = env
        self._path = path
        self._settings = settings
        self._superblock = superblock
        self._lock = lock
        self._health = Health()
        self._space = Space(settings.reserve_bytes)
        self._lanes: list[Offload] = []
        self._files = ExitStack()
        """Closes every file, the lock last, whatever else happens."""
        self._files.callback(lock.close)
        self._scope = TaskScope(lambda error: self._health.stop(repr(error)))
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    async def format(
        env: Env, path: str, cluster_id: bytes, settings: DeviceSettings
    ) -> DeviceUuid:
        """Make a device of an absent or empty directory; its uuid.

        Raises Conflict when the directory holds anything, and OSError.
        """
        uuid, salt = DeviceUuid(env.rng.randbytes(16)), env.rng.randbytes(SALT_BYTES)
        lane = env.new_offload("format")
        try:
            await lane(make_device, env.disk, path, uuid, cluster_id, salt)
        finally:
            lane.close()
        return uuid

    @classmethod
    async def open(
        cls,
        env: Env,
        path: str,
        settings: DeviceSettings,
        *,
        cluster_id: bytes,
        uuid: DeviceUuid | None = None,
    ) -> "Device":
        """Open the device at `path` under its next boot, with everything redone.

        Raises NotFound where there is none, Conflict for another cluster's (or, with `uuid`,
        another) device, Unavailable when a process has it open, Corrupt when it shows less than
        it acknowledged, and OSError.
        """
        lane = env.new_offload("apply")
        try:
            superblock, lock = await lane(enter_device, env.disk, path, cluster_id, uuid)
        except BaseException:
            lane.close()
            raise
        device = cls(env, path, settings, superblock, lock)
        device._lanes.append(lane)
        try:
            await device._start(lane)
        except BaseException as error:
            await device._scope.close()
            device._close_files()
            if isinstance(error, IndexDamaged):
                raise IndexDamaged(f"{path}: {error.message}") from error
            if isinstance(error, Corrupt):
                raise Corrupt(f"{path}: {error.message}") from error
            raise
        return device

    @property
    def uuid(self) -> DeviceUuid:
        """See `api.Device`."""
        return self._superblock.uuid

    @property
    def boot(self) -> Boot:
        """See `api.Device`."""
        return self._superblock.boot

    @property
    def log(self) -> Log:
        """See `api.Device`."""
        return self._log

    @property
    def rows(self) -> Rows:
        """See `api.Device`."""
        return self._rows

    @property
    def blobs(self) -> Blobs:
        """See `api.Device`."""
        return self._blobs

    @property
    def extents(self) -> Extents:
        """See `api.Device`."""
        return self._extents

    @property
    def packs(self) -> Packs:
        """The pack files, for a repair."""
        return self._packs

    def status(self) -> DeviceStatus:
        """See `api.Device`."""
        stopped, full = bool(self._health.reason), self._space.full
        return DeviceStatus(
            uuid=self.uuid,
            boot=self.boot,
            state="stopped" if stopped else "full" if full else "serving",
            reason=self._health.reason,
            free_bytes=max(0, self._space.left_bytes),
            reserve_bytes=self._space.reserve_bytes,
            total_bytes=self._space.total_bytes,
            journal_bytes=self._journal.unapplied_bytes,
            blobs=self._blobs.count,
            blob_bytes=self._blobs.payload_bytes,
            extent_bytes=self._extents.slot_bytes,
            quarantined=self._blobs.quarantined,
        )

    def touch(self, keys: Sequence[bytes]) -> None:
        """Look at rows that failed a check, so that whoever they belong to deals with them."""
        for key in keys:
            with suppress(Corrupt):  # a group's: it waits until its members are served
                self._index.get(key)

    async def close(self) -> None:
        """See `api.Device`. Idempotent."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        writer, applier = tasks
        self._journal.leave()
        self._applier.close()
        try:
            await _end_of(applier)
            await self._readers.drain()
            self._journal.close()
            self._journal.activity.set()
            await _end_of(writer)
            await self._vouch()
        finally:
            await self._scope.close()
            self._health.stop(CLOSED)
            self._close_files()

    async def _start(self, lane: Offload) -> None:
        disk, settings, health = self._env.disk, self._settings, self._health
        salt = self._superblock.salt
        index = self._index = Index(await lane(open_engine, disk, f"{self._path}/index", settings))
        self._files.callback(index.close)
        applied = decode_applied(index.get(APPLIED))
        log_redo = LogRedo(load_groups(index))
        waiting: list[Record] = []

        def sort_out(record: Record) -> None:
            if record.kind in kinds.LOG_KINDS:
                log_redo.redo(record)
            elif record.sequence > applied.sealed and record.kind not in kinds.DEVICE_KINDS:
                waiting.append(record)

        found = await lane(
            recover,
            disk,
            f"{self._path}/journal",
            salt,
            settings.segment_bytes,
            applied.kept_from,
            max(applied.flushed, self._superblock.flushed),
            sort_out,
        )
        check_memory(found, applied, self._superblock, boots=self.boot - 1)
        self._journal = Journal(
            disk,
            self._lane("journal"),
            self._lane("fill"),
            f"{self._path}/journal",
            salt,
            self.boot,
            settings,
            health,
            found,
        )
        self._files.callback(self._journal.close_files)
        arena = await lane(Arena, disk, f"{self._path}/arena", salt)
        self._files.callback(arena.close)
        self._build(lane, index, arena, log_redo, applied)
        await lane(arena.cut, self._extents.slots.chunks)
        free, total = await lane(measure, disk, self._path)
        self._space.measured(free, total, self._journal.wanted_bytes)
        await self._redo(waiting)
        await lane(self._packs.remove_strays)
        self._packs.finish_redo()
        self._tasks = [
            self._scope.start(self._journal.run()),
            self._scope.start(self._applier.run()),
        ]
        self._scope.start(self._reclaim.run())
        self._scope.start(self._pack_reclaim.run())
        self._scope.start(self._compaction.run())
        self._journal.append(kinds.BOOT, (), 0)
        await self._journal.flush()
        await self._vouch()
        self._health.check()

    async def _vouch(self) -> None:
        """Write into the superblock how far the journal is durable.

        The journal's own last flush has no later record to tell of it; this is what does, from an
        opening and, better, from a clean closing on.
        """
        if self._health.reason:
            return
        superblock = msgspec.structs.replace(self._superblock, flushed=self._journal.flushed)
        try:
            await self._lanes[0](write_superblock, self._env.disk, self._path, superblock)
        except OSError as error:
            # Without room the old one stays, which says less and nothing wrong.
            if error.errno not in NO_ROOM:
                self._health.stop(f"superblock: {error}")

    def _build(
        self, lane: Offload, index: Index, arena: Arena, log_redo: LogRedo, applied: Applied
    ) -> None:
        """Wire the stores; lanes start their threads when first used."""
        disk, settings, health = self._env.disk, self._settings, self._health
        journal, space = self._journal, self._space
        lanes = [self._lane(f"read-{number}") for number in range(settings.read_lanes)]
        readers = self._readers = Readers(lanes, health, self._env.clock.monotonic)
        salt = self._superblock.salt
        packs = Packs(disk, f"{self._path}/packs", salt, index, readers, settings, health)
        self._packs = packs
        self._files.callback(packs.close_files)
        groups = log_redo.finish()
        drop_rows(index, log_redo.dropped)
        index.watch(b"", self._index_damaged)
        index.guard()
        self._log = Log(journal, index, space, health, settings, groups)
        self._rows = Rows(self._log, index)
        self._blobs = Blobs(journal, index, packs, readers, space, health, self._lane("streams"))
        self._extents = Extents(journal, index, arena, readers, space, health, settings)
        self._reclaim = Reclaim(
            self._extents.slots, arena, readers, self._lane("reclaim"), journal, health
        )
        self._pack_reclaim = PackReclaim(packs, readers, journal, health)
        interval_s = settings.compact_interval_s
        self._compaction = Compaction(self._blobs, packs, readers, health, interval_s)
        self._applier = Applier(
            disk,
            self._path,
            lane,
            journal,
            index,
            self._reclaim,
            self._pack_reclaim,
            packs,
            self._log,
            self._blobs,
            self._extents,
            space,
            health,
            settings,
            applied,
        )

    def _index_damaged(self, key: bytes) -> bool:
        """What a device promised, and how its index hangs together, is not guessed at."""
        what = f"its row {key.hex()} fails its checksum" if key else "its structure is broken"
        self._health.stop(f"the index is damaged, {what}: check the device, rebuild its index")
        return False

    async def _redo(self, records: Sequence[Record]) -> None:
        """Bring back what the journal holds and the files may lack."""
        for number, record in enumerate(records):
            if record.kind in kinds.BLOB_KINDS:
                self._blobs.redo(record)
            else:
                self._extents.redo(record)
            self._journal.appended_bytes += len(record.payload)
            if number % _REDO_BATCH == _REDO_BATCH - 1:
                await asyncio.sleep(0)

    def _lane(self, name: str) -> Offload:
        lane = self._env.new_offload(name)
        self._lanes.append(lane)
        return lane

    def _close_files(self) -> None:
        for lane in self._lanes:
            lane.close()
        self._files.close()


async def _end_of(task: asyncio.Task[None]) -> None:
    """Return when a task has ended, however: a failure has stopped the device already."""
    with suppress(Exception):
        await task


def _conforms(device: Device) -> tuple[LogStore, RowStore, BlobStore, ExtentStore]:
    """For the type checker: the stores keep their contracts."""
    return device.log, device.rows, device.blobs, device.extents
