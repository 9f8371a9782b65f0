"""What a device acknowledged of its groups' logs: entries, views with their votes, copies."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pinfold.device.api import EVERYTHING, Entry, LogState, LogStore, Part
from pinfold.model.ids import GroupId
from pinfold.sim.audit.agreement import Member
from pinfold.sim.audit.rows import RowLedger

_EVERYTHING_BYTES: Final = 1 << 40


@dataclass(slots=True)
class _Group:
    told: bool = False
    """`create` was acknowledged."""
    view: int = 0
    """Highest view acknowledged."""
    promises: list[tuple[int, bytes]] = field(default_factory=list)
    """(view, vote): the last one acknowledged, then those that were asked for since."""
    shown: dict[int, Entry] = field(default_factory=dict)
    """By op, what was appended and not replaced."""
    durable: dict[int, Entry] = field(default_factory=dict)
    """Of these, what was acknowledged."""
    replaced: dict[int, list[Entry]] = field(default_factory=dict)
    """By op, entries that others have replaced, and that was acknowledged."""
    trimmed: int = 0
    """Nobody needs entries below."""
    installed: int = 0
    """Where the last copy that was acknowledged ends."""
    installing: bool = False
    copying: int = 0
    """The op of a copy of which a page was acknowledged, and not the last one."""
    copies: int = 0
    """How many have begun. One page may become durable together with the next copy's first."""

    def cut(self, first_op: int) -> list[Entry]:
        """Forget entries from an op on; which ones there were."""
        gone = [entry for op, entry in self.shown.items() if op >= first_op]
        for kept in (self.shown, self.durable):
            for op in [op for op in kept if op >= first_op]:
                del kept[op]
        return gone

    def bury(self, gone: Sequence[Entry]) -> None:
        """These were replaced, durably."""
        for entry in gone:
            self.replaced.setdefault(entry.op, []).append(entry)

    def risen(self, entries: dict[int, Entry]) -> Entry | None:
        """One that was replaced and is back."""
        for op, entry in entries.items():
            if entry in self.replaced.get(op, ()) and self.shown.get(op) != entry:
                return entry
        return None


class LogLedger:
    """Of one device, by group."""

    def __init__(self) -> None:
        self.groups: dict[GroupId, _Group] = {}

    def group(self, group: GroupId) -> _Group:
        """What is known of a group."""
        return self.groups.setdefault(group, _Group())

    def forget_votes(self) -> None:
        """A fault took the index: votes are given up, views are not."""
        for known in self.groups.values():
            known.promises.clear()

    def forget_entries(self) -> None:
        """A fault took all logs."""
        for known in self.groups.values():
            known.shown.clear()
            known.durable.clear()
            known.replaced.clear()
            known.installed, known.copying, known.installing = 0, 0, False

    def compare(self, log: LogStore, accuse: Callable[[str], None]) -> None:
        """Accuse the device of what it has forgotten; what it shows it has acknowledged, then."""
        present = set(log.groups())
        for group, known in self.groups.items():
            if group in present:
                _compare(group, known, log, accuse)
            elif known.told:
                accuse(f"group {group} is gone")


def _compare(group: GroupId, known: _Group, log: LogStore, accuse: Callable[[str], None]) -> None:
    state = log.state(group)
    if state.view < known.view:
        accuse(f"group {group}: view {known.view} was acknowledged, it says {state.view}")
    votes = [voted for view, voted in known.promises if view == state.view]
    if votes and state.voted not in votes:
        accuse(f"group {group}: forgot its vote in view {state.view}")
    entries = {entry.op: entry for entry in log.tail(group, state.first_op, _EVERYTHING_BYTES)}
    if not known.installing:
        for op, entry in known.durable.items():
            if op <= state.applied_op or op < known.trimmed:
                continue
            if entries.get(op) != entry:
                accuse(f"group {group}: acknowledged op {op} of view {entry.view} is not there")
                break
        if (risen := known.risen(entries)) is not None:
            accuse(f"group {group}: op {risen.op} of view {risen.view} was replaced and is back")
        if state.last_op < known.installed:
            accuse(f"group {group}: a copy up to {known.installed} ends at {state.last_op}")
    if known.copying and state.applied_op not in (0, known.copying):
        accuse(f"group {group}: applied {state.applied_op}, though a copy had replaced its rows")
    _continuous(group, state, accuse)
    known.told, known.copying, known.installing = True, 0, False
    known.view, known.promises = state.view, [(state.view, state.voted)]
    known.shown, known.durable = entries, dict(entries)
    known.installed = min(known.installed, state.last_op)


