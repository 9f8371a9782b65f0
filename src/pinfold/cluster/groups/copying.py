"""Bring back a member that is behind the log: its rows are replaced, page by page.

The copy is offered first. The member answers with the digest of its rows, and only the buckets that
differ from the primary's are copied: an equal bucket saw no write that the member lacks. A member
whose rows are of no use (a copy cut short, a digest not known) gets them all.

Changes go on meanwhile, for as long as it takes to copy gigabytes. Their entries are not kept for
that: the copy notes the keys that were written since the *base* of its round (some 130 bytes each,
however often they are written), and when the round is over another one brings what these keys say
by then. Each round is shorter than the one before, by as much as pages move faster than clients
write. The last is the first behind whose base so little was written that the log has it all:
replaying the entries from the base on makes the copy exact (see `CopyPage`), for they put and
delete whole rows.

A window of pages is on its way at a time, since a member makes many durable in one transaction as
easily as one. They are read one a turn of the event loop, which has other things to do.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from pinfold.cluster.groups.entries import Write
from pinfold.cluster.groups.messages import CopyPage, OfferCopy
from pinfold.cluster.groups.state import MemberState
from pinfold.codec.digests import differing
from pinfold.model.ids import DeviceId

_REPEATS_PER_HALVING: Final = 4
"""A page repeated so often, once a tick, was not acknowledged for a second."""


class CopyOut:
    """A copy on its way to one follower."""

    def __init__(self, state: MemberState, device: DeviceId, copy_id: int) -> None:
        self._state = state
        self._device = device
        self.copy_id = copy_id
        self.offered = True
        """The member has not yet told its digest."""
        self.told = b""
        """The digest that the pages rely on."""
        self._buckets = b""
        self._start: bytes | None = b""
        """Where the next page of the first round starts; None behind its last one."""
        self._keys: deque[bytes] = deque()
        """What the pages of a later round are still to bring."""
        self._begin_round()
        self.first_op = self.base_op
        """Whoever has this entry needs no copy."""
        self._sent: deque[CopyPage] = deque()
        """Pages not acknowledged, oldest first."""
        self._pages = 0
        """How many have been read."""
        self._complete = False
        """The last one has."""
        self._window = 1
        """Pages that may be on their way: one more for each that arrives, half in a long silence:
        a slow network is not filled. The first goes alone, as the member may need none."""
        self._repeats = 0
        """Since the last acknowledgement."""

    def _begin_round(self) -> None:
        state = self._state
        self.base_op = state.applied_op
        view = state.log.view_at(state.applied_op)
        assert view is not None or not self.base_op, "the view of the applied op is known"
        self._base_view = view or 0
        self._base_digest = state.log.digest()
        self._changed: dict[bytes, None] = {}
        """Keys written behind the base."""
        self._written_bytes = 0

    @property
    def keeps_log(self) -> bool:
        """Whether entries behind the base may be needed: this round may yet be the last."""
        if self.offered:
            return False
        return self._complete or self._written_bytes <= self._state.limits.replayed_bytes

    @property
    def done(self) -> bool:
        """Whether every page is durable at the member."""
        return self._complete and not self._sent

    @property
    def begun(self) -> bool:
        """Whether the member has made a page durable."""
        return self._pages > len(self._sent)

    @property
    def pages_out(self) -> int:
        """Pages on their way."""
        return len(self._sent)

    def note(self, writes: Sequence[Write]) -> bool:
        """An entry has been applied; False when more has changed than a copy may remember."""
        if not self._complete and not self.offered:
            for key, value in writes:
                self._changed[key] = None
                self._written_bytes += len(key) + len(value or b"")
        return len(self._changed) <= self._state.limits.copy_keys

    def choose(self, digest: bytes) -> None:
        """The member has told its digest: the copy begins, and costs something from here on."""
        self.offered, self.told = False, digest
        self._begin_round()
        self.first_op = self.base_op
        self._buckets = differing(self._base_digest, digest)

    def go_on(self) -> bool:
        """Send one further page, or the offer before `choose`; whether there is room for more."""
        if self.offered:
            state = self._state
            offer = OfferCopy(state.view, self.copy_id, state.configuration.number)
            state.send(self._device, offer)
            return False
        if self._complete or len(self._sent) >= self._window:
            return False
        if self._sent and not self._state.ports.copy_room():
            return False
        page = self._read_page()
        self._sent.append(page)
        self._pages += 1
        self._complete = page.is_last
        self._state.send(self._device, page)
        return not self._complete and len(self._sent) < self._window

    def repeat(self) -> None:
        """Something may have been lost: send the oldest page again, as it was.

        The next one where none is on its way: rows that could not be read may be readable again.
        """
        if self.offered or not self._sent:
            self.go_on()
        else:
            self._repeats += 1
            if self._repeats % _REPEATS_PER_HALVING == 0:
                self._window = max(1, self._window // 2)
            self._state.send(self._device, self._sent[0])

    def acknowledged(self, page: int) -> bool:
        """The pages up to this one are durable there; False when that is no news.

        What is on its way behind one that had to be repeated was lost as well, most likely.
        """
        if not self._sent or not self._sent[0].page <= page < self._pages:
            return False
        while self._sent and self._sent[0].page <= page:
            self._sent.popleft()
            self._window = min(self._window + 1, self._state.limits.copy_pages)
        if self._repeats:
            self._repeats = 0
            for one in self._sent:
                self._state.send(self._device, one)
        return True

    def _read_page(self) -> CopyPage:
        if self._start is None and not self._keys:
            changed = self._changed
            self._begin_round()
            self._keys.extend(sorted(changed))
        state, start, named = self._state, self._start or b"", self._start is None
        rows: Sequence[Write]
        if named:
            rows = self._read_keys()
        else:
            rows, self._start = state.log.rows(start, state.limits.page_bytes, self._buckets)
        is_last = self._start is None and not self._keys and self.keeps_log
        return CopyPage(
            state.view,
            self.copy_id,
            self._pages,
            self.base_op,
            self._base_view,
            state.applied_op,
            state.configuration.number,
            self._base_digest if is_last or not self._pages else b"",
            start,
            self._start or b"",
            self._buckets,
            is_last,
            named,
            rows,
        )

    def _read_keys(self) -> list[Write]:
        """What some of the keys of this round say now."""
        rows: list[Write] = []
        size = 0
        for key in self._keys:
            value = self._state.log.get(key)  # may raise: all these keys are still to come then
            rows.append((key, value))
            size += len(key) + len(value or b"")
            if size >= self._state.limits.page_bytes:
                break
        for _ in rows:
            self._keys.popleft()
        return rows
