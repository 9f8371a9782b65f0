"""Everything a stopped device holds, verified: identity, journal, index, packs, arena.

Reads only. What the index names must be there and match its checksums; what is there and named by
nobody is told too, because it takes space. `repair` acts on the report.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from pinfold.device.checkextents import check_extents, stored_bytes
from pinfold.device.checkindex import index_problems
from pinfold.device.checkpacks import check_packs
from pinfold.device.files import numbered_files
from pinfold.device.index import REPAIRED_TABLES
from pinfold.device.offline import Offline
from pinfold.device.packs import Packs
from pinfold.device.packwalk import READ_BYTES
from pinfold.device.slots import Run
from pinfold.env.api import Disk
from pinfold.model.ids import BlobId, VolumeId

Progress = Callable[[int, int], None]
"""Told (bytes verified, bytes in all) now and then."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    part: str
    """identity, journal, log, index, row, pack, blob or extent."""
    what: str


@dataclass(slots=True)
class Report:
    """What a check found. Clean when there are no findings."""

    boot: int = 0
    """How often the device was opened before."""
    findings: list[Finding] = field(default_factory=list)
    blobs: int = 0
    """Blobs verified, those that wait in the journal included."""
    blocks: int = 0
    """Blocks of extents verified."""
    records: int = 0
    """Journal records read."""
    quarantined: list[BlobId] = field(default_factory=list)
    """Blobs set aside before this check: to be fetched again from their other copies."""
    rotten: list[bytes] = field(default_factory=list)
    """Keys of the index whose rows fail and are made good from other devices."""
    bad_blobs: list[BlobId] = field(default_factory=list)
    bad_blocks: list[tuple[VolumeId, int, int]] = field(default_factory=list)
    """(volume, extent, block)."""
    nobodys: list[Run] = field(default_factory=list)
    """Slots of the arena that are neither free nor in use."""
    leftovers: list[tuple[int, int, int]] = field(default_factory=list)
    """(pack, offset, length) of records that nothing names: a crash forgot to free them."""
    miscounted: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Packs whose count of live records and their bytes is wrong, and what it should be."""
    orphans: list[str] = field(default_factory=list)
    """Files that nothing names."""

    def add(self, part: str, what: str) -> None:
        """One more finding."""
        self.findings.append(Finding(part, what))

    @property
    def opens(self) -> bool:
        """Whether the device can be opened at all."""
        return not any(
            found.part in ("identity", "journal", "log", "index") for found in self.findings
        )


def check(disk: Disk, path: str, device: Offline, progress: Progress) -> Report:
    """Verify everything that a stopped device holds. Blocks for as long as reading it takes."""
    report = Report(boot=device.superblock.boot, records=device.records)
    report.rotten = [key for key in device.rotten if key[:1] in REPAIRED_TABLES]
    for part, what in device.problems:
        report.add(part, what)
    if device.index is None:
        return report
    for what in index_problems(device.index, device.groups):
        report.add("index", what)
    if device.blobs is None or device.packs is None:
        return report
    total = device.blobs.payload_bytes
    if device.extents is not None:
        total += stored_bytes(device.extents)
    meter = _Meter(progress, total)
    _check_blobs(disk, device, device.packs, report, meter)
    report.blobs += len(device.blobs.pending())
    if device.extents is not None and device.arena is not None:
        found = check_extents(device.extents, device.arena, meter.add)
        report.blocks, report.bad_blocks = found.blocks, found.bad
        report.nobodys = found.nobodys
        for part, what in found.problems:
            report.add(part, what)
    named = {pack.path for pack in device.packs.all()}
    report.orphans = [
        name for _, name in numbered_files(disk, f"{path}/packs") if name not in named
    ]
    meter.end()
    return report


class _Meter:
    """Adds up what was verified, and tells it in steps."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._told = 0

    def add(self, length: int) -> None:
        self._done += length
        if self._done - self._told >= 4 * READ_BYTES:
            self._told = self._done
            self._progress(self._done, self._total)

    def end(self) -> None:
        self._progress(self._total, self._total)


def _check_blobs(disk: Disk, device: Offline, packs: Packs, report: Report, meter: _Meter) -> None:
    assert device.index is not None, "packs come with an index"
    found = check_packs(disk, device.index, packs, device.superblock.salt, meter.add)
    report.blobs, report.bad_blobs = found.blobs, found.bad
    report.quarantined, report.leftovers = found.quarantined, found.leftovers
    report.miscounted = found.miscounted
    for part, what in found.problems:
        report.add(part, what)
