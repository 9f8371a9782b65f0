"""One contract for every `Net`, and what only the machine's sockets can show."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pinfold.env.api import Net
from pinfold.env.osnet import OsNet


class Collector(asyncio.Protocol):
    """Keeps what it hears; echoes when told."""

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        self.received = bytearray()
        self.closed = asyncio.get_running_loop().create_future()
        self.heard = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.heard.set()
        if self.echo:
            assert self.transport is not None
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(error)

    async def until(self, size: int) -> bytes:
        while len(self.received) < size:
            self.heard.clear()
            await self.heard.wait()
        return bytes(self.received)


def run(kind: str, tmp_path: Path, body: Callable[[Net, str], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            address = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix://{tmp_path}/s"
            await body(OsNet(), address)

    asyncio.run(bounded())


pytestmark = pytest.mark.parametrize("kind", ["tcp", "unix"])


def test_bytes_arrive_in_order_both_ways(kind: str, tmp_path: Path) -> None:
    async def body(net: Net, address: str) -> None:
        listener = await net.listen(address, lambda: Collector(echo=True))
        transport, protocol = await net.connect(listener.address, Collector)
        assert isinstance(protocol, Collector)
        transport.writelines([b"a", bytearray(b"bc"), memoryview(b"def")])
        transport.write(b"g" * 300_000)
        assert await protocol.until(300_006) == b"abcdef" + b"g" * 300_000
        transport.close()
        assert await protocol.closed is None
        listener.close()

    run(kind, tmp_path, body)


def test_close_sends_what_was_written_first(kind: str, tmp_path: Path) -> None:
    async def body(net: Net, address: str) -> None:
        servers: asyncio.Queue[Collector] = asyncio.Queue()

        def factory() -> Collector:
            server = Collector()
            servers.put_nowait(server)
            return server

        listener = await net.listen(address, factory)
        transport, _ = await net.connect(listener.address, Collector)
        transport.write(b"x" * 1_000_000)
        transport.close()
        server = await servers.get()
        await server.closed
        assert len(server.received) == 1_000_000
        assert server.ended
        listener.close()

    run(kind, tmp_path, body)


def test_nobody_listens(kind: str, tmp_path: Path) -> None:
    async def body(net: Net, address: str) -> None:
        listener = await net.listen(address, Collector)
        listener.close()
        listener.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await net.connect(listener.address, Collector)

    run(kind, tmp_path, body)


def test_an_address_in_use_is_refused(kind: str, tmp_path: Path) -> None:
    async def body(net: Net, address: str) -> None:
        listener = await net.listen(address, lambda: Collector(echo=True))
        with pytest.raises(OSError):
            await net.listen(listener.address, Collector)
        transport, protocol = await net.connect(listener.address, Collector)
        assert isinstance(protocol, Collector)
        transport.write(b"still there")
        assert await protocol.until(11) == b"still there"
        transport.abort()
        await protocol.closed
        listener.close()

    run(kind, tmp_path, body)


def test_a_dead_process_leaves_no_obstacle(kind: str, tmp_path: Path) -> None:
    async def body(net: Net, address: str) -> None:
        if kind == "unix":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(f"{tmp_path}/s")
        listener = await net.listen(address, Collector)
        listener.close()
        assert os.listdir(tmp_path) == []

    run(kind, tmp_path, body)
