"""What the members of a group say to each other.

Every message is one way and may be lost, repeated or overtaken; every one starts with the sender's
view. A message of a lower view is answered with `Join` of the higher one and otherwise ignored; a
message of a higher view makes the receiver flush that view before it answers.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from pinfold.device.api import Entry
from pinfold.model.errors import Corrupt

_STANDING_FORMAT: Final = 1


class Standing(IntEnum):
    """What a member's log is worth as evidence; stored with the view."""

    NEW = 0
    """Created empty and never acknowledged anything."""
    MEMBER = 1
    """Holds everything it ever acknowledged."""
    COPYING = 2
    """Gave its rows up for a copy that is not complete: votes for views, proves nothing."""


def encode_standing(standing: Standing) -> bytes:
    """As stored by `LogStore.set_view`."""
    return bytes((_STANDING_FORMAT, standing))


def decode_standing(voted: bytes) -> Standing:
    """Read `encode_standing`; a log that never stored a vote is new. Raises Corrupt."""
    if not voted:
        return Standing.NEW
    if len(voted) != 2 or voted[0] != _STANDING_FORMAT or voted[1] > Standing.COPYING:
        raise Corrupt(f"a group's vote of unknown format: {voted.hex()}")
    return Standing(voted[1])


class Prepare(NamedTuple):
    """The primary: append these behind (prev_op, prev_view). Empty: does your log match there?"""

    view: int
    prev_op: int
    prev_view: int
    """View of the entry at prev_op; -1 when the primary has trimmed it."""
    commit_op: int
    trim_op: int
    """Entries below this are not needed by any member (or the log grew too long)."""
    entries: Sequence[Entry]


class Ack(NamedTuple):
    """A follower: my log matches yours up to `op`, durably, under this view."""

    view: int
    op: int
    applied_op: int
    counted: bool
    """Whether the primary may count this towards the commit point."""


class Refuse(NamedTuple):
    """A follower: my log does not match at prev_op; it may at hint_op."""

    view: int
    prev_op: int
    hint_op: int


class NeedCopy(NamedTuple):
    """A follower: I need a copy of the rows; `copy_id` is one whose page I cannot use, or 0."""

    view: int
    copy_id: int


class Join(NamedTuple):
    """Anyone: there is this view; leave yours and vote."""

    view: int


class Vote(NamedTuple):
    """To the primary of `view`: I acknowledge nothing older; my durable log ends here."""

    view: int
    standing: int
    last_view: int
    last_op: int


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

    The pages were read at different instants from base_op to through_op. Entries put and delete
    whole rows, so replaying them from base_op + 1 makes the copy exact at through_op.
    """

    view: int
    copy_id: int
    page: int
    base_op: int
    base_view: int
    through_op: int
    is_last: bool
    rows: Sequence[tuple[bytes, bytes]]


class CopyAck(NamedTuple):
    """A follower: the page is durable."""

    view: int
    copy_id: int
    page: int


Message = Prepare | Ack | Refuse | NeedCopy | Join | Vote | Fetch | Fetched | CopyPage | CopyAck
