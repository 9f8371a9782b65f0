"""A new index for a device that lost its own: from the journal, and from what packs say themselves.

What cannot be known without the index is not claimed. Groups come back empty, with every view they
ever promised and a vote that says so (`lost_vote`); volumes come back with their tokens and marked
lost, so that a holder puts them out of sync and writes them whole; blobs are those whose records
verify. Rows, extents and the rest then come from the other copies.

A journal that begins with the device's first record needs none of this, unless a group was copied
to the device meanwhile: redoing it is everything.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from pinfold.codec.names import successor
from pinfold.codec.packs import (
    Location,
    decode_location,
    decode_pack_header,
    encode_location,
    pack_seed,
)
from pinfold.codec.records import PAGE_BYTES, Record, page_end
from pinfold.device import kinds
from pinfold.device.applier import APPLIED, Applied, encode_applied
from pinfold.device.blobrecords import COUNTS, decode_ids, decode_put, encode_counts
from pinfold.device.engines import engine_name, look_at_engine, open_engine, remove_engine
from pinfold.device.files import Superblock, lock_device, numbered_files, read_superblock
from pinfold.device.group import Group
from pinfold.device.index import GUARDS, REPAIRED_TABLES, Engine, Index, MapFull, seal_rows
from pinfold.device.memory import Remembered
from pinfold.device.offline import segment_bytes
from pinfold.device.packs import NEXT_PACK, encode_pack
from pinfold.device.packwalk import records, verifies
from pinfold.device.segments import first_sequences, survey
from pinfold.device.volume import encode_volume
from pinfold.env.api import Disk, File
from pinfold.model.errors import Conflict, Corrupt
from pinfold.model.ids import BlobId
from pinfold.model.limits import MIB
from pinfold.model.settings import DeviceSettings

_ID_BYTES: Final = 16
"""A blob's id."""

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
    problem = Corrupt(f"the journal of {path} has no records")
    for start in first_sequences(disk, f"{path}/journal", superblock.salt):
        remembered = Remembered()
        try:
            following = _read_journal(disk, path, superblock, start, remembered.take)
        except Corrupt as error:
            problem = error  # this one was let go and half overwritten, or records are missing
            continue
        if following <= superblock.flushed:
            raise Corrupt(f"the journal ends at {following - 1}, {superblock.flushed} was flushed")
        if not remembered.complete:
            raise Corrupt(
                f"the journal of {path} starts at {remembered.first} and does not tell all that "
                "was promised before"
            )
        return remembered
    raise problem


def _read_journal(
    disk: Disk, path: str, superblock: Superblock, start: int, take: Callable[[Record], None]
) -> int:
    """Hand over every record from `start` on; the sequence that comes next. Raises Corrupt."""
    size = segment_bytes(disk, path)
    found = survey(disk, f"{path}/journal", superblock.salt, size, start, take)
    for segment in (*found.live, *found.spare, *found.unfinished):
        segment.file.close()
    return found.next_sequence


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
        made = _NewIndex(engine)
        for key in GUARDS:  # the first opening reads before it commits any
            made.put(key, b"")
        _give_up(remembered, lost_vote, made, result)
        _take_packs(disk, path, superblock, made, result)
        dated = partial(_date, made)
        _read_journal(disk, path, superblock, remembered.first, dated)
        made.commit()
        # Last, and on its own: an index without it is refused, and the rebuild begun again.
        applied = Applied(remembered.first - 1, remembered.last, remembered.first)
        made.put(APPLIED, encode_applied(applied))
        made.commit()
    finally:
        engine.close()
    return result


class _NewIndex:
    """The rows of an index that is being made, written in transactions of a bounded size."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._written = Index(engine)
        self._batch: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """What was put last."""
        return self._batch[key] if key in self._batch else self._written.get(key)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set or delete a row."""
        self._batch[key] = value
        if len(self._batch) == _COMMIT_KEYS:
            self.commit()

    def commit(self) -> None:
        """Write what was put."""
        changes = seal_rows(sorted(self._batch.items()))
        while True:
            try:
                self._engine.commit(changes)
            except MapFull:
                self._engine.grow()
            else:
                break
        self._batch.clear()

    def quarantined(self) -> list[BlobId]:
        """Every blob that is put as one whose payload fails its checks; `commit` before."""
        return [BlobId(key[1:]) for key in self._written.keys(b"q", successor(b"q"))]


