"""A volume's row: what the row log keeps of it, and where.

The volume row is the truth. An index row per volume, all in one place, makes listing one scan;
it is written before the volume may be used and removed after its data.
"""

from typing import Final, NamedTuple

import msgspec

from pinfold.codec import names
from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Corrupt, NotFound

INDEX_PLACE: Final = b"vl/"
"""Placement key of every index row."""

_VERSION: Final = b"\x02"
"""First byte of every body: the format that follows."""


class Holder(msgspec.Struct, array_like=True, frozen=True):
    """Who serves a volume."""

    gateway: str
    """Node name; at most one process has it at a time."""
    boot: int
    incarnation: int
    """Which session of that process."""
    tending: bool = False
    """It makes copies equal and serves nobody: whoever has a client takes the volume from it."""


class VolumeRow(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """A volume as the cluster agrees on it."""

    id: bytes
    size: int
    """Bytes; need not be a multiple of anything."""
    created_ms: int
    state: str = "ready"
    """creating (its index row may not be there yet), ready, or deleting (its data is being
    dropped). Nobody may attach unless it is ready."""
    copies: int = 3
    min_in_sync: int = 2
    holder: Holder | None = None
    token: int = 0
    """Highest fencing token ever given out."""
    epoch: int = 1
    """Resync epoch: grows whenever a device is put out; every write carries it."""
    out: dict[int, int] = {}
    """Devices out of sync: the epoch since which they lack writes."""
    trust: dict[int, dict[int, int]] = {}
    """For each holder (by token) whose writes may not be settled: the devices that have every write
    it answered, and the boot under which they do (R4)."""
    uuids: dict[int, bytes] = {}
    """Which device a number meant when it was last in sync: another one has none of the extents."""
    seen: dict[int, int] = {}
    """The boot of each device in sync when the volume was given back with everything equal and
    flushed: one at another boot may have lost extents, or have some that rotted."""
    cut: tuple[int, int] = (0, 0)
    """What shrinking cut off, from here to there, may still be on devices; zeroed before the volume
    is served again."""
    beat: int = 0
    """Grows while the holder lives."""


class Told(NamedTuple):
    """What clients were told of a volume: they are served this one of the name, at this size."""

    id: bytes
    size: int


class IndexRow(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """A volume as listings show it."""

    id: bytes
    size: int
    created_ms: int
    ready: bool
    """False while it is being created or deleted."""


def demand_ready(name: str, row: VolumeRow) -> None:
    """NotFound for a volume that nobody may use: yet, or any more."""
    if row.state != "ready":
        raise NotFound(f"volume {name!r} is not ready: it is still {row.state}")


def place_of(name: str) -> bytes:
    """Placement key of a volume's row."""
    return b"v/" + name.encode()


def key_of(name: str) -> bytes:
    """Key of a volume's row."""
    return b"v" + names.encode(name.encode())


def index_key(name: str) -> bytes:
    """Key of a volume's index row."""
    return b"l" + names.encode(name.encode())


def name_of(key: bytes) -> str:
    """The volume that an index key names."""
    return names.decode(key, 1)[0].decode()


_encoder: Final = msgspec.msgpack.Encoder()
_volume_decoder: Final = msgspec.msgpack.Decoder(VolumeRow)
_index_decoder: Final = msgspec.msgpack.Decoder(IndexRow)


def encode(row: VolumeRow | IndexRow) -> bytes:
    """The body of a row."""
    return _VERSION + _encoder.encode(row)


def decode_volume(body: bytes) -> VolumeRow:
    """A volume row's body; Corrupt when it is none."""
    try:
        return _volume_decoder.decode(_payload(body))
    except UNREADABLE as error:
        raise Corrupt(f"malformed volume row: {error}") from error


def decode_index(body: bytes) -> IndexRow:
    """An index row's body; Corrupt when it is none."""
    try:
        return _index_decoder.decode(_payload(body))
    except UNREADABLE as error:
        raise Corrupt(f"malformed index row: {error}") from error


def _payload(body: bytes) -> bytes:
    if body[:1] != _VERSION:
        raise Corrupt(f"row of unknown format {body[:1]!r}")
    return body[1:]
