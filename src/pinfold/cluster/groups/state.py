"""One member's log: what it holds, how much of that is durable, committed and applied.

Invariants: applied <= commit, applied <= durable <= last; an entry that is applied is never
replaced; nothing is said to anyone about entries or views that are not durable.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pinfold.cluster.groups.configuration import (
    GENERATION_SHIFT,
    Configuration,
    decode_configuration,
)
from pinfold.cluster.groups.entries import MEMBERS_KEY, Write, configuration_in, decode_body
from pinfold.cluster.groups.messages import (
    Message,
    Standing,
    Vote,
    Voted,
    decode_voted,
    encode_voted,
)
from pinfold.cluster.groups.results import RESULTS_MAX
from pinfold.cluster.groups.views import OWNER_BITS
from pinfold.device.api import Entry, LogState, Part
from pinfold.model.errors import Busy, NotFound
from pinfold.model.ids import DeviceId, GroupId
from pinfold.model.limits import KIB, MIB

_APPLY_BYTES: Final = 256 * KIB
"""Entries decoded at a time when a member catches up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a replica's memory and the size of what it sends."""

    batch_bytes: int = 1 * MIB
    """Entries read or sent at a time: efficient, and a link can still be shared."""
    window_entries: int = 64
    """Entries on their way to one follower; more would only fill its queue."""
    retained_bytes: int = 64 * MIB
    """Entries kept for members that are behind; with more the member has to copy the rows."""
    trim_entries: int = 32
    """Entries trimmed at a time: a device call for each would cost more than it frees."""
    page_bytes: int = 1 * MIB
    """Rows in one page of a copy: a few milliseconds of work at either end."""
    copy_pages: int = 16
    """Pages on their way to one member; a primary holds them until they are durable there."""
    copy_pages_here: int = 32
    """The same for all copies of all the groups that a node leads: a node that returns needs one of
    every group at once. Each may have one page on its way whatever the others have."""
    copy_keys: int = 1 << 19
    """Keys changed during a round of a copy, some 130 bytes each: two minutes of 4,000 changes a
    second. With more the copy begins anew."""
    results_max: int = RESULTS_MAX
    """Results that a group remembers; with more, changes are Busy. See `results`."""
    waiting_bytes: int = 128 * MIB
    """Changes that wait in all the groups of a node together; with more, they are Busy."""
    name_within_ms: int = 24 * 3600 * 1000
    """A blob older than this is not named for the first time: what was never named until then
    never will be, so that the orphan collector may take it."""

    @property
    def replayed_bytes(self) -> int:
        """Written behind the base of a copy at most, for the log to bring: so little that the log
        still has it when the copy is there and the member has caught up.
        """
        return self.retained_bytes // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What a log is told when it is created; a log that has begun knows better."""

    number: int
    """Drawn at random, never 0: tells this log from any other this device had or will have."""
    founders: tuple[DeviceId, ...]
    """The members under the first ring; none when the ring has changed since."""
    wish: tuple[DeviceId, ...] = ()
    """The members by the ring now, for logs of versions that did not store their members."""


