"""What a device remembers of one group, and the bytes it writes about it. No I/O here."""

import struct
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgpack

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.codec.digests import DIGEST_BYTES, RowDigest
from pinfold.device.api import Entry, LogState
from pinfold.env.api import Buffer
from pinfold.model.ids import GroupId

_GROUP: Final = struct.Struct(">QI")
_ENTRY: Final = struct.Struct(">QQI")
_VIEW: Final = struct.Struct(">QQ")
_INSTALL: Final = struct.Struct(">QI")

_FORMAT: Final = 2
"""Of a group's record in the index."""

ROWS_TABLE: Final = b"r"
"""What the index keys of applied rows start with."""

ENTRY_BYTES: Final = _ENTRY.size
GROUP_BYTES: Final = _GROUP.size


def encode_entries(group: GroupId, entries: Sequence[Entry]) -> tuple[list[Buffer], int]:
    """(buffers, length) of an append: the entries' heads, then their bodies by reference."""
    heads = [_GROUP.pack(group, len(entries))]
    length = GROUP_BYTES + ENTRY_BYTES * len(entries)
    bodies: list[Buffer] = []
    for op, view, body in entries:
        heads.append(_ENTRY.pack(op, view, len(body)))
        bodies.append(body)
        length += len(body)
    return [b"".join(heads), *bodies], length


@decodes("a record of log entries")
def decode_entries(payload: memoryview) -> tuple[GroupId, list[Entry]]:
    """The inverse of `encode_entries`; bodies are copies. Ops ascend."""
    group, count = _GROUP.unpack_from(payload)
    position = GROUP_BYTES + ENTRY_BYTES * count
    entries = []
    for op, view, length in _ENTRY.iter_unpack(payload[GROUP_BYTES:position]):
        entries.append(Entry(op, view, bytes(payload[position : position + length])))
        position += length
    require(position == len(payload) and count > 0, "a record of log entries has another length")
    ops = [entry.op for entry in entries]
    require(
        ops[0] > 0 and all(one < next_one for one, next_one in pairwise(ops)),
        "a record of log entries is out of order",
    )
    return GroupId(group), entries


def encode_view(group: GroupId, view: int, voted: bytes) -> bytes:
    """A view change's record."""
    return _VIEW.pack(group, view) + voted


@decodes("a record of a view")
def decode_view(payload: memoryview) -> tuple[GroupId, int, bytes]:
    """The inverse of `encode_view`."""
    group, view = _VIEW.unpack_from(payload)
    return GroupId(group), view, bytes(payload[_VIEW.size :])


def encode_install(group: GroupId, generation: int) -> bytes:
    """The record that empties a group and moves its rows to a new generation."""
    return _INSTALL.pack(group, generation)


def encode_create(group: GroupId) -> bytes:
    """The record that begins a group."""
    return group.to_bytes(8, "big")


@decodes("a record that begins a group")
def decode_create(payload: memoryview) -> GroupId:
    """The inverse of `encode_create`."""
    require(len(payload) == 8, "a record that begins a group has another length")
    return GroupId(int.from_bytes(payload, "big"))


@decodes("a record of a copy's beginning")
def decode_install(payload: memoryview) -> tuple[GroupId, int]:
    """The inverse of `encode_install`."""
    group, generation = _INSTALL.unpack(payload)
    return GroupId(group), generation


