"""Pages of rows: a range in byte order, rolled up at a delimiter and filtered by kind.

Pure: rows come from an iterator factory and stay encoded. Work is bounded by items returned, rows
looked at and bytes, whichever ends the page first.
"""

from collections.abc import Callable, Iterator
from typing import Final

from pinfold.cluster.api import Collapse
from pinfold.cluster.groups.entries import without_payload
from pinfold.codec import names
from pinfold.model.limits import MIB

RowIterator = Iterator[tuple[bytes, bytes]]
RowRange = Callable[[bytes, bytes | None], RowIterator]
"""(start, end) to rows of that range in order."""
RowSource = Callable[[bytes, bytes | None, bool], RowIterator]
"""(start, end, reverse) to rows of that range in order; see `RowStore.scan`."""

Items = list[tuple[bytes, bytes | None]]

LOOKED_AT_MAX: Final = 5_000
"""Rows one page looks at: some 5 ms of the event loop."""

PAGE_BYTES: Final = 2 * MIB
"""Values in one page; one more row may exceed it."""


SKIP_AFTER: Final = 8
"""Rows of one name passed over, one after the other, before the rest of them is jumped over: a jump
is a look-up, and costs about as much as these."""

_LATE_EVERY: Final = 16
"""Rows between two looks at the clock."""


def never() -> bool:
    """No page is late."""
    return False


def scan_page(
    source: RowSource,
    start: bytes,
    end: bytes | None,
    limit: int,
    *,
    collapse: Collapse | None = None,
    kinds: bytes | None = None,
    reverse: bool = False,
    payloads: bool = False,
    looked_at_max: int = LOOKED_AT_MAX,
    late: Callable[[], bool] = never,
) -> tuple[Items, bytes | None]:
    """(items, next_start) as `Rows.scan` documents them.

    A reversed page's `next_start` is the `end` of the next one. A page that is `late` ends early:
    the rows may have to come from a disk.
    """
    items: Items = []
    looked_at = size = 0
    wanted = None if kinds is None else _Kinds(kinds, collapse, reverse)
    position: bytes | None = end if reverse else start
    while True:
        rows = source(start, position, True) if reverse else source(position or b"", end, False)
        for key, value in rows:
            full = len(items) == limit or looked_at == looked_at_max or size >= PAGE_BYTES
            if full or (looked_at and looked_at % _LATE_EVERY == 0 and late()):
                return items, (key + b"\x00" if reverse else key)
            looked_at += 1
            if wanted is not None and not wanted.has(key):
                if wanted.passed == SKIP_AFTER:
                    position = wanted.beyond(key)
                    break
                continue
            rolled = collapse and rolled_up(key, collapse)
            if rolled:
                items.append((rolled, None))
                position = rolled if reverse else names.successor(rolled)
                break
            shown = value if payloads else without_payload(value)
            items.append((key, shown))
            size += len(shown)
        else:
            return items, None
        if position is None or (reverse and position <= start):
            return items, None
        if not reverse and end is not None and position >= end:
            return items, None


class _Kinds:
    """Which rows count: those whose byte behind the name's terminator is one of the kinds.

    The terminator is looked for from the collapse's prefix_length on, else from the key's start.
    """

    def __init__(self, kinds: bytes, collapse: Collapse | None, reverse: bool) -> None:
        self._kinds = sorted(kinds, reverse=reverse)
        self._from = collapse.prefix_length if collapse else 0
        self._reverse = reverse
        self._name = b""
        self.passed = 0
        """Rows of one name that did not count, one after the other."""

    def has(self, key: bytes) -> bool:
        """Whether a row counts."""
        at = self._kind_at(key)
        if 0 < at < len(key) and key[at] in self._kinds:
            self.passed = 0
            return True
        name = key[:at]
        self.passed = self.passed + 1 if name == self._name else 1
        self._name = name
        return False

    def beyond(self, key: bytes) -> bytes | None:
        """Where a scan goes on behind the rows of this key's name and kind: `start`, or `end`."""
        self.passed = 0
        at = self._kind_at(key)
        name = key[:at]
        if at >= len(key):
            return key if self._reverse else key + b"\0"
        for kind in self._kinds:
            if self._reverse and kind < key[at]:
                return name + bytes((kind + 1,))
            if not self._reverse and kind > key[at]:
                return name + bytes((kind,))
        return name if self._reverse else names.successor(name)

    def _kind_at(self, key: bytes) -> int:
        """Where the kind stands; the key's end when it has none."""
        end = key.find(names.TERMINATOR, self._from)
        return len(key) if end < 0 else end + len(names.TERMINATOR)


def rolled_up(key: bytes, collapse: Collapse) -> bytes | None:
    """What the key is rolled up to; None when its name has no delimiter behind the prefix.

    An empty delimiter rolls nothing up: such a collapse only says where names begin.
    """
    if not collapse.delimiter:
        return None
    end = key.find(names.TERMINATOR, collapse.prefix_length)
    found = key.find(collapse.delimiter, collapse.prefix_length, end if end >= 0 else len(key))
    return None if found < 0 else key[: found + len(collapse.delimiter)]
