"""The role of a view's primary before it leads: collect votes, then the best log among them.

Why the best log of the votes holds everything committed: an entry commits on a quorum of full
members, who keep it, and whoever votes acknowledges nothing older from then on. Any quorum of full
members shares one with that quorum. Which sets are quorums the best log itself says: when what is
fetched from it names other members, the elect goes on collecting, from them (see `configuration`).

Members that are *new* prove by their vote alone, since nothing was committed by their help. That
holds for a log that was just created, and for one given up for a copy that begins at an entry which
it lacked. This entry was committed, without it; whoever has the entry has all before it; and what
came behind it this log, which has no gaps, cannot have acknowledged either. So any quorum of proofs
has a member that counts and holds the entry, however many of the others are new: take the latest of
the entries that their copies began at, which none of them acknowledged. That entry's quorum has to
meet the elect's: so a copy tells under which configuration it began, and an elect that goes by one
two steps older does not count who took it, for it may have acknowledged the step between. A log
that has the entry is given up only when its group was forced, and proves nothing until the copy is
exact.

A group that has not begun (configuration 0) may also begin with all its members together: new ones
never acknowledged anything. Not as long as one of them is copying.
"""

from collections.abc import Callable, Mapping

from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.messages import Fetch, Fetched, Join, Standing, Vote
from pinfold.cluster.groups.state import MemberState
from pinfold.cluster.groups.views import next_view
from pinfold.model.ids import DeviceId


class Election:
    """Primary-elect of the state's view. Ends with `lead()`, or `move(view)` to a better one."""

    def __init__(
        self, state: MemberState, lead: Callable[[], None], move: Callable[[int], None]
    ) -> None:
        self._state = state
        self._lead = lead
        self._move = move
        self._votes: dict[DeviceId, Vote] = {}
        self._source: DeviceId | None = None
        self._target: Vote | None = None
        self.settled = False
        """The log has grown since the last tick: a long fetch is no reason to give up."""

    def start(self) -> None:
        """Ask the others to join. May end the election at once (a group of one)."""
        self._summon()
        self.on_durable()

    def tick(self) -> None:
        """Repeat what may have been lost."""
        self.settled = False
        if self._source is None:
            self._summon()
            self._decide()
        else:
            for member in self._votes:  # they wait for a fetch that may take long
                if member != self._state.me:
                    self._join(member)
            self._fetch()

    def on_durable(self) -> None:
        """More of the log, or the view, is durable."""
        state = self._state
        state.apply_committed()
        if state.me not in self._votes and state.may_vote:
            self.on_vote(state.me, state.vote())

    def on_vote(self, sender: DeviceId, vote: Vote) -> None:
        """See `Vote`."""
        self._votes[sender] = vote
        if self._source is None:
            self._decide()

    def on_fetched(self, sender: DeviceId, fetched: Fetched) -> None:
        """See `Fetched`."""
        state, target = self._state, self._target
        if sender != self._source or target is None or fetched.prev_op > state.last_op:
            return
        if fetched.trimmed:
            self._move(next_view(state.view, sender))
            return
        number, before = state.configuration.number, (state.last_view, state.last_op)
        state.merge(fetched.prev_op, fetched.entries)
        grown = (state.last_view, state.last_op) != before
        self.settled = self.settled or grown
        if self._reaches(target):
            self._source = self._target = None
            if state.configuration.number != number:
                self._summon()
            self._decide()
        elif grown:
            self._fetch()
        else:  # repeated, or it has not what it voted with: its device was swapped meanwhile
            self._source = self._target = None
            del self._votes[sender]
            self._summon()

    def _summon(self) -> None:
        for member in self._state.voters:
            if member != self._state.me and member not in self._votes:
                self._join(member)

    def _join(self, member: DeviceId) -> None:
        state = self._state
        state.send(member, Join(state.view, state.configuration.number))

    def _electors(self) -> dict[DeviceId, Vote]:
        """Votes that together prove everything committed; none if they do not."""
        configuration = self._state.configuration
        votes = {one: self._votes[one] for one in configuration.voters if one in self._votes}
        proofs = {
            one: vote
            for one, vote in votes.items()
            if configuration.admits(one, vote.birth) and _proves(vote, configuration)
        }
        if configuration.quorum(proofs):
            return proofs
        everybody = len(votes) == len(configuration.voters) and not configuration.founded
        if everybody and not any(Standing(vote.standing).copying for vote in votes.values()):
            return votes
        return {}

    def _decide(self) -> None:
        state = self._state
        electors = self._electors()
        whole = {one: v for one, v in electors.items() if not Standing(v.standing).copying}
        if not whole or state.me not in self._votes:
            return
        best = following_best(state, whole)  # what a copying one has it never acknowledged
        new = state.standing.new and electors[best].standing == Standing.MEMBER
        if state.standing.copying or new or not state.votes:
            self._pass_on(best)
            return
        self._target = electors[best]
        if self._reaches(self._target):
            self._lead()
        else:
            self._source = best
            self._fetch()

    def _pass_on(self, best: DeviceId) -> None:
        """Leave the lead to the best log; every other time to the other voters, each in turn.

        The best one may be of a member that was taken out, which only newer logs than this know.
        """
        state, turn = self._state, self._state.passed_on
        others = [one for one in state.voters if one != state.me]
        if best == state.me or not others:
            return
        state.passed_on += 1
        heir = others[turn // 2 % len(others)] if turn % 2 else best
        self._move(next_view(state.view, heir))

    def _reaches(self, target: Vote) -> bool:
        """Whether the own log is as good; better when it came from a voter of an older set."""
        state = self._state
        return (state.last_view, state.last_op) >= (target.last_view, target.last_op)

    def _fetch(self) -> None:
        state = self._state
        assert self._source is not None
        request = Fetch(state.view, state.last_op, state.last_view, state.applied_op)
        state.send(self._source, request)


def _proves(vote: Vote, configuration: Configuration) -> bool:
    """Whether a vote tells everything that its voter ever acknowledged.

    A new log that the configuration names by its birth has nothing to tell. Without its vote a
    joint entry that it has not received could keep the group from having a primary, or one more
    loss while it is copying. Unless the group has gone on, by two configurations or more.
    """
    standing = Standing(vote.standing)
    if standing.copying and vote.number > configuration.number + 1:
        return False
    return standing is Standing.MEMBER or (configuration.founded and standing.new)


def following_best(state: MemberState, votes: Mapping[DeviceId, Vote]) -> DeviceId:
    """Whose log is the best; of equals this member, else the next one going round.

    Were it always the same one, a group would wait for ever for one whose device is too busy.
    """
    voters = state.voters
    here = voters.index(state.me) if state.me in voters else 0

    def rank(one: DeviceId) -> tuple[int, int, int]:
        behind = (voters.index(one) - here) % len(voters)
        return votes[one].last_view, votes[one].last_op, -behind

    return max(votes, key=rank)


def answer_fetch(state: MemberState, sender: DeviceId, fetch: Fetch) -> None:
    """Send what follows the sender's log in this one. Both are in the same view."""
    after_op = fetch.after_op
    if after_op > state.last_op or state.log.view_at(after_op) != fetch.after_view:
        after_op = fetch.applied_op
    entries = state.tail(after_op + 1, state.limits.batch_bytes)
    state.send(sender, Fetched(state.view, after_op, entries is None, entries or ()))
