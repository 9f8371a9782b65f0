"""Buckets of many shards as S3 clients see them: as one."""

import asyncio

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from pinfold.objects.shards import Shard
from tests.s3.world import TINY, World

NAMES = [f"dir{number % 3}/{number:02}" for number in range(15)]

SPLITTING = msgspec.structs.replace(
    TINY, objects=msgspec.structs.replace(TINY.objects, shard_rows_max=3, split_range_rows=2)
)


async def filled(registry: CollectorRegistry | None = None) -> World:
    world = await World(SPLITTING, registry).begin()
    for name in NAMES:
        assert (await world.call("PUT", f"/bucket/{name}", name.encode())).status == 200
        world.clock.advance(1)
        await world.service.store.splitter.pass_once()
    assert len(await shards(world)) >= 4
    return world


async def shards(world: World) -> list[Shard]:
    buckets = world.service.store.buckets
    return [shard async for shard in buckets.shards(await buckets.get("bucket"))]


def test_listings_show_the_shards_as_one_bucket() -> None:
    async def run() -> None:
        world = await filled()
        shown = await world.call("GET", "/bucket")
        assert shown.texts("Contents/Key") == sorted(NAMES)
        rolled = await world.call("GET", "/bucket", query="delimiter=%2F&list-type=2")
        assert rolled.texts("CommonPrefixes/Prefix") == ["dir0/", "dir1/", "dir2/"]
        assert rolled.texts("KeyCount") == ["3"]
        paged: list[str] = []
        query = "list-type=2&max-keys=2&prefix=dir1%2F"
        while True:
            page = await world.call("GET", "/bucket", query=query)
            paged += page.texts("Contents/Key")
            following = page.texts("NextContinuationToken")
            if not following:
                break
            token = following[0].replace("=", "%3D")
            query = f"continuation-token={token}&list-type=2&max-keys=2&prefix=dir1%2F"
        assert paged == sorted(name for name in NAMES if name.startswith("dir1/"))

    asyncio.run(run())


def test_a_bucket_of_many_shards_is_deleted_when_all_are_empty() -> None:
    async def run() -> None:
        world = await filled()
        for name in NAMES:
            assert (await world.call("DELETE", "/bucket")).code == "BucketNotEmpty"
            assert (await world.call("GET", f"/bucket/{name}")).body == name.encode()
            assert (await world.call("DELETE", f"/bucket/{name}")).status == 204
        assert (await world.call("DELETE", "/bucket")).status == 204
        assert (await world.call("PUT", f"/bucket/{NAMES[0]}", b"x")).code == "NoSuchBucket"

    asyncio.run(run())


def test_splits_are_counted() -> None:
    async def run() -> None:
        registry = CollectorRegistry()
        world = await filled(registry)
        first, *others = await shards(world)
        text = generate_latest(registry).decode()
        assert f"pinfold_s3_splits_total {len(others)}.0" in text
        assert "pinfold_s3_buckets_splitting 0.0" in text
        await world.service.store.buckets.mover.begin(first, until=b"dir0/01", rows=9)
        await world.service.store.buckets.get("bucket")
        assert "pinfold_s3_buckets_splitting 1.0" in generate_latest(registry).decode()

    asyncio.run(run())


def test_uploads_of_all_shards_are_listed_page_by_page_in_order() -> None:
    async def run() -> None:
        world = await filled()
        began = []
        for name in (NAMES[0], NAMES[7], NAMES[7], NAMES[14], "dir1/", "zzz"):
            opened = await world.call("POST", f"/bucket/{name}", query="uploads=")
            began.append((name, opened.texts("UploadId")[0]))
        await world.call("PUT", "/bucket/zzz", b"p", query=f"partNumber=1&uploadId={began[-1][1]}")
        assert len(await shards(world)) >= 4
        listed: list[tuple[str, str]] = []
        query = "max-uploads=2&uploads="
        while True:
            page = await world.call("GET", "/bucket", query=query)
            listed += zip(page.texts("Upload/Key"), page.texts("Upload/UploadId"), strict=True)
            if page.texts("IsTruncated") == ["false"]:
                break
            key, upload = page.texts("NextKeyMarker")[0], page.texts("NextUploadIdMarker")[0]
            key = key.replace("/", "%2F")
            query = f"key-marker={key}&max-uploads=2&upload-id-marker={upload}&uploads="
        assert listed == sorted(began)
        rolled = await world.call("GET", "/bucket", query="delimiter=%2F&uploads=")
        prefixes = sorted({name.partition("/")[0] + "/" for name, _ in began} - {"zzz/"})
        assert rolled.texts("CommonPrefixes/Prefix") == prefixes
        assert rolled.texts("Upload/Key") == ["zzz"]

    asyncio.run(run())
