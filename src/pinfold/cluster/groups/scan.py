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
) -> tuple[Items, bytes | None]:
    """(items, next_start) as `Rows.scan` documents them.

    A reversed page's `next_start` is the `end` of the next one.
    """
    items: Items = []
    looked_at = size = 0
    position: bytes | None = end if reverse else start
    while True:
        rows = source(start, position, True) if reverse else source(position or b"", end, False)
        for key, value in rows:
            if len(items) == limit or looked_at == looked_at_max or size >= PAGE_BYTES:
                return items, (key + b"\x00" if reverse else key)
            looked_at += 1
            if kinds is not None and not kind_in(key, kinds, collapse):
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


def kind_in(key: bytes, kinds: bytes, collapse: Collapse | None) -> bool:
    """Whether the byte behind the name's terminator is among `kinds`.

    The terminator is looked for from the collapse's prefix_length on, else from the key's start.
    """
    end = key.find(names.TERMINATOR, collapse.prefix_length if collapse else 0)
    at = end + len(names.TERMINATOR)
    return end >= 0 and at < len(key) and key[at] in kinds


def rolled_up(key: bytes, collapse: Collapse) -> bytes | None:
    """What the key is rolled up to; None when its name has no delimiter behind the prefix.

    An empty delimiter rolls nothing up: such a collapse only says where names begin.
    """
    if not collapse.delimiter:
        return None
    end = key.find(names.TERMINATOR, collapse.prefix_length)
    found = key.find(collapse.delimiter, collapse.prefix_length, end if end >= 0 else len(key))
    return None if found < 0 else key[: found + len(collapse.delimiter)]
