"""Everything a stopped device holds, verified: identity, journal, index, packs, arena.

Reads only. What the index names must be there and match its checksums; what is there and named by
nobody is told too, because it takes space. `repair` acts on the report.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pinfold.codec.names import successor
from pinfold.codec.packs import (
    RECORD_MAGIC,
    Location,
    checks_of,
    decode_head,
    decode_location,
    decode_pack_header,
    head_bytes,
    record_bytes,
)
from pinfold.codec.records import PAGE_BYTES
from pinfold.device.checkextents import check_extents, stored_bytes
from pinfold.device.checkindex import index_problems
from pinfold.device.files import numbered_files
from pinfold.device.index import REPAIRED_TABLES
from pinfold.device.offline import Offline
from pinfold.device.packs import Pack
from pinfold.device.slots import Run
from pinfold.env.api import Disk, File
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId, VolumeId
from pinfold.model.limits import BLOB_CHECK_BYTES, MIB

READ_BYTES: Final = 1 * MIB
"""Read at a time: a disk's sequential rate, whatever the blobs' sizes. Whole units of checks."""

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
    miscounted: dict[int, int] = field(default_factory=dict)
    """Packs whose count of live records is wrong, and what it should be."""
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
    places = _places(device, report)
    total = sum(location.length for _, location in places)
    if device.extents is not None:
        total += stored_bytes(device.extents)
    meter = _Meter(progress, total)
    _check_packs(disk, device, places, report, meter)
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


def _places(device: Offline, report: Report) -> list[tuple[BlobId, Location]]:
    """Every record that the index names, blobs first, in the order of the packs' bytes."""
    assert device.index is not None, "asked for only with an index"
    found = []
    for table in (b"b", b"q"):
        for key, entry in device.index.scan(table, successor(table)):
            try:
                found.append((key, decode_location(entry)))
            except Corrupt:
                continue  # a finding of the index's
            if table == b"q":
                report.quarantined.append(BlobId(key[1:]))
    found.sort(key=lambda one: (one[1].pack, one[1].start))
    aside = set(report.quarantined)
    places = [(BlobId(key[1:]), location) for key, location in found]
    _check_overlaps(places, report)
    _check_counts(device, places, report)
    return [(blob, location) for blob, location in places if blob not in aside]


def _check_overlaps(places: list[tuple[BlobId, Location]], report: Report) -> None:
    end = pack = 0
    for blob, location in places:
        if location.pack == pack and location.start < end:
            report.add("index", f"blob {blob.hex()} overlaps the one before it in pack {pack}")
        pack, end = location.pack, location.start + location.record_bytes


def _check_counts(device: Offline, places: list[tuple[BlobId, Location]], report: Report) -> None:
    assert device.packs is not None, "asked for only with packs"
    live: dict[int, int] = {}
    for _, location in places:
        live[location.pack] = live.get(location.pack, 0) + 1
    for pack in device.packs.all():
        counted = live.get(pack.number, 0)
        if pack.live != counted:
            report.miscounted[pack.number] = counted
            report.add(
                "pack", f"pack {pack.number} counts {pack.live} records, {counted} are named"
            )


def _check_packs(
    disk: Disk,
    device: Offline,
    places: list[tuple[BlobId, Location]],
    report: Report,
    meter: _Meter,
) -> None:
    assert device.packs is not None, "asked for only with packs"
    by_pack: dict[int, list[tuple[BlobId, Location]]] = {}
    for blob, location in places:
        by_pack.setdefault(location.pack, []).append((blob, location))
    known = {pack.number: pack for pack in device.packs.all()}
    for number in sorted(by_pack.keys() | known.keys()):
        mine = by_pack.get(number, [])
        file = _opened(disk, device, known.get(number), report, needed=bool(mine))
        for blob, location in mine:
            problem = "its pack is missing" if file is None else _problem(file, blob, location)
            meter.add(location.length)
            if problem:
                report.bad_blobs.append(blob)
                report.add("blob", f"blob {blob.hex()} in pack {number}: {problem}")
            else:
                report.blobs += 1
        if file is not None:
            taken = [location for _, location in mine]
            report.leftovers.extend(
                (number, *found) for found in _leftovers(device, file, number, taken)
            )
            file.close()


def _opened(
    disk: Disk, device: Offline, pack: Pack | None, report: Report, *, needed: bool
) -> File | None:
    """The pack's file, its header verified; None when it is not there."""
    if pack is None:
        return None
    file = None
    try:
        file = disk.open(pack.path)
        uuid, number = decode_pack_header(file.pread(PAGE_BYTES, 0))
        if (uuid, number) != (device.superblock.uuid, pack.number):
            report.add("pack", f"{pack.path} belongs to pack {number} of device {uuid.hex()}")
    except FileNotFoundError:
        if needed:
            report.add("pack", f"{pack.path} is missing")
        return None
    except (Corrupt, OSError) as error:
        report.add("pack", f"{pack.path}: its header: {error}")
    return file


def _problem(file: File, blob: BlobId, location: Location) -> str:
    """What is wrong with a blob's record; empty when it verifies."""
    try:
        head = file.pread(head_bytes(len(location.checks)), location.start)
        if decode_head(head) != (blob, location.length, location.checks):
            return "its record is another blob's"
        step = READ_BYTES // BLOB_CHECK_BYTES
        for first in range(0, len(location.checks), step):
            start = first * BLOB_CHECK_BYTES
            length = min(READ_BYTES, location.length - start)
            payload = file.pread(length, location.offset + start)
            if checks_of(payload) != location.checks[first : first + step] or len(payload) < length:
                return "its payload fails its checksums"
    except Corrupt as error:
        return error.message
    except OSError as error:
        return f"cannot be read: {error}"
    return ""


def _leftovers(
    device: Offline, file: File, number: int, taken: list[Location]
) -> Iterator[tuple[int, int]]:
    """(offset, length) of whole records in a pack that nothing names and nothing frees."""
    assert device.index is not None, "asked for only with an index"
    prefix = b"f" + number.to_bytes(4, "big")
    used = {location.start: location.record_bytes for location in taken}
    for key, size in device.index.scan(prefix, successor(prefix)):
        used[int.from_bytes(key[5:], "big")] = int.from_bytes(size, "big")
    prefix = b"q"
    for _, entry in device.index.scan(prefix, successor(prefix)):
        location = decode_location(entry)
        if location.pack == number:
            used[location.start] = location.record_bytes
    offset, end = PAGE_BYTES, file.size()
    while offset < end:
        if size_used := used.get(offset):
            offset += size_used
            continue
        size_found = _record_at(file, offset)
        if size_found:
            yield offset, size_found
        offset += size_found or PAGE_BYTES


def _record_at(file: File, offset: int) -> int:
    """Length of the record whose head is there; 0 when there is none."""
    try:
        if file.pread(len(RECORD_MAGIC), offset) != RECORD_MAGIC:
            return 0
        _, length, checks = decode_head(file.pread(head_bytes(256), offset))
    except (Corrupt, OSError):
        return 0
    return record_bytes(length, len(checks))
