"""Multipart uploads: complete is one change, repeatable, and no part is lost or kept by mistake."""

import asyncio
import hashlib

import pytest

from pinfold.model.errors import Conflict
from pinfold.objects import digests, keys
from pinfold.objects.bucket import Bucket, BucketNotEmpty
from pinfold.objects.conditions import ANY, Conditions, PreconditionFailed
from pinfold.objects.multipart import (
    NamedPart,
    NoSuchUpload,
    PartMissing,
    PartOrder,
    PartTooSmall,
    StoredPart,
)
from pinfold.objects.records import ObjectRecord, UploadRecord
from tests.twins.store import MemoryStore

NAME = b"o"


class Uploading:
    """One upload under way."""

    def __init__(self, store: MemoryStore, bucket: Bucket, upload: bytes) -> None:
        self.store = store
        self.bucket = bucket
        self.id = upload

    @classmethod
    async def begin(cls, record: UploadRecord | None = None) -> "Uploading":
        store = MemoryStore()
        store.multipart.part_bytes_min = 100
        bucket = await store.bucket()
        upload = await store.multipart.open(bucket, NAME, record or UploadRecord("alice"))
        return cls(store, bucket, upload)

    async def part(self, number: int, content: bytes) -> StoredPart:
        upload = await self.store.multipart.find(self.bucket, NAME, self.id)
        staged = await self.store.stage(content, (upload.algorithm,))
        return await self.store.multipart.put_part(upload, number, staged)

    async def complete(
        self, *parts: StoredPart, conditions: Conditions | None = None
    ) -> ObjectRecord:
        named = [NamedPart(part.number, part.etag, {}) for part in parts]
        return await self.store.multipart.complete(
            self.bucket, NAME, self.id, named, conditions or Conditions()
        )


@pytest.mark.parametrize(
    "sizes", [(0,), (10,), (3000,), (6000,), (200, 10), (5000, 9000, 1), (100, 0)]
)
def test_the_object_is_its_parts_in_order(sizes: tuple[int, ...]) -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        contents = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
        numbers = [3 * index + 1 for index in range(len(sizes))]
        stored = {
            number: await upload.part(number, content)
            for number, content in reversed(list(zip(numbers, contents, strict=True)))
        }
        record = await upload.complete(*(stored[number] for number in numbers))
        whole = b"".join(contents)
        md5s = b"".join(hashlib.md5(content).digest() for content in contents)
        assert record.etag == f"{hashlib.md5(md5s).hexdigest()}-{len(sizes)}"
        assert await upload.store.read(upload.bucket, "o") == whole
        assert record.checksum is not None
        assert record.checksum.value == digests.checksum_of(digests.CRC64NVME, whole)
        assert [part.size for part in record.parts] == list(sizes)
        usage = await upload.store.buckets.usage(upload.bucket)
        assert (usage.rows, usage.size) == (1, len(whole))
        start, end = keys.shard_range(upload.bucket.life)
        left = [key for key in upload.store.rows if start <= key < end]
        assert left == [keys.object_key(upload.bucket.life, NAME)]

    asyncio.run(run())


def test_parts_that_are_not_named_and_parts_replaced_are_freed() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        await upload.part(1, b"a" * 5000)
        wanted = await upload.part(1, b"b" * 5000)
        await upload.part(2, b"c" * 5000)
        await upload.complete(wanted)
        assert upload.store.blobs.named() == {blob.id for blob in wanted.blobs}
        assert await upload.store.read(upload.bucket, "o") == b"b" * 5000

    asyncio.run(run())


def test_repeating_a_complete_answers_the_same_until_the_object_is_another() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        part = await upload.part(1, b"a" * 5000)
        first = await upload.complete(part)
        assert await upload.complete(part) == first
        await upload.store.put(upload.bucket, "o", b"another")
        with pytest.raises(NoSuchUpload):
            await upload.complete(part)

    asyncio.run(run())


def test_a_part_replaced_while_completing_is_not_named_by_its_former_blobs() -> None:
    """Without the touch row's check the object would name blobs that are being freed."""

    async def run() -> None:
        upload = await Uploading.begin()
        store = upload.store
        part = await upload.part(1, b"a" * 5000)
        honest, raced = store.rows.scan, False

        async def scan(*arguments: object, **named: object) -> object:
            nonlocal raced
            page = await honest(*arguments, **named)  # type: ignore[arg-type]
            if not raced:
                raced = True
                await upload.part(1, b"b" * 5000)
            return page

        store.rows.scan = scan  # type: ignore[method-assign,assignment]
        with pytest.raises(PartMissing):
            await upload.complete(part)
        store.rows.scan = honest  # type: ignore[method-assign]
        again = await upload.part(1, b"c" * 5000)
        await upload.complete(again)
        assert await store.read(upload.bucket, "o") == b"c" * 5000
        assert store.blobs.named() == {blob.id for blob in again.blobs}

    asyncio.run(run())


def test_abort_frees_all_and_closes() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        part = await upload.part(1, b"a" * 5000)
        with pytest.raises(BucketNotEmpty):
            await upload.store.delete_bucket()
        await upload.store.abort_upload(upload.bucket, NAME, upload.id)
        assert upload.store.blobs.named() == set()
        for call in (
            upload.part(2, b""),
            upload.complete(part),
            upload.store.abort_upload(upload.bucket, NAME, upload.id),
        ):
            with pytest.raises(NoSuchUpload):
                await call
        await upload.store.delete_bucket()

    asyncio.run(run())


def test_a_part_that_comes_after_the_abort_is_refused_and_given_back() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        found = await upload.store.multipart.find(upload.bucket, NAME, upload.id)
        staged = await upload.store.stage(b"a" * 5000, (found.algorithm,))
        await upload.store.abort_upload(upload.bucket, NAME, upload.id)
        with pytest.raises(NoSuchUpload):
            await upload.store.multipart.put_part(found, 1, staged)
        assert upload.store.blobs.payloads == {}

    asyncio.run(run())