def _give_up(remembered: Remembered, lost_vote: bytes, made: _NewIndex, result: Rebuilt) -> None:
    """Groups and volumes: what was promised, and that everything else is lost."""
    for group_id, view in sorted(remembered.views.items()):
        group = Group(group_id)
        group.view, group.voted, group.base = view, lost_vote, remembered.last
        result.groups.append(group_id)
        made.put(b"g" + group_id.to_bytes(8, "big"), group.encode())
    for life, (volume, token) in enumerate(sorted(remembered.tokens.items()), 1):
        result.volumes.append(volume)
        made.put(b"v" + volume, encode_volume(token, life, lost_at=remembered.last))


def _take_packs(
    disk: Disk, path: str, superblock: Superblock, made: _NewIndex, result: Rebuilt
) -> None:
    """What the packs say of themselves."""
    ends: dict[int, int] = {}
    live: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for number, name in numbered_files(disk, f"{path}/packs"):
        file = disk.open(name)
        try:
            _require_ours(file, name, number, superblock)
            for blob, location in records(file, number, pack_seed(superblock.salt, number)):
                _take(file, blob, location, made, live, sizes, result)
            # A crash may have come before the header.
            ends[number] = max(PAGE_BYTES, page_end(file.size()))
        finally:
            file.close()
    for number, end in ends.items():
        record = encode_pack(end, live[number], sizes[number], True)
        made.put(b"p" + number.to_bytes(4, "big"), record)
    made.put(NEXT_PACK, (max(ends, default=-1) + 1).to_bytes(4, "big"))
    made.commit()
    result.packs = len(ends)
    result.quarantined = made.quarantined()
    counts = encode_counts(result.blobs, result.blob_bytes, len(result.quarantined))
    made.put(COUNTS, counts)


def _require_ours(file: File, name: str, number: int, superblock: Superblock) -> None:
    try:
        found = decode_pack_header(file.pread(PAGE_BYTES, 0), superblock.salt)
    except Corrupt:
        return  # its records have checksums of their own
    if found != number:
        raise Corrupt(f"{name} is pack {found}")


def _take(
    file: File,
    blob: BlobId,
    location: Location,
    made: _NewIndex,
    live: Counter[int],
    sizes: Counter[int],
    result: Rebuilt,
) -> None:
    """Name a record, unless another of the same blob is as good: a repair frees the space then."""
    if made.get(b"b" + blob) is not None:
        return
    failed = made.get(b"q" + blob)
    if verifies(file, location):
        made.put(b"b" + blob, encode_location(location))
        result.blobs += 1
        result.blob_bytes += location.length
        if failed is not None:
            made.put(b"q" + blob, None)
            other = decode_location(failed)
            live[other.pack] -= 1
            sizes[other.pack] -= other.record_bytes
    elif failed is None:
        made.put(b"q" + blob, encode_location(location))
    else:
        return
    live[location.pack] += 1
    sizes[location.pack] += location.record_bytes


def _date(made: _NewIndex, record: Record) -> None:
    """Tell a blob that was found in a pack when it came, as far as the journal says.

    The next opening redoes all of the journal, and a blob that was deleted or set aside and then
    put again must not be taken for the one before. Nor may the arrival of one that has rotted
    since be redone: that would name its record, and give the space of the quarantined one back.
    """
    sequence = record.sequence
    if record.kind == kinds.BLOB_PUT:
        blobs = [decode_put(record.payload)[0]]
    elif record.kind == kinds.BLOB_PACKED:
        blobs = decode_ids(record.payload[:_ID_BYTES])
    elif record.kind == kinds.BLOB_QUARANTINE:
        blobs = decode_ids(record.payload)
        sequence += 1  # its payload has just been verified, which is later
    else:
        return
    for key in (table + blob for blob in blobs for table in (b"b", b"q")):
        if (entry := made.get(key)) is not None:
            location = decode_location(entry)._replace(sequence=sequence)
            made.put(key, encode_location(location))
