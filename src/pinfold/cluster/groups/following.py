"""The role of a member that does not lead: vote, then keep the log equal to the primary's.

Invariant: an acknowledgement names only entries that match the primary's log, are durable, and
are held by a member whose log proves something (`Standing.MEMBER`).
"""

from dataclasses import dataclass
from typing import Final

from pinfold.cluster.groups.configuration import GENERATION_SHIFT
from pinfold.cluster.groups.messages import (
    Ack,
    CopyAck,
    CopyPage,
    NeedCopy,
    OfferCopy,
    Prepare,
    Refuse,
    Standing,
)
from pinfold.cluster.groups.state import MemberState
from pinfold.cluster.groups.views import owner
from pinfold.codec.digests import covers
from pinfold.device.api import Part

_QUIET_TICKS: Final = 50
"""Silence (some 10 s) after which a primary is no longer believed to lead, although its node lives:
its device may have been swapped. It tells of every group it leads every 2 s."""


@dataclass(slots=True)
class _CopyIn:
    """A copy on its way in."""

    copy_id: int
    pages: int = 0
    durable_pages: int = 0
    base_op: int = 0
    base_view: int = 0
    through_op: int = 0
    complete_at: int = -1
    """Pages in the whole copy, once the last one has come."""


class Following:
    """Follows the primary of the state's view, which is another member."""

    def __init__(self, state: MemberState) -> None:
        self._state = state
        self._primary = owner(state.view)
        self._matched_op = state.last_op if state.last_view == state.view else state.commit_op
        """The log up to here is known to match the primary's; it does up to any entry of its view.
        A member that restarts must know, for it may have acknowledged that much: no copy of older
        rows may take it away."""
        self._told_commit_op = state.catch_up_op or 0
        """Everything up to here is committed: of what a copy has in its rows, its primary knew. The
        present one may have forgotten, and need this member to count before it can tell."""
        self._acked_op = -1
        self._ack_owed = False
        self._copy: _CopyIn | None = None
        self._told = (0, 0)
        """The copy for which this log, in this life of it, told its digest, and its held op."""
        self.settled = False
        """The primary has spoken in this view; until then this member keeps voting."""
        self._compared = False
        """The primary has compared logs. News of its commit point does not: a member that has only
        that, and cannot prove that its log reaches there, keeps voting too."""
        self._quiet_ticks = 0
        self._vote()

    def tick(self) -> None:
        """Repeat what may have been lost."""
        self._quiet_ticks += 1
        if self._quiet_ticks > _QUIET_TICKS:
            self.settled = False
        self._vote()

    def on_durable(self) -> None:
        """More of the log, or the view, is durable."""
        self._state.apply_committed()
        self._vote()
        self._acknowledge()

    def on_prepare(self, prepare: Prepare) -> None:
        """See `Prepare`."""
        self._heard()
        self._compared = True
        state = self._state
        if self._gave_up or prepare.number >> GENERATION_SHIFT > state.generation:
            state.send(self._primary, NeedCopy(state.view, 0, b""))
            return
        prev_op = prepare.prev_op
        if prev_op > state.last_op:
            state.send(self._primary, Refuse(state.view, prev_op, state.last_op))
            return
        known_op = max(state.applied_op, self._matched_op)
        # An entry of this view is its primary's own, whether that still has it or not.
        matching = (prepare.prev_view, state.view)
        if prev_op > known_op and state.log.view_at(prev_op) not in matching:
            state.send(self._primary, Refuse(state.view, prev_op, known_op))
            return
        # What is known to be committed is applied first: it may be what keeps the device busy.
        self._matched_op = max(self._matched_op, prev_op)
        self._learn(prepare.commit_op)
        state.merge(prev_op, prepare.entries)  # may raise; the entries will come again then
        self._matched_op = max(self._matched_op, prev_op + len(prepare.entries))
        self._ack_owed = True
        self._learn(prepare.commit_op)
        state.trim(prepare.trim_op)
        self._acknowledge()

    def on_commit_news(self, commit_op: int) -> None:
        """The primary of this view has committed up to here."""
        self._heard()
        self._learn(commit_op)
        if self._needs_copy and self._copy is None:
            # Nothing is written to an idle group, and a row may fail there as in any other.
            state = self._state
            state.send(self._primary, NeedCopy(state.view, 0, b"", self._held_op))

    def _learn(self, commit_op: int) -> None:
        """Apply what is committed, as far as the logs are known to match."""
        state = self._state
        self._told_commit_op = max(self._told_commit_op, commit_op)
        commit_op = min(self._told_commit_op, self._matched_op)
        if commit_op > state.commit_op:
            state.commit_op = commit_op
            state.apply_committed()

    def on_copy_page(self, page: CopyPage) -> None:
        """See `CopyPage`."""
        self._heard()
        self._compared = True
        state, copy = self._state, self._copy
        if copy is None or copy.copy_id != page.copy_id:
            generation = page.number >> GENERATION_SHIFT
            enough = not self._needs_copy and generation == state.generation
            if enough and self._holds(page.base_op, page.base_view):
                # Giving that up would cost a copy of what is committed, and bring nothing.
                self._matched_op = max(self._matched_op, page.base_op)
                self._ack_owed = True
                self._learn(page.base_op)
                self._acknowledge()
                return
            if page.page:  # begun in another life of this log
                state.send(self._primary, NeedCopy(state.view, page.copy_id, b""))
                return
            told = (page.copy_id, self._held_op)
            if (page.buckets or self._held_op) and self._told != told:  # judged by another life
                self._ask_for_copy(page.copy_id)
                return
            if not covers(page.buckets, page.digest, self._digest()):
                # Chosen for what this log told in another life of it, which came late.
                state.send(self._primary, NeedCopy(state.view, page.copy_id, b""))
                return
            copy = self._begin_copy(page)
        if page.page < copy.durable_pages:
            state.send(self._primary, CopyAck(state.view, page.copy_id, page.page))
        elif page.page == copy.pages:
            state.log.install(  # may raise; the page will come again then
                (page.copy_id, page.page),
                (page.base_op, page.base_view),
                page.rows,
                first=page.page == 0,
                last=page.is_last,
                digest=page.digest,
                part=Part(page.start, page.end, page.buckets, page.named),
            )
            copy.pages += 1
            if page.is_last:
                copy.base_op, copy.base_view = page.base_op, page.base_view
                copy.through_op, copy.complete_at = page.through_op, copy.pages

    def on_offer(self, offer: OfferCopy) -> None:
        """See `OfferCopy`."""
        self._heard()
        if self._copy is None or self._copy.copy_id != offer.copy_id:
            self._ask_for_copy(offer.copy_id)

    def _ask_for_copy(self, copy_id: int) -> None:
        """Say what is here."""
        self._told = (copy_id, self._held_op)
        need = NeedCopy(self._state.view, copy_id, self._digest(), self._held_op)
        self._state.send(self._primary, need)

    def on_installed(self, page: tuple[int, int]) -> None:
        """A page of a copy is durable."""
        state, copy = self._state, self._copy
        if copy is None or copy.copy_id != page[0]:
            return
        copy.durable_pages = page[1] + 1
        if copy.durable_pages == copy.complete_at:
            state.restart_at(copy.base_op, copy.base_view)
            state.catch_up_op = copy.through_op
            self._matched_op = copy.base_op
            self._told_commit_op = max(self._told_commit_op, copy.through_op)
            self._copy = None
            self._prove()  # at once: a group may need this member's vote before its primary speaks
        state.send(self._primary, CopyAck(state.view, page[0], page[1]))

    def _heard(self) -> None:
        self.settled = True
        self._quiet_ticks = 0

    @property
    def _gave_up(self) -> bool:
        """Whether there are no rows here that entries could change."""
        state = self._state
        return state.standing.copying and state.catch_up_op is None

    @property
    def _needs_copy(self) -> bool:
        """Rows that fail their checksums are kept until a copy comes, and this log with them: it
        goes on, counts for what it acknowledges, and proves absences that a row given up would
        hide.
        """
        return self._gave_up or self._state.log.rotten()

    @property
    def _held_op(self) -> int:
        """See `NeedCopy`."""
        state = self._state
        whole = state.standing is Standing.MEMBER and state.log.rotten()
        return state.last_op if whole else 0

    def _begin_copy(self, page: CopyPage) -> _CopyIn:
        """Give up what is here. The standing is stored before it, so a crash cannot hide it."""
        state = self._state
        state.taken = max(state.taken, page.number)
        whole = state.standing is Standing.MEMBER and not self._holds(page.base_op, page.base_view)
        new = state.standing.new or whole  # what it gives up is needed by nobody: see `election`
        state.set_view(state.view, Standing.NEW_COPYING if new else Standing.COPYING)
        state.restart_at(0, 0)
        self._matched_op = 0
        self._told_commit_op = page.base_op  # what was known may be of an older generation's log
        self._acked_op = -1
        self._copy = _CopyIn(page.copy_id)
        return self._copy

    def _digest(self) -> bytes:
        """Of the rows here, which are those of some committed op.

        Empty after a copy cut short, and for rows of which one is rotten: all are to be copied.
        """
        state = self._state
        return b"" if state.standing.copying or state.log.rotten() else state.log.digest()

    def _holds(self, op: int, view: int) -> bool:
        """Whether this log has a committed entry, and so everything before it."""
        return op <= self._matched_op or self._state.log.view_at(op) == view

    def _vote(self) -> None:
        state = self._state
        enough = self._compared or self._told_commit_op <= self._matched_op
        if (self.settled and enough) or not state.may_vote:
            return
        if self._primary != state.me:
            state.send(self._primary, state.vote())

    def _acknowledge(self) -> None:
        """Tell the primary how far the log matches, as far as there is news."""
        state = self._state
        if not self._ack_owed or state.durable_view != state.view:
            return
        self._prove()
        op = min(state.durable_op, self._matched_op)
        counted = state.proved
        if op < self._matched_op and op <= self._acked_op:
            return
        self._acked_op = op
        self._ack_owed = op < self._matched_op or not counted
        rotten, birth = state.log.rotten(), state.durable_birth
        state.send(self._primary, Ack(state.view, op, state.applied_op, counted, birth, rotten))

    def _prove(self) -> None:
        """Become a full member once nothing that was ever committed is missing here.

        That takes a log that reaches into this view, whose primary began with everything committed
        before: what the primary of a copy had applied by then may be less. A new member must also
        reach up to the primary's commit point, and one that never counted be awaited by the group;
        a copy must be exact.
        """
        state = self._state
        standing = state.standing
        if standing is Standing.MEMBER:
            return
        durable_op = min(state.durable_op, self._matched_op)
        if standing.copying:
            exact = state.catch_up_op is not None and state.applied_op >= state.catch_up_op
        else:
            exact = durable_op >= self._told_commit_op
        exact = exact and state.log.view_at(durable_op) == state.view
        if not exact:
            return
        if not standing.new or (state.votes and state.durable_birth):
            state.catch_up_op = None
            state.set_view(state.view, Standing.MEMBER)
        elif standing is Standing.NEW_COPYING:
            state.catch_up_op = None
            state.set_view(state.view, Standing.NEW)
