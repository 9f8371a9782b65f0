"""One member of a group: a synchronous object that events go into.

Invariants (proved by tests/cluster/test_replica_schedules.py over random schedules): one primary
per view; a committed entry is never lost or changed; nothing is acknowledged before it is durable;
no lower view is obeyed after a higher one was stored.
"""

from collections.abc import Callable, Sequence

from pinfold.cluster.groups.configuration import GENERATION_SHIFT, Configuration
from pinfold.cluster.groups.election import Election, answer_fetch
from pinfold.cluster.groups.entries import Write
from pinfold.cluster.groups.following import Following
from pinfold.cluster.groups.leading import Leadership
from pinfold.cluster.groups.messages import (
    CANNOT_LEAD,
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
from pinfold.cluster.groups.state import Birth, Limits, MemberState, Ports, ReplicaLog
from pinfold.cluster.groups.views import NOBODY, next_view, owner, round_of
from pinfold.model.errors import Conflict
from pinfold.model.ids import DeviceId, GroupId

_LIMITS = Limits()
_PATIENCE_TICKS = 10
"""Ticks (2 s) after which a view that got no primary is given up."""

_OUTSIDE_TICKS = 50
"""How long (10 s) one that is told to be no voter begins no views; nobody would obey it."""

_NUMBERED = Prepare | Join | Vote | CopyPage | OfferCopy
"""Messages that say which configuration their sender goes by."""


class Replica:
    """See the module. Call `start` once before anything else."""

    def __init__(
        self,
        group: GroupId,
        birth: Birth,
        me: DeviceId,
        log: ReplicaLog,
        ports: Ports,
        limits: Limits = _LIMITS,
    ) -> None:
        self.state = MemberState(group, birth, me, log, ports, limits)
        self._ports = ports
        self._role: Following | Election | Leadership
        self.unsettled_ticks = 0
        """Ticks since the view began, while it has no primary for this member."""
        self._outside_ticks = 0
        """Begin no views for so long: the group goes on without this member, somebody said."""

    def start(self) -> None:
        """Take part. Whoever led before it stopped moves on: it may have lost what it sent."""
        state = self.state
        self._role = Following(state)  # first: what follows is refused by a device that has stopped
        if not state.durable_birth:
            state.set_view(state.view, state.standing)
        voters = state.voters
        if self.primary == state.me and voters:
            self.change_view(next_view(state.view, self._behind(state.me)))
        elif self.primary == NOBODY and state.votes and voters[0] == state.me:
            self.change_view(next_view(state.view, state.me))

    def _behind(self, device: DeviceId) -> DeviceId:
        """The voter behind a device, going round; the first one for others than voters."""
        voters = self.state.voters
        return voters[(voters.index(device) + 1) % len(voters) if device in voters else 0]

    @property
    def view(self) -> int:
        """The highest view heard of."""
        return self.state.view

    @property
    def primary(self) -> DeviceId:
        """Who leads the view, or will."""
        return owner(self.state.view)

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

    @property
    def impatient(self) -> bool:
        """Whether the view has had no primary for this member for too long."""
        return self.unsettled_ticks > _PATIENCE_TICKS

    def next_view(self, alive: Callable[[DeviceId], bool]) -> int | None:
        """The next view whose primary is alive; None unless a quorum is, or when others decide.

        Voters take turns also behind a primary that is none of them: the first one may know less
        than all others, and be able to do nothing but to pass the lead to such a one again.
        """
        state = self.state
        voters = state.voters
        if (
            not state.votes
            or self._outside_ticks
            or not state.configuration.quorum([one for one in voters if alive(one)])
        ):
            return None
        known = self.primary in voters
        first = voters.index(self.primary) + 1 if known else round_of(state.view) % len(voters)
        heir = next(one for one in (*voters[first:], *voters[:first]) if alive(one))
        return next_view(state.view, heir)

    def heir(self) -> DeviceId | None:
        """Who should lead instead of this serving primary: the first member, if it lacks nothing.

        The ring spreads first members evenly; failovers do not.
        """
        state, leadership = self.state, self.leadership
        if leadership is None or state.configuration.joint:
            return None
        first = state.configuration.members[0]
        return first if first != state.me and leadership.lacks_nothing(first) else None

    def heirs(self) -> list[DeviceId]:
        """Who could lead instead of this serving primary, whoever is first: those that follow."""
        state, leadership = self.state, self.leadership
        if leadership is None or state.configuration.joint:
            return []
        return [
            member
            for member in state.configuration.members
            if member != state.me and leadership.may_lead(member, state.commit_op)
        ]

    def hand_over(self, heir: DeviceId) -> None:
        """Leave the lead to `heir`. Changes in flight are repeated by their callers."""
        view = next_view(self.state.view, heir)
        self.state.send(heir, Join(view, self.state.configuration.number))
        self.change_view(view)

    @property
    def audience(self) -> list[DeviceId]:
        """Everybody who should hear that this member lives, and how far the group has got."""
        leadership = self.leadership
        told = self.state.voters if leadership is None else leadership.followers
        return [one for one in told if one != self.state.me]

    def confirms(self, birth: int) -> bool:
        """Whether this log is the one asked for, so that it has kept every promise of that one.

        0 is any log, in a group that does not know births yet.
        """
        state = self.state
        return birth == state.durable_birth if birth else not state.standing.new

    def pursue(self, wish: Sequence[DeviceId]) -> None:
        """Bring the members closer to what the ring wishes, if this is the serving primary."""
        state, leadership = self.state, self.leadership
        if leadership is None:
            return
        now = state.configuration
        if state.me not in now.voters and state.configuration_op <= state.commit_op:
            heirs = [one for one in now.members if leadership.lacks_nothing(one)]
            if heirs:
                self.hand_over(heirs[0])
            return
        leadership.pursue(tuple(wish))

    def change_view(self, view: int) -> None:
        """Leave the present view for a higher one."""
        state = self.state
        assert view > state.view, "views only grow"
        state.forget_proposals()
        state.set_view(view, state.standing)
        self.unsettled_ticks = 0
        self._outside_ticks = 0
        if self.primary == state.me and state.votes:
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
        self._outside_ticks = max(0, self._outside_ticks - 1)
        self._role.tick()

    def force(self, configuration: Configuration, seen_number: int) -> None:
        """Take a configuration from the operator: this log is the group's from now on.

        Everything in it counts as committed, by the operator's word, once the entry that says so
        is durable here. Conflict, and nothing has changed, unless this log is whole and its
        configuration is still the one that the operator saw.
        """
        state = self.state
        if state.configuration.number != seen_number:
            raise Conflict(f"the members of group {state.group} have changed meanwhile: look again")
        if state.standing is not Standing.MEMBER or state.lost:
            raise Conflict(f"device {state.me} holds no complete copy of group {state.group}")
        state.forget_proposals()
        state.taken = configuration.number
        state.set_view(next_view(state.view, state.me), Standing.MEMBER)
        self._role = Following(state)
        try:
            self._role = leadership = Leadership(state, forced=configuration)
        finally:
            self._ports.role_changed()
        leadership.start()

    def propose(self, body: bytes, writes: Sequence[Write]) -> int:
        """Append an entry as the serving primary; returns its op."""
        role = self._role
        assert type(role) is Leadership, "only a primary proposes"
        assert role.serving, "not before its first entry is committed"
        return role.propose(body, writes)

    @property
    def pages_out(self) -> int:
        """Pages of copies that are on their way to members."""
        role = self._role
        return role.pages_out if type(role) is Leadership else 0

    def go_on(self) -> None:
        """A turn for copies."""
        if type(self._role) is Leadership:
            self._role.go_on()

    def on_commit_news(self, view: int, commit_op: int, number: int) -> None:
        """The primary of `view` has committed up to here."""
        if self._overruled(owner(view), number):
            return
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
        """A message of another device; `configuration` says who is obeyed."""
        state = self.state
        if sender == state.me:
            return
        if isinstance(message, Outside):
            self._on_outside(sender, message)
            return
        if isinstance(message, _NUMBERED) and self._overruled(sender, message.number):
            if isinstance(message, Vote) and message.view == state.view:
                self._take_vote(sender, message)
            elif message.view > state.view and state.votes and sender in state.voters:
                self.change_view(next_view(message.view, state.me))  # to lead it from there
            return
        if message.view < state.view:
            state.send(sender, Join(state.view, state.configuration.number))
            return
        if message.view > state.view:
            view = self._raised(sender, message)
            if view is None:
                state.send(sender, Outside(state.view, state.configuration.number))
                return
            self.change_view(view)
            if view > message.view:
                return
        role = self._role
        if type(role) is Leadership:
            self._handle_leading(role, sender, message)
        elif type(role) is Following and self.primary == state.me:  # it cannot lead any more
            state.send(sender, Outside(state.view, CANNOT_LEAD))
        elif type(role) is Following:
            self._handle_following(role, sender, message)
        elif type(role) is Election:
            if isinstance(message, Vote):
                role.on_vote(sender, message)
            elif isinstance(message, Fetched):
                role.on_fetched(sender, message)

    def _take_vote(self, sender: DeviceId, vote: Vote) -> None:
        """A vote for this member's own view counts whatever generation the voter knows of."""
        role = self._role
        if type(role) is Election:
            role.on_vote(sender, vote)
        elif type(role) is Leadership and sender in role.followers:
            role.greet(sender)

    def _overruled(self, sender: DeviceId, number: int) -> bool:
        """Whether the sender is of an older generation of members than this one; it is told."""
        state = self.state
        if number >> GENERATION_SHIFT >= state.generation:
            return False
        state.send(sender, Outside(state.view, state.generation << GENERATION_SHIFT))
        return True

    def _raised(self, sender: DeviceId, message: Message) -> int | None:
        """The view to which a message of a higher one moves this member; None: it may not."""
        state, role = self.state, self._role
        view = message.view
        if isinstance(message, Prepare | CopyPage | OfferCopy):
            return view if sender == owner(view) else None
        if sender in state.voters or sender == self.primary:
            return view
        if isinstance(message, _NUMBERED) and message.number > state.configuration.number:
            return view
        if type(role) is Leadership and sender in role.learners:
            return next_view(view, state.me)  # it has been in views of its own: lead it from there
        return None

    def _on_outside(self, sender: DeviceId, outside: Outside) -> None:
        """See `Outside`. The sender may be wrong: its newer configuration may yet be replaced."""
        state = self.state
        if outside.number > state.configuration.number:
            self._outside_ticks = _OUTSIDE_TICKS
        elif outside.number == CANNOT_LEAD and (outside.view, sender) == (state.view, self.primary):
            self.unsettled_ticks += _PATIENCE_TICKS
        if outside.number >> GENERATION_SHIFT > state.generation and (
            type(self._role) is not Following
        ):
            state.forget_proposals()
            self._role = Following(state)
            self._ports.role_changed()

    def _handle_leading(self, role: Leadership, sender: DeviceId, message: Message) -> None:
        if sender not in role.followers:
            self.state.send(sender, Outside(self.view, self.state.configuration.number))
            return
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
            case Prepare() if sender == self.primary:
                self._outside_ticks = 0
                role.on_prepare(message)
            case Fetch():
                answer_fetch(self.state, sender, message)
            case CopyPage() if sender == self.primary:
                role.on_copy_page(message)
            case OfferCopy() if sender == self.primary:
                role.on_offer(message)
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
