"""Bytes in and out: whatever the size and the pieces, the same bytes; nothing kept in memory."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.cluster.api import BlobRef, Row
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, Full
from pinfold.model.limits import INLINE_BYTES
from pinfold.objects.records import ObjectRecord
from pinfold.objects.staging import PIECES_MAX, segment_lengths
from pinfold.s3.copying import Source
from tests.twins.store import SMALL, Bytes, MemoryStore
from tests.twins.virtual import run_virtual

SIZES = st.sampled_from([0, 1, INLINE_BYTES, INLINE_BYTES + 1, 4095, 4096, 4097, 8192, 20_000])


def content_of(size: int) -> bytes:
    return bytes(index * 7 % 251 for index in range(size))


@settings(max_examples=60)
@given(SIZES, st.integers(1, 5000), st.data())
def test_what_goes_in_comes_out_in_any_range(size: int, piece: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))

    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        content = content_of(size)
        staged = await store.staging.stage(Bytes(content, piece), size)
        assert staged.sums["md5"] == hashlib.md5(content).digest()
        assert bool(staged.blobs) == (size > INLINE_BYTES)
        assert [blob.length for blob in staged.blobs] == (
            segment_lengths(size, 4096) if size > INLINE_BYTES else []
        )
        await store.put(bucket, "o", content)
        assert await store.read(bucket, "o", start, stop) == content[start:stop]
        assert store.staging.memory_taken == store.reading.memory_taken == 0

    asyncio.run(run())


class Breaking(Bytes):
    """A client that goes away half-way."""

    async def read(self) -> bytes:
        piece = await super().read()
        if not self._pieces:
            raise Corrupt("gone")
        return piece


@pytest.mark.parametrize("size", [100, 3000, 6000, 20_000])
def test_a_client_that_goes_away_leaves_no_blobs_and_no_memory(size: int) -> None:
    async def run() -> None:
        store = MemoryStore()
        with pytest.raises(Corrupt):
            await store.staging.stage(Breaking(content_of(size), 900), size)
        assert store.blobs.payloads == {}
        assert store.staging.memory_taken == 0

    asyncio.run(run())


@pytest.mark.parametrize("put", [0, 1, 2])
def test_a_put_that_fails_gives_back_the_segments_before_it(put: int) -> None:
    async def run() -> None:
        store = MemoryStore()
        calls = 0
        honest = store.blobs.put

        async def failing(payload: object) -> object:
            nonlocal calls
            calls += 1
            if calls == put + 1:
                raise Full("no room")
            return await honest(payload)  # type: ignore[arg-type]

        store.blobs.put = failing  # type: ignore[method-assign,assignment]
        with pytest.raises(Full):
            await store.stage(content_of(12_000))
        assert store.blobs.payloads == {}
        assert store.staging.memory_taken == 0

    asyncio.run(run())


def test_many_uploads_at_once_share_the_memory_there_is() -> None:
    async def run() -> None:
        store = MemoryStore()
        most = 0

        class Watching(Bytes):
            async def read(self) -> bytes:
                nonlocal most
                most = max(most, store.staging.memory_taken)
                await asyncio.sleep(0)
                return await super().read()

        content = content_of(9000)
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(store.staging.stage(Watching(content), len(content)))
        assert 0 < most <= 3 * 4096
        assert store.staging.memory_taken == 0

    asyncio.run(run())


def test_a_reader_that_stops_gives_its_memory_back() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", content_of(20_000))
        found = await store.objects.find(bucket, b"o")
        chunks = store.objects.chunks(found, 0, 20_000)
        assert len(await anext(chunks)) == 1
        assert store.reading.memory_taken > 0
        await chunks.aclose()
        assert store.reading.memory_taken == 0

    asyncio.run(run())


def test_a_chunk_that_cannot_be_read_is_an_error_not_a_gap() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", content_of(20_000))
        found = await store.objects.find(bucket, b"o")
        chunks = store.objects.chunks(found, 0, 20_000)
        await anext(chunks)
        store.blobs.failures.append(Corrupt("rotten"))
        with pytest.raises(Corrupt):
            async for _ in chunks:
                pass
        assert store.reading.memory_taken == 0

    asyncio.run(run())


class Stalling(Bytes):
    """A client that sends some pieces and then nothing until it is told to go on."""

    def __init__(self, content: bytes, first: int) -> None:
        super().__init__(content, 500)
        self._before = first
        self.go_on = asyncio.Event()

    async def read(self) -> bytes:
        if self._before:
            self._before -= 1
        else:
            await self.go_on.wait()
        return await super().read()


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("size", [8192, 20_000])
def test_uploads_that_stall_do_not_keep_others_out(first: int, size: int) -> None:
    async def run() -> None:
        store = MemoryStore()
        contents = [bytes([number]) * 7 + content_of(size - 7) for number in range(5)]
        stalling = [Stalling(content, first) for content in contents]
        stage = store.staging.stage
        async with asyncio.TaskGroup() as group:
            slow = [
                group.create_task(stage(source, size, interruptible=True)) for source in stalling
            ]
            await asyncio.sleep(0)
            quick = await stage(Bytes(contents[0]), size)
            assert not any(task.done() for task in slow)
            for source in stalling:
                source.go_on.set()
        for task, content in zip(slow, contents, strict=True):
            staged = task.result()
            assert staged.sums["md5"] == hashlib.md5(content).digest()
            assert sum(blob.length for blob in staged.blobs) == size
            stored = [bytes(store.blobs.payloads[blob.id]) for blob in staged.blobs]
            assert b"".join(stored) == content
        assert [blob.length for blob in quick.blobs] == segment_lengths(size, 4096)
        assert store.staging.memory_taken == 0

    asyncio.run(run())


def test_the_last_of_many_slow_uploads_keeps_a_quick_one_waiting_no_longer_than_the_first() -> None:
    """Forty want forty times what there is room for; each would hold it for two seconds."""
    patience_s, size = 2.0, 1 << 20
    roomy = msgspec.structs.replace(
        SMALL,
        segment_bytes=size,
        write_memory_bytes=size,
        write_patience_s=patience_s,
        memory_timeout_s=1000.0,
        memory_waiting_max=64,
    )

    async def run() -> None:
        store = MemoryStore(roomy)
        stage = store.staging.stage
        slow = [Stalling(content_of(size), 1) for _ in range(40)]
        async with asyncio.TaskGroup() as group:
            for source in slow:
                group.create_task(stage(source, size, interruptible=True))
            await asyncio.sleep(0)
            began = asyncio.get_running_loop().time()
            await stage(Bytes(content_of(20_000)), 20_000, interruptible=True)
            waited_s = asyncio.get_running_loop().time() - began
            for source in slow:
                source.go_on.set()
        assert waited_s <= 4 * patience_s
        assert store.staging.memory_taken == 0

    run_virtual(run)


def test_a_stalled_upload_that_is_cancelled_gives_everything_back() -> None:
    async def run() -> None:
        store = MemoryStore()
        content = content_of(20_000)
        async with asyncio.TaskGroup() as group:
            stalled = [
                group.create_task(
                    store.staging.stage(Stalling(content, 3), 20_000, interruptible=True)
                )
                for _ in range(4)
            ]
            await store.staging.stage(Bytes(content), 20_000)
            for task in stalled:
                task.cancel()
        assert all(task.cancelled() for task in stalled)
        assert store.staging.memory_taken == 0
        assert len(store.blobs.payloads) == len(segment_lengths(20_000, 4096))

    asyncio.run(run())


def test_copies_at_once_do_not_wait_for_each_other_for_ever() -> None:
    """Each kind of memory is held by some who need the other: nobody may wait for both."""
    limits = msgspec.structs.replace(
        SMALL, read_memory_bytes=8192, memory_waiting_max=100, memory_timeout_s=20.0
    )
    content = content_of(3 * 4096 + 100)

    async def run() -> None:
        store = MemoryStore(limits)
        bucket = await store.bucket()
        await store.put(bucket, "o", content)
        found = await store.objects.find(bucket, b"o")
        put, read = store.blobs.put, store.blobs.read

        async def slow_put(payload: Sequence[Buffer]) -> BlobRef:
            await asyncio.sleep(0.001)
            return await put(payload)

        async def slow_read(ref: BlobRef, offset: int, length: int) -> list[Buffer]:
            await asyncio.sleep(0.0001)
            return await read(ref, offset, length)

        store.blobs.put, store.blobs.read = slow_put, slow_read  # type: ignore[method-assign]

        async def copy(start: int) -> None:
            source = Source(store.objects.copied(found, start, len(content)))
            staged = await store.staging.stage(source, len(content) - start)
            assert staged.sums["md5"] == hashlib.md5(content[start:]).digest()
            await source.close()

        async with asyncio.timeout(5):
            await asyncio.gather(*(copy(at) for at in range(40)))
        assert store.staging.memory_taken == store.reading.memory_taken == 0

    run_virtual(run)


def test_of_a_copy_no_byte_is_read_before_the_segment_it_is_for() -> None:
    async def run() -> None:
        store = MemoryStore()
        bucket = await store.bucket()
        await store.put(bucket, "o", content_of(4 * 4096))
        found = await store.objects.find(bucket, b"o")
        honest, through = store.blobs.read, 0

        async def read(ref: BlobRef, offset: int, length: int) -> list[Buffer]:
            nonlocal through
            through += length
            return await honest(ref, offset, length)

        store.blobs.read = read  # type: ignore[method-assign]
        taken, start = 0, 1000
        async for chunk in store.objects.copied(found, start, 4 * 4096):
            taken += sum(map(len, chunk))
            assert through <= -(-taken // 4096) * 4096
        assert taken == through == 4 * 4096 - start

    asyncio.run(run())


def test_a_body_of_single_bytes_is_not_kept_as_such() -> None:
    """Each piece costs a hundred bytes and more beside its own, which no budget counts."""
    limits = msgspec.structs.replace(
        SMALL, segment_bytes=64 << 10, write_memory_bytes=64 << 10, read_memory_bytes=64 << 10
    )
    content = content_of(60_000)

    async def run() -> None:
        store = MemoryStore(limits)
        honest, pieces = store.blobs.put, 0

        async def put(payload: Sequence[Buffer]) -> BlobRef:
            nonlocal pieces
            pieces = len(payload)
            return await honest(payload)

        store.blobs.put = put  # type: ignore[method-assign]
        staged = await store.staging.stage(Bytes(content, 1), len(content))
        assert staged.sums["md5"] == hashlib.md5(content).digest()
        assert 0 < pieces < 60 + PIECES_MAX
        assert b"".join(store.blobs.payloads.values()) == content

    asyncio.run(run())


def test_a_download_that_begins_does_not_look_at_all_of_a_large_object() -> None:
    asked = 0

    class Blobs(tuple[BlobRef, ...]):
        def __iter__(self) -> Iterator[BlobRef]:
            nonlocal asked
            for blob in super().__iter__():
                asked += 1
                yield blob

    async def run() -> None:
        store = MemoryStore()
        ref = await store.staging.store(content_of(4096))
        row = Row(b"", size=4096 * 1000, blobs=Blobs([ref] * 1000))
        record = ObjectRecord("e", 4096 * 1000, "alice")
        chunks = store.reading.chunks(row, record, 0, record.size)
        await anext(chunks)
        await chunks.aclose()
        assert 0 < asked < 5
        assert store.reading.memory_taken == 0

    asyncio.run(run())
