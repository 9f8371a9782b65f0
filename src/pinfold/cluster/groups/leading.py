"""The role of a primary: append, replicate, commit.

Invariant: the commit point is durable here and on a quorum of proved members, and is at or behind
the first entry of this view (which commits everything before it). Followers that are no members
(learners, and members just taken out) get the log and count for nothing.
"""

from collections.abc import Sequence
from typing import Final

from pinfold.cluster.groups.changing import next_step, way_back
from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.copying import CopyOut
from pinfold.cluster.groups.entries import EMPTY_BODY, Write, configuration_body, decode_body
from pinfold.cluster.groups.messages import Ack, CopyAck, NeedCopy, Prepare, Refuse, Standing
from pinfold.cluster.groups.state import MemberState
from pinfold.device.api import Entry
from pinfold.model.ids import DeviceId

_FAREWELL_TICKS: Final = 50
"""How long a member taken out is still sent the log, to learn of it (some 10 s)."""

_COPY_BITS: Final = 16
"""Of a copy's id tell it from others of its view. A member that has pages of one takes no offer of
that id: it must have forgotten them long before an id is used again.
"""

_COPY_PATIENCE_TICKS: Final = 25
"""Silence after which a copy no longer keeps the log from being trimmed, nor notes what is written
meanwhile (some 5 s)."""


class Progress:
    """What the primary knows of one follower. Invariant: counted <= match < next."""

    __slots__ = (
        "applied_op",
        "birth",
        "copy",
        "counted_op",
        "device",
        "match_op",
        "next_op",
        "probing",
        "rotten",
        "silent_ticks",
    )

    def __init__(self, device: DeviceId, next_op: int) -> None:
        self.device = device
        self.next_op = next_op
        self.match_op = 0
        self.counted_op = 0
        self.applied_op = 0
        self.probing = True
        """Where the logs match is not known: one message at a time."""
        self.copy: CopyOut | None = None
        self.silent_ticks = 0
        self.rotten = False
        """It counts, and waits for a copy that replaces a row which failed its checksum."""
        self.birth = 0
        """Of the follower's log, as it told; 0 before."""


