"""What the devices of a cluster made of each group together: one log, applied alike everywhere.

Noted at the boundary of `device/api.py`, like all of `audit`, and judged at once, where clients
would see nothing before just the right two members are lost: an entry is told by its op and view;
what is applied at an op is the same on every device; whoever applies an op first, and so calls it
committed, leads a view of which a quorum has a durable entry there or behind; rows that were copied
are those of the op that their member says they are.

A group whose members an operator has forced is not judged any more: what only others had committed
is lost then.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import xxhash

from pinfold.cluster.groups.configuration import (
    GENERATION_SHIFT,
    Configuration,
    decode_configuration,
)
from pinfold.cluster.groups.entries import MEMBERS_KEY, Write, configuration_in
from pinfold.cluster.groups.messages import decode_voted
from pinfold.device.api import Entry, LogState, LogStore, RowStore
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.model.ids import DeviceId, GroupId
from pinfold.sim.audit.effects import Effects
from pinfold.sim.audit.rows import RowLedger

RULE: Final = "agreement"

_EVERYTHING_BYTES: Final = 1 << 40

_NEVER: Final = 1 << 62


@dataclass(slots=True)
class _Group:
    """What is known of a group, whoever has it."""

    bodies: dict[tuple[int, int], int] = field(default_factory=dict)
    """By (op, view), a sum of the entry's body."""
    applied: dict[int, int] = field(default_factory=dict)
    """By op, a sum of the writes."""
    applied_op: int = 0
    """The highest one that anybody has applied."""
    configuration: Configuration | None = None
    """The last one that anybody has applied."""
    durable: dict[tuple[DeviceId | None, int], int] = field(default_factory=dict)
    """By (device, view), the highest op of an entry of the view that was ever durable there."""
    forced: bool = False


@dataclass(slots=True)
class _Held:
    """What one device has of a group."""

    configurations: dict[int, Configuration] = field(default_factory=dict)
    """By op, those in its log that it has not applied."""
    exact_op: int = 0
    """Once this is applied, its rows are those of its applied op; to be looked at then, unless 0.
    They come from a copy, or from a life before, so that more may be in them."""


class Agreement:
    """All groups, and who holds them."""

    def __init__(self, accuse: Callable[[str], None], effects: Effects) -> None:
        self.accuse = accuse
        self.effects = effects
        self.rows = RowLedger()
        """Rows as of each op, whoever applied it first."""
        self.devices: dict[bytes, DeviceId] = {}
        """By uuid; what others do is not looked at."""
        self._groups: dict[GroupId, _Group] = {}

    def group(self, group: GroupId) -> _Group:
        """What is known of a group."""
        return self._groups.setdefault(group, _Group())


class Member:
    """One open device's part in all groups; a device that is in no cluster has none."""

    def __init__(self, agreement: Agreement, uuid: bytes, log: LogStore, rows: RowStore) -> None:
        self._agreement = agreement
        self._device = agreement.devices.get(uuid)
        self._log = log
        self._rows = rows
        self._held: dict[GroupId, _Held] = {}
        for group in log.groups() if self._device is not None else ():
            self._opened(group, log.state(group))

    def _opened(self, group: GroupId, state: LogState) -> None:
        entries = self._log.tail(group, state.first_op, _EVERYTHING_BYTES)
        self.appended(group, entries)
        self.durable(group, [*entries, Entry(state.last_op, state.last_view, b"")])
        self._of(group).exact_op = self._agreement.group(group).applied_op

    def _of(self, group: GroupId) -> _Held:
        return self._held.setdefault(group, _Held())

    def appended(self, group: GroupId, entries: Sequence[Entry]) -> None:
        """The log goes on with these; entries from the first one's op on are replaced."""
        if self._device is None:
            return
        known, held = self._agreement.group(group), self._of(group)
        first_op = entries[0].op if entries else _NEVER
        for op in [op for op in held.configurations if op >= first_op]:
            del held.configurations[op]
        for op, view, body in entries:
            body_sum = xxhash.xxh3_64_intdigest(body)
            if known.bodies.setdefault((op, view), body_sum) != body_sum and not known.forced:
                self._accuse(group, f"two entries at op {op} of view {view}")
            configuration = configuration_in(body)
            if configuration is not None:
                held.configurations[op] = configuration
                known.forced |= bool(configuration.number >> GENERATION_SHIFT)
        self._agreement.effects.unjudged |= known.forced

    def durable(self, group: GroupId, entries: Iterable[Entry]) -> None:
        """These were answered as flushed."""
        durable = self._agreement.group(group).durable
        for op, view, _ in entries:
            durable[self._device, view] = max(durable.get((self._device, view), 0), op)

    def copied(self, group: GroupId, *, last: bool) -> None:
        """A page of a copy is installed. Whoever it comes from has applied what it was read of."""
        held = self._of(group)
        held.configurations.clear()
        held.exact_op = self._agreement.group(group).applied_op if last else _NEVER

    def applied(self, group: GroupId, op: int, writes: Sequence[Write]) -> None:
        """These writes have been applied."""
        known, held = self._agreement.group(group), self._of(group)
        if self._device is None or known.forced:
            return
        writes_sum = hash(frozenset(writes))
        if op > known.applied_op:
            self._judge_commit(group, known, held, op)
            known.applied_op, known.applied[op] = op, writes_sum
            self._agreement.rows.wrote(group, op, writes)
            self._agreement.effects.applied(group, writes)
            for key, value in writes:
                if key == MEMBERS_KEY and value is not None:
                    known.configuration = decode_configuration(value)
        elif known.applied.get(op) != writes_sum:
            self._accuse(group, f"what it applies at op {op} is not what others did")
        if held.exact_op and op >= held.exact_op:
            held.exact_op = 0
            self._judge_rows(group, op)

    def _judge_commit(self, group: GroupId, known: _Group, held: _Held, op: int) -> None:
        """The first to apply an op is the primary of its view, and has a quorum for it."""
        if op > known.applied_op + 1:
            self._accuse(group, f"op {op} is applied behind {known.applied_op}")
        state = self._log.state(group)
        configuration = _configuration(known, held, state, op)
        if configuration is None:
            return
        reached = configuration.reached(lambda one: known.durable.get((one, state.view), 0))
        if reached < op:
            members = f"{configuration.members} and {configuration.joining}"
            self._accuse(
                group,
                f"op {op} is taken for committed in view {state.view}; of its entries a quorum of "
                f"{members} has those up to {reached}",
            )

    def _judge_rows(self, group: GroupId, op: int) -> None:
        """All rows here are those that the group's log makes."""
        try:
            found = dict(self._rows.scan(group, b"", None))
        except PinfoldError:
            return  # rotten: it will find out
        wanted = self._agreement.rows.group(group).all_at(op)
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                self._accuse(group, f"its row {key!r} is not that of op {op}")
                return

    def _accuse(self, group: GroupId, what: str) -> None:
        self._agreement.accuse(f"group {group} on device {self._device}: {what}")


def _configuration(known: _Group, held: _Held, state: LogState, op: int) -> Configuration | None:
    """Whom a member goes by that applies an op: the newest in its log, else the applied one, else
    the first, which no entry names.
    """
    newest_op = max(held.configurations, default=0)
    if newest_op >= op:
        return held.configurations[newest_op]
    if known.configuration is not None:
        return known.configuration
    try:
        return decode_voted(state.voted).configuration
    except Corrupt:
        return None
