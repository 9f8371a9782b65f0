"""What the members of a group say to each other.

Every message is one way and may be lost, repeated or overtaken; every one starts with the sender's
view. A message of a lower view is answered with `Join` of the higher one and otherwise ignored; a
message of a higher view makes the receiver flush that view before it answers. `number` is that of
the sender's configuration: see `configuration` for who is obeyed.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from pinfold.cluster.groups.configuration import (
    GENERATION_SHIFT,
    Configuration,
    decode_configuration,
)
from pinfold.codec.unreadable import UNREADABLE
from pinfold.device.api import Entry
from pinfold.model.errors import Corrupt

_VOTED_FORMAT: Final = 3
_GENERATION_FORMAT: Final = 2
"""The one before: a generation stood where `taken` is."""
_STANDING_FORMAT: Final = 1
"""The first format: two bytes, without birth and configuration."""


class Standing(IntEnum):
    """What a member's log is worth as evidence; stored with the view."""

    NEW = 0
    """Nothing that it ever acknowledged is needed as a proof; most often it was created empty."""
    MEMBER = 1
    """Holds everything it ever acknowledged."""
    COPYING = 2
    """Gave its rows up for a copy that is not complete: votes for views, proves nothing."""
    NEW_COPYING = 3
    """The same, but what it gave up is not needed as a proof: it lacked what the copy begins with,
    or had never counted. See `election`."""

    @property
    def new(self) -> bool:
        """Whether it counts as if it had never acknowledged anything."""
        return self in (Standing.NEW, Standing.NEW_COPYING)

    @property
    def copying(self) -> bool:
        """Whether the rows are not complete."""
        return self in (Standing.COPYING, Standing.NEW_COPYING)


class Voted(NamedTuple):
    """What a member stores with its view, in one write."""

    standing: Standing = Standing.NEW
    birth: int = 0
    """Of this log; 0: not drawn yet."""
    taken: int = 0
    """The highest configuration (its number) whose primary's rows were taken, or are being taken.
    The group goes by it, or by the one before."""
    configuration: Configuration | None = None
    """The newest one applied; the rows may hold a newer one. None: never stored."""


_voted_decoder = msgspec.msgpack.Decoder(tuple[int, int, int, bytes])


def encode_voted(voted: Voted) -> bytes:
    """As stored by `LogStore.set_view`."""
    configuration = b"" if voted.configuration is None else voted.configuration.encode()
    fields = (int(voted.standing), voted.birth, voted.taken, configuration)
    return bytes((_VOTED_FORMAT,)) + msgspec.msgpack.encode(fields)


def decode_voted(stored: bytes) -> Voted:
    """Read `encode_voted`; a log that never stored a vote is new. Raises Corrupt."""
    if not stored:
        return Voted()
    try:
        if stored[0] == _STANDING_FORMAT and len(stored) == 2:
            return Voted(Standing(stored[1]))
        if stored[0] in (_GENERATION_FORMAT, _VOTED_FORMAT):
            standing, birth, taken, known = _voted_decoder.decode(stored[1:])
            if stored[0] == _GENERATION_FORMAT:
                taken <<= GENERATION_SHIFT
            configuration = decode_configuration(known) if known else None
            return Voted(Standing(standing), birth, taken, configuration)
    except (ValueError, *UNREADABLE) as error:
        raise Corrupt(f"a group's vote does not decode: {stored.hex()}") from error
    raise Corrupt(f"a group's vote of unknown format: {stored.hex()}")


class Prepare(NamedTuple):
    """The primary: append these behind (prev_op, prev_view). Empty: does your log match there?"""

    view: int
    prev_op: int
    prev_view: int
    """View of the entry at prev_op; -1 when the primary has trimmed it."""
    commit_op: int
    trim_op: int
    """Entries below this are not needed by any member (or the log grew too long)."""
    number: int
    entries: Sequence[Entry]


class Ack(NamedTuple):
    """A follower: my log matches yours up to `op`, durably, under this view."""

    view: int
    op: int
    applied_op: int
    counted: bool
    """Whether the primary may count this towards the commit point."""
    birth: int
    """Of the sender's log; 0 while that is not durable."""
    rotten: bool = False
    """Whether one of its rows has failed its checksum: it should not lead."""


class Refuse(NamedTuple):
    """A follower: my log does not match at prev_op; it may at hint_op."""

    view: int
    prev_op: int
    hint_op: int


class NeedCopy(NamedTuple):
    """A follower: I need a copy of the rows.

    `copy_id` is the one that was offered, or whose page I cannot use, or 0.
    """

    view: int
    copy_id: int
    digest: bytes
    """Of the follower's rows; empty when they are of no use."""
    held_op: int = 0
    """End of the log of a member that counts and has a rotten row: what a copy would make it give
    up. 0 for every other follower."""


class OfferCopy(NamedTuple):
    """The primary: you are behind my log; answer with `NeedCopy`."""

    view: int
    copy_id: int
    number: int


class Join(NamedTuple):
    """Anyone: there is this view; leave yours and vote."""

    view: int
    number: int


class Vote(NamedTuple):
    """To the primary of `view`: I acknowledge nothing older; my durable log ends here."""

    view: int
    standing: int
    last_view: int
    last_op: int
    number: int
    """In the middle of a copy at least that of the copy."""
    birth: int


CANNOT_LEAD: Final = -1
"""`number` of an Outside by the device that owns the view: it lost its memory, or votes no more."""


class Outside(NamedTuple):
    """Anyone, to one that is no voter here or of an older generation: begin no views.

    Or by the device that owns the view, to whoever waits for it: go on to another.
    """

    view: int
    number: int


class Fetch(NamedTuple):
    """The primary-elect to the owner of the best log: what follows my log in yours?"""

    view: int
    after_op: int
    after_view: int
    applied_op: int


class Fetched(NamedTuple):
    """Entries behind prev_op, where both logs agree; `trimmed` when they are gone."""

    view: int
    prev_op: int
    trimmed: bool
    entries: Sequence[Entry]


class CopyPage(NamedTuple):
    """The primary: a page of rows. The first page drops what the member has.

    The pages were read at different instants. All that was written up to base_op is in them, those
    before included, and what was written up to through_op may be: replaying the entries from
    base_op + 1 makes the copy exact at through_op. See `copying` for how the base moves on.
    """

    view: int
    copy_id: int
    page: int
    base_op: int
    base_view: int
    through_op: int
    number: int
    digest: bytes
    """Of the rows at base_op, on the first and the last page; empty when it is not known."""
    start: bytes
    end: bytes
    buckets: bytes
    """See `device.api.Part`."""
    is_last: bool
    named: bool
    """It stands for the keys it names and no other; None: deleted."""
    rows: Sequence[tuple[bytes, bytes | None]]


class CopyAck(NamedTuple):
    """A follower: the page is durable."""

    view: int
    copy_id: int
    page: int


Message = (
    Prepare
    | Ack
    | Refuse
    | NeedCopy
    | Join
    | Vote
    | Fetch
    | Fetched
    | CopyPage
    | CopyAck
    | Outside
    | OfferCopy
)
