"""The role of a primary: append, replicate, commit.

Invariant: the commit point is durable here and on a majority of proved members, and is at or
behind the first entry of this view (which commits everything before it).
"""

from collections.abc import Sequence
from typing import Final

from pinfold.cluster.groups.copying import CopyOut
from pinfold.cluster.groups.entries import EMPTY_BODY, Write
from pinfold.cluster.groups.messages import Ack, CopyAck, NeedCopy, Prepare, Refuse, Standing
from pinfold.cluster.groups.state import MemberState
from pinfold.device.api import Entry
from pinfold.model.ids import DeviceId

_COPY_PATIENCE_TICKS: Final = 25
"""Silence after which a copy no longer keeps the log from being trimmed (some 5 s)."""


class Progress:
    """What the primary knows of one follower. Invariant: counted <= match < next."""

    __slots__ = (
        "applied_op",
        "copy",
        "counted_op",
        "device",
        "match_op",
        "next_op",
        "probing",
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


class Leadership:
    """Leads the state's view; serves once its first entry is committed."""

    def __init__(self, state: MemberState) -> None:
        self._state = state
        self._copies = 0
        if state.standing is not Standing.MEMBER:
            state.set_view(state.view, Standing.MEMBER)
        self._first_op = state.propose(EMPTY_BODY, ()).op
        self.followers = {
            member: Progress(member, self._first_op)
            for member in state.members
            if member != state.me
        }
        self._peers = list(self.followers.values())
        self.serving = False
        self.settled = True

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
            if ack.op < follower.copy.base_op:
                return
            follower.copy = None  # it has what the copy would bring
        follower.applied_op = max(follower.applied_op, ack.applied_op)
        follower.match_op = max(follower.match_op, ack.op)
        if ack.counted and ack.op > follower.counted_op:
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
        follower.silent_ticks = 0
        if follower.copy is None or follower.copy.copy_id == need.copy_id:
            self._begin_copy(follower)

    def on_copy_ack(self, sender: DeviceId, ack: CopyAck) -> None:
        """See `CopyAck`."""
        follower = self.followers[sender]
        copy = follower.copy
        if copy is None or (copy.copy_id, copy.page) != (ack.copy_id, ack.page):
            return
        follower.silent_ticks = 0
        if copy.advance():
            copy.send_page()
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
        ops = [follower.counted_op for follower in self._peers]
        ops.append(own_op)
        ops.sort()
        commit_op = min(own_op, ops[-state.majority])
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
        elif follower.silent_ticks <= _COPY_PATIENCE_TICKS or not self._state.overgrown:
            copy.send_page()
        else:
            follower.copy = None

    def _begin_copy(self, follower: Progress) -> None:
        state = self._state
        self._copies += 1
        follower.probing = True
        follower.match_op = follower.counted_op = follower.applied_op = 0
        follower.copy = CopyOut(state, follower.device, (state.view << 24) + self._copies)
        follower.copy.send_page()

    def _trim(self, at_least: int) -> None:
        """Give up entries that every member has applied, or all applied ones of a long log."""
        state = self._state
        low_op = state.applied_op
        for follower in self._peers:
            if follower.copy is not None:
                low_op = min(low_op, follower.copy.base_op)
            elif not state.overgrown:
                low_op = min(low_op, follower.applied_op)
        if low_op + 1 - state.first_op >= at_least:
            state.trim(low_op + 1)
