"""The rpc operations of row groups: their names, and what their bodies have to be."""

from typing import Annotated, Final

import msgspec

from pinfold.cluster.api import Check
from pinfold.cluster.bodies import Form, Number, Short
from pinfold.model.limits import LISTING_PAGE_MAX

MESSAGES: Final = "group.messages"
PING: Final = "group.ping"
GET: Final = "group.get"
SCAN: Final = "group.scan"
CHANGE: Final = "group.change"
STATUS: Final = "group.status"
FORCE: Final = "group.force"

PAGE_MAX: Final = LISTING_PAGE_MAX + 1
"""Items in one page of a scan: a listing's page and the row that says there is more."""

PING_FORM: Final = Form(
    tuple[
        list[Short],
        list[Short],
        list[tuple[Short, Short, Number, Number, Number]],
        list[tuple[Short, float]],
        Number,
    ]
)
CONFIRM_FORM: Final = Form(list[Number])
GET_FORM: Final = Form(tuple[Short, Short, bytes, list[Check]])
CHANGE_FORM: Final = Form(tuple[Short, Short, bool])
FORCE_FORM: Final = Form(tuple[Short, Short, Number, bytes])


class Scan(msgspec.Struct, array_like=True, frozen=True):
    """The body of a scan; see `Rows.scan`."""

    device: Short
    group: Short
    start: bytes
    end: bytes | None
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)]
    collapse: tuple[Number, bytes] | None
    reverse: bool
    payloads: bool
    checks: list[Check]


SCAN_FORM: Final = Form(Scan)
