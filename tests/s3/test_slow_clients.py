"""Clients that are slow on purpose do not keep the others out."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pinfold.model.settings import ObjectSettings, S3Settings
from pinfold.s3 import connections
from pinfold.s3.slow import Heads, Uploads
from tests.s3.test_http import Reader, Wire, Writer, on_the_wire
from tests.s3.world import TINY

CROWDED = msgspec.structs.replace(
    TINY, requests_in_flight_max=3, stall_patience_s=0.2, upload_bytes_per_s_min=1000
)

LARGE = 16 << 20
"""Bytes of an answer: more than the sockets' buffers take."""


def in_one_piece(size: int, **changed: Any) -> ObjectSettings:
    """Memory for two objects of a size, which are written and read in one piece each."""
    return msgspec.structs.replace(
        TINY.objects,
        segment_bytes=size,
        write_memory_bytes=2 * size,
        read_chunk_bytes=size,
        read_memory_bytes=2 * size,
        **changed,
    )


async def connect(wire: Wire) -> tuple[Reader, Writer]:
    return await asyncio.open_connection("127.0.0.1", wire.port)


async def status_of(reader: Reader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def status_or_silence(reader: Reader) -> int:
    """0 when nothing comes."""
    try:
        async with asyncio.timeout(0.2):
            return await status_of(reader)
    except TimeoutError:
        return 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


def test_uploads_that_trickle_do_not_fill_all_places() -> None:
    async def test(wire: Wire) -> None:
        trickles = [await connect(wire) for _ in range(3)]
        for _, writer in trickles:
            writer.write(wire.head("PUT", "/bucket/slow", {"content-length": "100000"}) + b"x")
        status = 200
        async with asyncio.timeout(5):
            while status == 200:  # until the trickles have come
                wire.writer.write(wire.put("/bucket/k", b"at once"))
                status, headers, _ = await wire.response()
        assert (status, headers["retry-after"]) == (503, "1")  # all are too young to be judged
        wire.world.clock.advance(1)
        wire.writer.write(wire.put("/bucket/k", b"at once"))
        assert (await wire.response())[0] == 200
        statuses = [await status_or_silence(reader) for reader, _ in trickles]
        assert sorted(statuses) == [0, 0, 400]  # one was ended, with RequestTimeout
        for _, writer in trickles:
            writer.close()

    on_the_wire(test, CROWDED)


def test_who_hardly_sends_is_dropped_before_who_sends_slowly_and_the_new_and_fast_never() -> None:
    settings = S3Settings(stall_patience_s=5, upload_bytes_per_s_min=1000)

    async def run() -> None:
        uploads = Uploads(settings)
        fast, slow, trickle, young, stored = (uploads.begin() for _ in range(5))
        for one, since in ((fast, 0.0), (slow, 0.0), (trickle, 0.0), (young, 8.0), (stored, 0.0)):
            one.waiting(since, 60)
            one._limit = None  # nobody waits here
        fast.came, slow.came, trickle.came = 100_000, 5_000, 10
        stored.waited(4.0)  # since then it waits for memory, or a disk
        assert uploads.slowest(4.0) is None
        for expected in (trickle, slow, None):
            assert uploads.slowest(10.0) is expected
            assert uploads.drop_slowest(10.0) is (expected is not None)

    asyncio.run(run())


def test_an_upload_that_waits_for_memory_is_not_taken_for_a_slow_client() -> None:
    async def test(wire: Wire) -> None:
        budget = wire.world.service.store.staging._budget
        await budget.take(budget.free, timeout_s=1)
        uploads = [await connect(wire) for _ in range(3)]
        for _, writer in uploads:
            writer.write(wire.put("/bucket/large", bytes(20_000)))
        await until(lambda: len(budget._waiting) == 3)
        wire.world.clock.advance(1)
        wire.writer.write(wire.put("/bucket/k", b"at once"))
        assert (await wire.response())[0] == 503  # none of the others is to blame
        budget.give(budget.taken)
        for reader, writer in uploads:
            assert await status_of(reader) == 200
            writer.close()

    on_the_wire(test, CROWDED)


def test_silent_connections_do_not_keep_a_client_out_nor_end_one_at_work() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", b"1"))
        assert (await wire.response())[0] == 200
        silent = [await connect(wire) for _ in range(30)]
        reader, writer = await connect(wire)
        writer.write(wire.put("/bucket/k", b"2"))
        assert await status_of(reader) == 200
        wire.writer.write(wire.put("/bucket/k", b"3"))
        assert (await wire.response())[0] == 200
        async with asyncio.timeout(5):
            for old, _ in silent[:20]:
                assert await old.read() == b""
        for _, old in (*silent, (reader, writer)):
            old.close()

    on_the_wire(test, msgspec.structs.replace(TINY, connections_max=5))


def test_downloads_that_nobody_takes_do_not_keep_the_memory_others_wait_for() -> None:
    chunk = 16 << 20  # more than the sockets' buffers take
    settings = msgspec.structs.replace(
        TINY,
        stall_patience_s=0.3,
        objects=in_one_piece(chunk, memory_timeout_s=4.0),
    )

    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/large", bytes(chunk)))
        assert (await wire.response())[0] == 200
        takers = [await connect(wire) for _ in range(2)]
        for reader, writer in takers:
            writer.write(wire.head("GET", "/bucket/large"))
            await reader.readuntil(b"\r\n\r\n")  # and nothing else is taken
        wire.writer.write(wire.head("GET", "/bucket/large"))
        async with asyncio.timeout(20):
            status, _, body = await wire.response()
        assert (status, len(body)) == (200, chunk)
        for _, writer in takers:
            writer.transport.abort()

    on_the_wire(test, settings)


def test_a_download_that_is_given_up_keeps_neither_connection_nor_bytes() -> None:
    settings = msgspec.structs.replace(TINY, body_timeout_s=0.3, objects=in_one_piece(LARGE))

    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/large", bytes(LARGE)))
        assert (await wire.response())[0] == 200
        greedy, writer = await connect(wire)
        greedy._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(wire.head("GET", "/bucket/large"))
        server = wire.world.service._server._server
        assert server is not None
        await until(lambda: len(server.connections) == 2)
        await until(lambda: len(server.connections) == 1)
        writer.transport.abort()

    on_the_wire(test, settings)


def test_heads_that_do_not_end_are_bounded_together_and_cost_who_sends_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEADS_BYTES_MAX", 200_000)
    line = b"x-line: " + bytes(10_000).replace(b"\0", b"a") + b"\r\n"
    whole = b"GET /bucket/none HTTP/1.1\r\nhost: h\r\n\r\n"

    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", bytes(150_000)))  # a body is no head
        assert (await wire.response())[0] == 200
        others = [await connect(wire) for _ in range(20)]
        for _, writer in others[:10]:
            writer.write(whole + whole + b"GET / HTTP/1.1\r\n" + 6 * line)
        for _, writer in others[10:]:
            writer.write(b"GET / HTTP/1.1\r\n" + 6 * line)
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in others]
        async with asyncio.timeout(10):
            while sum(one.done() for one in ended) < 17:
                await asyncio.wait(
                    [one for one in ended if not one.done()], return_when="FIRST_COMPLETED"
                )
        wire.writer.write(wire.head("GET", "/bucket/k"))
        assert (await wire.response())[0] == 200
        for (_, writer), one in zip(others, ended, strict=True):
            one.cancel()
            writer.transport.abort()
        await asyncio.gather(*ended, return_exceptions=True)

    on_the_wire(test)


