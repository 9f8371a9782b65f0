"""The journal's files: zero-filled ahead of use, recycled when released, read back at opening.

A segment is filled with zeroes and flushed before its first record, because then a flush of the
journal changes no file size and no extent map (measured on ext4, write of 8 KiB and fdatasync:
growing file 230 µs, fallocate 190 µs, zero-filled 130 µs). Blocking code: it runs in a lane.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pinfold.codec.decoding import require
from pinfold.codec.records import (
    PAGE_BYTES,
    Record,
    Scan,
    claimed_flushed,
    decode_segment_header,
    page_end,
    record_seed,
)
from pinfold.device import kinds
from pinfold.device.files import numbered_files
from pinfold.env.api import Disk, File
from pinfold.model.errors import Corrupt

FILL_BYTES: Final = 1 << 20
"""Zeroes written at once while a segment is made."""


@dataclass(slots=True)
class Segment:
    """One journal file. Spare ones keep a stale header until their first batch replaces it."""

    path: str
    file: File
    number: int = -1
    boot: int = 0
    """Of the process that began this life of the file."""
    first_sequence: int = 0
    last_sequence: int = 0
    """Last record written here; first_sequence - 1 while there is none."""
    position: int = 0
    """Where the next batch goes."""
    seed: int = 0
    """Where the checksums of its records start."""


@dataclass(slots=True)
class Recovered:
    """The journal as it was found: segments in order, the last one open for more."""

    live: list[Segment]
    spare: list[Segment]
    next_sequence: int
    next_slot: int
    boot: int
    """Boot of the newest record; 0 when there is none."""
    flushed: int = 0
    """What the newest record calls flushed: a flush that its process saw succeed."""
    unfinished: list[Segment] = field(default_factory=list)
    """Files without a header, which were never used. A crash may have interrupted their making, and
    their size does not tell: what was not flushed may be holes, which a full disk does not fill.
    """


def create_segment(disk: Disk, directory: str, slot: int, size: int) -> Segment:
    """A new, zero-filled, durable file. OSError (ENOSPC) leaves nothing behind."""
    path = f"{directory}/{slot:08d}"
    file = disk.open(path, create=True)
    try:
        zeroes = bytes(min(size, FILL_BYTES))
        for offset in range(0, size, len(zeroes)):
            file.pwritev([zeroes[: size - offset]], offset)
        file.datasync()
        disk.sync_dir(directory)
    except OSError:
        file.close()
        disk.unlink(path)
        raise
    return Segment(path=path, file=file)


def recover(
    disk: Disk,
    directory: str,
    salt: bytes,
    size: int,
    kept_from: int,
    witnessed: int,
    redo: Callable[[Record], None],
) -> Recovered:
    """`survey`, and then whatever was found is durable and what nobody needs is gone.

    What was written and never flushed may be found or not. The superblock has witnessed a flush
    up to `witnessed`.
    """
    found = survey(disk, directory, salt, size, kept_from, redo)
    for segment in found.unfinished:
        segment.file.close()
        disk.unlink(segment.path)
    found.unfinished.clear()
    if found.live and found.next_sequence - 1 > max(found.flushed, witnessed):
        _write_again(found.live[-1])
    return found


def _write_again(segment: Segment) -> None:
    """Make what was found in the newest segment durable: no flush is known that covered its end.

    It may be in memory only, and a flush alone would not help: after one that failed the kernel
    keeps the pages, readable and clean, and writes none of them again. No earlier segment needs
    this, for a new one is begun only when all before it is flushed.
    """
    step = FILL_BYTES
    for offset in range(0, segment.position, step):
        page = segment.file.pread(min(step, segment.position - offset), offset)
        segment.file.pwritev([page], offset)
    segment.file.datasync()


def survey(
    disk: Disk,
    directory: str,
    salt: bytes,
    size: int,
    kept_from: int,
    redo: Callable[[Record], None],
) -> Recovered:
    """Find the segments with records from `kept_from` on, and hand every record to `redo` in order.

    Changes nothing. Raises Corrupt when the journal proves that something flushed is missing, and
    for what a newer program has written.
    """
    opened = _open_all(disk, directory, salt)
    live = _newest_run(opened.headed, kept_from)
    spare = [segment for segment in opened.headed if segment not in live]
    if live and live[0].first_sequence > kept_from:
        raise Corrupt(
            f"the journal starts at {live[0].first_sequence} and was kept from {kept_from} on: "
            "part of it is lost, or the index is"
        )
    sequence = live[0].first_sequence if live else 1
    boot = flushed = 0
    for position, segment in enumerate(live):
        if segment.first_sequence != sequence:
            raise Corrupt(
                f"journal segment {segment.path} starts at {segment.first_sequence}, "
                f"flushed records from {sequence} on are missing"
            )
        scan = Scan(_image(segment, size), sequence, max(boot, segment.boot), segment.seed)
        for record in scan:
            require(
                record.kind in kinds.KNOWN,
                f"{segment.path}: record {record.sequence} has the unknown kind {record.kind}: "
                "a newer program has written it",
            )
            redo(record)
        if position == len(live) - 1:
            _require(sequence=scan.sequence, flushed=scan.claimed_flushed())
        if scan.sequence > sequence:
            boot, flushed = scan.boot, scan.flushed
        sequence = scan.sequence
        segment.last_sequence = sequence - 1
        segment.position = page_end(scan.end)
    _look_for_headless([*spare, *opened.unfinished], live, salt, size, sequence)
    return Recovered(live, spare, sequence, opened.next_slot, boot, flushed, opened.unfinished)


def _look_for_headless(
    others: list[Segment], live: list[Segment], salt: bytes, size: int, sequence: int
) -> None:
    """Refuse a journal whose newest segments lost their headers: they look like unused ones.

    Their records tell, under the numbers that such segments have.
    """
    newest = live[-1].number if live else -1
    for segment in others:
        image = _image(segment, size)
        for number in range(newest + 1, newest + 1 + len(others)):
            flushed = claimed_flushed(image, 0, record_seed(salt, number))
            _require(sequence=sequence, flushed=flushed)


def first_sequences(disk: Disk, directory: str, salt: bytes) -> list[int]:
    """Where each segment of this device starts, oldest first, whatever became of it since."""
    opened = _open_all(disk, directory, salt)
    for segment in (*opened.headed, *opened.unfinished):
        segment.file.close()
    return [one.first_sequence for one in sorted(opened.headed, key=lambda one: one.number)]


def _image(segment: Segment, size: int) -> memoryview:
    """All of a segment, also of one made when segments were longer than now."""
    return memoryview(segment.file.pread(max(size, segment.file.size()), 0))


def _require(*, sequence: int, flushed: int) -> None:
    """Refuse a journal in which a record names one as flushed that is not there."""
    if flushed >= sequence:
        raise Corrupt(f"journal records {sequence} to {flushed} were flushed and are missing")


@dataclass(slots=True)
class _Opened:
    """Every file of the journal, opened."""

    headed: list[Segment]
    """With a header of this device."""
    unfinished: list[Segment]
    """Others, see `Recovered`."""
    next_slot: int


def _open_all(disk: Disk, directory: str, salt: bytes) -> _Opened:
    found = _Opened([], [], 0)
    for slot, path in numbered_files(disk, directory):
        found.next_slot = max(found.next_slot, slot + 1)
        segment = Segment(path=path, file=disk.open(path))
        header = decode_segment_header(segment.file.pread(PAGE_BYTES, 0), salt)
        if header is not None:
            segment.number, segment.first_sequence, segment.boot = header
            segment.seed = record_seed(salt, header.number)
            found.headed.append(segment)
        else:
            found.unfinished.append(segment)
    return found


def _newest_run(headed: list[Segment], kept_from: int) -> list[Segment]:
    """The segments numbered without a gap up to the newest, without the released ones.

    A released segment may be half overwritten by a batch that a crash took back, so nothing in it
    counts, whatever its header says.
    """
    headed.sort(key=lambda segment: segment.number)
    start = len(headed)
    while start > 0 and (
        start == len(headed)
        or (
            headed[start - 1].number == headed[start].number - 1
            and headed[start].first_sequence > kept_from
        )
    ):
        start -= 1
    return headed[start:]
