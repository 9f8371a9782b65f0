"""The bytes of a ring or builder file: a fixed head, a msgpack header, an aligned body.

Layout, little-endian: magic (8), format version (u16), reserved (u16, 0), header length (u32), body
offset (u64), body length (u64), xxh3_128 of the head so far and of everything after it
(16), header, zero padding to a multiple of 64, body. The file ends with the body.

Rule: nothing is believed before the checksum holds, and sizes are compared with the bytes at hand
before anything is allocated. Format version 1 is the first; a change of the layout raises it.
"""

import struct
from typing import Any, Final

import msgpack
import xxhash

from pinfold_ring.errors import BadRingFile

FORMAT_VERSION: Final = 1

RING_MAGIC: Final = b"PINFRING"
BUILDER_MAGIC: Final = b"PINFBLDR"

CHECKSUM_BYTES: Final = 16
"""xxh3_128: catches damage, not malice; rings come from the operator."""

HEADER_BYTES_MAX: Final = 64 << 20
"""Largest header: 65,535 devices with the longest names and 200 bytes of meta each."""

ALIGNMENT: Final = 64
"""The body starts on a cache line, so a table in a mapped file needs no copy."""

_HEAD: Final = struct.Struct("<8sHHIQQ")
_PREFIX_BYTES: Final = _HEAD.size + CHECKSUM_BYTES

Buffer = bytes | bytearray | memoryview


def encode(magic: bytes, header: dict[str, Any], body: Buffer) -> bytes:
    """One file of these parts; the same parts give the same bytes."""
    packed = msgpack.packb(header)
    if len(packed) > HEADER_BYTES_MAX:
        raise BadRingFile("size", f"the header would have {len(packed)} bytes, too many")
    offset = -(-(_PREFIX_BYTES + len(packed)) // ALIGNMENT) * ALIGNMENT
    head = _HEAD.pack(magic, FORMAT_VERSION, 0, len(packed), offset, len(body))
    padding = bytes(offset - _PREFIX_BYTES - len(packed))
    checksum = _checksum(head, packed, padding, body)
    return b"".join((head, checksum, packed, padding, body))


def decode(magic: bytes, data: Buffer) -> tuple[dict[str, Any], memoryview, bytes]:
    """Header, body (a view of `data`, not a copy) and checksum of a file.

    Raises BadRingFile for anything that `encode` did not write with this magic.
    """
    view = memoryview(data).cast("B")
    if len(view) < len(magic) or bytes(view[: len(magic)]) != magic:
        raise BadRingFile("magic", f"this is not a {_KINDS[magic]} file")
    if len(view) < _PREFIX_BYTES:
        raise BadRingFile("truncated", f"the file ends inside its head, after {len(view)} bytes")
    head = view[: _HEAD.size]
    _, version, reserved, header_size, offset, body_size = _HEAD.unpack(head)
    if version != FORMAT_VERSION:
        raise BadRingFile(
            "version", f"format version {version} is not known here, only {FORMAT_VERSION}"
        )
    if reserved or header_size > HEADER_BYTES_MAX or offset % ALIGNMENT:
        raise BadRingFile("size", "the head of the file makes no sense")
    if not _PREFIX_BYTES + header_size <= offset < _PREFIX_BYTES + header_size + ALIGNMENT:
        raise BadRingFile("size", "header and body of the file do not meet")
    if len(view) < offset + body_size:
        raise BadRingFile(
            "truncated", f"the file has {len(view)} bytes of {offset + body_size}: it was cut short"
        )
    if len(view) > offset + body_size:
        raise BadRingFile("size", f"{len(view) - offset - body_size} bytes follow the end")
    checksum = bytes(view[_HEAD.size : _PREFIX_BYTES])
    if _checksum(head, view[_PREFIX_BYTES:]) != checksum:
        raise BadRingFile("checksum", "the checksum does not match: the file is damaged")
    packed = view[_PREFIX_BYTES : _PREFIX_BYTES + header_size]
    return _unpack(packed), view[offset:], checksum


def _checksum(*pieces: Buffer) -> bytes:
    state = xxhash.xxh3_128()
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _unpack(packed: memoryview) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(packed)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadRingFile("header", f"the header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise BadRingFile("header", "the header is not a mapping")
    return header


_KINDS = {RING_MAGIC: "ring", BUILDER_MAGIC: "ring builder"}
