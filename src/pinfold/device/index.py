"""The ordered map behind the journal: changes visible at once, committed in batches.

Changes go to an overlay in memory. `seal` sets the overlay aside, `commit` writes it in a lane as
one durable transaction, and reads look at the newest overlay, then the sealed one, then the
engine, so they see every change from the moment it was put. Whoever commits flushes the journal
up to the seal first: the index never holds what the journal could still lose.

Every row is stored with a checksum of its key and value, and verified whenever it is read; that a
key is absent is believed only while the rows on either side of its place verify too, since a key
whose bits flipped is missed where it was. What fails is never given out: whoever reads hears
IndexDamaged, and the device is told (`watch`).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from sortedcontainers import SortedList
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from pinfold.device.api import IndexDamaged
from pinfold.env.api import Offload
from pinfold.model.errors import Unavailable

Change = tuple[bytes, bytes | None]
"""A key with its new value, or None to delete it."""


class MapFull(Exception):
    """The engine needs `grow` (on the loop, without an open scan) before it can commit."""


Watcher = Callable[[bytes], bool]
"""See `Index.watch`."""


REPAIRED_TABLES: Final = (b"r", b"b", b"q", b"e")
"""Tables (rows, blobs, quarantined blobs, extents) of which single rows are made good from other
devices. The rest says what the device promised, which is not guessed at: one of these rows that
fails keeps it from opening, as a lost index does."""


_BEHIND: Final = b"\xff" * 32
"""Behind every key of a table of `REPAIRED_TABLES`: their numbers and ids never begin so."""

GUARDS: Final = frozenset(key for one in REPAIRED_TABLES for key in (one, one + _BEHIND))
"""Rows without a value on either side of each of those tables: neighbours that nobody owns."""


class Rotten(IndexDamaged):
    """A stored row that fails its checksum; `key` is empty when the engine's own structure does."""

    def __init__(self, key: bytes, why: str = "") -> None:
        super().__init__(f"index: {why or f'the row {key.hex()} fails its checksum'}")
        self.key = key


GROW_RETRY_S: Final = 0.005
"""Pause before a commit that must wait for a scan to end: a scan lasts milliseconds."""

SUM_BYTES: Final = 8
"""What a row's checksum takes behind its value."""


def seal_row(key: bytes, value: bytes) -> bytes:
    """A value as it is stored: with its checksum, whose seed comes from the key."""
    return value + xxh3_64_digest(value, xxh3_64_intdigest(key))


def open_row(key: bytes, stored: bytes) -> bytes:
    """The inverse of `seal_row`. Raises Rotten."""
    value = stored[:-SUM_BYTES]
    if xxh3_64_digest(value, xxh3_64_intdigest(key)) != stored[-SUM_BYTES:]:
        raise Rotten(key)
    return value


def seal_rows(changes: Sequence[Change]) -> list[Change]:
    """Changes as an engine takes them."""
    return [(key, None if value is None else seal_row(key, value)) for key, value in changes]


