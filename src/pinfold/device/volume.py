"""What a device remembers of volumes and their extents, and the bytes it writes about them.

No I/O here. A block is in one of four places, looked for in this order: `active` (written since
the applier last looked), `applying` (on its way to the arena), the arena (its bit is set), or
nowhere, and then it reads as zeroes.
"""

import re
import struct
from collections.abc import Sequence
from typing import Final

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.device.api import ExtentOp
from pinfold.device.arena import BLOCKS
from pinfold.env.api import Buffer
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES

WRITE: Final = 0
ZERO: Final = 1
TRIM: Final = 2

NO_SLOT: Final = -1
ALL_BLOCKS: Final = (1 << BLOCKS) - 1
LOST_SOMEWHEN: Final = (1 << 64) - 1
"""In place of the journal's end at a loss: later than any record there is."""

ZERO_BLOCK: Final = memoryview(bytes(BLOCK_BYTES))

_WRITE_HEAD: Final = struct.Struct(">16sQQQI")
_OP_WORDS: Final = 4
_EXTENT: Final = struct.Struct(">BiQQQ?")
_BITMAP_BYTES: Final = BLOCKS // 8
_VOLUME: Final = struct.Struct(">BQQ")
_VOLUME_2: Final = struct.Struct(">BQ?")
_VOLUME_VERSION: Final = 3
_VOLUME_1_BYTES: Final = 8
_TOKEN: Final = struct.Struct(">16sQ")
_STABLE: Final = struct.Struct(">16sQQ")


class Extent:
    """One 4 MiB slice of a volume."""

    __slots__ = (
        "active",
        "applying",
        "bitmap",
        "changed",
        "dirty",
        "epoch",
        "fresh",
        "index",
        "promised",
        "sequence",
        "slot",
        "token",
        "version",
        "volume",
    )

    def __init__(self, volume: VolumeId, index: int) -> None:
        self.volume = volume
        self.index = index
        self.slot = NO_SLOT
        self.fresh = False
        """The slot was given since the last commit: what it held before is not ours."""
        self.promised = False
        """Room for a slot was counted."""
        self.bitmap = 0
        """Bit n: block n holds data."""
        self.epoch = 0
        self.token = 0
        self.sequence = 0
        self.dirty = False
        self.changed = False
        """Differs from its record in the index."""
        self.version = 0
        """Changes whenever the place of any block in the arena does."""
        self.active: dict[int, Buffer | None] = {}
        self.applying: dict[int, Buffer | None] = {}

    def mark(self, token: int, epoch: int, sequence: int) -> None:
        """Written under these."""
        self.token = token
        self.epoch = max(self.epoch, epoch)
        self.sequence = sequence
        self.dirty = True

    def take(self, op: ExtentOp, payload: memoryview, position: int) -> int:
        """Apply a block-aligned op to memory; where its payload ends."""
        first, count = op.offset // BLOCK_BYTES, op.length // BLOCK_BYTES
        mask = ((1 << count) - 1) << first
        active = self.active
        if op.kind == WRITE:
            for block in range(first, first + count):
                active[block] = payload[position : position + BLOCK_BYTES]
                position += BLOCK_BYTES
            self.bitmap |= mask
        elif op.kind == ZERO:
            active.update(dict.fromkeys(range(first, first + count), ZERO_BLOCK))
            self.bitmap |= mask
        else:
            active.update(dict.fromkeys(range(first, first + count)))
            self.bitmap &= ~mask
        return position

    def runs(self) -> list[tuple[int, int]]:
        """(offset, length) of the data, in order."""
        bits = format(self.bitmap, "b")[::-1]
        return [
            (found.start() * BLOCK_BYTES, (found.end() - found.start()) * BLOCK_BYTES)
            for found in re.finditer("1+", bits)
        ]

    @property
    def data_bytes(self) -> int:
        """Bytes allocated."""
        return self.bitmap.bit_count() * BLOCK_BYTES

    def encode(self) -> bytes:
        """The extent's record in the index."""
        return _EXTENT.pack(
            1, self.slot, self.epoch, self.token, self.sequence, self.dirty
        ) + self.bitmap.to_bytes(_BITMAP_BYTES, "big")


class Volume:
    """One volume's extents on this device, and the highest token it has seen."""

    __slots__ = ("extents", "id", "lost_at", "token")

    def __init__(self, volume: VolumeId, token: Token, *, lost_at: int = 0) -> None:
        self.id = volume
        self.token = token
        self.lost_at = lost_at
        """Where the journal ended when extents that had been here were lost; 0 for nothing lost.
        What records up to there say of an earlier loss being made good is true no more."""
        self.extents: dict[int, Extent] = {}

    @property
    def lost(self) -> bool:
        """Extents were here and are gone: see `Claim.lost`."""
        return self.lost_at > 0

    def extent(self, index: int) -> Extent:
        """The extent, made if it is new."""
        extent = self.extents.get(index)
        if extent is None:
            extent = self.extents[index] = Extent(self.id, index)
        return extent

    def stable(self, token: int, sequence: int) -> list[Extent]:
        """Clear the marks of writes under `token` up to `sequence`; the extents that changed."""
        cleared = []
        for extent in self.extents.values():
            if extent.dirty and extent.token == token and extent.sequence <= sequence:
                extent.dirty = False
                cleared.append(extent)
        return cleared