Applied = Callable[[bytes, bytes | None], None]
"""Takes a row that was agreed on, and what it is now."""


def _continuous(group: GroupId, state: LogState, accuse: Callable[[str], None]) -> None:
    """Whether every entry is there that was not applied."""
    if state.applied_op + 1 < state.first_op:
        accuse(f"group {group}: applied {state.applied_op}, its log begins at {state.first_op}")


class Log:
    """A `LogStore` that notes."""

    def __init__(
        self,
        inner: LogStore,
        ledger: LogLedger,
        rows: RowLedger,
        member: Member,
        accuse: Callable[[str], None],
        tell: Callable[[str], None],
        applied: Applied,
    ) -> None:
        self._accuse = accuse
        self._inner = inner
        self._ledger = ledger
        self._rows = rows
        self._member = member
        self._tell = tell
        self._applied = applied

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _noted(
        self, name: str, future: asyncio.Future[None], note: Callable[[], None]
    ) -> asyncio.Future[None]:
        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is None:
                note()
                self._tell(f"{name} done")

        self._tell(name)
        future.add_done_callback(done)
        return future

    def create(self, group: GroupId) -> asyncio.Future[None]:
        """See `LogStore.create`."""
        known = self._ledger.group(group)

        def note() -> None:
            known.told = True

        return self._noted("log.create", self._inner.create(group), note)

    def append(self, group: GroupId, entries: Sequence[Entry]) -> asyncio.Future[None]:
        """See `LogStore.append`."""
        future = self._inner.append(group, entries)
        _continuous(group, self._inner.state(group), self._accuse)
        known = self._ledger.group(group)
        gone = known.cut(entries[0].op)
        kept = [Entry(entry.op, entry.view, bytes(entry.body)) for entry in entries]
        known.shown.update((entry.op, entry) for entry in kept)
        self._member.appended(group, kept)

        def note() -> None:
            self._member.durable(group, kept)
            for entry in kept:
                if known.shown.get(entry.op) is entry:
                    known.durable[entry.op] = entry
            known.view = max(known.view, kept[-1].view)
            known.bury(gone)

        return self._noted("log.append", future, note)

    def set_view(self, group: GroupId, view: int, voted: bytes = b"") -> asyncio.Future[None]:
        """See `LogStore.set_view`."""
        future = self._inner.set_view(group, view, voted)
        known = self._ledger.group(group)
        promise = (view, bytes(voted))
        known.promises.append(promise)

        def note() -> None:
            known.view = max(known.view, view)
            for at, other in enumerate(known.promises):
                if other is promise:
                    del known.promises[:at]
                    break

        return self._noted("log.set_view", future, note)

    def apply(self, group: GroupId, op: int, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """See `LogStore.apply`."""
        self._inner.apply(group, op, writes)
        self._rows.wrote(group, op, writes)
        self._member.applied(group, op, writes)
        for key, value in writes:
            self._applied(key, value)

    def trim(self, group: GroupId, before_op: int) -> None:
        """See `LogStore.trim`."""
        self._inner.trim(group, before_op)
        known = self._ledger.group(group)
        known.trimmed = max(known.trimmed, before_op)
        for kept in (known.shown, known.durable):
            for op in [op for op in kept if op < before_op]:
                del kept[op]

    def install(
        self,
        group: GroupId,
        applied_op: int,
        applied_view: int,
        rows: Sequence[tuple[bytes, bytes]],
        *,
        first: bool,
        last: bool,
        digest: bytes = b"",
        part: Part = EVERYTHING,
    ) -> asyncio.Future[None]:
        """See `LogStore.install`."""
        future = self._inner.install(
            group, applied_op, applied_view, rows, first=first, last=last, digest=digest, part=part
        )
        known = self._ledger.group(group)
        if first:
            known.cut(0)
            known.replaced.clear()
            known.trimmed = known.installed = known.copying = 0
            known.installing = True
            known.copies += 1
            self._rows.emptied(group)
        self._rows.wrote(group, applied_op, rows)
        self._member.copied(group, last=last)

        copy = known.copies

        def note() -> None:
            if last:
                self._member.durable(group, [Entry(applied_op, applied_view, b"")])
            if copy != known.copies or not known.installing:
                return
            known.copying = 0 if last else applied_op
            if last:
                known.installing = False
                known.installed = applied_op

        return self._noted("log.install last" if last else "log.install", future, note)