class ReplicaLog(Protocol):
    """One group of a `LogStore`. Completions arrive later as events of the replica.

    Writes become durable in the order they were made: whatever is durable is a prefix of them.
    """

    def state(self) -> LogState: ...  # noqa: D102

    def view_at(self, op: int) -> int | None: ...  # noqa: D102

    def tail(self, first_op: int, max_bytes: int) -> list[Entry]: ...  # noqa: D102

    def append(self, entries: Sequence[Entry]) -> None:
        """Then `Replica.on_appended(op, view)` of the last entry.

        Raises Busy or Full, and nothing has changed, or Unavailable when the device has stopped.
        """
        ...

    def set_view(self, view: int, voted: bytes) -> None:
        """Then `Replica.on_view_durable(view, voted)`."""
        ...

    def apply(self, op: int, writes: Sequence[Write]) -> None: ...  # noqa: D102

    def digest(self) -> bytes: ...  # noqa: D102

    def rotten(self) -> bool: ...  # noqa: D102

    def trim(self, before_op: int) -> None: ...  # noqa: D102

    def install(
        self,
        page: tuple[int, int],
        base: tuple[int, int],
        rows: Sequence[Write],
        *,
        first: bool,
        last: bool,
        digest: bytes,
        part: Part,
    ) -> None:
        """Install a copied page at base (op, view), then `Replica.on_installed(page)`.

        `page` is (copy id, page number). Raises Full, and nothing has changed, or Unavailable.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """An applied row. Busy where rows are rotten."""
        ...

    def rows(
        self, start: bytes, max_bytes: int, buckets: bytes = b""
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Some rows from `start` on and where the next ones start; None at the end.

        Of these buckets only (`codec.digests.chosen`); the bytes of others count too, a little.
        """
        ...


class Ports(Protocol):
    """What a replica does to the world besides writing its log."""

    def send(self, to: DeviceId, message: Message) -> None:
        """Send a message to a member; it may get lost."""
        ...

    def role_changed(self) -> None:
        """The member leads, serves or follows otherwise than before."""
        ...

    def copy_room(self) -> bool:
        """Whether this node may have one more page of a copy on its way."""
        ...

    def alive(self, device: DeviceId) -> bool:
        """Whether a member is believed to serve."""
        ...

    def go_on(self) -> None:
        """Call `Replica.go_on` in a later turn of the event loop."""
        ...

    def committed(self, op: int) -> None:
        """This member serves as primary and everything up to `op` is committed and applied."""
        ...


