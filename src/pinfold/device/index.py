"""The ordered map behind the journal: changes visible at once, committed in batches.

Changes go to an overlay in memory. `seal` sets the overlay aside, `commit` writes it in a lane as
one durable transaction, and reads look at the newest overlay, then the sealed one, then the
engine, so they see every change from the moment it was put. Whoever commits flushes the journal
up to the seal first: the index never holds what the journal could still lose.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from sortedcontainers import SortedList

from pinfold.env.api import Offload

Change = tuple[bytes, bytes | None]
"""A key with its new value, or None to delete it."""


class MapFull(Exception):
    """The engine needs `grow` (on the loop, without an open scan) before it can commit."""


class Engine(Protocol):
    """An ordered durable map. `commit` runs in a lane, everything else on the loop."""

    def get(self, key: bytes) -> bytes | None: ...  # noqa: D102

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """start <= key < end, in byte order at any key length; sees one instant."""
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Apply all or nothing, durable on return. Keys ascend.

        Raises MapFull and NoRoom, after which the same commit may be tried again, and OSError.
        """
        ...

    def grow(self) -> bool:
        """Make room after MapFull; False when a scan is open and it must be tried later."""
        ...

    def close(self) -> None: ...  # noqa: D102


class _Overlay:
    """Changes not committed, by key; sorted only when somebody scans."""

    __slots__ = ("_fresh", "_sorted", "changes")

    def __init__(self) -> None:
        self.changes: dict[bytes, bytes | None] = {}
        self._sorted: SortedList[bytes] = SortedList()
        self._fresh: list[bytes] = []

    def put(self, key: bytes, value: bytes | None) -> None:
        if key not in self.changes:
            self._fresh.append(key)
        self.changes[key] = value

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Change]:
        if self._fresh:
            self._sorted.update(self._fresh)
            self._fresh.clear()
        changes = self.changes
        for key in self._sorted.irange(start, end, inclusive=(True, False), reverse=reverse):
            yield key, changes[key]


_ABSENT: Final = object()


class Index:
    """See the module."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._active = _Overlay()
        self._sealed: _Overlay | None = None
        self.pending_bytes = 0
        """Keys and values waiting for a commit, sealed ones excluded."""

    def get(self, key: bytes) -> bytes | None:
        """The newest value, or None."""
        found: object = self._active.changes.get(key, _ABSENT)
        if found is _ABSENT and self._sealed is not None:
            found = self._sealed.changes.get(key, _ABSENT)
        if found is _ABSENT:
            return self._engine.get(key)
        assert found is None or isinstance(found, bytes)
        return found

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set a key, or delete it with None; visible now, durable with the next commit."""
        self._active.put(key, value)
        self.pending_bytes += len(key) + (len(value) if value is not None else 0)

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end, in order, of one instant; not across an await."""
        rows: Iterator[Change] = self._engine.scan(start, end, reverse)
        for overlay in (self._sealed, self._active):
            if overlay is not None and overlay.changes:
                rows = _merge(overlay.scan(start, end, reverse), rows, reverse)
        for key, value in rows:
            if value is not None:
                yield key, value

    def seal(self) -> None:
        """Set aside what the next `commit` writes."""
        assert self._sealed is None, "one commit at a time"
        self._sealed, self._active = self._active, _Overlay()
        self.pending_bytes = 0

    async def commit(self, lane: Offload) -> None:
        """Write what was sealed as one transaction; durable when done.

        Raises NoRoom, and may be called again, and OSError.
        """
        assert self._sealed is not None, "seal first"
        changes = self._sealed.changes
        if changes:
            while await lane(_commit, self._engine, changes):
                self._engine.grow()
        self._sealed = None

    def close(self) -> None:
        """Close the engine; what was not committed is redone from the journal."""
        self._engine.close()


def _commit(engine: Engine, changes: dict[bytes, bytes | None]) -> bool:
    """Whether the engine must grow first."""
    try:
        engine.commit(sorted(changes.items()))
    except MapFull:
        return True
    return False


def _merge(upper: Iterator[Change], lower: Iterator[Change], reverse: bool) -> Iterator[Change]:
    """Both in order; of equal keys the upper one."""
    above, below = next(upper, None), next(lower, None)
    while above is not None and below is not None:
        if above[0] == below[0]:
            yield above
            above, below = next(upper, None), next(lower, None)
        elif (above[0] < below[0]) is not reverse:
            yield above
            above = next(upper, None)
        else:
            yield below
            below = next(lower, None)
    if above is not None:
        yield above
        yield from upper
    if below is not None:
        yield below
        yield from lower
