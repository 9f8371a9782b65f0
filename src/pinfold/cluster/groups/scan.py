"""Pages of rows: a range in byte order, rolled up at a delimiter.

Pure: rows come from an iterator factory and stay encoded. Each row looked at is an item, or stands
for all that is rolled up with it: so the items and bytes of a page bound its work.
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

PAGE_BYTES: Final = 2 * MIB
"""Values in one page; one more row may exceed it."""

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
    reverse: bool = False,
    payloads: bool = False,
    late: Callable[[], bool] = never,
) -> tuple[Items, bytes | None]:
    """(items, next_start) as `Rows.scan` documents them.

    A reversed page's `next_start` is the `end` of the next one. A page that is `late` ends early:
    the rows may have to come from a disk.
    """
    items: Items = []
    size = 0
    position: bytes | None = end if reverse else start
    while True:
        rows = source(start, position, True) if reverse else source(position or b"", end, False)
        for key, value in rows:
            full = len(items) == limit or size >= PAGE_BYTES
            if full or (items and len(items) % _LATE_EVERY == 0 and late()):
                return items, (key + b"\x00" if reverse else key)
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


def rolled_up(key: bytes, collapse: Collapse) -> bytes | None:
    """What the key is rolled up to; None when its name has no delimiter behind the prefix.

    An empty delimiter rolls nothing up: such a collapse only says where names begin.
    """
    if not collapse.delimiter:
        return None
    end = key.find(names.TERMINATOR, collapse.prefix_length)
    found = key.find(collapse.delimiter, collapse.prefix_length, end if end >= 0 else len(key))
    return None if found < 0 else key[: found + len(collapse.delimiter)]
