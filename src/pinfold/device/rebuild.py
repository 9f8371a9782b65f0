"""A new index for a device that lost its own: from the journal, and from what packs say themselves.

What cannot be known without the index is not claimed. Groups come back empty, with every view they
ever promised and a vote that says so (`lost_vote`); volumes come back with their tokens and marked
lost, so that a holder puts them out of sync and writes them whole; blobs are those whose records
verify. Rows, extents and the rest then come from the other copies.

A journal that begins with the device's first record needs none of this, unless a group was copied
to the device meanwhile: redoing it is everything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pinfold.codec.decoding import require
from pinfold.codec.packs import (
    RECORD_MAGIC,
    Location,
    checks_of,
    decode_head,
    decode_pack_header,
    encode_location,
    head_bytes,
)
from pinfold.codec.records import PAGE_BYTES, page_end
from pinfold.device.applier import APPLIED, Applied, encode_applied
from pinfold.device.blobrecords import COUNTS, encode_counts
from pinfold.device.engines import engine_name, look_at_engine, open_engine, remove_engine
from pinfold.device.files import Superblock, lock_device, numbered_files, read_superblock
from pinfold.device.group import Group
from pinfold.device.index import REPAIRED_TABLES, Change, Engine, Index, MapFull, seal_rows
from pinfold.device.memory import Remembered
from pinfold.device.offline import segment_bytes
from pinfold.device.packs import NEXT_PACK, encode_pack
from pinfold.device.segments import first_sequences, survey
from pinfold.device.volume import encode_volume
from pinfold.env.api import Disk, File
from pinfold.model.errors import Conflict, Corrupt
from pinfold.model.ids import BlobId
from pinfold.model.limits import BLOB_CHECK_BYTES, MIB
from pinfold.model.settings import DeviceSettings

_COMMIT_KEYS: Final = 10_000
"""Keys in one transaction of the new index: some megabytes."""

_READ_BYTES: Final = 1 * MIB
"""Read at a time while a payload is verified. Whole units of checks."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuilt index holds, and what its device lost."""

    whole: bool = False
    """The journal was complete: nothing is lost."""
    blobs: int = 0
    blob_bytes: int = 0
    quarantined: list[BlobId] = field(default_factory=list)
    """Blobs whose payload fails its checks: to be fetched from other copies."""
    groups: list[int] = field(default_factory=list)
    """Groups whose rows must be copied from other members."""
    volumes: list[bytes] = field(default_factory=list)
    """Volumes whose extents must be written again by their holders."""
    packs: int = 0


def rebuild_index(
    disk: Disk, path: str, settings: DeviceSettings, lost_vote: bytes, *, force: bool = False
) -> Rebuilt:
    """Replace the index of a stopped device. Blocks for as long as reading its packs takes.

    Raises Conflict when the index can be read (unless `force` gives it up all the same), Corrupt
    when the journal has lost what it acknowledged or does not reach back far enough to say what
    was promised: then the device can only be replaced. Interrupted, it is begun again. The new
    index has the engine of the old one, or that of the settings where nothing is left of it.
    """
    lock = lock_device(disk, path)
    try:
        superblock = read_superblock(disk, path)
        if not force:
            _require_unreadable(disk, path)
        remembered = _remember(disk, path, superblock)
        found = engine_name(disk, f"{path}/index")
        kept = settings if found is None else msgspec.structs.replace(settings, index_engine=found)
        remove_engine(disk, f"{path}/index")
        if remembered.whole:
            open_engine(disk, f"{path}/index", kept).close()
            return Rebuilt(whole=True)
        return _rebuild(disk, path, kept, superblock, remembered, lost_vote)
    finally:
        lock.close()


def _require_unreadable(disk: Disk, path: str) -> None:
    try:
        engine = look_at_engine(disk, f"{path}/index")
    except Corrupt:
        return
    try:
        index = Index(engine, lenient=True)
        damaged = any(key[:1] not in REPAIRED_TABLES for key in index.rotten())
        applied = index.get(APPLIED)
    except Corrupt:
        return
    finally:
        engine.close()
    if applied is not None and not damaged:
        raise Conflict(f"the index of {path} can be read: a rebuild would give up what is in it")


def _remember(disk: Disk, path: str, superblock: Superblock) -> Remembered:
    """Everything promised, out of the longest unbroken end of the journal."""
    directory, size = f"{path}/journal", segment_bytes(disk, path)
    problem = Corrupt(f"the journal of {path} has no records")
    for start in first_sequences(disk, directory, superblock.salt):
        remembered = Remembered()
        try:
            found = survey(disk, directory, superblock.salt, size, start, remembered.take)
        except Corrupt as error:
            problem = error  # this one was let go and half overwritten, or records are missing
            continue
        for segment in (*found.live, *found.spare, *found.unfinished):
            segment.file.close()
        if found.next_sequence <= superblock.flushed:
            raise Corrupt(
                f"the journal ends at {found.next_sequence - 1}, {superblock.flushed} was flushed"
            )
        if not remembered.complete:
            raise Corrupt(
                f"the journal of {path} starts at {remembered.first} and does not tell all that "
                "was promised before"
            )
        return remembered
    raise problem


