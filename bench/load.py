"""A closed-loop HTTP load generator that costs little: requests are built before the clock starts.

Each of `clients` keep-alive connections sends its next request when the last one is answered.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote, urlsplit


@dataclass(frozen=True)
class Rate:
    """What one phase did."""

    requests: int
    seconds: float
    latencies_ms: tuple[float, ...]

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Signer:
    """Builds signed S3 request heads (SigV4, UNSIGNED-PAYLOAD, path style)."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def request(self, method: str, path: str, query: str = "", body: bytes = b"") -> bytes:
        host = urlsplit(self.endpoint).netloc
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = quote(path, safe="/-_.~")
        headers = {"host": host, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": now}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + self.secret_key.encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), "sha256").digest()
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}"
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        target = f"{path}?{query}" if query else path
        extra = f"content-length: {len(body)}\r\n" if method in ("PUT", "POST") else ""
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"{method} {target} HTTP/1.1\r\n{fields}authorization: {authorization}\r\n{extra}\r\n"
        )
        return head.encode() + body


class _Client(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, requests: Iterator[bytes], until: float, head_only: bool) -> None:
        self.requests = requests
        self.until = until
        self.head_only = head_only
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        request = next(self.requests, None)
        self._sent = time.perf_counter()
        if request is None or self._sent >= self.until:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            data = self._buffer + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            self._buffer = b""
            head = data[:end].lower()
            if head[9:12] not in (b"200", b"204", b"206"):
                self._fail(f"answered {data[:600]!r}")
                return
            at = head.find(b"content-length:")
            length = 0
            if at >= 0 and not self.head_only:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            self._missing = length - (len(data) - end - 4)
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self._missing = -1
            self.latencies.append((time.perf_counter() - self._sent) * 1000)
            self._next()

    def _fail(self, why: str) -> None:
        self._transport.abort()
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"connection lost: {exc}"))


async def closed_loop(
    endpoint: str,
    requests: list[bytes],
    clients: int,
    seconds: float,
    *,
    once: bool,
    head_only: bool = False,
) -> Rate:
    """Run `requests` (round and round, or once) for at most `seconds`."""
    parts = urlsplit(endpoint)

    def endless() -> Iterator[bytes]:
        while True:
            yield from requests

    source = iter(requests) if once else endless()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connections = []
    for _ in range(clients):
        _, client = await loop.create_connection(
            lambda: _Client(source, started + seconds, head_only), parts.hostname, parts.port
        )
        connections.append(client)
    for client in connections:
        await client.done
    elapsed = time.perf_counter() - started
    latencies = tuple(value for client in connections for value in client.latencies)
    return Rate(requests=len(latencies), seconds=elapsed, latencies_ms=latencies)
