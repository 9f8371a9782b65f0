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
from typing import Any, Final, TypeVar

from pinfold.model.errors import NotFound, PinfoldError
from pinfold.objects.bucket import NoSuchBucket
from pinfold.objects.conditions import NoSuchKey
from pinfold.objects.multipart import NoSuchUpload
from pinfold.sim.checkers.history import GARBLED, Call
from pinfold.sim.cluster import Down, ProcessDied, SimCluster
from pinfold.sim.processes import GatewayProcess

T = TypeVar("T")

PATIENCE_S: Final = 12.0
"""Seconds that a client waits for an answer: longer than the product's own deadlines, mostly."""

_AGAIN_S: Final = 0.2
"""Between attempts at what has to work in the end."""

_EXPECTED: Final = (NoSuchKey, NoSuchBucket, NoSuchUpload)
"""The only ways to say that what a client named is not there."""


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
        self.waiting: dict[str, str] = {}
        """What each client waits for at this moment."""
        self.counted: dict[str, tuple[int, int]] = {}
        """In the end: objects and bytes of each bucket as the cluster counts them."""
        self.listed: dict[str, list[tuple[str, int]]] = {}
        """In the end: name and size of every object of each bucket."""
        self._count = 0
        self._tokens: dict[str, str] = {}
        self._etags: dict[str, tuple[str, ...]] = {}

    def rng(self, client: str) -> random.Random:
        """A client's own choices."""
        return random.Random(f"{self.plan.seed}/{client}")

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
        self.know(token, content[: max(size, len(token) + 1)])
        return token, content[: max(size, len(token) + 1)]

    def know(self, token: str, content: bytes, etag: str = "") -> None:
        """This content stands for this token."""
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        self._tokens[digest] = token
        self._tokens[etag or digest] = token
        self._etags[token] = tuple({etag or digest: None, digest: None})

    def token_of(self, content: bytes) -> str:
        """What was read; GARBLED when nobody wrote it."""
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return self._tokens.get(digest, GARBLED)

    def token_of_etag(self, etag: str) -> str:
        """What an ETag stands for."""
        return self._tokens.get(etag, GARBLED)

    def etags_of(self, token: str) -> tuple[str, ...]:
        """The ETags that a token's content may have: a copy of an upload has another."""
        return self._etags[token]

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
                call.lost("blob not found")
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


def _name(number: int) -> str:
    """Names that sort, roll up and nest."""
    return ("a", "a/1", "a/2", "b", "b/x/1", "b/x/2", "c\x00d", "é")[number % 8]