class Leadership:
    """Leads the state's view; serves once its first entry is committed.

    With `forced` members that entry names them, and is committed as soon as it is durable here.
    """

    def __init__(self, state: MemberState, forced: Configuration | None = None) -> None:
        self._state = state
        self._copies = 0
        if state.standing is not Standing.MEMBER:
            state.set_view(state.view, Standing.MEMBER)
        body = EMPTY_BODY if forced is None else configuration_body(forced)
        self._first_op = state.propose(body, decode_body(body)).op
        self._forced_op = 0 if forced is None else self._first_op
        self.followers: dict[DeviceId, Progress] = {}
        self._peers: list[Progress] = []
        self.learners: tuple[DeviceId, ...] = ()
        self._leaving: dict[DeviceId, int] = {}
        """Members taken out, and how many ticks they are still told so."""
        self._follow()
        state.watch = self._note
        self.serving = False
        self.settled = True

    def _follow(self) -> None:
        """Have a follower for everybody who is to get the log, and for nobody else."""
        state, known = self._state, self.followers
        wanted = dict.fromkeys((*state.voters, *self.learners, *self._leaving))
        wanted.pop(state.me, None)
        self.followers = {one: known.get(one) or Progress(one, state.last_op) for one in wanted}
        self._peers = list(self.followers.values())

    def start(self) -> None:
        """Begin to replicate."""
        for follower in self._peers:
            self._probe(follower, self._state.limits.batch_bytes)
        self.on_durable()

    def propose(self, body: bytes, writes: Sequence[Write]) -> int:
        """Append an entry and send it; returns its op. Commit follows, in order."""
        entry = self._state.propose(body, writes)
        for follower in self._peers:
            if follower.next_op == entry.op and self._may_stream(follower):
                self._send(follower, [entry])
            else:
                self._stream(follower)
        return entry.op

    def pursue(self, wish: tuple[DeviceId, ...]) -> None:
        """Take the next step towards the members wished, if the last one is committed."""
        state = self._state
        births = {one.device: one.birth for one in self._peers if one.birth}
        births[state.me] = state.durable_birth
        if state.configuration_op > state.commit_op:
            given_up = way_back(state.configuration, births)
            if given_up is not None and state.view_at(state.configuration_op) == state.view:
                self._change(given_up)
            return
        followed = (*state.voters, *self.learners)  # others may have been swapped unnoticed
        caught_up = [one.device for one in self._peers if self._caught_up(one)]
        caught_up = [state.me, *(one for one in caught_up if one in followed)]
        step = next_step(state.configuration, wish, births, caught_up)
        if step.learners != self.learners:
            for device in step.learners:
                if device not in self.learners:
                    self.followers.pop(device, None)
            self.learners = step.learners
            self._follow()
            for device in step.learners:
                self.greet(device)
        if step.propose is not None:
            self._change(step.propose)

    def _change(self, configuration: Configuration) -> None:
        """Propose a configuration; it is in force from here on, committed or not."""
        before = self._state.voters
        body = configuration_body(configuration)
        self.propose(body, decode_body(body))
        for device in before:
            if device not in configuration.voters:
                self._leaving[device] = _FAREWELL_TICKS
        self._follow()

    def _caught_up(self, follower: Progress) -> bool:
        lacking = self._state.commit_op - follower.match_op
        return follower.copy is None and lacking <= self._state.limits.window_entries

    def lacks_nothing(self, device: DeviceId) -> bool:
        """Whether a member has everything and counts."""
        return self.may_lead(device, self._state.last_op)

    def may_lead(self, device: DeviceId, known_op: int) -> bool:
        """Whether a member has everything up to an op and counts, and needs no copy."""
        follower = self.followers[device]
        needs_copy = follower.copy is not None or follower.rotten
        return not needs_copy and follower.counted_op >= known_op

    def copies_to(self, device: DeviceId) -> bool:
        """Whether a member is behind the log, and acknowledges nothing before it has a copy."""
        follower = self.followers.get(device)
        return follower is not None and follower.copy is not None

    def tick(self) -> None:
        """Repeat what may have been lost, and trim."""
        state = self._state
        for follower in self._peers:
            behind = follower.copy is not None or follower.counted_op < state.last_op
            if not behind:
                follower.silent_ticks = 0
                continue
            follower.silent_ticks += 1
            if follower.silent_ticks > 1:
                self._retry(follower)
        self._trim(1)
        if self._leaving:
            self._leaving = {one: ticks - 1 for one, ticks in self._leaving.items() if ticks}
            self._follow()

    def greet(self, device: DeviceId) -> None:
        """A member asked for the primary of this view: tell it where the log is."""
        follower = self.followers[device]
        if follower.copy is None:
            follower.probing = True
            follower.next_op = follower.match_op + 1 if follower.match_op else follower.next_op
            self._probe(follower, 0)

    def on_durable(self) -> None:
        """More of the own log is durable."""
        self._advance()

    def on_ack(self, sender: DeviceId, ack: Ack) -> None:
        """See `Ack`."""
        follower = self.followers[sender]
        follower.silent_ticks = 0
        if follower.copy is not None:
            if ack.op < follower.copy.first_op:
                return
            follower.copy = None  # it has what the copy would bring
        if ack.birth and follower.birth not in (0, ack.birth):
            follower.match_op = follower.counted_op = follower.applied_op = 0  # another log
        follower.birth = ack.birth or follower.birth
        follower.rotten = ack.rotten
        follower.applied_op = max(follower.applied_op, ack.applied_op)
        follower.match_op = max(follower.match_op, ack.op)
        counted = ack.counted and self._state.configuration.admits(sender, ack.birth)
        if counted and ack.op > follower.counted_op:
            follower.counted_op = ack.op
        if follower.probing or follower.next_op <= follower.match_op:
            follower.probing = False
            follower.next_op = follower.match_op + 1
        self._advance()
        self._stream(follower)

    def on_refuse(self, sender: DeviceId, refuse: Refuse) -> None:
        """See `Refuse`."""
        follower = self.followers[sender]
        follower.silent_ticks = 0
        if follower.copy is not None:
            return
        if follower.probing and refuse.prev_op != follower.next_op - 1:
            return  # an answer to something sent before the probe
        follower.probing = True
        hint_op = min(max(refuse.hint_op, follower.match_op), self._state.last_op)
        follower.next_op = hint_op + 1
        if hint_op == refuse.prev_op:
            # It has restarted and can no longer prove this match, nor does this log know the view.
            self._begin_copy(follower)
            return
        self._probe(follower, self._state.limits.batch_bytes)

    def on_need_copy(self, sender: DeviceId, need: NeedCopy) -> None:
        """See `NeedCopy`."""
        follower = self.followers[sender]
        copy = follower.copy
        if copy is not None and copy.copy_id != need.copy_id:
            return  # it has not heard of the copy under way, which is offered again in its silence
        follower.silent_ticks = 0
        if (copy is None or copy.offered) and need.held_op and not self._spares(sender, need):
            follower.rotten = True
            follower.copy = None
        elif copy is None:
            self._begin_copy(follower)
        elif copy.offered:
            copy.choose(need.digest)
            self._go_on_with(copy)
        elif not need.digest or need.digest != copy.told:
            self._begin_copy(follower)  # it has restarted: what it told holds no more
        elif not copy.begun:
            copy.repeat()

    def _spares(self, device: DeviceId, need: NeedCopy) -> bool:
        """Whether a member with a rotten row may give up its rows now.

        Not before others who vouch for everything are a quorum: two that copy at a time would leave
        a group of three without one, should its primary restart. Whoever copies in this view, or
        did before it, has not been counted in it. A group of two waits until it has more members.
        Nor for a copy of rows of which one is rotten, which would not end: who waits may have the
        only one that verifies, and this member is about to hand the lead over if anybody can lead.
        """
        state = self._state
        if state.log.rotten():
            return False
        if need.held_op < state.applied_op:
            return True  # it lacks what the copy begins with: see `election`
        others = [one for one in self._peers if one.device != device]
        proved = [one.device for one in others if one.copy is None and one.counted_op]
        proved = [one for one in proved if state.ports.alive(one)]
        return state.configuration.quorum([state.me, *proved] if state.proved else proved)

    def on_copy_ack(self, sender: DeviceId, ack: CopyAck) -> None:
        """See `CopyAck`."""
        follower = self.followers[sender]
        copy = follower.copy
        if copy is None or copy.copy_id != ack.copy_id or not copy.acknowledged(ack.page):
            return
        follower.silent_ticks = 0
        if not copy.done:
            self._go_on_with(copy)
            return
        follower.copy = None
        follower.probing = False
        follower.match_op = copy.base_op
        follower.next_op = copy.base_op + 1
        self._stream(follower)
        if follower.next_op == copy.base_op + 1:
            self._probe(follower, 0)

    def _advance(self) -> None:
        """Move the commit point to what a majority holds, this member included."""
        state = self._state
        own_op = state.durable_op if state.proved else 0
        followers = self.followers

        def counted_op(device: DeviceId) -> int:
            return own_op if device == state.me else followers[device].counted_op

        commit_op = min(own_op, state.configuration.reached(counted_op))
        if self._forced_op <= own_op:
            commit_op = max(commit_op, self._forced_op)
        if commit_op < self._first_op or commit_op <= state.commit_op:
            return
        state.commit_op = commit_op
        state.apply_committed()
        self._trim(state.limits.trim_entries)
        if not self.serving:
            self.serving = True
            state.ports.role_changed()
        state.ports.committed(commit_op)

    def _may_stream(self, follower: Progress) -> bool:
        return (
            not follower.probing
            and follower.copy is None
            and follower.next_op - follower.match_op <= self._state.limits.window_entries
        )

    def _stream(self, follower: Progress) -> None:
        """Send what the follower lacks and the window allows."""
        state = self._state
        while follower.next_op <= state.last_op and self._may_stream(follower):
            entries = state.tail(follower.next_op, state.limits.batch_bytes)
            if entries is None:
                self._begin_copy(follower)
                return
            self._send(follower, entries)

    def _send(self, follower: Progress, entries: Sequence[Entry]) -> None:
        state = self._state
        prev_op = follower.next_op - 1
        prev_view = state.view_at(prev_op)
        follower.next_op += len(entries)
        state.send(
            follower.device,
            Prepare(
                state.view,
                prev_op,
                -1 if prev_view is None else prev_view,
                state.commit_op,
                state.first_op,
                state.configuration.number,
                entries,
            ),
        )

    def _probe(self, follower: Progress, max_bytes: int) -> None:
        """Ask whether the logs match before next_op, with the entries from there on if wanted."""
        state = self._state
        next_op = follower.next_op
        entries = state.tail(next_op, max_bytes)
        if entries is None:
            self._begin_copy(follower)
            return
        self._send(follower, entries if max_bytes else ())
        follower.next_op = next_op

    def _retry(self, follower: Progress) -> None:
        copy = follower.copy
        if copy is None:
            follower.probing = True
            if follower.match_op:
                follower.next_op = follower.match_op + 1
            self._probe(follower, 0)
            return
        cheap = copy.offered or (copy.keeps_log and not self._state.overgrown)
        if cheap or follower.silent_ticks <= _COPY_PATIENCE_TICKS:
            copy.repeat()
        else:
            follower.copy = None

    def _begin_copy(self, follower: Progress) -> None:
        state = self._state
        self._copies += 1
        follower.probing = True
        follower.match_op = follower.counted_op = follower.applied_op = 0
        copy_id = state.view << _COPY_BITS | self._copies % (1 << _COPY_BITS)
        follower.copy = CopyOut(state, follower.device, copy_id)
        follower.copy.go_on()

    @property
    def pages_out(self) -> int:
        """Pages of copies that are on their way."""
        return sum(one.copy.pages_out for one in self._peers if one.copy is not None)

    def go_on(self) -> None:
        """Send a further page of every copy that has room for one on its way."""
        more = False
        for follower in self._peers:
            copy = follower.copy
            if copy is not None and not copy.offered and copy.go_on():
                more = True
        if more:
            self._state.ports.go_on()

    def _go_on_with(self, copy: CopyOut) -> None:
        if copy.go_on():
            self._state.ports.go_on()

    def _note(self, writes: Sequence[Write]) -> None:
        """An entry has been applied: copies under way are to bring it."""
        for follower in self._peers:
            if follower.copy is not None and not follower.copy.note(writes):
                follower.copy = None

    def _trim(self, at_least: int) -> None:
        """Give up entries that every member has applied, or all applied ones of a long log."""
        state = self._state
        low_op = state.applied_op
        for follower in self._peers:
            if follower.copy is not None:
                if follower.copy.keeps_log:
                    low_op = min(low_op, follower.copy.base_op)
            elif not state.overgrown:
                low_op = min(low_op, follower.applied_op)
        if low_op + 1 - state.first_op >= at_least:
            state.trim(low_op + 1)
