"""Messages between members as rpc bodies and payload.

A head is [kind, group, to, from, *fields]; entries travel as [view, length, view, length, …]
with their bodies in the payload, rows of a copied page as the length of one payload buffer.
Many heads to one node share a frame, their payloads one behind the other.
"""

from collections.abc import Iterator, Sequence
from types import GenericAlias
from typing import Annotated, Any, Final

import msgspec

from pinfold.cluster.bodies import Form, Number, Short, taken
from pinfold.cluster.groups.messages import (
    Ack,
    CopyAck,
    CopyPage,
    Fetch,
    Fetched,
    Join,
    Message,
    NeedCopy,
    OfferCopy,
    Outside,
    Prepare,
    Refuse,
    Standing,
    Vote,
)
from pinfold.codec.digests import DIGEST_BYTES
from pinfold.codec.unreadable import UNREADABLE
from pinfold.device.api import Entry
from pinfold.model.errors import Invalid
from pinfold.model.ids import DeviceId, GroupId

_KINDS: Final[tuple[type[Any], ...]] = (
    Prepare,
    Ack,
    Refuse,
    NeedCopy,
    Join,
    Vote,
    Fetch,
    Fetched,
    CopyPage,
    CopyAck,
    Outside,
    OfferCopy,
)
"""The position is the kind on the wire: append only."""

_KIND_OF: Final = {cls: kind for kind, cls in enumerate(_KINDS)}

_OPS = list[Number]
_Signed = Annotated[int, msgspec.Meta(ge=-1)]
"""-1 says that there is none."""
_Digest = Annotated[bytes, msgspec.Meta(max_length=DIGEST_BYTES)]
_Worth = Annotated[int, msgspec.Meta(ge=0, le=len(Standing) - 1)]
_FORMS: Final[tuple[Form[list[Any]], ...]] = tuple(
    Form(GenericAlias(tuple, (Short, Short, Short, Short, *fields)))  # type: ignore[arg-type]
    for fields in (
        (Number, Number, _Signed, Number, Number, Number, _OPS),
        (Number, Number, Number, bool, Number, bool),
        (Number, Number, Number),
        (Number, Number, _Digest, Number),
        (Number, Number),
        (Number, _Worth, Number, Number, Number, Number),
        (Number, Number, Number, Number),
        (Number, Number, bool, _OPS),
        (
            *(Number, Number, Number, Number, Number, Number, Number),
            *(_Digest, bytes, bytes, bytes, bool, bool, Number),
        ),
        (Number, Number, Number),
        (Number, _Signed),
        (Number, Number, Number),
    )
)
"""The heads of each kind: kind, group, to, from, and what their messages say, sizes in place of
contents."""

_HEADS: Final = Form(list[list[Any]])

_rows_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]])

Arrived = tuple[GroupId, DeviceId, DeviceId, Message]
"""(group, to, from, message)."""


def encode(
    group: GroupId, to: DeviceId, sender: DeviceId, message: Message
) -> tuple[list[Any], list[bytes]]:
    """(head, payload buffers) of one message."""
    cls = type(message)
    head: list[Any] = [_KIND_OF[cls], group, to, sender, *message]
    if cls is Prepare or cls is Fetched:
        entries: Sequence[Entry] = head[-1]
        head[-1] = [field for one in entries for field in (one.view, len(one.body))]
        return head, [one.body for one in entries]
    if cls is CopyPage:
        rows = msgspec.msgpack.encode(head[-1])
        head[-1] = len(rows)
        return head, [rows]
    return head, []


def decode(heads: Any, payload: memoryview) -> Iterator[Arrived]:
    """The messages of one frame, in order. Raises Invalid for what no member sends."""
    at = 0
    for head in taken("group.messages", heads, _HEADS):
        try:
            kind = head[0]
            if type(kind) is not int or not 0 <= kind < len(_KINDS):
                raise ValueError("a message of unknown kind")
            cls = _KINDS[kind]
            _, group, to, sender, *fields = taken("group.messages", head, _FORMS[kind])
            if cls is Prepare or cls is Fetched:
                fields[-1], at = _entries(fields[1], fields[-1], payload, at)
            elif cls is CopyPage:
                end = at + fields[-1]
                if end > len(payload):
                    raise ValueError("a payload shorter than its rows")
                fields[-1] = _rows_decoder.decode(payload[at:end])
                at = end
            message = cls(*fields)
        except (ValueError, TypeError, IndexError, *UNREADABLE) as error:
            raise Invalid(f"a group message that does not decode: {error}") from error
        yield GroupId(group), DeviceId(to), DeviceId(sender), message


def _entries(
    prev_op: int, sizes: Sequence[int], payload: memoryview, at: int
) -> tuple[list[Entry], int]:
    entries: list[Entry] = []
    if len(sizes) % 2:
        raise ValueError("an entry without its size")
    for index in range(0, len(sizes), 2):
        end = at + sizes[index + 1]
        if end > len(payload):
            raise ValueError("a payload shorter than its entries")
        prev_op += 1
        entries.append(Entry(prev_op, sizes[index], bytes(payload[at:end])))
        at = end
    return entries, at
