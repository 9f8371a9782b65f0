"""What the machine itself allows: flushes, MD5, loopback bytes, a bare HTTP server."""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

MIB = 1 << 20


def flush_rate(directory: str, seconds: float = 1.5, record: int = 4096 * 8) -> float:
    """Flushes per second of one appender to a file whose blocks exist already."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        size = 16 * MIB
        file.write(bytes(size))
        file.flush()
        os.fdatasync(file.fileno())
        payload, count, offset = os.urandom(record), 0, 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            os.pwrite(file.fileno(), payload, offset)
            os.fdatasync(file.fileno())
            offset = (offset + record) % (size - record)
            count += 1
        return count / seconds


def md5_rate(seconds: float = 0.5) -> float:
    """MiB per second of MD5 on one core."""
    chunk, count = bytes(MIB), 0
    running, until = hashlib.md5(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        running.update(chunk)
        count += 1
    return count / seconds


def loopback_rate(megabytes: int = 2048) -> float:
    """MiB per second from one thread to another over TCP loopback."""
    server = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = server.accept()
        chunk = bytes(MIB)
        for _ in range(megabytes):
            connection.sendall(chunk)
        connection.close()

    thread = threading.Thread(target=send)
    started = time.perf_counter()
    thread.start()
    with socket.create_connection(server.getsockname()) as client:
        buffer = bytearray(MIB)
        while client.recv_into(buffer):
            pass
    thread.join()
    server.close()
    return megabytes / (time.perf_counter() - started)


_BARE = """
import asyncio, sys
import uvloop
from aiohttp import web

async def handler(request):
    body = await request.read()
    return web.Response(body=b"x" * 4096 if request.method == "GET" else b"")

async def main():
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(600)

uvloop.run(main())
"""


@contextlib.contextmanager
def bare_server() -> Iterator[str]:
    """A bare aiohttp server that reads the request and answers 4 KiB or nothing."""
    process = subprocess.Popen([sys.executable, "-c", _BARE], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)
