"""What a device keeps in memory of volumes, and the records it writes about them.

No I/O here. A block is in one of four places, looked for in this order: `active` (written since
the applier last looked), `applying` (on its way to the arena), the arena (its extent's row has it),
or nowhere, and then it reads as zeroes.
"""

import struct
from collections.abc import Sequence
from typing import Final

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.device.api import ExtentOp
from pinfold.device.extentrows import ALL_BLOCKS, BLOCKS
from pinfold.device.marks import Marks
from pinfold.device.slots import runs_of
from pinfold.env.api import Buffer
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES

WRITE: Final = 0
ZERO: Final = 1
TRIM: Final = 2

_WRITE_HEAD: Final = struct.Struct(">16sQQQI")
_OP_WORDS: Final = 4
# version, token, life, lost at
_VOLUME: Final = struct.Struct(">BQQQ")
_VOLUME_VERSION: Final = 4
_TOKEN: Final = struct.Struct(">16sQ")
_STABLE: Final = struct.Struct(">16sQQ")


class Unapplied:
    """What was written to one extent and is not in the arena yet.

    Blocks with bytes, and sets of blocks (bit n: block n) for everything else, so that a range of
    zeroes costs the same whatever its length.
    """

    __slots__ = ("blocks", "epoch", "promised", "trimmed", "written", "zeroed")

    def __init__(self) -> None:
        self.blocks: dict[int, Buffer] = {}
        self.written = 0
        """The blocks in `blocks`."""
        self.zeroed = 0
        """Blocks to hold zeroes."""
        self.trimmed = 0
        """Blocks to hold nothing."""
        self.epoch = 0
        self.promised = 0
        """Sub-blocks (`subs_of`) for which room for a slot was counted."""

    def take(self, op: ExtentOp, payload: memoryview, position: int) -> int:
        """Apply a block-aligned op to memory; where its payload ends."""
        first, count = op.offset // BLOCK_BYTES, op.length // BLOCK_BYTES
        mask = ALL_BLOCKS if count == BLOCKS else ((1 << count) - 1) << first
        if op.kind == WRITE:
            blocks = self.blocks
            for block in range(first, first + count):
                blocks[block] = payload[position : position + BLOCK_BYTES]
                position += BLOCK_BYTES
            self.written |= mask
            if self.zeroed or self.trimmed:
                self.zeroed &= ~mask
                self.trimmed &= ~mask
            return position
        if gone := self.written & mask:
            for first, count in runs_of(gone, 0):
                for block in range(first, first + count):
                    del self.blocks[block]
            self.written ^= gone
        if op.kind == ZERO:
            self.zeroed |= mask
            self.trimmed &= ~mask
        else:
            self.trimmed |= mask
            self.zeroed &= ~mask
        return position

    def over(self, data: int) -> int:
        """The blocks that hold data once this is applied, where `data` held some before."""
        return data & ~self.trimmed | self.written | self.zeroed

    def above(self, older: "Unapplied") -> "Unapplied":
        """Both as one, where this is the newer."""
        both = Unapplied()
        hidden = self.zeroed | self.trimmed
        both.blocks = {
            block: buffer for block, buffer in older.blocks.items() if not hidden >> block & 1
        }
        both.blocks.update(self.blocks)
        both.written = older.written & ~hidden | self.written
        both.zeroed = older.zeroed & ~(self.trimmed | self.written) | self.zeroed
        both.trimmed = older.trimmed & ~(self.zeroed | self.written) | self.trimmed
        both.epoch = max(older.epoch, self.epoch)
        both.promised = older.promised | self.promised
        return both


class Volume:
    """One life of a volume on this device: from its first claim, or its last drop, to the next."""

    __slots__ = (
        "active",
        "applying",
        "dropped",
        "id",
        "life",
        "lost_at",
        "marks",
        "token",
        "told",
    )

    def __init__(self, volume: VolumeId, token: Token, life: int, *, lost_at: int = 0) -> None:
        self.id = volume
        self.token = token
        """The highest seen, also by earlier lives."""
        self.life = life
        """The journal sequence that began it: no other life on this device has the same."""
        self.lost_at = lost_at
        """Where the journal ended when extents that had been here were lost; 0 for nothing lost.
        What records up to there say of an earlier loss being made good is true no more."""
        self.told = True
        """Whether the present holder's claim was told of all that is lost."""
        self.active: dict[int, Unapplied] = {}
        """By extent: written since the applier last looked."""
        self.applying: dict[int, Unapplied] = {}
        """On its way to the arena."""
        self.marks = Marks(life)
        self.dropped = False

    @property
    def lost(self) -> bool:
        """Extents were here and are gone: see `Claim.lost`."""
        return self.lost_at > 0

    def data(self, extent: int, stored: int) -> int:
        """The blocks of an extent that hold data, when the arena has the `stored` ones."""
        for unapplied in (self.applying.get(extent), self.active.get(extent)):
            if unapplied is not None:
                stored = unapplied.over(stored)
        return stored


def encode_volume(token: int, life: int, *, lost_at: int) -> bytes:
    """A volume's record in the index."""
    return _VOLUME.pack(_VOLUME_VERSION, token, life, lost_at)


@decodes("the index's record of a volume")
def decode_volume(volume: VolumeId, record: bytes) -> Volume:
    """A volume as the index remembers it, but for its marks. Corrupt for an unknown version."""
    version, token, life, lost_at = _VOLUME.unpack(record)
    require_version("index: the record of a volume", version, _VOLUME_VERSION, oldest=4)
    return Volume(volume, Token(token), life, lost_at=lost_at)


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
