"""One member of a group: a synchronous object that events go into.

Invariants (proved by tests/cluster/test_replica_schedules.py over random schedules): one primary
per view; a committed entry is never lost or changed; nothing is acknowledged before it is durable;
no lower view is obeyed after a higher one was stored.
"""

from collections.abc import Callable, Sequence

from pinfold.cluster.groups.election import Election, answer_fetch
from pinfold.cluster.groups.entries import Write
from pinfold.cluster.groups.following import Following
from pinfold.cluster.groups.leading import Leadership
from pinfold.cluster.groups.messages import (
    Ack,
    CopyAck,
    CopyPage,
    Fetch,
    Fetched,
    Join,
    Message,
    NeedCopy,
    Prepare,
    Refuse,
    Standing,
    Vote,
)
from pinfold.cluster.groups.state import Limits, MemberState, Ports, ReplicaLog
from pinfold.model.ids import DeviceId, GroupId

_LIMITS = Limits()


class Replica:
    """See the module. Call `start` once before anything else."""

    def __init__(
        self,
        group: GroupId,
        members: tuple[DeviceId, ...],
        me: DeviceId,
        log: ReplicaLog,
        ports: Ports,
        limits: Limits = _LIMITS,
    ) -> None:
        assert me in members, "a replica is one of the members"
        self.state = MemberState(group, members, me, log, ports, limits)
        self._ports = ports
        self._role: Following | Election | Leadership
        self.unsettled_ticks = 0
        """Ticks since the view began, while it has no primary for this member."""

    def start(self) -> None:
        """Take part. Whoever led before it stopped moves on: it may have lost what it sent."""
        if self.primary == self.state.me:
            self.change_view(self.state.view + 1)
        else:
            self._role = Following(self.state)

    @property
    def view(self) -> int:
        """The highest view heard of."""
        return self.state.view

    @property
    def primary(self) -> DeviceId:
        """Who leads the view, or will."""
        return self.state.primary_of(self.state.view)

    @property
    def leadership(self) -> Leadership | None:
        """The role of a primary that serves; None for every other member."""
        role = self._role
        return role if type(role) is Leadership and role.serving else None

    @property
    def role(self) -> str:
        """For operators: following, waiting, electing, starting or serving."""
        role = self._role
        if type(role) is Leadership:
            return "serving" if role.serving else "starting"
        if type(role) is Election:
            return "electing"
        return "following" if role.settled else "waiting"

    def next_view(self, alive: Callable[[DeviceId], bool]) -> int | None:
        """The next view whose primary is alive; None unless a majority is."""
        state = self.state
        if sum(map(alive, state.members)) < state.majority:
            return None
        return next(
            view
            for view in range(state.view + 1, state.view + 1 + len(state.members))
            if alive(state.primary_of(view))
        )

    def heir(self) -> DeviceId | None:
        """Who should lead instead of this serving primary: the first member, if it lacks nothing.

        The ring spreads first members evenly; failovers do not.
        """
        state, leadership = self.state, self.leadership
        first = state.members[0]
        if leadership is None or first == state.me:
            return None
        progress = leadership.followers[first]
        ready = progress.copy is None and progress.counted_op == state.last_op
        return first if ready else None

    def heirs(self) -> list[DeviceId]:
        """Who could lead instead of this serving primary, whoever is first: those that follow."""
        state, leadership = self.state, self.leadership
        if leadership is None:
            return []
        return [
            member
            for member in state.members
            if member != state.me
            and leadership.followers[member].copy is None
            and leadership.followers[member].counted_op >= state.commit_op
        ]

    def hand_over(self, heir: DeviceId) -> None:
        """Leave the lead to `heir`. Changes in flight are repeated by their callers."""
        view = self.state.view + 1
        while self.state.primary_of(view) != heir:
            view += 1
        self.change_view(view)

    def change_view(self, view: int) -> None:
        """Leave the present view for a higher one."""
        state = self.state
        assert view > state.view, "views only grow"
        state.forget_proposals()
        state.set_view(view, state.standing)
        self.unsettled_ticks = 0
        if self.primary == state.me:
            election = Election(state, self._lead, self.change_view)
            self._role = election
            self._ports.role_changed()
            election.start()
        else:
            self._role = Following(state)
            self._ports.role_changed()

    def tick(self) -> None:
        """Some 200 ms have passed."""
        self.unsettled_ticks = 0 if self._role.settled else self.unsettled_ticks + 1
        self._role.tick()

    def propose(self, body: bytes, writes: Sequence[Write]) -> int:
        """Append an entry as the serving primary; returns its op."""
        role = self._role
        assert type(role) is Leadership, "only a primary proposes"
        assert role.serving, "not before its first entry is committed"
        return role.propose(body, writes)

    def on_commit_news(self, view: int, commit_op: int) -> None:
        """The primary of `view` has committed up to here."""
        if view > self.state.view:
            self.change_view(view)
        role = self._role
        if view == self.state.view and type(role) is Following:
            role.on_commit_news(commit_op)

    def on_appended(self, op: int, view: int) -> None:
        """The log is durable up to this entry, unless it was replaced."""
        self.state.on_appended(op, view)
        self._role.on_durable()

    def on_view_durable(self, view: int, voted: bytes) -> None:
        """The view and standing are durable."""
        self.state.on_view_durable(view, voted)
        self._role.on_durable()

    def on_installed(self, page: tuple[int, int]) -> None:
        """A page of a copy is durable."""
        if type(self._role) is Following:
            self._role.on_installed(page)

    def handle(self, sender: DeviceId, message: Message) -> None:
        """A message of another member."""
        state = self.state
        if sender not in state.members or sender == state.me:
            return
        if message.view < state.view:
            state.send(sender, Join(state.view))
            return
        if message.view > state.view:
            self.change_view(message.view)
        role = self._role
        if type(role) is Leadership:
            self._handle_leading(role, sender, message)
        elif type(role) is Following:
            self._handle_following(role, sender, message)
        elif type(role) is Election:
            if isinstance(message, Vote):
                role.on_vote(sender, message)
            elif isinstance(message, Fetched):
                role.on_fetched(sender, message)

    def _handle_leading(self, role: Leadership, sender: DeviceId, message: Message) -> None:
        match message:
            case Ack():
                role.on_ack(sender, message)
            case Refuse():
                role.on_refuse(sender, message)
            case NeedCopy():
                role.on_need_copy(sender, message)
            case CopyAck():
                role.on_copy_ack(sender, message)
            case Vote():
                role.greet(sender)

    def _handle_following(self, role: Following, sender: DeviceId, message: Message) -> None:
        match message:
            case Prepare():
                role.on_prepare(message)
            case Fetch():
                answer_fetch(self.state, sender, message)
            case CopyPage():
                role.on_copy_page(message)
            case Join():
                self.unsettled_ticks = 0

    def _lead(self) -> None:
        leadership = Leadership(self.state)
        self._role = leadership
        self._ports.role_changed()
        leadership.start()

    @property
    def proved(self) -> bool:
        """Whether this member holds everything it ever acknowledged."""
        return self.state.standing is Standing.MEMBER