class MemberState:
    """See the module."""

    def __init__(
        self,
        group: GroupId,
        birth: Birth,
        me: DeviceId,
        log: ReplicaLog,
        ports: Ports,
        limits: Limits,
    ) -> None:
        found = log.state()
        voted = decode_voted(found.voted)
        self.group = group
        self.me = me
        self.birth = voted.birth or birth.number
        self.durable_birth = voted.birth
        """0 until the birth is stored: it is not told before."""
        self.taken = voted.taken
        """See `Voted.taken`."""
        self.log = log
        self.limits = limits
        self.send = ports.send
        self.ports = ports
        self.view = self.durable_view = found.view
        self.standing = self.durable_standing = voted.standing
        self.last_op = self.durable_op = found.last_op
        self.last_view = found.last_view
        self.first_op = found.first_op
        self.applied_op = self.commit_op = found.applied_op
        self.catch_up_op: int | None = None
        """While a copy is replayed: from here on it is exact."""
        self.passed_on = 0
        """How often this member was elected, could not lead, and left it to another."""
        self.watch: Callable[[Sequence[Write]], None] | None = None
        """Told of every entry applied, as long as this member leads."""
        self._writes: dict[int, Sequence[Write]] = {}
        self._sizes: deque[tuple[int, int]] = deque()
        self._retained_bytes = 0
        self._before = (found.applied_op, found.applied_view)
        """(op, view) of the last entry trimmed, for members that have this one and no later."""
        blank = not found.voted and not found.last_op and not found.view >> OWNER_BITS
        first = Configuration(members=birth.founders if blank else birth.wish)
        known = voted.configuration or first
        try:
            known = self._stored_configuration(known)
        except Busy:  # the rows are rotten where they tell the members: this log proves nothing
            new = self.standing.new
            self.standing = Standing.NEW_COPYING if new else Standing.COPYING
            self.durable_standing = self.standing
        self._configurations = [(0, known)]
        """(op, configuration): the applied one, then those of entries that are not, in order."""
        self._find_configurations()

    @property
    def configuration(self) -> Configuration:
        """The newest configuration this log holds, and what this member goes by."""
        return self._configurations[-1][1]

    @property
    def configuration_op(self) -> int:
        """The op of the entry that put it in force; 0 when that is applied."""
        return self._configurations[-1][0]

    @property
    def voters(self) -> tuple[DeviceId, ...]:
        """Everybody who counts in the present configuration."""
        return self.configuration.voters

    @property
    def generation(self) -> int:
        """Of the members whose rows are here, or are being taken."""
        return self.taken >> GENERATION_SHIFT

    @property
    def lost(self) -> bool:
        """Whether the group knows another log of this device as its member: never vote."""
        born = self.configuration.births.get(self.me)
        return born is not None and born != self.birth

    @property
    def votes(self) -> bool:
        """Whether this member is one that counts, or will once it holds everything."""
        return self.me in self.voters and not self.lost

    def set_view(self, view: int, standing: Standing) -> None:
        """Remember a view and standing; they count once durable."""
        assert view >= self.view, "views only grow"
        self.view = view
        self.standing = standing
        voted = Voted(standing, self.birth, self.taken, self._configurations[0][1])
        self.log.set_view(view, encode_voted(voted))

    def on_view_durable(self, view: int, stored: bytes) -> None:
        """A view and what is stored with it are durable."""
        voted = decode_voted(stored)
        self.durable_view = max(self.durable_view, view)
        self.durable_standing = voted.standing
        self.durable_birth = voted.birth

    @property
    def proved(self) -> bool:
        """Whether this member's durable log may count under its view."""
        return (
            self.durable_view == self.view
            and self.standing is Standing.MEMBER
            and self.durable_standing is Standing.MEMBER
            and not self.lost
        )

    @property
    def may_vote(self) -> bool:
        """Whether the log and the view that a vote would tell are durable, and begun by anyone."""
        durable = self.durable_view == self.view and self.durable_op == self.last_op
        return durable and bool(self.durable_birth) and self.view >> OWNER_BITS > 0

    def vote(self) -> Vote:
        """This member's vote for its view."""
        number = self.configuration.number
        return Vote(
            self.view,
            self.durable_standing,
            self.last_view,
            self.last_op,
            max(number, self.taken) if self.durable_standing.copying else number,
            self.durable_birth,
        )

    def propose(self, body: bytes, writes: Sequence[Write]) -> Entry:
        """Append an entry of this view (as its primary); `writes` are what the body says."""
        entry = Entry(self.last_op + 1, self.view, body)
        self._append([entry])
        self._writes[entry.op] = writes
        return entry

    def merge(self, prev_op: int, entries: Sequence[Entry]) -> None:
        """Make the log continue with `entries` behind prev_op, where it matches their sender's.

        What is there already stays; from the first difference on the log is replaced.
        """
        assert prev_op <= self.last_op, "no gaps"
        for index, entry in enumerate(entries):
            if entry.op > self.last_op or not self._holds(entry):
                self._append(entries[index:])
                return

    def _holds(self, entry: Entry) -> bool:
        view = self.log.view_at(entry.op)
        if entry.op <= self.applied_op:
            assert view is None or view == entry.view, "a committed entry never changes"
            return True
        return view == entry.view

    def _append(self, entries: Sequence[Entry]) -> None:
        first, last = entries[0], entries[-1]
        assert first.op > self.applied_op, "applied entries stay"
        named = [(entry.op, configuration_in(entry.body)) for entry in entries]  # may raise
        self.log.append(entries)  # may raise; nothing has changed then
        if first.op <= self.last_op:
            self.durable_op = min(self.durable_op, first.op - 1)
            self._forget_from(first.op)
        self.last_op, self.last_view = last.op, last.view
        for entry in entries:
            size = len(entry.body)
            self._sizes.append((entry.op, size))
            self._retained_bytes += size
        for op, configuration in named:
            self._note_configuration(op, configuration)

    def view_at(self, op: int) -> int | None:
        """View of an entry, also of the last one trimmed; None when it is not known."""
        view = self.log.view_at(op)
        return self._before[1] if view is None and op == self._before[0] else view

    def tail(self, first_op: int, max_bytes: int) -> list[Entry] | None:
        """Entries from `first_op` on; None when they are trimmed (the device may do that too)."""
        if first_op < self.first_op:
            return None
        try:
            return self.log.tail(first_op, max_bytes)
        except NotFound:
            self.first_op = self.log.state().first_op
            return None

    def on_appended(self, op: int, view: int) -> None:
        """Everything up to the entry (op, view) is durable, unless it was replaced meanwhile."""
        if self.durable_op < op <= self.last_op and self.log.view_at(op) == view:
            self.durable_op = op

    def apply_committed(self) -> None:
        """Apply what is committed and durable here."""
        limit = min(self.commit_op, self.durable_op)
        while self.applied_op < limit:
            op = self.applied_op + 1
            writes = self._writes.pop(op, None)
            if writes is not None:
                self._apply(op, writes)
                continue
            for entry in self.log.tail(op, 1 if op == limit else _APPLY_BYTES):
                if entry.op > limit:
                    break
                self._apply(entry.op, decode_body(entry.body))
        while len(self._configurations) > 1 and self._configurations[1][0] <= self.applied_op:
            del self._configurations[0]

    def _apply(self, op: int, writes: Sequence[Write]) -> None:
        self.log.apply(op, writes)
        self.applied_op = op
        if self.watch is not None:
            self.watch(writes)

    def forget_proposals(self) -> None:
        """This member leads no longer: drop the writes of entries that another may replace."""
        self._writes.clear()
        self.watch = None

    def trim(self, before_op: int) -> None:
        """Give up entries below `before_op`, as far as they are applied here."""
        before_op = min(before_op, self.applied_op + 1)
        if before_op <= self.first_op:
            return
        view = self.log.view_at(before_op - 1)
        if view is not None:
            self._before = (before_op - 1, view)
        self.first_op = before_op
        self.log.trim(before_op)
        while self._sizes and self._sizes[0][0] < before_op:
            self._retained_bytes -= self._sizes.popleft()[1]

    @property
    def overgrown(self) -> bool:
        """Whether more entries are retained than members that are behind are worth."""
        return self._retained_bytes > self.limits.retained_bytes

    def restart_at(self, op: int, view: int) -> None:
        """The log was replaced by a copy of the rows at `op`, or by nothing (0)."""
        self.last_op = self.durable_op = self.applied_op = self.commit_op = op
        self.last_view = view
        self._before = (op, view)
        self.first_op = op + 1
        self.catch_up_op = None
        self._writes.clear()
        self._sizes.clear()
        self._retained_bytes = 0
        known = self._configurations[0][1]
        self._configurations = [(0, self._stored_configuration(known) if op else known)]

    def _forget_from(self, op: int) -> None:
        """Entries from `op` on are replaced, and with them the configurations they named."""
        while self._sizes and self._sizes[-1][0] >= op:
            self._retained_bytes -= self._sizes.pop()[1]
        while len(self._configurations) > 1 and self._configurations[-1][0] >= op:
            self._configurations.pop()

    def _stored_configuration(self, known: Configuration) -> Configuration:
        """The configuration in the rows, unless `known` is newer."""
        rows, _ = self.log.rows(MEMBERS_KEY, 1)
        if rows and rows[0][0] == MEMBERS_KEY:
            return max(known, decode_configuration(rows[0][1]), key=lambda one: one.number)
        return known

    def _find_configurations(self) -> None:
        """Look through the entries that are not applied."""
        op = self.applied_op + 1
        while op <= self.last_op:
            for entry in self.log.tail(op, _APPLY_BYTES):
                self._note_configuration(entry.op, configuration_in(entry.body))
                op = entry.op + 1

    def _note_configuration(self, op: int, named: Configuration | None) -> None:
        """What an entry names is in force, unless the rows of a copy are ahead of it."""
        if named is not None and named.number > self.configuration.number:
            self._configurations.append((op, named))
