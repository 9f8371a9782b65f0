"""A stopped device, looked at: what serving it would show, without writing a byte.

The index is read from disk, the journal is redone into its overlay in memory, and nothing is ever
committed. So a check sees exactly what the next opening will serve, blobs and blocks that wait in
the journal included.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.applier import APPLIED, check_memory, decode_applied
from pinfold.device.arena import Arena
from pinfold.device.blobs import Blobs
from pinfold.device.engines import look_at_engine
from pinfold.device.extents import Extents
from pinfold.device.files import Superblock, lock_device, numbered_files, read_superblock
from pinfold.device.group import Group
from pinfold.device.health import Health, Space
from pinfold.device.index import REPAIRED_TABLES, Index
from pinfold.device.journal import Journal
from pinfold.device.log import drop_rows, load_groups
from pinfold.device.logredo import LogRedo
from pinfold.device.packs import Packs
from pinfold.device.readers import Readers
from pinfold.device.segments import Recovered, survey
from pinfold.env.api import Disk, Lock
from pinfold.model.errors import Corrupt
from pinfold.model.ids import GroupId
from pinfold.model.settings import DeviceSettings

_SETTINGS: Final = DeviceSettings()

ROTTEN_MAX: Final = 10_000
"""Rotten rows found in one look; a repair that is told so many is followed by another."""

ROTTEN_TOLD_MAX: Final = 100


@dataclass(slots=True)
class Offline:
    """A device read as far as it could be; `problems` say what could not. Close it."""

    superblock: Superblock
    lock: Lock
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(part, what): `index`, `journal`, `log`, `arena`; the first is what refuses an opening."""
    index: Index | None = None
    rotten: list[bytes] = field(default_factory=list)
    """Keys of rows of the index that fail, at most `ROTTEN_MAX`."""
    journal: Recovered | None = None
    records: int = 0
    groups: dict[GroupId, Group] = field(default_factory=dict)
    blobs: Blobs | None = None
    packs: Packs | None = None
    extents: Extents | None = None
    arena: Arena | None = None

    def close(self) -> None:
        """Close every file and give the lock back."""
        if self.journal is not None:
            for segment in (*self.journal.live, *self.journal.spare, *self.journal.unfinished):
                segment.file.close()
        for part in (self.packs, self.arena, self.index):
            if part is not None:
                part.close_files() if isinstance(part, Packs) else part.close()
        self.lock.close()


def look_at(disk: Disk, path: str) -> Offline:
    """Lock a device and read it. Blocks, for as long as its journal takes to read.

    NotFound where there is none, Unavailable while it is served, Corrupt when its superblock does
    not verify, OSError; everything else that is wrong becomes a problem.
    """
    read_superblock(disk, path)
    lock = lock_device(disk, path)
    device = Offline(read_superblock(disk, path), lock)
    try:
        _read(disk, path, device)
    except BaseException:
        device.close()
        raise
    return device


def segment_bytes(disk: Disk, path: str) -> int:
    """The size its segments were made with; the settings' own when there is none."""
    sizes = []
    for _, name in numbered_files(disk, f"{path}/journal"):
        file = disk.open(name)
        sizes.append(file.size())
        file.close()
    return max(sizes, default=_SETTINGS.segment_bytes)


def _read(disk: Disk, path: str, device: Offline) -> None:
    try:
        engine = look_at_engine(disk, f"{path}/index")
        index = device.index = Index(engine, lenient=True)
        _look_for_rot(device, index)
        applied = decode_applied(index.get(APPLIED))
        log_redo = LogRedo(load_groups(index))
    except Corrupt as error:
        device.problems.append(("index", error.message))
        return
    waiting: list[Record] = []

    def sort_out(record: Record) -> None:
        device.records += 1
        if record.kind in kinds.LOG_KINDS:
            log_redo.redo(record)
        elif record.sequence > applied.sealed and record.kind not in kinds.DEVICE_KINDS:
            waiting.append(record)

    try:
        device.journal = survey(
            disk,
            f"{path}/journal",
            device.superblock.salt,
            segment_bytes(disk, path),
            applied.kept_from,
            sort_out,
        )
        check_memory(device.journal, applied, device.superblock, device.superblock.boot)
    except (Corrupt, OSError) as error:
        device.problems.append(("journal", str(error)))
        waiting.clear()  # what is served is unknown; the files are looked at as the index has them
    else:
        try:
            device.groups = log_redo.finish()
            drop_rows(index, log_redo.dropped)
        except Corrupt as error:
            device.problems.append(("log", error.message))
    _build(disk, path, device, index)
    _redo(device, waiting)


def _look_for_rot(device: Offline, index: Index) -> None:
    """Read every row; what fails is told, and everything else is read without it."""
    device.rotten = list(islice(index.rotten(), ROTTEN_MAX))
    for key in device.rotten[:ROTTEN_TOLD_MAX]:
        part = "row" if key[:1] in REPAIRED_TABLES else "index"
        what = f"the row {key.hex()} fails its checksum" if key else "its structure is broken"
        device.problems.append((part, what))
    if (more := len(device.rotten) - ROTTEN_TOLD_MAX) > 0:
        device.problems.append(("row", f"{more} more rows fail their checksums, or more"))


def _build(disk: Disk, path: str, device: Offline, index: Index) -> None:
    """The stores of a device, with nothing behind them that runs."""
    health, space = Health(), Space(0)
    journal = Journal(
        disk,
        _Nothing(),
        _Nothing(),
        f"{path}/journal",
        device.superblock.salt,
        device.superblock.boot,
        _SETTINGS,
        health,
        Recovered([], [], 1, 0, 0),
    )
    readers = Readers([], health, lambda: 0.0)
    try:
        packs = Packs(
            disk, f"{path}/packs", device.superblock.salt, index, readers, _SETTINGS, health
        )
        device.blobs = Blobs(journal, index, packs, readers, space, health, _Nothing())
        device.packs = packs
        with suppress(FileNotFoundError):
            device.arena = Arena(disk, f"{path}/arena", device.superblock.salt, read_only=True)
        if device.arena is None:
            device.problems.append(("arena", "the arena's files are missing"))
            return
        device.extents = Extents(journal, index, device.arena, readers, space, health, _SETTINGS)
    except Corrupt as error:
        device.problems.append(("index", error.message))


def _redo(device: Offline, records: list[Record]) -> None:
    if device.blobs is None or device.extents is None:
        return
    try:
        for record in records:
            if record.kind in kinds.BLOB_KINDS:
                device.blobs.redo(record)
            else:
                device.extents.redo(record)
    except Corrupt as error:
        device.problems.append(("journal", error.message))


class _Nothing:
    """A lane that is never used: nothing runs in a device that is only looked at."""

    def __call__(self, function: Callable[..., Any], /, *_arguments: Any) -> Any:
        raise AssertionError(f"{function} was to run in a device that is only looked at")

    def close(self) -> None:
        """Nothing runs."""
