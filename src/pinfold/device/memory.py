"""What a device must never forget, whatever becomes of its index: its groups' views, its tokens.

A device that forgets a view may follow a primary that a majority has left; one that forgets a
token may obey a holder that another has replaced. So before old journal segments are let go, a
record of everything promised so far is appended: the journal alone then tells it, and an index
that was lost can be rebuilt without claiming a memory that is not there.
"""

from dataclasses import dataclass, field
from typing import Final

import msgpack

from pinfold.codec.decoding import decodes, require, require_version
from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.group import decode_create, decode_entries, decode_install, decode_view
from pinfold.device.volume import decode_token, decode_write
from pinfold.model.ids import GroupId, Token, VolumeId

_VERSION: Final = 1
_ITEM_BYTES: Final = 128
"""Room for one group or volume, packed: an id, two numbers, a vote."""


@dataclass(slots=True)
class Memory:
    """Views and votes of groups, tokens of volumes."""

    groups: dict[GroupId, tuple[int, bytes]] = field(default_factory=dict)
    volumes: dict[VolumeId, Token] = field(default_factory=dict)


def encode_memory(memory: Memory, record_bytes: int) -> list[bytes]:
    """One record, or as many as it takes; each names how many there are and which it is."""
    items: list[tuple[bytes | int, int, bytes]] = [
        (group, view, voted) for group, (view, voted) in sorted(memory.groups.items())
    ]
    items += [(volume, token, b"") for volume, token in sorted(memory.volumes.items())]
    size = max(1, record_bytes // _ITEM_BYTES)
    parts = [items[start : start + size] for start in range(0, len(items), size)] or [[]]
    return [
        msgpack.packb((_VERSION, number, len(parts), part)) for number, part in enumerate(parts)
    ]


@decodes("a record of what must not be forgotten")
def decode_memory(record: bytes | memoryview) -> tuple[int, int, Memory]:
    """(which, how many, what it says) of one record."""
    version, number, count, *rest = msgpack.unpackb(record)
    require_version("a record of what must not be forgotten", version, _VERSION)
    (items,) = rest
    memory = Memory()
    for identity, promised, voted in items:
        require(isinstance(promised, int) and promised >= 0, "a promise is a number")
        if isinstance(identity, bytes):
            require(len(identity) == 16, "a volume's id has 16 bytes")
            memory.volumes[VolumeId(identity)] = Token(promised)
        else:
            require(isinstance(identity, int) and isinstance(voted, bytes), "a group has a vote")
            memory.groups[GroupId(identity)] = (promised, voted)
    require(isinstance(number, int) and isinstance(count, int), "parts are numbered")
    return number, count, memory


class Remembered:
    """Folds a journal's records, in order, into everything that was promised by its end."""

    def __init__(self) -> None:
        self.views: dict[GroupId, int] = {}
        self.tokens: dict[VolumeId, Token] = {}
        self.first = 0
        """Sequence of the first record taken; 0 without any."""
        self.last = 0
        self._copied = False
        self._next_part = 0
        self._repeated = False

    @property
    def complete(self) -> bool:
        """Whether nothing can have been promised that these records do not tell."""
        return self._repeated or self.first in (0, 1)

    @property
    def whole(self) -> bool:
        """Whether redoing these records brings everything back: a group's copy is not in them."""
        return self.first <= 1 and not self._copied

    def take(self, record: Record) -> None:
        """One record of any kind. Raises Corrupt."""
        self.first = self.first or record.sequence
        self.last = record.sequence
        payload = record.payload
        match record.kind:
            case kinds.MEMORY:
                self._take_memory(payload)
            case kinds.GROUP_CREATE:
                self._view(decode_create(payload), 0)
            case kinds.GROUP_VIEW:
                group, view, _ = decode_view(payload)
                self._view(group, view)
            case kinds.GROUP_INSTALL:
                self._copied = True
                self._view(decode_install(payload)[0], 0)
            case kinds.LOG_APPEND | kinds.LOG_CARRY:
                group, entries = decode_entries(payload)
                self._view(group, max(entry.view for entry in entries))
            case kinds.EXTENT_CLAIM | kinds.EXTENT_RESTORED:
                self._token(*decode_token(payload))
            case kinds.EXTENT_WRITE:
                volume, token, *_ = decode_write(payload)
                self._token(volume, Token(token))

    def _take_memory(self, payload: memoryview) -> None:
        number, count, memory = decode_memory(payload)
        if number == 0:
            self._next_part = 0
        self._next_part = self._next_part + 1 if number == self._next_part else -1
        self._repeated = self._repeated or self._next_part == count
        for group, (view, _) in memory.groups.items():
            self._view(group, view)
        for volume, token in memory.volumes.items():
            self._token(volume, token)

    def _view(self, group: GroupId, view: int) -> None:
        self.views[group] = max(view, self.views.get(group, 0))

    def _token(self, volume: VolumeId, token: Token) -> None:
        self.tokens[volume] = max(token, self.tokens.get(volume, token))
