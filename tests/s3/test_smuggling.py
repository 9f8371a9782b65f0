"""Bytes that two readers of HTTP could take apart differently: one answer, 400, and the end."""

import asyncio
import contextlib

import pytest

from tests.s3.test_http import Wire, on_the_wire

HIDDEN = b"PUT /bucket/hidden HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
BODY = b"0\r\n\r\n" + HIDDEN

AMBIGUOUS = {
    "length twice": b"content-length: 5\r\ncontent-length: 6\r\n",
    "length and chunked": b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    "chunked and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    "list of lengths": b"content-length: 5, 6\r\n",
    "signed length": b"content-length: +5\r\n",
    "hexadecimal length": b"content-length: 0x5\r\n",
    "negative length": b"content-length: -1\r\n",
    "length beyond 64 bits": b"content-length: 18446744073709551621\r\n",
    "empty length": b"content-length: \r\n",
    "other coding": b"transfer-encoding: xchunked\r\n",
    "chunked first": b"transfer-encoding: chunked, identity\r\n",
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "chunked and another": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    "space before colon": b"transfer-encoding : chunked\r\n",
    "tab before colon": b"content-length\t: 5\r\n",
    "folded": b"x: a\r\n content-length: 5\r\n",
    "folded value": b"transfer-encoding:\r\n chunked\r\n",
    "bare CR": b"x: a\rcontent-length: 5\r\n",
    "NUL": b"x: a\x00b\r\n",
    "no colon": b"content-length 5\r\n",
    "no name": b": 5\r\n",
    "name of no token": b"content length: 5\r\n",
    "vertical tab": b"transfer-encoding: \x0bchunked\r\n",
}


def raw(wire: Wire, extra: bytes) -> bytes:
    """A signed PUT's head with lines of its own in front of the others."""
    first, rest = wire.head("PUT", "/bucket/k").split(b"\r\n", 1)
    return first + b"\r\n" + extra + rest


async def whole_answer(wire: Wire) -> bytes:
    """Everything up to the end of the connection, which must come."""
    async with asyncio.timeout(5):
        return await wire.reader.read()


def demand_one_refusal(said: bytes) -> None:
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in said


@pytest.mark.parametrize("extra", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_head_ends_the_connection(extra: bytes) -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(raw(wire, extra) + BODY)
        demand_one_refusal(await whole_answer(wire))
        assert (await wire.world.call("GET", "/bucket/hidden")).status == 404

    on_the_wire(test)


CHUNKS = {
    "signed size": b"+1\r\nx\r\n",
    "prefixed size": b"0x1\r\nx\r\n",
    "negative size": b"-1\r\nx\r\n",
    "no size": b"\r\nx\r\n",
    "size beyond 64 bits": b"10000000000000001\r\nx\r\n",
    "bare LF behind size": b"1\nx\r\n",
    "longer than it says": b"1\r\nxyz\r\n",
    "space before size": b" 1\r\nx\r\n",
}


@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS.keys())
def test_an_ambiguous_chunk_ends_the_connection(chunk: bytes) -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(raw(wire, b"transfer-encoding: chunked\r\n") + chunk + BODY)
        said = await whole_answer(wire)
        assert said.count(b"HTTP/1.1 ") <= 2  # the request's own refusal, and the framing's
        assert b"HTTP/1.1 2" not in said

    on_the_wire(test)


LINES = {
    "no version": b"GET /bucket\r\n\r\n",
    "other protocol": b"GET /bucket HTTQ/1.1\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space in target": b"GET /bucket/a b HTTP/1.1\r\nhost: h\r\n\r\n",
    "bare LF": b"GET /bucket HTTP/1.1\nhost: h\n\n",
    "control in target": b"GET /bucket/\x01 HTTP/1.1\r\nhost: h\r\n\r\n",
    "method of no token": b"G(T /bucket HTTP/1.1\r\nhost: h\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeroes": bytes(100),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_what_is_no_request_line_ends_the_connection(line: bytes) -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(line + HIDDEN)
        said = await whole_answer(wire)
        assert said.count(b"HTTP/1.1 ") == 1
        assert said.startswith(b"HTTP/1.1 400 ")

    on_the_wire(test)


def test_a_head_without_end_is_refused() -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(b"GET /bucket HTTP/1.1\r\n")
        for number in range(1000):
            wire.writer.write(b"x-%d: %s\r\n" % (number, b"v" * 1000))
        said = b""
        with contextlib.suppress(ConnectionError):  # what was not read makes the end a reset
            said = await whole_answer(wire)
        assert wire.reader.at_eof() or wire.reader.exception() is not None
        assert not said or said.startswith(b"HTTP/1.1 400 ")
        assert (await wire.world.call("GET", "/bucket")).status == 200

    on_the_wire(test)


@pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-content-sha256", "authorization"])
def test_a_header_that_matters_twice_is_not_the_first_of_them(name: str) -> None:
    async def test(wire: Wire) -> None:
        wire.writer.write(raw(wire, b"content-length: 0\r\n" + name.encode() + b": other\r\n"))
        status, _, _ = await wire.response()
        assert 400 <= status < 500
        assert (await wire.world.call("GET", "/bucket/k")).status == 404

    on_the_wire(test)
