"""The journal's bytes: record headers, segment headers, and what a scan may believe.

A segment is one page of header, then batches. A batch starts on a page boundary and is a run of
records, padded with zeroes to the next page, so that no page which was flushed is written again.
A record is a header and a payload; both carry an xxh3. Every record names the sequence before
which everything was flushed when it was written: a record that survived while one it calls
flushed did not is the proof of a device that lost what it acknowledged.

Layouts are big-endian. Key ids are 0 until payloads can be encrypted.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import xxhash

Buffer = bytes | bytearray | memoryview

PAGE_BYTES: Final = 4096
"""Batches start on this boundary: the unit a file system writes and a power cut tears."""

RECORD_VERSION: Final = 1
"""Of records and of segment headers alike."""
_MAGIC: Final = b"PFjr"
_SEGMENT_MAGIC: Final = b"PFjs"

# magic, version, kind, key id, payload length, sequence, flushed, boot, payload xxh3
_HEADER: Final = struct.Struct(">4sBBHIQQIQ")
# magic, version, key id, device uuid, number, first sequence, boot
_SEGMENT: Final = struct.Struct(">4sHH16sQQI")
_CHECK: Final = struct.Struct(">Q")
_KEY_END: Final = 8
"""Version and key id lie in the eight bytes that both kinds of headers start with."""

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

    uuid: bytes
    number: int
    """Position in the journal's history; a recycled file gets a new one."""
    first_sequence: int
    boot: int


class Header(NamedTuple):
    """A record's header, verified."""

    kind: int
    length: int
    sequence: int
    flushed: int
    boot: int
    payload_check: int


def checksum(buffers: Sequence[Buffer]) -> int:
    """xxh3_64 of the buffers, one behind the other."""
    if len(buffers) == 1:
        return xxhash.xxh3_64_intdigest(buffers[0])
    digest = xxhash.xxh3_64()
    for buffer in buffers:
        digest.update(buffer)
    return digest.intdigest()


def encode_header(
    kind: int, length: int, sequence: int, flushed: int, boot: int, payload_check: int
) -> bytes:
    """The header of a record whose payload follows it."""
    header = _HEADER.pack(
        _MAGIC, RECORD_VERSION, kind, 0, length, sequence, flushed, boot, payload_check
    )
    return header + _CHECK.pack(xxhash.xxh3_64_intdigest(header))


def decode_header(segment: memoryview, offset: int) -> Header | None:
    """The header at `offset`, or None when there is no valid one of a version we know."""
    if offset + HEADER_BYTES > len(segment):
        return None
    magic, version, kind, key, length, sequence, flushed, boot, payload_check = _HEADER.unpack_from(
        segment, offset
    )
    if magic != _MAGIC or version != RECORD_VERSION or key != 0:
        return None
    (check,) = _CHECK.unpack_from(segment, offset + _HEADER.size)
    if check != xxhash.xxh3_64_intdigest(segment[offset : offset + _HEADER.size]):
        return None
    return Header(kind, length, sequence, flushed, boot, payload_check)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first page of a segment."""
    packed = _SEGMENT.pack(_SEGMENT_MAGIC, RECORD_VERSION, 0, *header)
    return (packed + _CHECK.pack(xxhash.xxh3_64_intdigest(packed))).ljust(PAGE_BYTES, b"\0")


def decode_segment_header(page: Buffer) -> SegmentHeader | None:
    """What the page says, or None when it is no valid header of a version we know."""
    if len(page) < _SEGMENT.size + _CHECK.size:
        return None
    magic, version, key, *fields = _SEGMENT.unpack_from(page)
    (check,) = _CHECK.unpack_from(page, _SEGMENT.size)
    if magic != _SEGMENT_MAGIC or version != RECORD_VERSION or key != 0:
        return None
    if check != xxhash.xxh3_64_intdigest(memoryview(page)[: _SEGMENT.size]):
        return None
    return SegmentHeader(*fields)


def refusal(image: Buffer, offset: int) -> str | None:
    """Why a header there must not be passed over as if there were none; None when it may be.

    A newer program's record, or one that needs a key, looks like the end of the journal to a
    decoder that does not know it.
    """
    if len(image) < offset + _KEY_END:
        return None
    magic = bytes(image[offset : offset + 4])
    if magic == _MAGIC:
        version, _, key = struct.unpack_from(">BBH", image, offset + 4)
    elif magic == _SEGMENT_MAGIC:
        version, key = struct.unpack_from(">HH", image, offset + 4)
    else:
        return None
    if version > RECORD_VERSION:
        return (
            f"has version {version}, this program knows 1 to {RECORD_VERSION}: "
            "a newer program has written it"
        )
    return f"needs key {key}, which this program does not know" if key else None


class Scan:
    """Reads a segment's records in order and stops at the first that is not the next one.

    The next one has the sequence expected, a boot not lower than the record before it (a lower
    one is the leftover of a batch that was torn, kept on disk, and is older than what precedes
    it), and valid checksums. After iteration `end` is the offset behind the last record.
    """

    def __init__(self, segment: memoryview, sequence: int, boot: int) -> None:
        self.sequence = sequence
        """The sequence expected next."""
        self.boot = boot
        self.end = PAGE_BYTES
        self._segment = segment

    def __iter__(self) -> Iterator[Record]:
        while (found := self._next(self.end) or self._next(page_end(self.end))) is not None:
            header, offset = found
            payload = self._segment[offset : offset + header.length]
            self.end = offset + header.length
            self.sequence = header.sequence + 1
            self.boot = header.boot
            yield Record(header.kind, header.sequence, header.boot, payload)

    def _next(self, offset: int) -> tuple[Header, int] | None:
        header = decode_header(self._segment, offset)
        if header is None or header.sequence != self.sequence or header.boot < self.boot:
            return None
        start = offset + HEADER_BYTES
        payload = self._segment[start : start + header.length]
        if len(payload) != header.length or header.payload_check != checksum([payload]):
            return None
        return header, start

    def refusal(self) -> str | None:
        """Why what ended the scan is no end: see the function."""
        return refusal(self._segment, self.end) or refusal(self._segment, page_end(self.end))

    def claimed_flushed(self) -> int:
        """See the function, for what lies behind the last record that was read."""
        return claimed_flushed(self._segment, page_end(self.end))


def claimed_flushed(segment: memoryview, offset: int) -> int:
    """Highest sequence that any batch from a page on calls flushed; 0 when there is none.

    Leftovers count too: what a record calls flushed was, whatever became of the record, and a
    sequence is given again only when it never was.
    """
    highest = 0
    for start in range(offset, len(segment), PAGE_BYTES):
        header = decode_header(segment, start)
        if header is not None:
            highest = max(highest, header.flushed)
    return highest


def page_end(offset: int) -> int:
    """The first page boundary at or behind `offset`."""
    return -(-offset // PAGE_BYTES) * PAGE_BYTES
