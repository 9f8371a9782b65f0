"""One contract for every `Net`, and what only the machine's sockets can show."""

import asyncio
import os
import socket
from pathlib import Path
from typing import cast

import pytest

from pinfold.env.api import Env
from tests.env.conftest import Run, run_real


class Collector(asyncio.Protocol):
    """Keeps what it hears; echoes when told."""

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        self.received = bytearray()
        self.closed = asyncio.get_running_loop().create_future()
        self.heard = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self.ended = False
        self.stopped = False
        self.writing_paused = False
        self.resumed = asyncio.Event()
        self.made = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.made.set()
        if self.stopped:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.resumed.set()

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


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/s"


def test_bytes_arrive_in_order_both_ways(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        net = env.net
        listener = await net.listen(address, lambda: Collector(echo=True))
        transport, protocol = await net.connect(listener.address, Collector)
        assert isinstance(protocol, Collector)
        transport.writelines([b"a", bytearray(b"bc"), memoryview(b"def")])
        transport.write(b"g" * 300_000)
        assert await protocol.until(300_006) == b"abcdef" + b"g" * 300_000
        transport.close()
        assert await protocol.closed is None
        listener.close()

    run(body)


def test_close_sends_what_was_written_first(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        net = env.net
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

    run(body)


def test_nobody_listens(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        net = env.net
        listener = await net.listen(address, Collector)
        listener.close()
        listener.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await net.connect(listener.address, Collector)

    run(body)


def test_an_address_in_use_is_refused(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        net = env.net
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

    run(body)


def test_a_dead_process_leaves_no_obstacle(tmp_path: Path) -> None:
    async def body(env: Env) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{tmp_path}/s")
        listener = await env.net.listen(f"unix://{tmp_path}/s", Collector)
        listener.close()
        assert os.listdir(tmp_path) == []

    run_real(body)


def test_a_protocol_is_paused_over_its_high_mark_and_resumed(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        servers: asyncio.Queue[Collector] = asyncio.Queue()

        def factory() -> Collector:
            server = Collector()
            server.stopped = True
            servers.put_nowait(server)
            return server

        listener = await env.net.listen(address, factory)
        transport, client = await env.net.connect(listener.address, Collector)
        assert isinstance(client, Collector)
        transport.set_write_buffer_limits(high=100_000)
        written = 0
        while not client.writing_paused:
            transport.write(b"x" * 50_000)
            written += 50_000
            assert written < 100 << 20
        assert transport.get_write_buffer_size() > 100_000
        server = await servers.get()
        await server.made.wait()
        assert server.transport is not None
        server.transport.resume_reading()
        await server.until(written)
        await client.resumed.wait()
        transport.close()
        await server.closed
        listener.close()

    run(body)


def test_an_abort_loses_the_connection_for_both(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        servers: asyncio.Queue[Collector] = asyncio.Queue()

        def factory() -> Collector:
            server = Collector()
            servers.put_nowait(server)
            return server

        listener = await env.net.listen(address, factory)
        transport, client = await env.net.connect(listener.address, Collector)
        assert isinstance(client, Collector)
        server = await servers.get()
        transport.abort()
        transport.write(b"into the void")
        assert await client.closed is None
        await server.closed
        assert server.received == b""
        listener.close()

    run(body)


class Patient(asyncio.BufferedProtocol):
    """Fills a buffer of seven bytes again and again."""

    def __init__(self) -> None:
        self.buffer = bytearray(7)
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= 7
        self.received += self.buffer[:nbytes]

    def eof_received(self) -> bool:
        self.ended.set_result(None)
        return False


def test_a_buffered_protocol_gets_its_bytes_in_its_buffer(run: Run, address: str) -> None:
    async def body(env: Env) -> None:
        servers: asyncio.Queue[Patient] = asyncio.Queue()

        def factory() -> Patient:
            server = Patient()
            servers.put_nowait(server)
            return server

        listener = await env.net.listen(address, factory)
        transport, _ = await env.net.connect(listener.address, Collector)
        sent = bytes(n % 251 for n in range(2000))
        transport.write(sent)
        transport.close()
        server = await servers.get()
        await server.ended
        assert server.received == sent
        listener.close()

    run(body)
