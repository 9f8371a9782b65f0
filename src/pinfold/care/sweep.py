"""Which of the blobs held here no row names, decided so that a named one is never among them.

The rule of these: no I/O and no clock. A `Sweep` asks every group for its names and then whether
anything moved meanwhile; `Suspects` takes what two sweeps, an hour apart, have found unnamed.

Why it is safe. Let T be the end of the last page of a sweep's last group. Each group's token is
read again after T and is what it was when the group's first page was read; so between the two no
old blob came to be named by another row of that group, and a row that names one at T named it when
its page was read. An old blob that no page named is thus unnamed at T, and remains so: a primary
names an old blob only if a row does already (in the same change, or in the group that its row is
carried from). Old enough are blobs whose stamp is `grace` before every time of day that was met:
the own clock's, and the groups', which no single clock decides (`groups.walltime`).
With clocks wrong by 12 h at most, 72 h by one of them are 48 h by any other, twice what the
primaries allow. Slow uploads, changes in flight, views that end and rows that move between groups
all come out as one of: a young blob, a name that is met, a token that differs. Whatever cannot be
asked ends nothing: until all groups have answered there is no verdict.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pinfold.care.namefilter import NameFilter
from pinfold.care.names import NamesPage, Token
from pinfold.cluster.api import blob_stamp_ms
from pinfold.model.errors import Busy
from pinfold.model.ids import BlobId, DeviceId, GroupId

RESCANS_MAX: Final = 100
"""Groups that a sweep reads again because names moved; then it is given up, and nothing decided."""

SUSPECTS_MAX: Final = 65_536
"""Blobs suspected at a time, some 200 bytes each; others are when these are gone."""

Held = tuple[DeviceId, BlobId]


@dataclass(slots=True)
class Sweep:
    """One look at all rows of all groups, a page at a time."""

    groups: Sequence[GroupId]
    names: NameFilter
    began: float
    """On the monotonic clock."""
    oldest_ms: int
    """The lowest time of day met."""
    _unread: list[GroupId] = field(init=False)
    _unproved: list[GroupId] = field(init=False)
    _tokens: dict[GroupId, Token] = field(default_factory=dict)
    _start: bytes = b""
    _rescans: int = 0

    def __post_init__(self) -> None:
        assert self.groups, "without groups nothing would be named"
        self._unread = list(reversed(self.groups))
        self._unproved = []

    @property
    def question(self) -> tuple[GroupId, bytes, bool] | None:
        """(group, where the page begins, whether only its token is wanted); None: all is known."""
        if self._unread:
            return self._unread[-1], self._start, False
        return (self._unproved[-1], b"", True) if self._unproved else None

    def answered(self, page: NamesPage) -> None:
        """Take the answer to `question`. Busy when the sweep is to be given up."""
        self.oldest_ms = min(self.oldest_ms, page.wall_ms)
        self.names.add(page.blobs)
        if self._unread:
            self._read(page)
        else:
            group = self._unproved.pop()
            if page.token != self._tokens[group]:
                self._rescan(group)

    def unnamed(self, blob: bytes, grace_ms: int) -> bool:
        """Whether a blob is old and no row names it, now and ever."""
        assert self.question is None, "a verdict needs all answers"
        old = blob_stamp_ms(BlobId(blob)) < self.oldest_ms - grace_ms
        return old and blob not in self.names

    def _read(self, page: NamesPage) -> None:
        group = self._unread[-1]
        if not self._start:
            self._tokens[group] = page.token
        elif page.token != self._tokens[group]:
            self._unread.pop()
            self._rescan(group)
            return
        self._start = page.next_start or b""
        if page.next_start is None:
            self._unread.pop()
            if not self._unread:
                self._unproved = list(self.groups)

    def _rescan(self, group: GroupId) -> None:
        """Names have moved: read the group again, and after that ask everybody once more."""
        self._rescans += 1
        if self._rescans > RESCANS_MAX:
            raise Busy("names keep moving between rows")
        self._unread.append(group)
        self._start = b""
        self._unproved = []


@dataclass(slots=True)
class Suspects:
    """Blobs that the latest sweep found unnamed, and since when."""

    recheck_s: float
    _since: dict[Held, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._since)

    def judge(self, began: float, unnamed: Iterable[Held]) -> list[Held]:
        """A sweep that began then has found these; those to collect: found long ago already.

        Whatever the sweep did not find is suspected no more.
        """
        since = {held: self._since.get(held, began) for held in unnamed}
        self._since = since
        return [held for held, first in since.items() if began - first >= self.recheck_s]

    def next_sweep_s(self, began: float) -> float | None:
        """How long after `began` the next sweep can convict somebody; None without suspects."""
        if not self._since:
            return None
        return max(0.0, min(self._since.values()) + self.recheck_s - began)
