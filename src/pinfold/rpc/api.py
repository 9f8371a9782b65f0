"""What callers and handlers of the rpc layer see.

The rule of this file: types only. Bodies are msgpack-able values (lists, ints, bytes, str, None);
bulk bytes travel as payload beside the body and are never copied through msgpack.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pinfold.env.api import Buffer
from pinfold.model.ids import Boot, NodeName

Body = Any
"""A msgpack-able value; tuples arrive as lists."""


@dataclass(slots=True)
class Request:
    """One request as a handler gets it."""

    peer: NodeName
    peer_boot: Boot
    operation: str
    body: Body
    payload: memoryview
    """Owned by the request: it stays valid and unchanged as long as it is referenced."""
    deadline: float
    """Absolute, on this process's monotonic clock."""
    epoch: int
    """The sender's map epoch."""


@dataclass(slots=True)
class Reply:
    """A successful answer: a body and any number of payload buffers, sent as they are."""

    body: Body = None
    payload: Sequence[Buffer] = ()


@dataclass(slots=True)
class Answer:
    """A reply as the caller gets it."""

    body: Body
    payload: memoryview


HandlerResult = Reply | asyncio.Future[Reply] | asyncio.Future[None] | Coroutine[Any, Any, Reply]
Handler = Callable[[Request], HandlerResult]
"""Answers one operation. A plain `Reply` is the fast path (no task); a Future costs a callback
(one that ends with None is answered with an empty reply, so that a durable call of a device can be
handed back as it is); a coroutine becomes a task. Handlers of one connection are *called* in the
order the requests were sent, so a handler that does its ordering work before its first await keeps
the sender's order.
A `PinfoldError` raised (or set) travels to the caller as the same class; any other exception is
logged and travels as the base class."""

StreamHandler = Callable[[Request, AsyncIterator[memoryview]], Coroutine[Any, Any, Reply]]
"""Answers a stream: the chunks come in order, in pieces of the rpc layer's choosing, and taking
one gives the sender credit for more. The iterator raises Unavailable when the sender aborts or is
lost and DeadlineExceeded at the request's deadline. It may answer before the end of the stream."""


class OutStream(Protocol):
    """A request whose payload is sent piece by piece, by one task. Errors are PinfoldErrors."""

    async def write(self, buffer: Buffer) -> None:
        """Send the next bytes, waiting while the peer has given no credit for them.

        Raises what the peer answered, when it failed the request already; after an early success
        further bytes are dropped. The buffer must not be changed afterwards.
        """
        ...

    async def finish(self) -> Answer:
        """Say that this was all and wait for the answer."""
        ...

    def abort(self) -> None:
        """Give up: the peer's handler hears Unavailable. No effect after the answer."""
        ...


class Peers(Protocol):
    """Calls to other nodes by name, and to this node itself without a socket."""

    def call(
        self,
        node: NodeName,
        operation: str,
        body: Body = None,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> asyncio.Future[Answer]:
        """Send a request; the future fails with a PinfoldError.

        Everything sent in one loop tick to one peer leaves in one write, in call order. A lost
        connection fails every call in flight with Unavailable: whether the peer acted is unknown.
        Over the peer's byte limit the call fails with Busy at once. Payload buffers must not be
        changed any more: a handler in this process keeps them by reference. The body is encoded
        at once (TypeError when it cannot be). A future given up does not stop the peer.
        """
        ...

    def open(
        self, node: NodeName, operation: str, body: Body = None, *, deadline: float
    ) -> OutStream:
        """Start a streamed request. Raises Unavailable without a session, Busy over a limit."""
        ...

    def tell(self, node: NodeName, operation: str, body: Body = None) -> None:
        """Send a message that expects no answer; dropped when there is no connection."""
        ...

    def connected(self, node: NodeName) -> bool:
        """Whether a session to the node is established at this moment."""
        ...

    def watch(self, callback: Callable[[NodeName, bool, Boot], None]) -> None:
        """Hear of sessions established (True) and lost (False), with the peer's boot.

        Calls in flight have failed before a loss is told. This node itself is always connected
        and never told of.
        """
        ...


class Dispatcher(Protocol):
    """The operations that this process answers."""

    def bind(self, operation: str, handler: Handler) -> None:
        """Answer `operation` with `handler`; binding twice is a programmer's error."""
        ...

    def bind_stream(self, operation: str, handler: StreamHandler) -> None:
        """Answer `operation` as a stream; one name is either a call or a stream."""
        ...


AsyncCloser = Callable[[], Awaitable[None]]
