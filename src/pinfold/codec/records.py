"""The journal's bytes: record headers, segment headers, and what a scan may believe.

A segment is one page of header, then batches. A batch starts on a page boundary and is a run of
records, padded with zeroes to the next page, so that no page which was flushed is written again.
A record is a header and a payload; both carry an xxh3. Every record names the sequence before
which everything was flushed when it was written: a record that survived while one it calls
flushed did not is the proof of a device that lost what it acknowledged.

Payloads are clients' bytes, and any page of a segment may have held one. The checksums of records
start from a seed of the device's salt and the segment's present number (`record_seed`), those of
segment headers from the salt alone: what verifies was written by the device itself, as a record,
in the segment's present life. Nothing is believed before it verifies, its version neither.

Layouts are big-endian. Key ids are 0 until payloads can be encrypted.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import xxhash

from pinfold.codec.decoding import require, require_version
from pinfold.codec.seeds import seed_of

Buffer = bytes | bytearray | memoryview

PAGE_BYTES: Final = 4096
"""Batches start on this boundary: the unit a file system writes and a power cut tears."""

RECORD_VERSION: Final = 2
"""Of records and of segment headers alike."""
_MAGIC: Final = b"PFjr"
_SEGMENT_MAGIC: Final = b"PFjs"

# magic, version, kind, key id, payload length, sequence, flushed, boot, payload xxh3
_HEADER: Final = struct.Struct(">4sBBHIQQIQ")
# magic, version, key id, number, first sequence, boot
_SEGMENT: Final = struct.Struct(">4sHHQQI")
_CHECK: Final = struct.Struct(">Q")

HEADER_BYTES: Final = _HEADER.size + _CHECK.size
"""A record's overhead."""


class Record(NamedTuple):
    """One record as a scan found it; `payload` is a view of the segment."""

    kind: int
    sequence: int
    boot: int
    payload: memoryview


class SegmentHeader(NamedTuple):
    """What the first page of a segment says."""

    number: int
    """Position in the journal's history, hence the file's life: a recycled one gets a new one."""
    first_sequence: int
    boot: int
    """Of the process that began this life; no record in it has a lower one."""


class Header(NamedTuple):
    """A record's header, verified."""

    kind: int
    length: int
    sequence: int
    flushed: int
    boot: int
    payload_check: int


def record_seed(salt: bytes, number: int) -> int:
    """Where the checksums of records in the segment of this number start."""
    return seed_of(salt, _MAGIC, number)


def checksum(buffers: Sequence[Buffer], seed: int) -> int:
    """xxh3_64 of the buffers, one behind the other."""
    if len(buffers) == 1:
        return xxhash.xxh3_64_intdigest(buffers[0], seed)
    digest = xxhash.xxh3_64(seed=seed)
    for buffer in buffers:
        digest.update(buffer)
    return digest.intdigest()


def encode_header(
    kind: int, length: int, sequence: int, flushed: int, boot: int, payload_check: int, seed: int
) -> bytes:
    """The header of a record whose payload follows it."""
    header = _HEADER.pack(
        _MAGIC, RECORD_VERSION, kind, 0, length, sequence, flushed, boot, payload_check
    )
    return header + _CHECK.pack(xxhash.xxh3_64_intdigest(header, seed))


def decode_header(segment: memoryview, offset: int, seed: int) -> Header | None:
    """The header at `offset`, or None when there is no valid one.

    Corrupt for one that verifies and is of a version or needs a key that we do not know: to pass
    over it would be to cut the journal short.
    """
    if bytes(segment[offset : offset + 4]) != _MAGIC or offset + HEADER_BYTES > len(segment):
        return None
    (check,) = _CHECK.unpack_from(segment, offset + _HEADER.size)
    if check != xxhash.xxh3_64_intdigest(segment[offset : offset + _HEADER.size], seed):
        return None
    _, version, kind, key, *numbers = _HEADER.unpack_from(segment, offset)
    _require_known("a journal record", version, key)
    return Header(kind, *numbers)


def encode_segment_header(header: SegmentHeader, salt: bytes) -> bytes:
    """The first page of a segment."""
    packed = _SEGMENT.pack(_SEGMENT_MAGIC, RECORD_VERSION, 0, *header)
    return (packed + _CHECK.pack(_segment_check(packed, salt))).ljust(PAGE_BYTES, b"\0")


def decode_segment_header(page: Buffer, salt: bytes) -> SegmentHeader | None:
    """What the page says, or None when it is no header that this device wrote. Corrupt as above."""
    if len(page) < _SEGMENT.size + _CHECK.size:
        return None
    magic, version, key, *fields = _SEGMENT.unpack_from(page)
    (check,) = _CHECK.unpack_from(page, _SEGMENT.size)
    if magic != _SEGMENT_MAGIC or check != _segment_check(page[: _SEGMENT.size], salt):
        return None
    _require_known("a segment of the journal", version, key)
    return SegmentHeader(*fields)


def _segment_check(packed: Buffer, salt: bytes) -> int:
    return xxhash.xxh3_64_intdigest(packed, seed_of(salt, _SEGMENT_MAGIC, 0))


def _require_known(what: str, version: int, key: int) -> None:
    require_version(what, version, RECORD_VERSION, oldest=RECORD_VERSION)
    require(not key, f"{what} needs key {key}, which this program does not know")


class Scan:
    """Reads a segment's records in order and stops at the first that is not the next one.

    The next one has the sequence expected, a boot not lower than the record before it (a lower
    one is the leftover of a batch that was torn, kept on disk, and is older than what precedes
    it), and valid checksums. After iteration `end` is the offset behind the last record.
    """

    def __init__(self, segment: memoryview, sequence: int, boot: int, seed: int) -> None:
        self.sequence = sequence
        """The sequence expected next."""
        self.boot = boot
        self.flushed = 0
        """What the last record calls flushed: none calls less than one before it."""
        self.end = PAGE_BYTES
        self._segment = segment
        self._seed = seed

    def __iter__(self) -> Iterator[Record]:
        while (found := self._next(self.end) or self._next(page_end(self.end))) is not None:
            header, offset = found
            payload = self._segment[offset : offset + header.length]
            self.end = offset + header.length
            self.sequence = header.sequence + 1
            self.boot = header.boot
            self.flushed = header.flushed
            yield Record(header.kind, header.sequence, header.boot, payload)

    def _next(self, offset: int) -> tuple[Header, int] | None:
        header = decode_header(self._segment, offset, self._seed)
        if header is None or header.sequence != self.sequence or header.boot < self.boot:
            return None
        start = offset + HEADER_BYTES
        payload = self._segment[start : start + header.length]
        if len(payload) != header.length:
            return None
        if header.payload_check != checksum([payload], self._seed):
            return None
        return header, start

    def claimed_flushed(self) -> int:
        """See the function, for what lies behind the last record that was read."""
        return claimed_flushed(self._segment, page_end(self.end), self._seed)


def claimed_flushed(segment: memoryview, offset: int, seed: int) -> int:
    """Highest sequence that any batch from a page on calls flushed; 0 when there is none.

    Leftovers of a torn batch count too: what a record calls flushed was, whatever became of the
    record, and a sequence is given again only when it never was.
    """
    highest = 0
    for start in range(offset, len(segment), PAGE_BYTES):
        header = decode_header(segment, start, seed)
        if header is not None:
            highest = max(highest, header.flushed)
    return highest


def page_end(offset: int) -> int:
    """The first page boundary at or behind `offset`."""
    return -(-offset // PAGE_BYTES) * PAGE_BYTES
