"""The format of what groups store: entry bodies, row values and the group's own rows.

An entry's body says which keys are put and which are deleted, with complete values: applying it
twice changes nothing, and a member applies it without evaluating anything. Keys that start with
byte 00 belong to the group itself; users' keys never do. Checksums are the journal's business.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from pinfold.cluster.api import BlobRef, Row
from pinfold.cluster.groups.configuration import Configuration, decode_configuration
from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt

Write = tuple[bytes, bytes | None]
"""Put (key, value) or delete (key, None)."""

_BODY_FORMAT: Final = 1
_CONFIGURATION_FORMAT: Final = 2
"""As 1, and one of the rows put is the group's configuration."""
_ROW_FORMAT: Final = b"\x01"
_PAYLOAD_FORMAT: Final = b"\x02"
_PAYLOAD_HEAD_BYTES: Final = 5
_RESULTS_FORMAT: Final = 2
_RESULTS_HEAD: Final = Struct(">BQH")
_FREE_FORMAT: Final = b"\x02"

OP_ID_BYTES: Final = 16
_REFUSED_BYTES: Final = OP_ID_BYTES + 2
CHECK_MAX: Final = 0xFFFF
"""The highest check that a stored refusal can name."""
RESERVED: Final = b"\x00"
"""First byte of the group's own keys."""
_RESULTS: Final = b"\x00r"
_FREES: Final = b"\x00f"
_DROPPED: Final = b"\x00b"
RESULTS_RANGE: Final = (_RESULTS, b"\x00s")
"""Keys of rows that remember the results of changes by op id."""
FREES_RANGE: Final = (_FREES, b"\x00g")
"""Keys of rows that name blobs to give back."""
MEMBERS_KEY: Final = b"\x00m"
"""The row that holds the group's configuration."""

_BLOBS_PER_FREE: Final = 4096
"""Blobs in one such row: some 200 KiB."""

VERSION_SHIFT: Final = 16
"""version = op << 16 | index of the change in its entry."""

_encode = msgspec.msgpack.Encoder().encode
_body_decoder = msgspec.msgpack.Decoder(
    tuple[int, list[tuple[bytes, bytes]], list[tuple[int, bytes]]]
)
_row_decoder = msgspec.msgpack.Decoder(Row)
_blobs_decoder = msgspec.msgpack.Decoder(tuple[BlobRef, ...])


def encode_body(writes: Iterable[Write]) -> bytes:
    """The body of an entry; every key occurs once.

    Keys deleted are sorted and shortened by what they share with the one before, so that deleting
    ten thousand parts of one upload fits an entry whatever the upload's name.
    """
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[bytes] = []
    for key, value in writes:
        if value is None:
            deletes.append(key)
        else:
            puts.append((key, value))
    return _encode((_BODY_FORMAT, puts, _shorten(deletes) if deletes else ()))


def decode_body(body: bytes) -> list[Write]:
    """The writes of an entry's body. Raises Corrupt."""
    try:
        form, puts, deletes = _body_decoder.decode(body)
    except UNREADABLE as error:
        raise Corrupt(f"entry does not decode: {error}") from error
    if form not in (_BODY_FORMAT, _CONFIGURATION_FORMAT):
        raise Corrupt(f"entry of unknown format {form}")
    writes: list[Write] = [*puts]
    key = b""
    for shared, rest in deletes:
        key = key[:shared] + rest
        writes.append((key, None))
    return writes


def _shorten(keys: list[bytes]) -> list[tuple[int, bytes]]:
    keys.sort()
    before = b""
    short: list[tuple[int, bytes]] = []
    for key in keys:
        shared = _shared_length(before, key)
        short.append((shared, key[shared:]))
        before = key
    return short


EMPTY_BODY: Final = encode_body(())
"""A new primary's first entry: it commits what earlier views left."""


def configuration_body(configuration: Configuration) -> bytes:
    """The body of an entry that changes the group's members, and nothing else."""
    puts = [(MEMBERS_KEY, configuration.encode())]
    return _encode((_CONFIGURATION_FORMAT, puts, ()))


def configuration_in(body: bytes) -> Configuration | None:
    """The configuration that an entry puts in force; one byte tells that there is none."""
    if body[1:2] != _CONFIGURATION_MARK:
        return None
    return decode_configuration(dict(decode_body(body)).get(MEMBERS_KEY) or b"")


_CONFIGURATION_MARK: Final = bytes((_CONFIGURATION_FORMAT,))
"""The format, behind the byte of an array of three."""


def _shared_length(a: bytes, b: bytes) -> int:
    """How many first bytes are equal; the first difference is the highest bit of the XOR."""
    length = min(len(a), len(b))
    differing = int.from_bytes(a[:length], "big") ^ int.from_bytes(b[:length], "big")
    return length - (differing.bit_length() + 7) // 8


def encode_row(row: Row) -> bytes:
    """A row as stored and as sent to readers.

    Format 1 is the msgpack array of the row's first six fields. Format 2 has its length (4 bytes)
    before it and the payload, never empty, behind it: so the payload can be left out unread.
    """
    assert row.payload is not None, "a row without its payload is not the row"
    head = _encode((row.body, row.tag, row.size, row.blobs, row.version, row.stamp_ms))
    if not row.payload:
        return _ROW_FORMAT + head
    return b"".join((_PAYLOAD_FORMAT, len(head).to_bytes(4, "big"), head, row.payload))


