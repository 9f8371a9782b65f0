"""Bring back a member that is behind the log: its rows are replaced, page by page.

The pages are read at different instants while changes go on; the log keeps every entry after the
first page's instant, and replaying those makes the copy exact (see `CopyPage`). One page is on
its way at a time, so a copy takes one page's memory and yields to everything else.

The copy is offered first. The member answers with the digest of its rows, and only the buckets that
differ from the primary's at base_op are copied: an equal bucket saw no write that the member lacks.
Writes behind base_op are replayed whatever their bucket. A member whose rows are of no use (a copy
cut short, a digest not known) gets them all.
"""

from pinfold.cluster.groups.messages import CopyPage, OfferCopy
from pinfold.cluster.groups.state import MemberState
from pinfold.codec.digests import differing
from pinfold.model.ids import DeviceId


class CopyOut:
    """A copy on its way to one follower."""

    def __init__(self, state: MemberState, device: DeviceId, copy_id: int) -> None:
        self._state = state
        self._device = device
        self.copy_id = copy_id
        self.page = 0
        self.base_op = state.applied_op
        base_view = state.log.view_at(state.applied_op)
        assert base_view is not None or not self.base_op, "the view of the applied op is known"
        self._base_view = base_view or 0
        self._base_digest = state.log.digest()
        self.offered = True
        """The member has not yet told its digest."""
        self.told = b""
        """The digest that the pages rely on."""
        self._buckets = b""
        self._start: bytes | None = b""
        """Where the next page starts; None behind the last one."""
        self._sent: CopyPage | None = None

    def choose(self, digest: bytes) -> None:
        """The member has told its digest: the copy begins."""
        self.offered, self.told = False, digest
        self._buckets = differing(self._base_digest, digest)

    def send_page(self) -> None:
        """Send the page that is due, or the offer before `choose`.

        When repeated it is the very same page: it ends where the next one starts, whichever of its
        repetitions the follower has installed.
        """
        if self.offered:
            state = self._state
            offer = OfferCopy(state.view, self.copy_id, state.configuration.number)
            state.send(self._device, offer)
            return
        page = self._sent
        if page is None:
            page = self._sent = self._read_page()
        self._state.send(self._device, page)

    def _read_page(self) -> CopyPage:
        state = self._state
        assert self._start is not None, "a page is due"
        start = self._start
        rows, self._start = state.log.rows(start, state.limits.page_bytes, self._buckets)
        return CopyPage(
            state.view,
            self.copy_id,
            self.page,
            self.base_op,
            self._base_view,
            state.applied_op,
            state.configuration.number,
            self._base_digest if self._start is None else b"",
            start,
            self._start or b"",
            self._buckets,
            self._start is None,
            rows,
        )

    def advance(self) -> bool:
        """The page is durable there: go to the next one. False when that was the last."""
        if self._start is None:
            return False
        self._sent = None
        self.page += 1
        return True
