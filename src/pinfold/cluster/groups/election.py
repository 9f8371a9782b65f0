"""The role of a view's primary before it leads: collect votes, then the best log among them.

Why the best log of the votes holds everything committed: an entry commits on a majority of
members, who keep it, and whoever votes acknowledges nothing older from then on. Any majority of
full members shares one with that majority. New members never acknowledged anything, so all
members together will do as well, as long as none of them is copying.
"""

from collections.abc import Callable

from pinfold.cluster.groups.messages import Fetch, Fetched, Join, Standing, Vote
from pinfold.cluster.groups.state import MemberState
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
                    self._state.send(member, Join(self._state.view))
            self._fetch()

    def on_durable(self) -> None:
        """More of the log, or the view, is durable."""
        state = self._state
        state.apply_committed()
        if (
            state.me not in self._votes
            and state.durable_view == state.view
            and state.durable_op == state.last_op
        ):
            own = Vote(state.view, state.durable_standing, state.last_view, state.last_op)
            self.on_vote(state.me, own)

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
            self._move(self._view_led_by(sender))
            return
        self.settled = True
        state.merge(fetched.prev_op, fetched.entries)
        if (state.last_op, state.last_view) == (target.last_op, target.last_view):
            self._lead()
        elif fetched.entries:
            self._fetch()

    def _summon(self) -> None:
        state = self._state
        for member in state.members:
            if member != state.me and member not in self._votes:
                state.send(member, Join(state.view))

    def _electors(self) -> dict[DeviceId, Vote]:
        """Votes that together prove everything committed; none if they do not."""
        votes = self._votes
        proofs = {one: vote for one, vote in votes.items() if vote.standing == Standing.MEMBER}
        if len(proofs) >= self._state.majority:
            return proofs
        everybody = len(votes) == len(self._state.members)
        if everybody and all(vote.standing != Standing.COPYING for vote in votes.values()):
            return votes
        return {}

    def _decide(self) -> None:
        state = self._state
        electors = self._electors()
        if not electors or state.me not in self._votes:
            return
        best = max(
            electors,
            key=lambda one: (electors[one].last_view, electors[one].last_op, one == state.me),
        )
        if state.standing is Standing.COPYING or (
            state.standing is Standing.NEW and electors[best].standing == Standing.MEMBER
        ):
            self._move(self._view_led_by(best))
            return
        self._target = electors[best]
        if self._reaches(self._target):
            self._lead()
        else:
            self._source = best
            self._fetch()

    def _reaches(self, target: Vote) -> bool:
        state = self._state
        return (state.last_view, state.last_op) == (target.last_view, target.last_op)

    def _fetch(self) -> None:
        state = self._state
        assert self._source is not None
        request = Fetch(state.view, state.last_op, state.last_view, state.applied_op)
        state.send(self._source, request)

    def _view_led_by(self, member: DeviceId) -> int:
        view = self._state.view + 1
        while self._state.primary_of(view) != member:
            view += 1
        return view


def answer_fetch(state: MemberState, sender: DeviceId, fetch: Fetch) -> None:
    """Send what follows the sender's log in this one. Both are in the same view."""
    after_op = fetch.after_op
    if after_op > state.last_op or state.log.view_at(after_op) != fetch.after_view:
        after_op = fetch.applied_op
    entries = state.tail(after_op + 1, state.limits.batch_bytes)
    state.send(sender, Fetched(state.view, after_op, entries is None, entries or ()))