def _rebuild(
    disk: Disk,
    path: str,
    settings: DeviceSettings,
    superblock: Superblock,
    remembered: Remembered,
    lost_vote: bytes,
) -> Rebuilt:
    result = Rebuilt()
    engine = open_engine(disk, f"{path}/index", settings)
    try:
        _commit(engine, _entries(disk, path, superblock, remembered, lost_vote, result))
        # Last, and on its own: an index without it is refused, and the rebuild begun again.
        applied = Applied(remembered.first - 1, remembered.last, remembered.first)
        _commit(engine, [(APPLIED, encode_applied(applied))])
    finally:
        engine.close()
    return result


def _entries(
    disk: Disk,
    path: str,
    superblock: Superblock,
    remembered: Remembered,
    lost_vote: bytes,
    result: Rebuilt,
) -> Iterator[Change]:
    """Everything the new index holds, but for how far it has come."""
    for group_id, view in sorted(remembered.views.items()):
        group = Group(group_id)
        group.view, group.voted, group.base = view, lost_vote, remembered.last
        result.groups.append(group_id)
        yield b"g" + group_id.to_bytes(8, "big"), group.encode()
    for volume, token in sorted(remembered.tokens.items()):
        result.volumes.append(volume)
        yield b"v" + volume, encode_volume(token, lost_at=remembered.last)
    seen: set[BlobId] = set()
    next_pack = 0
    for number, name in numbered_files(disk, f"{path}/packs"):
        next_pack = number + 1
        yield from _pack(disk, name, number, superblock, seen, result)
    yield NEXT_PACK, next_pack.to_bytes(4, "big")
    yield COUNTS, encode_counts(result.blobs, result.blob_bytes, len(result.quarantined))


def _pack(
    disk: Disk,
    name: str,
    number: int,
    superblock: Superblock,
    seen: set[BlobId],
    result: Rebuilt,
) -> Iterator[Change]:
    """What one pack says of itself."""
    file = disk.open(name)
    try:
        try:
            whose = decode_pack_header(file.pread(PAGE_BYTES, 0))
        except Corrupt:
            whose = (superblock.uuid, number)  # its records have checksums of their own
        if whose != (superblock.uuid, number):
            raise Corrupt(f"{name} belongs to pack {whose[1]} of device {whose[0].hex()}")
        live = 0
        for blob, location in _records(file, number):
            if blob in seen:
                continue  # another copy of it: a check tells of its space, a repair frees it
            seen.add(blob)
            good = _verifies(file, location)
            if good:
                result.blobs += 1
                result.blob_bytes += location.length
            else:
                result.quarantined.append(blob)
            live += 1
            yield (b"b" if good else b"q") + blob, encode_location(location)
        result.packs += 1
        end = max(PAGE_BYTES, page_end(file.size()))  # a crash may have come before the header
        yield b"p" + number.to_bytes(4, "big"), encode_pack(end, live, True)
    finally:
        file.close()


def _records(file: File, number: int) -> Iterator[tuple[BlobId, Location]]:
    """Every record whose head verifies, in order; what does not is passed page by page."""
    offset, end = PAGE_BYTES, file.size()
    while offset < end:
        location = None
        if file.pread(len(RECORD_MAGIC), offset) == RECORD_MAGIC:
            try:
                blob, length, checks = decode_head(file.pread(head_bytes(256), offset))
                require(len(checks) == -(-length // BLOB_CHECK_BYTES), "its checks do not cover it")
                location = Location(number, offset + head_bytes(len(checks)), length, 0, checks)
            except Corrupt:
                location = None
        if location is None:
            offset += PAGE_BYTES
            continue
        yield BlobId(blob), location
        offset += location.record_bytes


def _verifies(file: File, location: Location) -> bool:
    step = _READ_BYTES // BLOB_CHECK_BYTES
    for first in range(0, len(location.checks), step):
        start = first * BLOB_CHECK_BYTES
        length = min(_READ_BYTES, location.length - start)
        payload = file.pread(length, location.offset + start)
        if checks_of(payload) != location.checks[first : first + step] or len(payload) < length:
            return False
    return True


def _commit(engine: Engine, changes: Iterable[Change]) -> None:
    """Write in transactions of a bounded size."""
    batch: list[Change] = []
    for change in changes:
        batch.append(change)
        if len(batch) == _COMMIT_KEYS:
            _commit_one(engine, batch)
            batch = []
    if batch:
        _commit_one(engine, batch)


def _commit_one(engine: Engine, batch: list[Change]) -> None:
    batch.sort()
    sealed = seal_rows(batch)
    while True:
        try:
            engine.commit(sealed)
        except MapFull:
            engine.grow()
        else:
            return
