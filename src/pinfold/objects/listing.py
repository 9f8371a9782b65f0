"""Pages of names: what a bucket holds, in byte order of the names, rolled up at a delimiter.

A page shows every write acknowledged before it was asked for, because the shard's primary reads it
from the rows themselves.
"""

from dataclasses import dataclass
from typing import Final

from pinfold.cluster.api import Collapse, Row, Rows
from pinfold.codec import names
from pinfold.objects import keys
from pinfold.objects.buckets import Bucket, Buckets

SCAN_ITEMS: Final = 1000
"""Items asked of one scan."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name with its row, or a common prefix with none."""

    name: bytes
    row: Row | None
    key: bytes


@dataclass(frozen=True, slots=True)
class Listing:
    """One page. `next_position` is where the following one starts, None when this is the last."""

    entries: list[Entry]
    next_position: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to list."""

    prefix: bytes = b""
    delimiter: bytes = b""
    after: bytes = b""
    """List only names and prefixes above this one."""
    position: bytes = b""
    """A former page's `next_position`; goes before `after`."""
    limit: int

    def begins_at(self, shard: bytes) -> bytes:
        """The key at which the scan starts."""
        first = keys.prefix_key(shard, self.prefix)
        if self.position:
            return max(first, keys.at_position(shard, self.position))
        if not self.after:
            return first
        if self.after_is_prefix():
            behind = names.successor(keys.prefix_key(shard, self.after))
            assert behind is not None
            return max(first, behind)
        return max(first, keys.behind_name(shard, self.after))

    def after_is_prefix(self) -> bool:
        """Whether `after` is itself a rolled-up prefix, so that all of its names were shown."""
        if not self.delimiter or not self.after.startswith(self.prefix):
            return False
        found = self.after.find(self.delimiter, len(self.prefix))
        return found >= 0 and found + len(self.delimiter) == len(self.after)


class Listings:
    """Lists buckets' names."""

    def __init__(self, rows: Rows, buckets: Buckets) -> None:
        self._rows = rows
        self._buckets = buckets

    async def page(self, bucket: Bucket, query: Query, kind: int = keys.KIND_OBJECT) -> Listing:
        """Names that have a row of `kind`; NoSuchBucket.

        The bucket may be the cache's: a page without entries is asked for again of the real one.
        """
        listing = await self._page(bucket, query, kind)
        if listing.entries:
            return listing
        current = await self._buckets.get(bucket.name)
        return listing if current.shard == bucket.shard else await self._page(current, query, kind)

    async def _page(self, bucket: Bucket, query: Query, kind: int) -> Listing:
        if query.limit == 0:
            return Listing([], None)
        prefix = keys.prefix_key(bucket.shard, query.prefix)
        collapse = None
        if query.delimiter:
            collapse = Collapse(len(prefix), names.escape(query.delimiter))
        position: bytes | None = query.begins_at(bucket.shard)
        end = names.successor(prefix)
        entries: list[Entry] = []
        while position is not None:
            wanted = query.limit + 1 - len(entries)
            page = await self._rows.scan(
                bucket.place,
                position,
                end,
                min(wanted, SCAN_ITEMS),
                collapse=collapse,
                kinds=bytes((kind,)),
            )
            for key, row in page.items:
                if len(entries) == query.limit:
                    return Listing(entries, keys.position(key))
                name = keys.rolled_up_name(key) if row is None else keys.object_name(key)
                entries.append(Entry(name, row, key))
            position = page.next_start
        return Listing(entries, None)