class Group:
    """One group's log in memory.

    Invariant: `entries` holds the ops first_op to last_op without a gap, and every entry above
    `applied_op` is among them. `unsettled` names the journal records that a crash still needs:
    entries whose effect is not durable in the index.
    """

    __slots__ = (
        "applied_op",
        "applied_view",
        "base",
        "changed",
        "digest",
        "entries",
        "first_op",
        "generation",
        "id",
        "installing",
        "last_op",
        "last_view",
        "rotten",
        "rows_prefix",
        "sealed_op",
        "unsettled",
        "view",
        "voted",
    )

    def __init__(self, group: GroupId, generation: int = 1) -> None:
        self.id = group
        self.view = 0
        self.voted = b""
        self.base = 0
        """Journal sequence at which this life of the group began: older entries are not its."""
        self.changed = True
        """Differs from its record in the index."""
        self.installing = False
        self.unsettled: deque[tuple[int, int]] = deque()
        """(op, journal sequence), ascending ops."""
        self.clear(generation)

    def clear(self, generation: int) -> None:
        """Empty, at op 0; rows live under a new generation. View and vote stay."""
        self.generation = generation
        self.rows_prefix = rows_prefix(self.id, generation)
        self.entries: dict[int, tuple[Entry, int]] = {}
        self.first_op = 1
        self.last_op = self.last_view = 0
        self.applied_op = self.applied_view = 0
        self.rotten = False
        """A row here has failed its checksum."""
        self.digest: RowDigest | None = RowDigest(self.id)
        """Of what is applied; None after an upgrade, until the rows are copied."""
        self.sealed_op = 0
        """applied_op when the index was last sealed."""
        self.unsettled.clear()

    def state(self) -> LogState:
        """As the log store shows it."""
        return LogState(
            self.view,
            self.voted,
            self.first_op,
            self.last_op,
            self.last_view,
            self.applied_op,
            self.applied_view,
        )

    def truncate(self, op: int) -> int:
        """Forget the entries from `op` on; their bytes."""
        freed = 0
        while self.last_op >= op:
            freed += len(self.entries.pop(self.last_op)[0].body)
            self.last_op -= 1
        while self.unsettled and self.unsettled[-1][0] >= op:
            self.unsettled.pop()
        self.first_op = min(self.first_op, self.last_op + 1)
        return freed

    def append(self, entry: Entry, sequence: int) -> None:
        """Take the entry behind the last one."""
        self.entries[entry.op] = (entry, sequence)
        self.last_op, self.last_view = entry.op, entry.view
        self.unsettled.append((entry.op, sequence))

    def trim(self, before_op: int) -> int:
        """Forget applied entries below `before_op`; their bytes."""
        freed = 0
        while self.first_op < before_op and self.first_op <= self.applied_op:
            freed += len(self.entries.pop(self.first_op)[0].body)
            self.first_op += 1
        return freed

    def settle(self, op: int) -> None:
        """Everything up to `op` is durable in the index."""
        while self.unsettled and self.unsettled[0][0] <= op:
            self.unsettled.popleft()

    def encode(self) -> bytes:
        """The group's record in the index."""
        packed: bytes = msgpack.packb(
            (
                _FORMAT,
                self.view,
                self.voted,
                self.generation,
                self.base,
                self.installing,
                self.applied_op,
                self.applied_view,
                b"" if self.digest is None else self.digest.to_bytes(),
            )
        )
        return packed


@decodes("the index's record of a group")
def decode_group(group: GroupId, record: bytes) -> Group:
    """A group as the index remembers it, with no entries yet. Corrupt for an unknown version.

    Version 1 had no digest.
    """
    version, *fields = msgpack.unpackb(record)
    require_version(f"index: the record of group {group}", version, _FORMAT)
    if version == 1:
        fields.append(b"")
    view, voted, generation, base, installing, applied_op, applied_view, digest = fields
    numbers = (view, generation, base, applied_op, applied_view)
    require(
        all(isinstance(number, int) and number >= 0 for number in numbers)
        and isinstance(voted, bytes)
        and isinstance(installing, bool)
        and isinstance(digest, bytes)
        and len(digest) in (0, DIGEST_BYTES),
        f"index: the record of group {group} makes no sense",
    )
    found = Group(group, generation)
    found.view, found.voted, found.base, found.installing = view, voted, base, installing
    found.applied_op, found.applied_view = applied_op, applied_view
    found.last_op, found.last_view = applied_op, applied_view
    found.first_op, found.sealed_op = applied_op + 1, applied_op
    found.digest = RowDigest(group, digest) if digest or not applied_op else None
    found.changed = False
    return found


def rows_prefix(group: GroupId, generation: int) -> bytes:
    """What every row key of this life of the group starts with."""
    return ROWS_TABLE + group.to_bytes(8, "big") + generation.to_bytes(4, "big")
