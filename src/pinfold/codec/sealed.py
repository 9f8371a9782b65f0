"""A small record that is stored or copied whole: magic, version, length, checksum, payload.

For values written rarely (the cluster map, credentials); the journal and the wire have denser
formats of their own. Layout, big-endian: 4 bytes magic, u16 version, u16 reserved (0, later a key
id), u32 payload length, u64 xxh3 of header and payload.
"""

import struct
from typing import Final

import xxhash

from pinfold.model.errors import Corrupt

_HEADER: Final = struct.Struct(">4sHHI")
_CHECK: Final = struct.Struct(">Q")
_PAYLOAD_AT: Final = _HEADER.size + _CHECK.size


def seal(magic: bytes, version: int, payload: bytes) -> bytes:
    """The record of `payload`."""
    assert len(magic) == 4, "a magic has four bytes"
    header = _HEADER.pack(magic, version, 0, len(payload))
    return header + _CHECK.pack(_check(header, payload)) + payload


def unseal(magic: bytes, record: bytes) -> tuple[int, bytes]:
    """(version, payload) of a whole record; Corrupt names what does not fit."""
    if len(record) < _PAYLOAD_AT:
        raise Corrupt(f"record of {len(record)} bytes is shorter than its header")
    found, version, reserved, length = _HEADER.unpack_from(record)
    if found != magic:
        raise Corrupt(f"record starts with {found!r} instead of {magic!r}")
    payload = record[_PAYLOAD_AT:]
    if length != len(payload):
        raise Corrupt(f"record should carry {length} bytes and carries {len(payload)}")
    (check,) = _CHECK.unpack_from(record, _HEADER.size)
    if check != _check(record[: _HEADER.size], payload):
        raise Corrupt("record fails its checksum")
    if reserved:
        raise Corrupt("record needs a key, which this version does not know")
    return version, payload


def _check(header: bytes, payload: bytes) -> int:
    digest = xxhash.xxh3_64(header)
    digest.update(payload)
    return digest.intdigest()
