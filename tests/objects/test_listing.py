"""Listings against a naive twin: all names and prefixes, once, in order, whatever the page size."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.cluster.api import Page
from pinfold.model.settings import ObjectSettings
from pinfold.objects import keys
from pinfold.objects.listing import Query
from pinfold.objects.records import ObjectRecord, Part, UploadRecord, decode
from tests.twins.store import MemoryStore

NAMES = st.text("ab/\x00\x01é", min_size=1, max_size=6)


def naive(names: set[str], prefix: str, delimiter: str, after: str) -> list[str]:
    """Every name or common prefix to be listed, in byte order."""
    found: set[bytes] = set()
    for name in names:
        if not name.startswith(prefix):
            continue
        at = name.find(delimiter, len(prefix)) if delimiter else -1
        rolled = name[: at + len(delimiter)] if at >= 0 else name
        is_prefix = at >= 0
        # A prefix is shown while a name in it is above the marker, unless the marker is a prefix
        # that was shown itself.
        if is_prefix and after_is_rolled(after, prefix, delimiter):
            shown = rolled.encode() > after.encode()
        else:
            shown = name.encode() > after.encode()
        if shown and not (after_is_rolled(after, prefix, delimiter) and name.startswith(after)):
            found.add(rolled.encode())
    return [name.decode() for name in sorted(found)]


def after_is_rolled(after: str, prefix: str, delimiter: str) -> bool:
    if not delimiter or not after.startswith(prefix):
        return False
    at = after.find(delimiter, len(prefix))
    return at >= 0 and at + len(delimiter) == len(after)


@settings(max_examples=150)
@given(
    st.sets(NAMES, max_size=12),
    st.sampled_from(["", "a", "a/", "b\x00"]),
    st.sampled_from(["", "/", "a", "/a"]),
    st.just("") | NAMES,
    st.integers(1, 4),
)
def test_pages_are_what_the_naive_twin_lists(
    names: set[str], prefix: str, delimiter: str, after: str, limit: int
) -> None:
    async def run() -> None:
        store = MemoryStore()
        store.rows.rows_looked_at_max = 3
        bucket = await store.bucket()
        for name in names:
            await store.put(bucket, name, b"")
        wanted = naive(names, prefix, delimiter, after)
        for by_marker in (False, True):
            listed: list[str] = []
            position, marker = b"", after
            while True:
                query = Query(
                    prefix=prefix.encode(),
                    delimiter=delimiter.encode(),
                    after=marker.encode(),
                    position=position,
                    limit=limit,
                )
                page = await store.listings.page(bucket, query)
                assert len(page.entries) <= limit
                listed += [entry.name.decode() for entry in page.entries]
                if page.next_position is None:
                    break
                assert len(listed) <= len(wanted), "a listing that goes round in circles"
                assert len(page.entries) == limit, "only the last page is short"
                if by_marker:
                    marker = page.entries[-1].name.decode()
                else:
                    position = page.next_position
            assert listed == wanted

    asyncio.run(run())


def test_nothing_is_asked_of_a_page_of_nothing() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "a", b"")
        page = await store.listings.page(bucket, Query(limit=0))
        assert page.entries == []
        assert page.next_position is None

    asyncio.run(run())


def test_a_name_put_between_two_pages_is_not_skipped() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        for name in ("a", "b/1", "d"):
            await store.put(bucket, name, b"")
        first = await store.listings.page(bucket, Query(delimiter=b"/", limit=1))
        await store.put(bucket, "aa", b"")
        assert first.next_position is not None
        query = Query(delimiter=b"/", position=first.next_position, limit=2)
        second = await store.listings.page(bucket, query)
        assert [entry.name for entry in second.entries] == [b"aa", b"b/"]
        await store.put(bucket, "c", b"")
        assert second.next_position is not None
        query = Query(delimiter=b"/", position=second.next_position, limit=2)
        third = await store.listings.page(bucket, query)
        assert [entry.name for entry in third.entries] == [b"c", b"d"]

    asyncio.run(run())


def test_listing_one_kind_reads_no_row_of_another() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        for number in range(50):
            await store.put(bucket, f"k{number:02}", b"x")
        upload = await store.multipart.open(bucket, b"k25", UploadRecord("alice"))
        found = await store.multipart.find(bucket, b"k25", upload)
        for number in range(1, 51):
            staged = await store.stage(b"p")
            await store.multipart.put_part(found, number, staged)
        honest, read = store.rows.scan, 0

        async def scan(*arguments: Any, **options: Any) -> Page:
            nonlocal read
            page = await honest(*arguments, **options)
            read += len(page.items)
            return page

        store.rows.scan = scan  # type: ignore[method-assign]
        uploads = await store.listings.page(bucket, Query(limit=1000), keys.UPLOADS)
        assert [entry.name for entry in uploads.entries] == [b"k25"]
        assert read == 1
        assert len((await store.listings.page(bucket, Query(limit=1000))).entries) == 50
        assert read == 51

    asyncio.run(run())


def test_a_page_of_large_rows_keeps_what_it_shows_and_no_more() -> None:
    """A row may take a mebibyte, of places of parts and of headers; a page has a thousand."""
    parts = tuple(Part(number, 8 << 20, 1, bytes(8)) for number in range(1, 3001))
    bulky = ObjectRecord(
        "e-3000", 3000 << 23, "bob", (("Content-Type", "x" * 5000),), (("a", "b"),), parts=parts
    )
    opened = UploadRecord("bob", (("Content-Type", "x" * 5000),), algorithm="crc32")

    async def run() -> None:
        store = MemoryStore(ObjectSettings())
        bucket = await store.bucket()
        staged = await store.stage(b"x" * 5000)
        await store.objects.put(bucket, b"large", bulky, staged)
        await store.multipart.open(bucket, b"large", opened)
        entry = (await store.listings.page(bucket, Query(limit=10))).entries[0]
        assert entry.row is not None
        shown = decode(ObjectRecord, entry.row.body)
        assert (shown.etag, shown.size, shown.owner) == (bulky.etag, bulky.size, "bob")
        assert len(entry.row.body) < 100
        assert entry.row.blobs == ()
        assert entry.row.stamp_ms
        entry = (await store.listings.page(bucket, Query(limit=10), keys.UPLOADS)).entries[0]
        assert entry.row is not None
        assert decode(UploadRecord, entry.row.body).algorithm == "crc32"
        assert len(entry.row.body) < 100

    asyncio.run(run())
