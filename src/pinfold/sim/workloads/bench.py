"""What all clients of a run share: the history, the contents they know, and how they ask.

A client is a coroutine function of a `Bench` and its own name, started by `workloads.start`. It
stands outside of the cluster like a user's program, asks gateways through `Bench.ask`, records
every call with its outcome, and ends soon after `bench.stopping` is set.

To add one: write it in a module beside this one, draw from `bench.rng(name)`, write only contents
made by `bench.new_value`, and list it in `workloads.start`. What it may believe of answers is in
`checkers.history`.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from pinfold.model.errors import NotFound, PinfoldError
from pinfold.model.limits import KIB
from pinfold.objects.bucket import NoSuchBucket
from pinfold.objects.conditions import NoSuchKey
from pinfold.objects.multipart import NoSuchUpload
from pinfold.sim.checkers.history import GARBLED, Call
from pinfold.sim.cluster import Down, ProcessDied, SimCluster
from pinfold.sim.plan import BLOCK, SECTOR, Plan
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads.forgery import forged
from pinfold.sim.workloads.s3 import User

if TYPE_CHECKING:
    from pinfold.sim.workloads.uploads import Upload

T = TypeVar("T")

PATIENCE_S: Final = 12.0
"""Seconds that a client waits for an answer: longer than the product's own deadlines, mostly."""

_AGAIN_S: Final = 0.2
"""Between attempts at what has to work in the end."""

_FORGED: Final = 0.6
"""How much of what clients write looks like a device's own, in runs where some of it does."""

_USERS: Final = ("alice", "bob")

DESCRIPTION: Final = "x-amz-meta-of"
"""The header that says what an object is: metadata that whoever reads it judges."""

DESCRIBED_ANEW: Final = ("described anew", "copied and described anew")
"""What objects say whose description was replaced."""

_EXPECTED: Final = (NoSuchKey, NoSuchBucket, NoSuchUpload)
"""The only ways to say that what a client named is not there."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume as its clients see it: cells of one size, each with a content of its own."""

    size: int
    unit: int
    """Bytes of a cell: a block, or a sector of which several share a block."""

    @classmethod
    def of(cls, plan: Plan, number: int) -> "Disk":
        """A run's volume of that number."""
        if not number:
            return cls(plan.volume_bytes, BLOCK)
        rng = random.Random(f"{plan.seed}/disk {number}")
        return cls(rng.choice((256 * KIB, 8 << 20, 1 << 40)), rng.choice((SECTOR, BLOCK)))

    @property
    def cells(self) -> list[int]:
        """Those that clients touch: at both ends, around borders of blocks and extents.

        They are few, so that they are written again and again.
        """
        total = self.size // self.unit
        first, middle = BLOCK // self.unit - 1, total // 2
        ends = *range(first, first + 8), *range(total - 8, total)
        return sorted((*ends, *range(middle - 4, middle + 4)))