@decodes("the index's record of an extent")
def decode_extent(volume: VolumeId, index: int, record: bytes) -> Extent:
    """An extent as the index remembers it. Corrupt for an unknown version."""
    version, slot, epoch, token, sequence, dirty = _EXTENT.unpack_from(record)
    require_version("index: the record of an extent", version, 1)
    require(
        len(record) == _EXTENT.size + _BITMAP_BYTES and slot >= NO_SLOT,
        "index: the record of an extent makes no sense",
    )
    extent = Extent(volume, index)
    extent.slot, extent.epoch, extent.token = slot, epoch, token
    extent.sequence, extent.dirty = sequence, dirty
    extent.bitmap = int.from_bytes(record[_EXTENT.size :], "big")
    extent.promised = slot != NO_SLOT
    return extent


def encode_volume(token: int, *, lost_at: int) -> bytes:
    """A volume's record in the index."""
    return _VOLUME.pack(_VOLUME_VERSION, token, lost_at)


@decodes("the index's record of a volume")
def decode_volume(record: bytes) -> tuple[Token, int]:
    """(highest token seen, `Volume.lost_at`); the inverse of `encode_volume`.

    Version 1 was the token alone, and eight bytes long; version 2 did not say when extents were
    lost, so that nothing in the journal makes them good.
    """
    if len(record) == _VOLUME_1_BYTES:
        return Token(int.from_bytes(record, "big")), 0
    version = record[0]
    require_version("index: the record of a volume", version, _VOLUME_VERSION, oldest=2)
    if version == 2:
        _, token, lost = _VOLUME_2.unpack(record)
        return Token(token), LOST_SOMEWHEN if lost else 0
    _, token, lost_at = _VOLUME.unpack(record)
    return Token(token), lost_at


def encode_write(
    volume: VolumeId, token: int, epoch: int, sequence: int, ops: Sequence[ExtentOp]
) -> bytes:
    """The head of a write's record; the payload follows it."""
    words = [word for op in ops for word in op]
    head = _WRITE_HEAD.pack(volume, token, epoch, sequence, len(ops))
    return head + struct.pack(f">{len(words)}I", *words)


def write_bytes(ops: int) -> int:
    """Length of a write record's head."""
    return _WRITE_HEAD.size + ops * _OP_WORDS * 4


@decodes("a record of a volume write")
def decode_write(
    record: memoryview,
) -> tuple[VolumeId, int, int, int, list[ExtentOp], memoryview]:
    """(volume, token, epoch, sequence, ops, payload) of a write's record."""
    volume, token, epoch, sequence, count = _WRITE_HEAD.unpack_from(record)
    end = write_bytes(count)
    require(len(record) >= end, "a record of a volume write is shorter than its ops")
    ops = [ExtentOp(*words) for words in struct.iter_unpack(">4I", record[_WRITE_HEAD.size : end])]
    for kind, _, offset, length in ops:
        require(
            (
                kind in (WRITE, ZERO, TRIM)
                and not (offset | length) % BLOCK_BYTES
                and offset + length <= EXTENT_BYTES
            )
            or not length,
            "a record of a volume write has an op that makes no sense",
        )
    require(
        sum(op.length for op in ops if op.kind == WRITE) == len(record) - end,
        "a record of a volume write carries another length than its ops say",
    )
    return VolumeId(volume), token, epoch, sequence, ops, record[end:]


def encode_token(volume: VolumeId, token: int) -> bytes:
    """A claim's record."""
    return _TOKEN.pack(volume, token)


@decodes("a record of a claim")
def decode_token(record: memoryview) -> tuple[VolumeId, Token]:
    """The inverse of `encode_token`."""
    volume, token = _TOKEN.unpack(record)
    return VolumeId(volume), Token(token)


def encode_stable(volume: VolumeId, token: int, sequence: int) -> bytes:
    """The record of a declaration that writes are stable."""
    return _STABLE.pack(volume, token, sequence)


@decodes("a record of stable writes")
def decode_stable(record: memoryview) -> tuple[VolumeId, int, int]:
    """The inverse of `encode_stable`."""
    volume, token, sequence = _STABLE.unpack(record)
    return VolumeId(volume), token, sequence