def test_what_complete_refuses() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        small, large = await upload.part(1, b"a" * 99), await upload.part(2, b"b" * 100)
        with pytest.raises(PartTooSmall):
            await upload.complete(small, large)
        with pytest.raises(PartOrder):
            await upload.complete(large, small)
        with pytest.raises(PartMissing):
            await upload.complete()
        with pytest.raises(PartMissing):
            await upload.store.multipart.complete(
                upload.bucket, NAME, upload.id, [NamedPart(3, small.etag, {})]
            )
        with pytest.raises(PartMissing):
            await upload.store.multipart.complete(
                upload.bucket, NAME, upload.id, [NamedPart(2, small.etag, {})]
            )
        wrong = {"crc64nvme": bytes(8)}
        with pytest.raises(PartMissing):
            await upload.store.multipart.complete(
                upload.bucket, NAME, upload.id, [NamedPart(2, large.etag, wrong)]
            )
        await upload.store.put(upload.bucket, "o", b"there")
        with pytest.raises(PreconditionFailed):
            await upload.complete(large, conditions=Conditions(if_none_match=ANY))
        assert await upload.store.read(upload.bucket, "o") == b"there"
        await upload.complete(large)

    asyncio.run(run())


def test_composite_checksums_are_checksums_of_checksums() -> None:
    async def run() -> None:
        upload = await Uploading.begin(UploadRecord("alice", algorithm="sha256", composite=True))
        contents = (b"a" * 200, b"b")
        parts = [await upload.part(index + 1, part) for index, part in enumerate(contents)]
        record = await upload.complete(*parts)
        of_parts = b"".join(hashlib.sha256(part).digest() for part in contents)
        assert record.checksum is not None
        assert record.checksum.value == hashlib.sha256(of_parts).digest()
        assert record.checksum.parts == 2

    asyncio.run(run())


def test_parts_are_listed_by_number_in_pages() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        for number in (7, 2, 9):
            await upload.part(number, bytes(number))
        found = await upload.store.multipart.find(upload.bucket, NAME, upload.id)
        page, more = await upload.store.multipart.parts(found, limit=2)
        assert ([part.number for part in page], more) == ([2, 7], True)
        page, more = await upload.store.multipart.parts(found, after=7, limit=2)
        assert ([part.number for part in page], more) == ([9], False)

    asyncio.run(run())


def test_parts_that_never_stand_still_are_given_up_on() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        part = await upload.part(1, b"a" * 200)
        honest = upload.store.rows.change

        async def change(place: bytes, wanted: object) -> object:
            if getattr(wanted, "delete_ranges", ()):
                raise Conflict("another part", detail=(1, None))
            return await honest(place, wanted)  # type: ignore[arg-type]

        upload.store.rows.change = change  # type: ignore[method-assign,assignment]
        with pytest.raises(Exception, match="keep changing"):
            await upload.complete(part)

    asyncio.run(run())


@pytest.mark.parametrize("ended", ["completed", "aborted"])
def test_a_complete_that_finds_the_parts_gone_says_how_the_upload_ended(ended: str) -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        part = await upload.part(1, b"a" * 5000)
        honest, raced = upload.store.rows.scan, False

        async def scan(*arguments: object, **named: object) -> object:
            nonlocal raced
            if not raced:
                raced = True
                if ended == "completed":
                    await upload.complete(part)
                else:
                    await upload.store.abort_upload(upload.bucket, NAME, upload.id)
            return await honest(*arguments, **named)  # type: ignore[arg-type]

        upload.store.rows.scan = scan  # type: ignore[method-assign,assignment]
        if ended == "completed":
            assert (await upload.complete(part)).size == 5000
        else:
            with pytest.raises(NoSuchUpload):
                await upload.complete(part)

    asyncio.run(run())


def test_a_complete_that_is_refused_keeps_no_blobs_of_its_own() -> None:
    """Small parts are inline; an object of several gets blobs made of them."""

    async def run() -> None:
        upload = await Uploading.begin()
        parts = [await upload.part(number, bytes([number]) * 100) for number in (1, 2)]
        await upload.store.put(upload.bucket, "o", b"there")
        with pytest.raises(PreconditionFailed):
            await upload.complete(*parts, conditions=Conditions(if_none_match=ANY))
        assert upload.store.blobs.payloads == {}
        await upload.complete(*parts)
        assert len(upload.store.blobs.payloads) == 2

    asyncio.run(run())


def test_a_complete_that_has_to_look_again_keeps_no_blobs_of_its_first_look() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        parts = [await upload.part(number, bytes([number]) * 100) for number in (1, 2)]
        honest, raced = upload.store.rows.scan, False

        async def scan(*arguments: object, **named: object) -> object:
            nonlocal raced
            page = await honest(*arguments, **named)  # type: ignore[arg-type]
            if not raced:
                raced = True
                await upload.part(3, b"not named")
            return page

        upload.store.rows.scan = scan  # type: ignore[method-assign,assignment]
        await upload.complete(*parts)
        assert len(upload.store.blobs.payloads) == 2

    asyncio.run(run())


def test_parts_of_an_upload_that_was_closed_meanwhile_are_not_an_empty_list() -> None:
    async def run() -> None:
        upload = await Uploading.begin()
        part = await upload.part(1, b"x" * 100)
        opened = await upload.store.multipart.find(upload.bucket, NAME, upload.id)
        await upload.complete(part)
        with pytest.raises(NoSuchUpload):
            await upload.store.multipart.parts(opened, limit=10)

    asyncio.run(run())
