"""Calls between two processes over a unix socket, beside a bare uvloop echo in the same run.

    python -m bench.rpc [--seconds 2]

Prints tiny echo calls per second with 32 in flight and bytes per second of 1 MiB payloads with 4
in flight, each as a ratio to bare echo servers on the same machine at the same time. The bare echo
answers 64 bytes with 64 bytes, 32 connections in lock step; the bare stream just pours bytes.
"""

import argparse
import asyncio
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection

import uvloop

from pinfold.env.real import keep_freed_memory, real_env
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import Reply, Request
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity, Keyring
from pinfold.rpc.peers import PeerTable

IN_FLIGHT = 32
CHUNK = 1 << 20
MIB = 1 << 20
A, B = NodeName("a"), NodeName("b")


def identity(node: NodeName) -> Identity:
    return Identity(node=node, boot=Boot(1), cluster=b"bench", keyring=Keyring.of(b"secret"))


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Sink(asyncio.BufferedProtocol):
    """Takes everything and answers each MiB with a byte."""

    def __init__(self) -> None:
        self.buffer = bytearray(CHUNK)
        self.taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        whole = self.taken // CHUNK
        self.taken += nbytes
        if (count := self.taken // CHUNK - whole) > 0:
            self.transport.write(b"." * count)  # type: ignore[attr-defined]


async def serve(root: str, ready: Connection) -> None:
    loop = asyncio.get_running_loop()
    operations = Operations()
    operations.bind("echo", lambda request: Reply(request.body))
    operations.bind("take", lambda request: Reply(len(request.payload)))
    block = os.urandom(CHUNK)
    operations.bind("give", lambda request: Reply(None, (block,)))
    operations.bind("later", later)
    peers = PeerTable(real_env(), identity(B), operations)
    await peers.listen(f"unix://{root}/rpc")
    await loop.create_unix_server(Echo, f"{root}/echo")
    await loop.create_unix_server(Sink, f"{root}/sink")
    ready.send(True)
    await asyncio.sleep(120)


async def later(request: Request) -> Reply:
    """An echo that takes the slow path of a coroutine."""
    return Reply(request.body)


def server(root: str, ready: Connection) -> None:
    keep_freed_memory()
    uvloop.run(serve(root, ready))


class Pinger(asyncio.Protocol):
    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(b"x" * 64)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        Pinger.count += 1
        self.transport.write(data)  # type: ignore[attr-defined]


class Pourer(asyncio.Protocol):
    """Keeps four chunks on the way."""

    def __init__(self) -> None:
        self.block = os.urandom(CHUNK)
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        for _ in range(4):
            transport.write(self.block)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        for _ in data:
            self.transport.write(self.block)  # type: ignore[attr-defined]


async def bare_echo(root: str, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    transports = [
        (await loop.create_unix_connection(Pinger, f"{root}/echo"))[0] for _ in range(IN_FLIGHT)
    ]
    Pinger.count = 0
    await asyncio.sleep(seconds)
    rate = Pinger.count / seconds
    for transport in transports:
        transport.abort()
    return rate


async def bare_pour(root: str, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_unix_connection(Pourer, f"{root}/sink")
    await asyncio.sleep(seconds)
    transport.abort()
    return protocol.count * CHUNK / MIB / seconds


async def calls(
    peers: PeerTable, operation: str, payload: tuple[bytes, ...], in_flight: int, seconds: float
) -> float:
    loop = asyncio.get_running_loop()
    count, end = 0, loop.time() + seconds

    async def client() -> None:
        nonlocal count
        while (now := loop.time()) < end:
            await peers.call(B, operation, 7, payload, deadline=now + 10)
            count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(client())
    return count / seconds


async def measure(root: str, seconds: float) -> None:
    peers = PeerTable(real_env(), identity(A), Operations())
    up = asyncio.Event()
    peers.watch(lambda *_: up.set())
    peers.set_addresses({B: f"unix://{root}/rpc"})
    await up.wait()
    bare = await bare_echo(root, seconds)
    poured = await bare_pour(root, seconds)
    print(f"bare echo, 32 in flight    {bare:12,.0f} /s")
    print(f"bare stream                {poured:12,.0f} MiB/s")
    for operation in ("echo", "later"):
        rate = await calls(peers, operation, (), IN_FLIGHT, seconds)
        print(
            f"call {operation:5}, 32 in flight   {rate:12,.0f} /s      {rate / bare:5.2f} of bare"
        )
    block = os.urandom(CHUNK)
    for operation, payload in (("take", (block,)), ("give", ())):
        rate = await calls(peers, operation, payload, 4, seconds) * CHUNK / MIB
        print(f"1 MiB {operation}, 4 in flight   {rate:12,.0f} MiB/s  {rate / poured:5.2f} of bare")
    small = os.urandom(4096)
    rate = await calls(peers, "take", (small,), IN_FLIGHT, seconds)
    print(f"4 KiB take, 32 in flight   {rate:12,.0f} /s")
    rate = await calls(peers, "echo", (), 1, seconds)
    print(f"call echo, 1 in flight     {rate:12,.0f} /s")
    await peers.close()


def report(seconds: float = 2.0) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as root:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=server, args=(root, theirs), daemon=True
        )
        process.start()
        ours.recv()
        keep_freed_memory()
        try:
            uvloop.run(measure(root, seconds))
        finally:
            process.kill()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    report(parser.parse_args().seconds)


if __name__ == "__main__":
    main()
