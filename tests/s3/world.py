"""The S3 service in memory, and a client that calls it without a network."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote
from xml.etree.ElementTree import Element, fromstring

from prometheus_client import CollectorRegistry

from pinfold.model.settings import ObjectSettings, S3Settings
from pinfold.s3.request import Request
from pinfold.s3.service import S3Service
from tests.s3.signing import UNSIGNED, Signer
from tests.twins.cluster import MemoryBlobs, MemoryRows
from tests.twins.env import HandClock, hand_env
from tests.twins.sealing import SEALER

T = TypeVar("T")

HOST = "s3.example.com"
TINY = S3Settings(
    objects=ObjectSettings(
        segment_bytes=64 << 10,
        write_memory_bytes=256 << 10,
        read_memory_bytes=64 << 10,
        read_chunk_bytes=16 << 10,
    )
)
"""Limits that bite."""

SECRETS = {user: f"secret-of-{user}" for user in ("alice", "bob", "carol")}


class PieceBody:
    """A request's body in pieces. Before the first is there, `meanwhile` happens."""

    def __init__(
        self,
        content: bytes,
        piece: int = 10_000,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.left = content
        self.piece = piece
        self.meanwhile = meanwhile

    async def read(self) -> bytes:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        piece, self.left = self.left[: self.piece], self.left[self.piece :]
        return piece


class Answer:
    """A response, read."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def xml(self) -> Element:
        """The document, without namespaces."""
        root = fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    @property
    def code(self) -> str:
        """The error's code; empty when it is none."""
        found = re.search(rb"<Code>(.*?)</Code>", self.body)
        return found[1].decode() if found and self.status >= 400 else ""

    def texts(self, path: str) -> list[str]:
        """The texts of all elements at a path."""
        return [element.text or "" for element in self.xml.findall(path)]


class World:
    """The service with three users, alice, bob and carol."""

    def __init__(
        self, settings: S3Settings = TINY, registry: CollectorRegistry | None = None
    ) -> None:
        self.clock = HandClock()
        env = hand_env(self.clock)
        self.blobs = MemoryBlobs(self.clock, env.rng.randbytes)
        self.rows = MemoryRows(self.clock, self.blobs.freed)
        self.access_lines: list[bytes] = []
        self.service = S3Service(
            env,
            self.rows,
            self.blobs,
            SEALER,
            settings,
            registry=registry,
            access_log=self.access_lines.append,
        )

    async def begin(self) -> "World":
        """Make the users and alice's bucket."""
        accounts = self.service.store.accounts
        for user, secret in SECRETS.items():
            await accounts.create_user(user, display_name=user.title())
            await accounts.create_key(user, access_key=user, secret=secret)
        await self.call("PUT", "/bucket")
        return self

    def signer(self, user: str = "alice", offset_s: float = 0.0) -> Signer:
        """A client whose clock is off by so much."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.clock.wall() + offset_s))
        return Signer(user, SECRETS[user], stamp)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        user: str = "alice",
        payload_hash: str = UNSIGNED,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """A signed request; `query` is in canonical form. Anonymous when `user` is empty.

        `meanwhile` happens when it is authenticated and its body is on the way.
        """
        path = quote(path, safe="/-_.~")
        sent = {"host": HOST, **(headers or {})}
        if body or method in ("PUT", "POST"):
            sent.setdefault("content-length", str(len(body)))
        if user:
            signed = {name: sent[name] for name in sent if name != "content-length"}
            signed = self.signer(user).signed(method, path, query, signed, payload_hash)
            sent = {**sent, **signed}
        target = f"{path}?{query}" if query else path
        return await self.send(method, target, sent, body, meanwhile)

    async def send(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """A request as it is."""
        request = Request(
            method=method,
            target=target,
            headers=headers,
            body=PieceBody(body, meanwhile=meanwhile),
            id="ID",
        )
        response = await self.service.respond(request)
        content = response.body
        if response.chunks is not None:
            pieces = [bytes(piece) async for chunk in response.chunks for piece in chunk]
            content = b"".join(pieces)
            await response.chunks.aclose()
            assert len(content) == response.length
        told = {name.lower(): value for name, value in response.headers}
        return Answer(response.status, told, content)


def in_world(test: Callable[[World], Awaitable[Any]], settings: S3Settings = TINY) -> None:
    """Run a test in a fresh world."""

    async def run() -> None:
        await test(await World(settings).begin())

    asyncio.run(run())
