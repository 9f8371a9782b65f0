"""`Rows` from any node: find the primary, and try again until the deadline.

A change is repeated with the op id it came with, so it happens once however often it is sent. What
is remembered per group is only whom to ask first and who its members are said to be, which may
differ from the ring while members change; being wrong costs one more question.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from pinfold.cluster.api import Change, Changed, Check, Collapse, Page, Row
from pinfold.cluster.bodies import Form, Number, Short, answered
from pinfold.cluster.groups.entries import decode_row
from pinfold.cluster.groups.membership import GroupOf, Membership
from pinfold.cluster.groups.operations import CHANGE, GET, SCAN
from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Buffer, Env
from pinfold.model.errors import (
    Busy,
    Conflict,
    NotFound,
    NotPrimary,
    PinfoldError,
    Unavailable,
    Unsupported,
)
from pinfold.model.ids import Boot, DeviceId, GroupId, NodeName
from pinfold.model.limits import CHANGE_DEADLINE_S
from pinfold.rpc.api import Answer, Body, Peers

ATTEMPT_S: Final = 2.5
"""How long one member is waited for before another is asked."""

AWAY_S: Final = 3.0
"""Members without a session for so long are not waited for: a restarted node is back in one or two.
While no majority has one, whoever asks hears so at once instead of after the whole deadline."""

_BACKOFF_MIN_S: Final = 0.01
_BACKOFF_MAX_S: Final = 0.2
"""Pauses between attempts, doubled each time and shortened at random by up to a half."""

_encode = msgspec.msgpack.Encoder().encode
_HINT: Final = Form(tuple[Number, Short, list[Short]])
"""What a refusal tells: the view, who leads it, the members."""

_FAILED: Final = Form(tuple[Number, bytes | None])
"""What a conflict tells: which check failed, and its row."""

_CHANGED: Final = Form(tuple[Number, Number])
_NEXT_START: Final[Form[bytes | None]] = Form(bytes | None)  # type: ignore[arg-type]

_items_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]])

T = TypeVar("T")


class RowClient:
    """The real `Rows`."""

    def __init__(
        self,
        env: Env,
        peers: Peers,
        membership: Membership,
        group_of: GroupOf,
        *,
        deadline_s: float = CHANGE_DEADLINE_S,
    ) -> None:
        assert deadline_s <= CHANGE_DEADLINE_S, "results are not remembered for longer"
        self._clock = env.clock
        self._rng = env.rng
        self._peers = peers
        self._membership = membership
        self._group_of = group_of
        self._deadline_s = deadline_s
        self._lost_at: dict[NodeName, float] = {}
        """When the session to a node was lost, or first looked for, for those that have none."""
        peers.watch(self._session_changed)
        self._primaries: dict[GroupId, tuple[int, DeviceId]] = {}
        self._told: dict[GroupId, tuple[DeviceId, ...]] = {}
        """Members that a refusal named, for groups where they are not the ring's."""

    async def get(self, place: bytes, key: bytes, *, checks: tuple[Check, ...] = ()) -> Row | None:
        """See `Rows.get`."""
        try:
            answer = await self._ask(self._group_of(place), GET, (key, checks))
        except Conflict as conflict:
            raise _with_row(conflict) from None
        return decode_row(answer.payload) if answer.body else None

    async def scan(
        self,
        place: bytes,
        start: bytes,
        end: bytes | None,
        limit: int,
        *,
        collapse: Collapse | None = None,
        reverse: bool = False,
        payloads: bool = False,
        checks: tuple[Check, ...] = (),
    ) -> Page:
        """See `Rows.scan`."""
        rolled = None if collapse is None else (collapse.prefix_length, collapse.delimiter)
        arguments = (start, end, limit, rolled, reverse, payloads, checks)
        try:
            answer = await self._ask(self._group_of(place), SCAN, arguments)
        except Conflict as conflict:
            raise _with_row(conflict) from None
        try:
            items = _items_decoder.decode(answer.payload)
        except UNREADABLE as error:
            raise Unavailable(f"{SCAN} was answered with nonsense: {error}") from None
        next_start = answered(SCAN, answer.body, _NEXT_START)
        rows = ((key, None if value is None else decode_row(value)) for key, value in items)
        return Page(tuple(rows), next_start)

    async def change(self, place: bytes, change: Change) -> Changed:
        """See `Rows.change`."""
        try:
            group, payload = self._group_of(place), (_encode(change),)
            answer = await self._ask(group, CHANGE, (), payload, changes=True)
        except Conflict as conflict:
            raise _with_row(conflict) from None
        version, stamp_ms = answered(CHANGE, answer.body, _CHANGED)
        return Changed(version, stamp_ms)

    async def ask(self, group: GroupId, operation: str, arguments: tuple[Any, ...]) -> Answer:
        """Ask a group's primary, found as for `get`; the body sent is (device, group, *arguments).

        The operation is one that changes nothing: it may be asked more than once.
        """
        return await self._ask(group, operation, arguments)

    async def _ask(
        self,
        group: GroupId,
        operation: str,
        arguments: tuple[Any, ...],
        payload: Sequence[Buffer] = (),
        *,
        changes: bool = False,
    ) -> Answer:
        """Ask the primary, wherever it is by now.

        Once an attempt to change something has ended without a word on its outcome, no later
        refusal is one, but the Conflict of a group that was told so: that it has decided.
        """
        refused = True
        deadline = self._clock.monotonic() + self._deadline_s
        pause_s = _BACKOFF_MIN_S
        while True:
            members = self._members(group)
            known = self._primaries.get(group)
            device = known[1] if known is not None and known[1] in members else members[0]
            told: tuple[Any, ...] = (*arguments, not refused) if changes else arguments
            try:
                return await self._attempt(
                    device, operation, (device, group, *told), payload, deadline
                )
            except NotPrimary as refusal:
                moved = self._learn(group, members, device, refusal)
                last: PinfoldError = refusal
            except (Busy, Unavailable, NotFound, Unsupported) as error:
                moved = False  # Unsupported: a node that listens and has not bound its groups yet
                if not isinstance(error, Busy):
                    refused = False
                    self._try_next(group, members, device)
                last = error
            except Conflict:
                raise
            except PinfoldError as error:
                raise error if refused or not changes else _give_up(group, error) from None
            if not moved:
                now = self._clock.monotonic()
                if now + pause_s >= deadline or self._out_of_reach(members, now):
                    plain = refused and not isinstance(last, NotPrimary)
                    raise last if plain else _give_up(group, last)
                await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
                pause_s = min(2 * pause_s, _BACKOFF_MAX_S)

    def _session_changed(self, node: NodeName, up: bool, _boot: Boot) -> None:
        if up:
            self._lost_at.pop(node, None)
        else:
            self._lost_at[node] = self._clock.monotonic()

    def _out_of_reach(self, members: tuple[DeviceId, ...], now: float) -> bool:
        """Whether no majority of these can answer soon."""
        return 2 * sum(self._away(device, now) for device in members) >= len(members)

    def _away(self, device: DeviceId, now: float) -> bool:
        try:
            node = self._membership.node_of(device)
        except Unavailable:  # it has left the map
            return True
        if self._peers.connected(node):
            return False
        return now - self._lost_at.setdefault(node, now) >= AWAY_S

    def _members(self, group: GroupId) -> tuple[DeviceId, ...]:
        """Whom to try: the ring's members, then those the group itself has named."""
        wished = self._membership.members(group)
        told = self._told.get(group)
        return wished if told is None else (*wished, *(one for one in told if one not in wished))

    async def _attempt(
        self,
        device: DeviceId,
        operation: str,
        body: Body,
        payload: Sequence[Buffer],
        deadline: float,
    ) -> Answer:
        node = self._membership.node_of(device)
        until = min(deadline, self._clock.monotonic() + ATTEMPT_S)
        return await self._peers.call(node, operation, body, payload, deadline=until)

    def _learn(
        self,
        group: GroupId,
        members: tuple[DeviceId, ...],
        asked: DeviceId,
        refusal: NotPrimary,
    ) -> bool:
        """Take the hint of a refusal. True when it names another member by a later view."""
        try:
            view, led_by, named = answered("the hint", refusal.detail, _HINT)
        except Unavailable:
            self._try_next(group, members, asked)
            return False
        device = DeviceId(led_by)
        known = self._primaries.get(group)
        if known is not None and view < known[0]:
            self._try_next(group, members, asked)
            return False
        if set(named) != set(self._membership.members(group)):
            self._told[group] = tuple(map(DeviceId, named))
        else:
            self._told.pop(group, None)
        if device == asked or (device not in members and device not in named):
            # Its own view is all that it knows: it may not lead yet, or the group left it behind.
            self._try_next(group, members, asked)
            return False
        self._primaries[group] = (view, device)
        return known is None or view > known[0]

    def _try_next(self, group: GroupId, members: tuple[DeviceId, ...], asked: DeviceId) -> None:
        """Ask another member the next time; keep the highest view heard of."""
        known = self._primaries.get(group)
        view = known[0] if known is not None else -1
        position = members.index(asked) if asked in members else -1
        self._primaries[group] = (view, members[(position + 1) % len(members)])


def _with_row(conflict: Conflict) -> Conflict:
    """The conflict with its row decoded."""
    index, value = answered("a check", conflict.detail, _FAILED)
    row = None if value is None else decode_row(value)
    return Conflict(conflict.message, detail=(index, row))


def _give_up(group: GroupId, last: PinfoldError) -> Unavailable:
    """What the caller hears when the outcome is not known."""
    return Unavailable(f"group {group} did not answer in time: {last.message}")