class Engine(Protocol):
    """An ordered durable map of sealed rows. `commit` runs in a lane, the rest on the loop.

    What it gives out whoever asked verifies. What it only passes (the rows beside a key that is
    absent, or beside a range) it holds against `verify` itself. Raises Rotten.
    """

    verify: Callable[[bytes, bytes], object]

    def get(self, key: bytes) -> bytes | None:
        """None for a key that is absent, as the rows on either side of its place prove."""
        ...

    def scan(
        self, start: bytes, end: bytes | None, reverse: bool, *, proved: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        """start <= key < end, in byte order at any key length; sees one instant.

        `proved`: so do the rows on either side that no key of the range has left its place.
        """
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Apply all or nothing, durable on return. Keys ascend.

        Raises MapFull and NoRoom, after which the same commit may be tried again, and OSError.
        """
        ...

    def grow(self) -> bool:
        """Make room after MapFull; False when a scan is open and it must be tried later."""
        ...

    def spare_bytes(self) -> int:
        """What may be stored before its file grows."""
        ...

    def close(self) -> None: ...  # noqa: D102


class _Closed:
    """Stands where an engine was: who comes late hears of the closing, and not of damage."""

    def __init__(self, verify: Callable[[bytes, bytes], object]) -> None:
        self.verify = verify

    def get(self, key: bytes) -> bytes | None:
        raise Unavailable("the index is closed")

    def scan(
        self, start: bytes, end: bytes | None, reverse: bool, *, proved: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        raise Unavailable("the index is closed")

    def commit(self, changes: Sequence[Change]) -> None:
        raise Unavailable("the index is closed")

    def grow(self) -> bool:
        raise Unavailable("the index is closed")

    def spare_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is left to close."""


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

    def __init__(self, engine: Engine, *, lenient: bool = False) -> None:
        """`lenient` leaves rows out that fail, to look at what else there is."""
        self._engine: Engine = engine
        engine.verify = self._value
        self._lenient = lenient
        self._forgiven: set[bytes] = set()
        """Rows that failed and were given up: as good as absent, until a commit replaces them."""
        self._watchers: dict[bytes, Watcher] = {}
        self._active = _Overlay()
        self._sealed: _Overlay | None = None
        self.pending_bytes = 0
        """Keys and values waiting for a commit, sealed ones excluded."""

    def guard(self) -> None:
        """Have the guards where they belong, whatever became of them, with the next commit."""
        for key in GUARDS:
            self.put(key, b"")

    def get(self, key: bytes) -> bytes | None:
        """The newest value, or None."""
        found: object = self._active.changes.get(key, _ABSENT)
        if found is _ABSENT and self._sealed is not None:
            found = self._sealed.changes.get(key, _ABSENT)
        if found is _ABSENT:
            return self._stored(key)
        assert found is None or isinstance(found, bytes)
        return found

    def watch(self, table: bytes, watcher: Watcher) -> None:
        """Have `watcher(key)` called when a row of a table fails, before whoever reads it hears.

        True when it has given the row up, by a change of its key: then it is as good as absent. An
        empty table is all that nobody else watches, an empty key the structure of the whole.
        """
        self._watchers[table] = watcher

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set a key, or delete it with None; visible now, durable with the next commit."""
        self._active.put(key, value)
        self.pending_bytes += len(key) + (len(value) if value is not None else 0)

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end, in order, of one instant; not across an await."""
        rows: Iterator[Change] = self._opened(start, end, reverse)
        for overlay in (self._sealed, self._active):
            if overlay is not None and overlay.changes:
                rows = _merge(overlay.scan(start, end, reverse), rows, reverse)
        for key, value in rows:
            if value or (value is not None and key not in GUARDS):
                yield key, value

    def durable(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs that no later change has deleted, as for `scan`."""
        for key, value in self._opened(start, end, False):
            if all(
                overlay is None or overlay.changes.get(key, value) is not None
                for overlay in (self._sealed, self._active)
            ):
                yield key, value

    def keys(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """Keys of a range, in order, whatever their values are: for whoever deletes them."""
        rows: Iterator[Change] = self._engine.scan(start, end, False, proved=False)
        for overlay in (self._sealed, self._active):
            if overlay is not None and overlay.changes:
                rows = _merge(overlay.scan(start, end, False), rows, False)
        try:
            yield from (key for key, value in rows if value is not None and key not in GUARDS)
        except Rotten as rotten:
            raise self._report(rotten) from None

    def rotten(self) -> Iterator[bytes]:
        """The keys of all stored rows that fail, or that stand where nobody finds them."""
        engine = self._engine
        try:
            for key, stored in engine.scan(b"", None, False):
                try:
                    open_row(key, stored)
                    lost = engine.get(key) is None
                except Rotten:
                    lost = True
                if lost:
                    yield key
        except Rotten as rotten:
            yield rotten.key

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
                if not self._engine.grow():
                    await asyncio.sleep(GROW_RETRY_S)
            self._forgiven.difference_update(changes)
        self._sealed = None

    def spare_bytes(self) -> int:
        """What may be stored before the index takes more of the file system."""
        return self._engine.spare_bytes()

    def close(self) -> None:
        """Close the engine; what was not committed is redone from the journal.

        From now on what asks it raises Unavailable.
        """
        self._engine.close()
        self._engine = _Closed(self._value)

    def _stored(self, key: bytes) -> bytes | None:
        """The committed value, verified."""
        try:
            stored = self._engine.get(key)
            return None if stored is None else self._value(key, stored)
        except Rotten as rotten:
            raise self._report(rotten) from None

    def _opened(
        self, start: bytes, end: bytes | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs of a range, verified."""
        try:
            for key, stored in self._engine.scan(start, end, reverse):
                value = self._value(key, stored)
                if value is not None:
                    yield key, value
        except Rotten as rotten:
            raise self._report(rotten) from None

    def _value(self, key: bytes, stored: bytes) -> bytes | None:
        """What was stored; of a row that fails and was given up, what it was given up for.

        Raises Rotten.
        """
        try:
            return open_row(key, stored)
        except Rotten:
            if key not in self._forgiven:
                if not self._lenient and not self._give_up(key):
                    raise
                self._forgiven.add(key)
            return self._active.changes.get(key)

    def _give_up(self, key: bytes) -> bool:
        """Whether the table's watcher has given a row up. Raises Rotten for a displaced one."""
        if key in GUARDS:
            self.put(key, b"")
            return True
        here = self._engine.scan(key, key + b"\0", False, proved=False)
        if next(iter(here), None) is None:
            raise Rotten(b"", f"the row {key.hex()} stands where nobody finds it")
        return self._watcher_of(key)(key)

    def _watcher_of(self, key: bytes) -> Watcher:
        return self._watchers.get(key[:1]) or self._watchers.get(b"", _nobody)

    def _report(self, rotten: Rotten) -> IndexDamaged:
        if not rotten.key:
            self._watcher_of(b"")(b"")
        return IndexDamaged(rotten.message)


def _nobody(_key: bytes) -> bool:
    """Gives nothing up."""
    return False


def _commit(engine: Engine, changes: dict[bytes, bytes | None]) -> bool:
    """Whether the engine must grow first."""
    try:
        engine.commit(seal_rows(sorted(changes.items())))
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
