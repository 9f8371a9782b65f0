"""The blobs' part of a check: every record that the index names, verified, and what nobody names.

Each pack is read once, in order, and the index asked about every record met: memory does not grow
with the number of blobs. Only where fewer records were met than the index names (a head is rotten,
a sector or a file gone) are that pack's blobs looked at one by one.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pinfold.codec.names import successor
from pinfold.codec.packs import (
    NOWHERE,
    Location,
    decode_head,
    decode_location,
    decode_pack_header,
    head_bytes,
)
from pinfold.codec.records import PAGE_BYTES
from pinfold.device.index import Index
from pinfold.device.packs import Pack, Packs
from pinfold.device.packwalk import READ_BYTES, records, verifies
from pinfold.env.api import Disk, File
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId


@dataclass(slots=True)
class Found:
    """What was found."""

    blobs: int = 0
    """Blobs that verify."""
    quarantined: list[BlobId] = field(default_factory=list)
    bad: list[BlobId] = field(default_factory=list)
    leftovers: list[tuple[int, int, int]] = field(default_factory=list)
    """(pack, offset, length) of records that nothing names and nothing frees."""
    miscounted: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Packs whose count of live records and their bytes is wrong, and what it should be."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(part, what is wrong): `pack` or `blob`."""

    def add_bad(self, blob: BlobId, pack: int, what: str) -> None:
        """A blob fails."""
        self.bad.append(blob)
        self.problems.append(("blob", f"blob {blob.hex()} in pack {pack}: {what}"))


def check_packs(
    disk: Disk, index: Index, packs: Packs, salt: bytes, progress: Callable[[int], None]
) -> Found:
    """Verify what the packs hold; `progress` is told the bytes that were read, as they are."""
    found = Found()
    named = _count(index, packs, found)
    known = {pack.number: pack for pack in packs.all()}
    unmet = {number for number in named if number not in known}
    for pack in known.values():
        seen = _Seen()
        try:
            _walk(disk, index, pack, salt, seen, progress, headed=named[pack.number] > 0)
        except FileNotFoundError:
            if named[pack.number]:
                found.problems.append(("pack", f"{pack.path} is missing"))
        found.leftovers += seen.leftovers
        found.problems += seen.problems
        if seen.named < named[pack.number]:
            unmet.add(pack.number)
            continue
        found.blobs += seen.blobs
        for blob in seen.bad:
            found.add_bad(blob, pack.number, "its payload fails its checksums")
    if unmet:
        _look_one_by_one(disk, index, known, unmet, found)
    return found


@dataclass(slots=True)
class _Seen:
    """What a walk through one pack met."""

    named: int = 0
    """Records that the index names, of quarantined blobs too."""
    blobs: int = 0
    bad: list[BlobId] = field(default_factory=list)
    leftovers: list[tuple[int, int, int]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def _locations(index: Index, table: bytes) -> Iterator[tuple[BlobId, Location]]:
    """What a table names, without what makes no sense: that is a finding of the index's."""
    for key, entry in index.scan(table, successor(table)):
        try:
            location = decode_location(entry)
        except Corrupt:
            continue
        yield BlobId(key[1:]), location


def _count(index: Index, packs: Packs, found: Found) -> Counter[int]:
    """How many records the index names in each pack, held against what the packs count."""
    named: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for table in (b"b", b"q"):
        for blob, location in _locations(index, table):
            if table == b"q":
                found.quarantined.append(blob)
            if location != NOWHERE:
                named[location.pack] += 1
                sizes[location.pack] += location.record_bytes
    for pack in packs.all():
        counted, right = (pack.live, pack.live_bytes), (named[pack.number], sizes[pack.number])
        if counted != right:
            found.miscounted[pack.number] = right
            what = "counts {} records of {} bytes, {} of {} are named".format(*counted, *right)
            found.problems.append(("pack", f"pack {pack.number} {what}"))
    return named


def _walk(
    disk: Disk,
    index: Index,
    pack: Pack,
    salt: bytes,
    seen: _Seen,
    progress: Callable[[int], None],
    *,
    headed: bool,
) -> None:
    """`headed`: it has a header; a crash or a full disk may keep one that holds nothing from it."""
    file = disk.open(pack.path)
    try:
        if headed:
            _check_header(file, pack, salt, seen)
        start, end = PAGE_BYTES, file.size()
        while start < end:
            try:
                for blob, location in records(file, pack.number, pack.seed, start):
                    start = location.start + location.record_bytes
                    _meet(index, file, blob, location, seen)
                    progress(location.length)
            except OSError as error:
                seen.problems.append(
                    ("pack", f"{pack.path} cannot be read behind byte {start}: {error}")
                )
                start += READ_BYTES  # heads stand on pages, wherever a walk begins
            else:
                return
    finally:
        file.close()


def _check_header(file: File, pack: Pack, salt: bytes, seen: _Seen) -> None:
    try:
        number = decode_pack_header(file.pread(PAGE_BYTES, 0), salt)
    except (Corrupt, OSError) as error:
        seen.problems.append(("pack", f"{pack.path}: its header: {error}"))
        return
    if number != pack.number:
        seen.problems.append(("pack", f"{pack.path} is pack {number}"))


def _meet(index: Index, file: File, blob: BlobId, location: Location, seen: _Seen) -> None:
    """One record: a blob's, a quarantined one's, one that is being freed, or nobody's."""
    if _names(index, b"b" + blob, location):
        seen.named += 1
        if verifies(file, location):
            seen.blobs += 1
        else:
            seen.bad.append(blob)
    elif _names(index, b"q" + blob, location):
        seen.named += 1
    elif index.get(_free_key(location)) is None:
        seen.leftovers.append((location.pack, location.start, location.record_bytes))


def _names(index: Index, key: bytes, location: Location) -> bool:
    """Whether a row of the index is about this very record."""
    entry = index.get(key)
    if entry is None:
        return False
    try:
        return decode_location(entry)._replace(sequence=location.sequence) == location
    except Corrupt:
        return False


def _free_key(location: Location) -> bytes:
    return b"f" + location.pack.to_bytes(4, "big") + location.start.to_bytes(8, "big")


def _look_one_by_one(
    disk: Disk, index: Index, known: dict[int, Pack], unmet: set[int], found: Found
) -> None:
    for blob, location in _locations(index, b"b"):
        if location.pack not in unmet:
            continue
        pack = known.get(location.pack)
        what = "its pack is missing" if pack is None else _problem(disk, pack, blob, location)
        if what:
            found.add_bad(blob, location.pack, what)
        else:
            found.blobs += 1


def _problem(disk: Disk, pack: Pack, blob: BlobId, location: Location) -> str:
    """What is wrong with a blob's record; empty when it verifies."""
    try:
        file = disk.open(pack.path)
    except FileNotFoundError:
        return "its pack is missing"
    try:
        head = file.pread(head_bytes(len(location.checks)), location.start)
        if decode_head(head, pack.seed) != (blob, location.length, location.checks):
            return "its record is another blob's"
        return "" if verifies(file, location) else "its payload fails its checksums"
    except Corrupt as error:
        return error.message
    except OSError as error:
        return f"cannot be read: {error}"
    finally:
        file.close()