def decode_row(value: Buffer) -> Row:
    """Read `encode_row` or what `without_payload` left of it. Raises Corrupt."""
    view = memoryview(value)
    form = bytes(view[:1])
    if form == _ROW_FORMAT:
        return _decode_head(view[1:])
    if form != _PAYLOAD_FORMAT:
        raise Corrupt("row of unknown format")
    end = _head_end(view)
    row = _decode_head(view[_PAYLOAD_HEAD_BYTES:end])
    payload = bytes(view[end:]) or None
    return Row(row.body, row.tag, row.size, row.blobs, row.version, row.stamp_ms, payload)


def without_payload(value: bytes) -> bytes:
    """A row's value less its payload: what listings carry. Raises Corrupt."""
    return value[: _head_end(value)] if value[:1] == _PAYLOAD_FORMAT else value


def _head_end(value: bytes | memoryview) -> int:
    end = _PAYLOAD_HEAD_BYTES + int.from_bytes(value[1:_PAYLOAD_HEAD_BYTES], "big")
    if end > len(value):
        raise Corrupt("row is cut short")
    return end


def _decode_head(head: memoryview) -> Row:
    try:
        return _row_decoder.decode(head)
    except UNREADABLE as error:
        raise Corrupt(f"row does not decode: {error}") from error


def results_key(op: int) -> bytes:
    """Where the results of entry `op` are kept."""
    return _RESULTS + op.to_bytes(8, "big")


def results_op(key: bytes) -> int:
    """The entry whose results a row holds."""
    return int.from_bytes(key[len(_RESULTS) :], "big")


class StoredResults(NamedTuple):
    """What became of the changes of one entry."""

    stamp_ms: int
    done: bytes
    """Op ids of the changes made, one behind the other in the order of their versions."""
    refused: Mapping[bytes, int]
    """Op ids of changes refused for good: which of its checks did not hold."""

    def op_ids(self) -> Iterator[bytes]:
        """Of all of them."""
        for at in range(0, len(self.done), OP_ID_BYTES):
            yield self.done[at : at + OP_ID_BYTES]
        yield from self.refused

    def place(self, op_id: bytes) -> int:
        """The place of a change among those made."""
        at = self.done.find(op_id)
        while at % OP_ID_BYTES:
            at = self.done.find(op_id, at + 1)
        return at // OP_ID_BYTES


def encode_results(results: StoredResults) -> bytes:
    """One stamp, how many were refused, those with their checks, then the op ids of the others."""
    refused = (op_id + check.to_bytes(2, "big") for op_id, check in results.refused.items())
    head = _RESULTS_HEAD.pack(_RESULTS_FORMAT, results.stamp_ms, len(results.refused))
    return b"".join((head, *refused, results.done))


def decode_results(value: bytes) -> StoredResults:
    """Read `encode_results`. Raises Corrupt."""
    if len(value) < _RESULTS_HEAD.size:
        raise Corrupt("results that are cut short")
    form, stamp_ms, count = _RESULTS_HEAD.unpack_from(value)
    start = _RESULTS_HEAD.size + count * _REFUSED_BYTES
    if form != _RESULTS_FORMAT or len(value) < start or (len(value) - start) % OP_ID_BYTES:
        raise Corrupt("results of unknown format")
    refused = {
        value[at : at + OP_ID_BYTES]: int.from_bytes(value[at + OP_ID_BYTES : at + _REFUSED_BYTES])
        for at in range(_RESULTS_HEAD.size, start, _REFUSED_BYTES)
    }
    return StoredResults(stamp_ms, value[start:], refused)


def free_writes(version: int, blobs: Sequence[BlobRef]) -> list[Write]:
    """Rows that say: the change `version` dropped these blobs. Ordered by version, hence by time.

    And one that says so of each blob: see `dropped_key`.
    """
    prefix = _FREES + version.to_bytes(8, "big")
    lists: list[Write] = [
        (
            prefix + first.to_bytes(4, "big"),
            _FREE_FORMAT + _encode(blobs[first : first + _BLOBS_PER_FREE]),
        )
        for first in range(0, len(blobs), _BLOBS_PER_FREE)
    ]
    return lists + [(dropped_key(blob.id), b"") for blob in blobs]


def dropped_key(blob: bytes) -> bytes:
    """The row that stands as long as a blob waits to be given back: it is never named again."""
    return _DROPPED + blob


def decode_free(value: bytes) -> tuple[BlobRef, ...]:
    """The blobs of one row made by `free_writes`. Raises Corrupt."""
    if value[:1] != _FREE_FORMAT:
        raise Corrupt("freed blobs of unknown format")
    try:
        return _blobs_decoder.decode(value[1:])
    except UNREADABLE as error:
        raise Corrupt(f"freed blobs do not decode: {error}") from error


def frees_range(until_op: int, after: bytes = b"") -> tuple[bytes, bytes]:
    """The keys, behind `after`, of blobs dropped by entry `until_op` or before."""
    start = after + b"\0" if after else _FREES
    return start, _FREES + (until_op + 1 << VERSION_SHIFT).to_bytes(8, "big")