class Bench:
    """Shared by the clients of one run."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.plan = cluster.plan
        self.recorder = cluster.recorder
        self.account = cluster.account
        self.stopping = False
        self.buckets = [f"bucket{number}" for number in range(self.plan.buckets)]
        self.names = [_name(number) for number in range(self.plan.names)]
        self.volumes = [f"volume{number}" for number in range(self.plan.volumes)]
        self.disks = {
            volume: Disk.of(self.plan, number) for number, volume in enumerate(self.volumes)
        }
        self.waiting: dict[str, str] = {}
        """What each client waits for at this moment."""
        self.counted: dict[str, tuple[int, int]] = {}
        """In the end: objects and bytes of each bucket as the cluster counts them."""
        self.listed: dict[str, list[tuple[str, int]]] = {}
        """In the end: name and size of every object of each bucket."""
        self.users = [User(name, f"secret of {name}") for name in _USERS[: self.plan.users]]
        self.owners: dict[str, User] = {}
        """Who made each bucket last, as far as anybody knows."""
        self.uploads: list[Upload] = []
        """Open uploads that all clients know."""
        self.seen: dict[tuple[str, str], str] = {}
        """What was last known to be there: for If-Match."""
        self._forger = self.rng("forger")
        self._count = 0
        self._contents: dict[str, bytes] = {}
        self._made: dict[str, str] = {}
        self._tokens: dict[str, str] = {}
        self._etags: dict[str, dict[str, None]] = {}
        self._said: dict[str, set[str]] = {}

    def rng(self, client: str) -> random.Random:
        """A client's own choices."""
        return random.Random(f"{self.plan.seed}/{client}")

    def owner_of(self, bucket: str) -> User:
        """Who probably owns a bucket."""
        return self.owners.get(bucket, self.users[0])

    def reading_gateway(self, volume: str) -> str:
        """The gateway through which a volume is read when its clients have gone."""
        return self.rng(f"reader of {volume}").choice(self.plan.front)

    # Contents

    def new_token(self, client: str) -> str:
        """A token that nobody has used."""
        self._count += 1
        return f"{client}.{self._count}"

    def new_value(self, client: str, size: int) -> tuple[str, bytes]:
        """A token and the content it stands for."""
        token = self.new_token(client)
        content = (token.encode() + b"|") * (size // (len(token) + 1) + 1)
        content = content[: max(size, len(token) + 1)]
        if self.plan.forged and self._forger.random() < _FORGED:
            content = content[: len(token) + 1]
            content += forged(self._forger, size - len(content)) if size > len(content) else b""
        self.know(token, content)
        self._made[_md5(content)] = token
        return token, content

    def know(self, token: str, content: bytes, etag: str = "") -> None:
        """This content stands for this token."""
        digest = _md5(content)
        self._contents[token] = content
        etags = self._etags.setdefault(token, {})
        for tag in (etag or digest, digest):
            self._tokens[tag] = token
            etags[tag] = None

    def know_part(self, client: str, content: bytes) -> str:
        """The token of a part made of another object's bytes: the same for the same bytes."""
        digest = _md5(content)
        token = self._tokens.get(digest) or self.new_token(client)
        self.know(token, content)
        self._made[digest] = token
        return token

    def know_parts(self, client: str, content: bytes, etag: str) -> str:
        """The token of an object made of parts: the same for the same bytes."""
        token = self._tokens.get(etag) or self._tokens.get(_md5(content))
        token = token or self.new_token(client)
        self.know(token, content, etag)
        return token

    def say(self, token: str, description: str) -> None:
        """Somebody may write this with that description, which copies keep."""
        self._said.setdefault(token, set()).add(description)

    def told(self, token: str, description: str, size: int) -> str:
        """What was read, given what its metadata says and its size; GARBLED unless they fit."""
        fits = description in self._said.get(token, ()) or description in DESCRIBED_ANEW
        return token if fits and len(self.content_of(token)) == size else GARBLED

    def content_of(self, token: str) -> bytes:
        """What a token stands for; no bytes if it is GARBLED."""
        return self._contents.get(token, b"")

    def token_of(self, content: bytes) -> str:
        """What was read; GARBLED when nobody wrote it."""
        return self._tokens.get(_md5(content), GARBLED)

    def token_of_part(self, etag: str) -> str:
        """What the ETag of a part stands for."""
        return self._made.get(etag, GARBLED)

    def token_of_etag(self, etag: str) -> str:
        """What an ETag stands for."""
        return self._tokens.get(etag, GARBLED)

    def listed_as(self, etag: str, size: int) -> str:
        """What an ETag and a size stand for."""
        token = self.token_of_etag(etag)
        return token if len(self.content_of(token)) == size else GARBLED

    def tags_of(self, token: str) -> str:
        """If-Match of the ETags that a token's content may have: a copy of an upload has another.

        A garbled one has none that anything has.
        """
        return ", ".join(f'"{etag}"' for etag in self._etags.get(token, {GARBLED: None}))

    # Asking

    async def ask(
        self,
        client: str,
        gateway: str,
        what: str,
        request: Callable[[GatewayProcess], Coroutine[Any, Any, T]],
        patience_s: float = PATIENCE_S,
    ) -> T:
        """Ask a gateway and wait, but not for ever: TimeoutError, Down, ProcessDied besides."""
        self.waiting[client] = f"{what} at {gateway} since {self.cluster.world.loop.now:.3f}"
        try:
            async with asyncio.timeout(patience_s):
                return await self.cluster.ask(gateway, request)
        finally:
            self.waiting.pop(client, None)

    async def recorded(
        self,
        call: Call,
        gateway: str,
        request: Callable[[GatewayProcess], Coroutine[Any, Any, T]],
        read: Callable[[T], str | None] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> T | None:
        """Ask what a call stands for, and record how it ended; None unless it succeeded."""
        operation = call.operation
        about = operation.upload or f"{operation.bucket}/{operation.name}"
        call.asked_of(gateway)
        what = f"{operation.kind} {about}"
        asked = self.ask(operation.client, gateway, what, request, patience_s)
        return await self.record(call, asked, read)

    async def outcome(self, work: Awaitable[T]) -> Callable[[], Coroutine[Any, Any, T]]:
        """How some work has ended, to be given to each of the calls that it answers."""
        result: T | None = None
        failed: Exception | None = None
        try:
            result = await work
        except (PinfoldError, Down, ProcessDied, TimeoutError) as error:
            failed = error

        async def again() -> T:
            if failed is not None:
                raise failed
            return cast(T, result)

        return again

    async def record(
        self, call: Call, work: Awaitable[T], read: Callable[[T], str | None] | None = None
    ) -> T | None:
        """Await a recorded call and say how it ended; None unless it succeeded."""
        operation = call.operation
        subject = f"{operation.kind} {operation.bucket}/{operation.name}"
        try:
            result = await work
        except Down:
            call.refused("down")
        except (ProcessDied, TimeoutError) as error:
            call.lost(type(error).__name__)
        except NotFound as error:
            if isinstance(error, _EXPECTED):
                call.raised(error)
            else:
                call.lost("data not found")
        except PinfoldError as error:
            call.raised(error)
        else:
            call.done(value=None if read is None else read(result))
            operation = call.operation
            self.account.tell(operation.client, f"{subject} ok: {operation.value or ''}")
            self.account.count(f"{operation.kind} ok")
            return result
        operation = call.operation
        asked = operation.value or operation.condition or ""
        self.account.tell(
            operation.client, f"{subject} {asked} {operation.outcome}: {operation.error}"
        )
        self.account.count(f"{operation.kind} {operation.outcome}")
        return None


async def until(work: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Try until it has worked; the caller bounds the time."""
    while not await work():  # noqa: ASYNC110 - what is waited for is in other processes
        await asyncio.sleep(_AGAIN_S)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _name(number: int) -> str:
    """Names that sort, roll up and nest."""
    return ("a", "a/1", "a/2", "b", "b/x/1", "b/x/2", "c&d", "é")[number % 8]
