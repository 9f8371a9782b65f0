"""Pages of names: what a bucket holds, in byte order of the names, rolled up at a delimiter.

A page shows every write acknowledged before it was asked for, because each shard's primary reads
its part from the rows themselves, and refuses when the names asked for are another's by then.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.cluster.api import Collapse, Row
from pinfold.codec import names
from pinfold.model.errors import Busy
from pinfold.objects import keys
from pinfold.objects.bucket import Bucket
from pinfold.objects.buckets import ATTEMPTS, Buckets
from pinfold.objects.records import ObjectRecord, UploadRecord, decode, encode
from pinfold.objects.shards import Shard, ShardRefused, ShardRows

SCAN_ITEMS: Final = 1000
"""Items asked of one scan."""

BODY_BYTES_KEPT: Final = 512
"""Bodies up to this are kept as they are: to make a smaller one costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name with its row, or a common prefix with none."""

    name: bytes
    row: Row | None
    """What a listing shows of it: without its places, headers, metadata and parts."""
    key: bytes

    def behind(self) -> bytes | None:
        """The position right behind all that the entry stands for; None when nothing can follow.

        Not the next entry's: another name may come to stand in between.
        """
        position = keys.position(self.key)
        return position + b"\x00" if self.row is not None else names.successor(position)


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

    def begins_at(self) -> bytes | None:
        """The position at which the scan starts; None: behind all names."""
        first = keys.prefix_position(self.prefix)
        if self.position:
            return max(first, self.position)
        if not self.after:
            return first
        if self.after_is_prefix():
            behind = names.successor(keys.prefix_position(self.after))
            return None if behind is None else max(first, behind)
        return max(first, keys.behind_position(self.after))

    def after_is_prefix(self) -> bool:
        """Whether `after` is itself a rolled-up prefix, so that all of its names were shown."""
        if not self.delimiter or not self.after.startswith(self.prefix):
            return False
        found = self.after.find(self.delimiter, len(self.prefix))
        return found >= 0 and found + len(self.delimiter) == len(self.after)


def _shown(row: Row, section: bytes) -> Row:
    """A row without what no listing shows.

    Places, parts and headers are a hundred times what is left, and a page holds a thousand rows.
    """
    body = row.body
    if len(body) > BODY_BYTES_KEPT:
        if section == keys.UPLOADS:
            upload = decode(UploadRecord, body)
            body = encode(msgspec.structs.replace(upload, headers=(), metadata=()))
        else:
            found = decode(ObjectRecord, body)
            body = encode(msgspec.structs.replace(found, headers=(), metadata=(), parts=()))
    return msgspec.structs.replace(row, body=body, blobs=())


class Listings:
    """Lists buckets' names."""

    def __init__(self, rows: ShardRows, buckets: Buckets) -> None:
        self._rows = rows
        self._buckets = buckets

    async def page(self, bucket: Bucket, query: Query, section: bytes = keys.OBJECTS) -> Listing:
        """Names that have rows in a section; NoSuchBucket, NotAllowed as from `Buckets.again`.

        The bucket may be the cache's: a page without entries is asked for again of the real one.
        """
        listing = await self._page(bucket, query, section)
        if listing.entries:
            return listing
        current = await self._buckets.again(bucket)
        return listing if current.life == bucket.life else await self._page(current, query, section)

    async def _page(self, bucket: Bucket, query: Query, section: bytes) -> Listing:
        """Shard by shard, each asked for what it holds; `position` is all that has been shown.

        When another life of the bucket's name is met on the way nothing has been shown of that.
        """
        if query.limit == 0:
            return Listing([], None)
        entries: list[Entry] = []
        position: bytes | None = query.begins_at()
        refusals = 0
        while position is not None and len(entries) <= query.limit:
            current, shard = await self._buckets.locate(bucket, position)
            if current.life == bucket.life:
                wanted = min(query.limit + 1 - len(entries), SCAN_ITEMS)
                try:
                    found, position = await self._part(shard, query, position, wanted, section)
                    entries += found
                    continue
                except ShardRefused as refused:
                    current = await self._buckets.rerouted(bucket, refused, refusals)
            if refusals == ATTEMPTS:
                raise Busy("the names keep moving")
            refusals += 1
            if current.life != bucket.life:
                entries, position = [], query.begins_at()
            bucket = current
        if len(entries) > query.limit:
            return Listing(entries[: query.limit], entries[query.limit - 1].behind())
        return Listing(entries, None)

    async def _part(
        self, shard: Shard, query: Query, position: bytes, wanted: int, section: bytes
    ) -> tuple[list[Entry], bytes | None]:
        """Up to `wanted` entries of one shard, and the position at which the rest begins."""
        prefix = keys.prefix_key(shard.id, section, query.prefix)
        collapse = None
        if query.delimiter:
            collapse = Collapse(len(prefix), names.escape(query.delimiter))
        _, shard_end = shard.key_range(section)
        end = min(shard_end, names.successor(prefix) or shard_end)
        start = keys.at_position(shard.id, section, position)
        if start >= end:
            return [], None
        page = await self._rows.scan(shard, start, end, wanted, collapse=collapse)
        entries = []
        for key, row in page.items:
            if row is None:
                entries.append(Entry(keys.rolled_up_name(key), None, key))
            else:
                entries.append(Entry(keys.object_name(key), _shown(row, section), key))
        if page.next_start is not None:
            return entries, keys.position(page.next_start)
        if shard.end is None or end < shard_end:
            return entries, None
        rest = keys.prefix_position(shard.end)
        if entries and entries[-1].row is None:  # its names may go on in the next shard
            behind = entries[-1].behind()
            return entries, None if behind is None else max(rest, behind)
        return entries, rest
