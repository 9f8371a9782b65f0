"""The HTTP server on a real socket: what only bytes on the wire can show."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pinfold.model.errors import Corrupt
from pinfold.model.settings import S3Settings
from pinfold.s3.metrics import S3Metrics
from tests.s3.signing import UNSIGNED
from tests.s3.world import TINY, World

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


class Wire:
    """A connection to a served world."""

    def __init__(self, world: World, reader: Reader, writer: Writer, port: int) -> None:
        self.world = world
        self.reader = reader
        self.writer = writer
        self.port = port

    def head(self, method: str, path: str, headers: dict[str, str] | None = None) -> bytes:
        """A signed request's head."""
        signed = self.world.signer().signed(method, path, "", {"host": "h"}, UNSIGNED)
        lines = [f"{name}: {value}" for name, value in {**signed, **(headers or {})}.items()]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    def put(self, path: str, body: bytes) -> bytes:
        """A whole PUT."""
        return self.head("PUT", path, {"content-length": str(len(body))}) + body

    async def response(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """The next response."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])
        }
        length = int(headers.get("content-length", "0")) if has_body else 0
        return status, headers, await self.reader.readexactly(length)


def on_the_wire(test: Callable[[Wire], Awaitable[Any]], settings: S3Settings = TINY) -> None:
    async def run() -> None:
        world = await World(settings).begin()
        port = await world.service.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await test(Wire(world, reader, writer, port))
        finally:
            writer.close()
            await world.service.close()

    asyncio.run(run())


def test_requests_follow_each_other_on_a_connection() -> None:
    async def test(wire: Wire) -> None:
        content = b"x" * 200_000
        wire.writer.write(wire.put("/bucket/k", content))
        status, headers, body = await wire.response()
        assert (status, body) == (200, b"")
        assert headers["server"] == "Pinfold"
        assert headers["date"].endswith("GMT")
        first_id = headers["x-amz-request-id"]
        wire.writer.write(wire.head("GET", "/bucket/k") + wire.head("HEAD", "/bucket/k"))
        status, headers, body = await wire.response()
        assert (status, body) == (200, content)
        assert headers["x-amz-request-id"] != first_id
        status, headers, _ = await wire.response(has_body=False)
        assert (status, headers["content-length"]) == (200, "200000")

    on_the_wire(test)


def test_paths_are_not_normalised() -> None:
    async def test(wire: Wire) -> None:
        for path in ("/bucket/a/../b", "/bucket//x", "/bucket/.", "/bucket/%2E%2E"):
            canonical = path.replace("%2E", ".")
            signed = wire.world.signer().signed("PUT", canonical, "", {"host": "h"}, UNSIGNED)
            lines = [f"{name}: {value}" for name, value in signed.items()]
            head = "\r\n".join([f"PUT {path} HTTP/1.1", *lines, "content-length: 1", "", "x"])
            wire.writer.write(head.encode())
            assert (await wire.response())[0] == 200
        listed = await wire.world.call("GET", "/bucket")
        assert listed.texts("Contents/Key") == [".", "..", "/x", "a/../b"]

    on_the_wire(test)


def test_a_client_that_asks_first_is_told_to_go_on_or_not() -> None:
    async def test(wire: Wire) -> None:
        expect = {"content-length": "5", "expect": "100-continue"}
        wire.writer.write(wire.head("PUT", "/bucket/k", expect))
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.writer.write(b"hello")
        assert (await wire.response())[0] == 200
        wire.writer.write(wire.head("PUT", "/nowhere/k", expect))
        status, headers, body = await wire.response()
        assert (status, headers["connection"]) == (404, "close")
        assert b"NoSuchBucket" in body

    on_the_wire(test)


def test_head_errors_have_no_body() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.head("HEAD", "/bucket/none") + wire.head("HEAD", "/bucket"))
        assert (await wire.response(has_body=False))[0] == 404
        assert (await wire.response(has_body=False))[0] == 200

    on_the_wire(test)


def test_compressed_bodies_are_stored_as_they_came() -> None:
    async def test(wire: Wire) -> None:
        head = wire.head("PUT", "/bucket/k", {"content-length": "4", "content-encoding": "gzip"})
        wire.writer.write(head + b"\x1f\x8bxx")
        assert (await wire.response())[0] == 200
        assert (await wire.world.call("GET", "/bucket/k")).body == b"\x1f\x8bxx"

    on_the_wire(test)


def test_a_client_that_leaves_half_way_leaves_nothing() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.head("PUT", "/bucket/k", {"content-length": "200000"}))
        wire.writer.write(b"x" * 100_000)
        await wire.writer.drain()
        wire.writer.close()
        await wire.writer.wait_closed()
        await wire.world.service.close()
        assert (await wire.world.call("HEAD", "/bucket/k")).status == 404
        assert wire.world.blobs.payloads == {}
        assert wire.world.service.store.staging.memory_taken == 0

    on_the_wire(test)


def test_a_body_that_cannot_be_read_to_its_end_is_cut_not_padded() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.put("/bucket/k", b"x" * 200_000))
        await wire.response()
        honest, reads = wire.world.blobs.read, 0

        async def read(*arguments: Any) -> Any:
            nonlocal reads
            reads += 1
            if reads == 5:
                raise Corrupt("rotten")
            return await honest(*arguments)

        wire.world.blobs.read = read  # type: ignore[method-assign]
        wire.writer.write(wire.head("GET", "/bucket/k"))
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 200000" in head
        assert len(await wire.reader.read()) < 200_000

    on_the_wire(test)


def test_a_client_that_stalls_is_dropped() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.head("PUT", "/bucket/k", {"content-length": "5"}))
        status, _, body = await wire.response()
        assert status == 400
        assert b"RequestTimeout" in body

    on_the_wire(test, S3Settings(body_timeout_s=0.05, objects=TINY.objects))


def test_too_many_requests_at_once_are_asked_to_slow_down() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(wire.head("GET", "/bucket"))
        status, headers, body = await wire.response()
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"SlowDown" in body

    on_the_wire(test, S3Settings(requests_in_flight_max=0, objects=TINY.objects))


def test_requests_are_counted_by_operation_and_status() -> None:
    async def run() -> None:
        registry = CollectorRegistry()
        world = await World(registry=registry).begin()
        await world.call("GET", "/bucket/none")
        text = generate_latest(registry).decode()
        sample = 'pinfold_s3_requests_total{operation="GetObject",status="404"} 1.0'
        assert sample in text
        assert 'operation="CreateBucket",status="200"' in text
        for part in ('bucket{le="+Inf",', "count{"):
            assert f'pinfold_s3_request_seconds_{part}operation="GetObject"}} 1.0' in text

    asyncio.run(run())


def test_times_fall_into_the_bucket_that_they_do_not_exceed() -> None:
    registry = CollectorRegistry()
    metrics = S3Metrics(registry)
    for seconds in (0.0, 0.001, 0.0011, 61.0):
        metrics.answered("GetObject", 200, seconds)

    def upto(bound: str) -> float | None:
        labels = {"operation": "GetObject", "le": bound}
        return registry.get_sample_value("pinfold_s3_request_seconds_bucket", labels)

    assert (upto("0.001"), upto("0.002"), upto("60.0"), upto("+Inf")) == (2, 3, 3, 4)
    total = registry.get_sample_value("pinfold_s3_request_seconds_sum", {"operation": "GetObject"})
    assert total == pytest.approx(61.0021)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"not well-formed"),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", b"not well-formed"),
        (b"PUT /bucket/k HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", b"not well-formed"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000, b"longer than 16384 bytes"),
    ],
)
def test_what_is_not_http_gets_an_error_document_and_no_log_line(
    sent: bytes, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(sent)
        status, headers, body = await wire.response()
        assert (status, headers["server"], headers["connection"]) == (400, "Pinfold", "close")
        assert b"<Code>BadRequest</Code>" in body
        assert message in body
        assert await wire.reader.read() == b""

    on_the_wire(test)
    assert caplog.records == []
