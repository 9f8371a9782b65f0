"""The two HTTP servers against any bytes on their sockets: S3's and the admin API's."""

import asyncio
import re
from typing import Any

import structlog
from hypothesis import strategies as st

from pinfold.admin.gather import Gatherer
from pinfold.admin.service import AdminParts, AdminService
from pinfold.env.api import Listener
from pinfold.s3.http import HttpServer
from tests.admin.test_service import (
    TOKEN,
    FixedMap,
    FixedPeers,
    MemoryGroups,
    MemoryUsers,
    MemoryVolumes,
)
from tests.fuzz.harness import MIB, Target
from tests.fuzz.mutations import mutated, raw_or
from tests.fuzz.wires import MemoryWire
from tests.s3.signing import UNSIGNED
from tests.s3.world import TINY, World
from tests.twins.env import HandClock, hand_env
from tests.twins.virtual import run_virtual

_CLOCK = World().clock
_SIGNER = World().signer()


def _signed(method: str, path: str, extra: str = "", body: bytes = b"") -> bytes:
    headers = _SIGNER.signed(method, path, "", {"host": "h"}, UNSIGNED)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + f"\r\n{extra}\r\n").encode() + body


S3 = [
    _signed("PUT", "/bucket/k", "content-length: 5\r\n", b"hello") + _signed("GET", "/bucket/k"),
    _signed("PUT", "/bucket/k", "transfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    _signed("PUT", "/bucket/k", "content-length: 5\r\nexpect: 100-continue\r\n", b"hello"),
    _signed("HEAD", "/bucket") + _signed("GET", "/") * 40,
    _signed("GET", "/bucket", "connection: upgrade\r\nupgrade: websocket\r\n") + b"x" * 100,
    b"GET http://h/bucket/k HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" * 2,
    b"OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\nCONNECT h:1 HTTP/1.1\r\nhost: h\r\n\r\n",
]
ADMIN = [
    b"GET /v1/status HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\n\r\n",
    b"POST /v1/volumes HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\n"
    b'content-length: 29\r\n\r\n{"name":"v","size_bytes":512}',
    b"PATCH /v1/volumes/v HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\n"
    b'content-length: 31\r\n\r\n{"size_bytes":1024,"force":true}',
    b"DELETE /v1/volumes/a%2Fb?force=true HTTP/1.1\r\nauthorization: Bearer t0ken\r\n\r\n",
    b"POST /v1/users HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\n"
    b'content-length: 31\r\n\r\n{"id":"u","display_name":"U\\u0000"}',
    b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\nDELETE /v1/users/u HTTP/1.1\r\n\r\n",
]
TOKENS = [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"content-length: 7\r\n", b"%00", b"%ff", b"\xff",
          b"transfer-encoding: chunked\r\n", b"expect: 100-continue\r\n", b"connection: close\r\n",
          b"x: y\r\n" * 200, b"5\r\n", b"content-encoding: gzip\r\n", b"PUT ", b"{", b'"', b"e999",
          b"upgrade: h2c\r\nconnection: upgrade\r\n", b"sec-websocket-key: x\r\n"]  # fmt: skip


class CaptureNet:
    """Listens by remembering the protocol's factory."""

    factory: Any = None

    async def listen(self, _address: str, factory: Any) -> "Listener":
        self.factory = factory
        return self  # type: ignore[return-value]

    address = "tcp://h:1"

    def close(self) -> None:
        return


async def _talk(wire: MemoryWire, data: bytes) -> list[int]:
    """The statuses of everything answered to bytes that come in pieces, then silence."""
    piece = 1 + len(data) // 3
    while data and not wire.closing:
        for _ in range(100):
            if wire.reading or wire.closing:
                break
            await asyncio.sleep(0.01)
        assert wire.reading or wire.closing, "what is sent is read in the end"
        wire.feed(data[:piece])
        data = data[piece:]
        await asyncio.sleep(0.01)
    await asyncio.sleep(1000)
    assert wire.closing, "a silent client's connection ends"
    statuses = _statuses(bytes(wire.sent))
    wire.end()
    return statuses


def _statuses(sent: bytes) -> list[int]:
    """The responses in a stream, each well-formed: one may be a HEAD's and have no body."""
    statuses = []
    while sent:
        head, found, sent = sent.partition(b"\r\n\r\n")
        assert found, "a whole head"
        assert b"\n" not in head.replace(b"\r\n", b"")
        first = re.match(rb"HTTP/\d\.\d (\d{3}) ", head)
        assert first is not None
        status = int(first[1])
        if status != 100:
            statuses.append(status)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length is not None and not sent.startswith(b"HTTP/1."):
            assert len(sent) >= int(length[1]) or not sent
            sent = sent[int(length[1]) :]
    return statuses


def run_s3(data: bytes) -> str:
    """Every request is answered as HTTP; the next client is served."""

    async def story() -> str:
        world = await World(TINY).begin()
        world.clock = _CLOCK
        net = CaptureNet()
        server = HttpServer(hand_env(HandClock(), net=net), TINY, world.service.respond)  # type: ignore[arg-type]
        await server.listen("h", 1)
        statuses = await _talk(MemoryWire(net.factory()), data)
        assert 500 not in statuses
        good = await _talk(MemoryWire(net.factory()), _signed("GET", "/bucket"))
        assert good in ([200], [404])
        await server.close()
        return f"{[_name(status) for status in statuses]}"

    return run_virtual(story)


def admin_service() -> AdminService:
    """The admin API of a cluster in memory."""
    return AdminService(
        AdminParts(
            map=FixedMap(),
            gatherer=Gatherer(HandClock(), FixedMap(), FixedPeers()),  # type: ignore[arg-type]
            volumes=MemoryVolumes(),
            groups=MemoryGroups(),
            users=MemoryUsers(),
            token=lambda: TOKEN,
            version="1",
            restarts=lambda: True,
            log=structlog.get_logger(),
            audit=lambda act: None,
        )
    )


def run_admin(data: bytes) -> str:
    """Every request is answered as HTTP, without its token by nothing but a refusal."""

    async def story() -> str:
        runner = admin_service().runner()
        await runner.setup()
        factory: Any = runner.server
        statuses = await _talk(MemoryWire(factory()), data)
        assert 500 not in statuses
        assert TOKEN.encode() in data or 201 not in statuses
        good = await _talk(MemoryWire(factory()), b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
        assert good == [200]
        await runner.cleanup()
        return f"{[_name(status) for status in statuses]}"

    return run_virtual(story)


def _name(status: int) -> str:
    """A status as an outcome: numbers do not count there."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(status))


def _twice(one: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(one, st.builds(lambda a, b: a + b, one, one))


TARGETS = (
    Target(
        name="s3-http",
        inputs=raw_or(_twice(mutated(S3, TOKENS))),
        run=run_s3,
        memory_bytes=8 * MIB,
    ),
    Target(
        name="admin-http",
        inputs=raw_or(_twice(mutated(ADMIN, TOKENS))),
        run=run_admin,
        memory_bytes=8 * MIB,
    ),
)
