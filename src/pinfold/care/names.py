"""Pages of the blobs that a group's rows name, told by its primary.

Also told: blobs named by entries in flight, and blobs that rows dropped and that wait to be given
back. Each page is linearizable by itself; its *token* tells whether pages belong together. Within
one view, while no old blob's name has come to stand in another row (`Ledger.moves`), the rows that
name an old blob only become fewer; so a blob that was named all the time is met on some page.
"""

from typing import Final

import msgspec

from pinfold.cluster.bodies import Form, Number, Short, taken
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.groups.entries import FREES_RANGE, decode_free, decode_row
from pinfold.cluster.groups.service import GroupService
from pinfold.env.api import Clock
from pinfold.model.errors import Corrupt
from pinfold.model.ids import DeviceId, GroupId
from pinfold.rpc.api import Dispatcher, HandlerResult, Reply, Request

NAMES: Final = "care.names"
"""Body: [device, group, start, rows]; answer: [token, time of day, next start], ids as payload."""

PAGE_ROWS: Final = 1000
"""Rows in a page: some milliseconds of the primary's loop."""

PAGE_BLOBS: Final = 2_000
"""A page with more ends early; one row's blobs may exceed it. Its reader notes a name in 4 µs."""

_ID_BYTES: Final = 16
_NAMES: Final = Form(tuple[Short, Number, bytes, Number])
_ROWS_FROM: Final = b"\x01"
"""Keys below are the groups' own."""

Token = tuple[int, int]
"""(view, moves)."""


class NamesPage(msgspec.Struct, array_like=True, frozen=True):
    """A page as its reader gets it."""

    token: Token
    wall_ms: int
    """The time of day as the group has it."""
    next_start: bytes | None
    """None: this was the last."""
    blobs: tuple[bytes, ...] = ()


class NamesServer:
    """Answers for the groups led on this node."""

    def __init__(self, clock: Clock, groups: GroupService, dispatcher: Dispatcher) -> None:
        self._clock = clock
        self._groups = groups
        dispatcher.bind(NAMES, self._on_names)

    def _on_names(self, request: Request) -> HandlerResult:
        device, group, start, rows = taken(NAMES, request.body, _NAMES)
        bound = self._groups.bound(DeviceId(device), GroupId(group))
        serving = bound.serving
        if serving is None:
            raise bound.not_primary()

        def look() -> Reply:
            blobs, next_start = _page(bound, start, min(rows, PAGE_ROWS))
            blobs += serving.blobs_in_flight()
            token = (bound.replica.view, serving.moves)
            wall_ms = self._groups.time.now_ms()
            return Reply((token, wall_ms, next_start), (b"".join(blobs),))

        return serving.read(look)


def _page(bound: BoundGroup, start: bytes, rows: int) -> tuple[list[bytes], bytes | None]:
    """(ids, next start): first of the blobs to be given back, then of rows."""
    blobs: list[bytes] = []
    if start < _ROWS_FROM:
        first, end = FREES_RANGE
        for count, (key, value) in enumerate(bound.scan(max(start, first), end)):
            if count == rows or len(blobs) >= PAGE_BLOBS:
                return blobs, key
            blobs += (ref.id for ref in decode_free(value))
        return blobs, _ROWS_FROM
    for count, (key, value) in enumerate(bound.scan(start, None)):
        if count == rows or len(blobs) >= PAGE_BLOBS:
            return blobs, key
        blobs += (ref.id for ref in decode_row(value).blobs)
    return blobs, None


async def names_page(
    rows: RowClient, group: GroupId, start: bytes, limit: int = PAGE_ROWS
) -> NamesPage:
    """Ask a group's primary for the page at `start` (empty: the first one)."""
    answer = await rows.ask(group, NAMES, (start, limit))
    (view, moves), wall_ms, next_start = answer.body
    payload = bytes(answer.payload)
    if len(payload) % _ID_BYTES:
        raise Corrupt("a page of names ends within an id")
    ids = (payload[at : at + _ID_BYTES] for at in range(0, len(payload), _ID_BYTES))
    return NamesPage((view, moves), wall_ms, next_start, tuple(ids))