def test_room_for_a_connection_is_made_by_an_idle_one_not_by_one_that_is_answered() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", bytes(LARGE)))
        assert (await wire.response())[0] == 200
        wire.writer.write(wire.head("GET", "/bucket/k"))
        await wire.reader.readexactly(100)  # the answer is on its way
        idle, writer = await connect(wire)
        writer.write(wire.head("HEAD", "/bucket/k"))
        assert await status_of(idle) == 200
        _, new = await connect(wire)
        with contextlib.suppress(ConnectionResetError):
            assert await idle.read() == b""
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: %d" % LARGE in head
        assert await wire.reader.readexactly(LARGE) == bytes(LARGE)
        for one in (writer, new):
            one.transport.abort()

    objects = in_one_piece(LARGE)
    on_the_wire(test, msgspec.structs.replace(TINY, connections_max=2, objects=objects))


def test_bodies_behind_a_request_under_way_are_bounded_with_the_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEADS_BYTES_MAX", 200_000)

    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", bytes(60_000)))
        assert (await wire.response())[0] == 200
        honest, slow = wire.world.blobs.read, asyncio.Event()

        async def read(*arguments: Any) -> Any:
            await slow.wait()
            return await honest(*arguments)

        wire.world.blobs.read = read  # type: ignore[method-assign]
        reader, writer = await connect(wire)
        writer.write(wire.head("GET", "/bucket/k") + wire.put("/bucket/k", bytes(60_000)) * 10)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        slow.set()
        server = wire.world.service._server._server
        assert isinstance(server, connections.Server)
        assert server.heads._total == 0
        writer.transport.abort()

    on_the_wire(test)


def test_who_pipelines_without_end_is_not_cut_off_for_what_was_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEADS_BYTES_MAX", 200_000)

    async def test(wire: Wire) -> None:
        request = wire.put("/bucket/k", bytes(20_000))
        wire.writer.write(2 * request)
        for _ in range(40):  # one is always waiting
            wire.writer.write(request)
            assert (await wire.response())[0] == 200

    on_the_wire(test)


def test_who_holds_most_goes_first() -> None:
    heads: Heads[str] = Heads(100)
    assert heads.hold("a", 60) is None
    assert heads.hold("b", 40) is None
    assert heads.hold("b", 50) == "a"
    assert heads.hold("a", 0) is None
    assert heads.hold("b", 101) == "b"


def test_a_download_that_gets_no_memory_is_told_to_come_again() -> None:
    """Not a connection that ends: no byte of the answer has left by then."""
    objects = msgspec.structs.replace(TINY.objects, memory_timeout_s=0.2)

    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", bytes(100_000)))
        assert (await wire.response())[0] == 200
        await wire.world.service.store.objects._reading._budget.take(
            objects.read_memory_bytes, timeout_s=1
        )
        wire.writer.write(wire.head("GET", "/bucket/k"))
        status, headers, body = await wire.response()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"SlowDown" in body

    on_the_wire(test, msgspec.structs.replace(TINY, objects=objects))


def test_answers_that_a_pipelining_client_does_not_take_do_not_pile_up() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", bytes(60_000)))
        assert (await wire.response())[0] == 200
        honest, reads = wire.world.blobs.read, 0

        async def read(*arguments: Any) -> Any:
            nonlocal reads
            reads += 1
            return await honest(*arguments)

        wire.world.blobs.read = read  # type: ignore[method-assign]
        greedy, writer = await connect(wire)
        greedy._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(wire.head("GET", "/bucket/k") * 2_000)  # 120 MB
        seen, patience = -1, 0
        async with asyncio.timeout(10):
            while patience < 20:  # until no more is read for it
                await asyncio.sleep(0.01)
                patience = patience + 1 if reads == seen else 0
                seen = reads
        assert 0 < reads * 16_384 < 20 << 20  # what the sockets' buffers take, and one more
        writer.transport.abort()

    on_the_wire(test)
