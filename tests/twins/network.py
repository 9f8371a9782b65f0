"""`Peers` and `Dispatcher` of several nodes in one process, with nodes that die and links cut.

Bodies go through msgpack, so handlers see lists. Calls of one tick arrive in order, one network
delay later; a dead or cut-off node breaks the sessions and fails the calls in flight.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pinfold.env.api import Buffer
from pinfold.model.errors import DeadlineExceeded, PinfoldError, Unavailable, Unsupported
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import Answer, Body, Handler, OutStream, Reply, Request, StreamHandler

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class MemoryNetwork:
    """All the nodes. `delay_s` is the time a message takes; 0 means the next tick."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.nodes: dict[NodeName, MemoryPeers] = {}
        self._cuts: set[frozenset[NodeName]] = set()
        self.silenced: set[NodeName] = set()
        """Nodes that hang: what is sent to and by them is lost and no session breaks."""

    def join(self, node: NodeName, boot: int = 1) -> "MemoryPeers":
        """A node starts (again)."""
        peers = MemoryPeers(self, node, Boot(boot))
        self.nodes[node] = peers
        for other in list(self.nodes.values()):
            if other is not peers and self.linked(node, other.node):
                peers.tell_watchers(other.node, True, other.boot)
                other.tell_watchers(node, True, peers.boot)
        return peers

    def leave(self, node: NodeName) -> None:
        """A node is gone: its code runs no more."""
        gone = self.nodes.pop(node)
        gone.lose(None)
        for other in list(self.nodes.values()):
            if self.linked(node, other.node):
                other.lose(node)
                other.tell_watchers(node, False, gone.boot)

    def cut(self, a: NodeName, b: NodeName) -> None:
        self._cuts.add(frozenset((a, b)))
        for node, other in ((a, b), (b, a)):
            if node in self.nodes and other in self.nodes:
                self.nodes[node].lose(other)
                self.nodes[node].tell_watchers(other, False, self.nodes[other].boot)

    def heal(self) -> None:
        cuts, self._cuts = self._cuts, set()
        for pair in sorted(sorted(cut) for cut in cuts):
            a, b = (NodeName(name) for name in pair)
            if a in self.nodes and b in self.nodes:
                self.nodes[a].tell_watchers(b, True, self.nodes[b].boot)
                self.nodes[b].tell_watchers(a, True, self.nodes[a].boot)

    def linked(self, a: NodeName, b: NodeName) -> bool:
        return frozenset((a, b)) not in self._cuts

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        if self.delay_s:
            loop.call_later(self.delay_s, function, *arguments)
        else:
            loop.call_soon(function, *arguments)


class MemoryPeers:
    """One node's `Peers` and `Dispatcher`."""

    def __init__(self, network: MemoryNetwork, node: NodeName, boot: Boot) -> None:
        self._network = network
        self.node = node
        self.boot = boot
        self._handlers: dict[str, Handler] = {}
        self._watchers: list[Callable[[NodeName, bool, Boot], None]] = []
        self._calls: dict[asyncio.Future[Answer], NodeName] = {}

    def bind(self, operation: str, handler: Handler) -> None:
        assert operation not in self._handlers
        self._handlers[operation] = handler

    def bind_stream(self, operation: str, handler: StreamHandler) -> None:
        raise NotImplementedError

    def open(
        self, node: NodeName, operation: str, body: Body = None, *, deadline: float
    ) -> OutStream:
        raise NotImplementedError

    def watch(self, callback: Callable[[NodeName, bool, Boot], None]) -> None:
        self._watchers.append(callback)
        for other in self._network.nodes.values():
            if other is not self and self._network.linked(self.node, other.node):
                callback(other.node, True, other.boot)

    def tell_watchers(self, node: NodeName, up: bool, boot: Boot) -> None:
        for callback in self._watchers:
            callback(node, up, boot)

    def connected(self, node: NodeName) -> bool:
        return node in self._network.nodes and self._network.linked(self.node, node)

    def lose(self, node: NodeName | None) -> None:
        """Fail the calls in flight to a node (None: all)."""
        for future, to in list(self._calls.items()):
            if (node is None or to == node) and not future.done():
                future.set_exception(Unavailable("the session was lost"))
                future.exception()

    def tell(self, node: NodeName, operation: str, body: Body = None) -> None:
        if self.connected(node):
            self._network.post(self._arrive, node, operation, _encode(body), (), 1e9, None)

    def call(
        self,
        node: NodeName,
        operation: str,
        body: Body = None,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> "asyncio.Future[Answer]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if not self.connected(node):
            future.set_exception(Unavailable(f"no session with {node}"))
            future.exception()
            return future
        self._calls[future] = node
        expiry = loop.call_at(deadline, _expire, future)
        future.add_done_callback(lambda done: (self._calls.pop(done, None), expiry.cancel()))
        encoded = _encode(body)
        self._network.post(self._arrive, node, operation, encoded, payload, deadline, future)
        return future

    def _arrive(
        self,
        node: NodeName,
        operation: str,
        encoded: bytes,
        payload: Sequence[Buffer],
        deadline: float,
        future: "asyncio.Future[Answer] | None",
    ) -> None:
        target = self._network.nodes.get(node)
        if target is None or self._silenced(node):
            return
        if not self._network.linked(self.node, node) or self._network.nodes.get(self.node) != self:
            return
        whole = memoryview(payload[0]) if len(payload) == 1 else memoryview(b"".join(payload))
        request = Request(self.node, self.boot, operation, _decode(encoded), whole, deadline, 0)
        handler = target._handlers.get(operation)
        if handler is None:
            self._answer(target, future, Unsupported(operation))
            return
        try:
            result = handler(request)
        except PinfoldError as error:
            self._answer(target, future, error)
            return
        if isinstance(result, Reply):
            self._answer(target, future, result)
            return
        assert not inspect.iscoroutine(result), "not needed so far"
        result.add_done_callback(
            lambda done: self._answer(target, future, done.exception() or done.result())
        )

    def _silenced(self, node: NodeName) -> bool:
        return node in self._network.silenced or self.node in self._network.silenced

    def _answer(
        self,
        target: "MemoryPeers",
        future: "asyncio.Future[Answer] | None",
        result: Reply | BaseException,
    ) -> None:
        if future is not None and not future.done():
            self._network.post(self._answered, target, future, result)

    def _answered(
        self,
        target: "MemoryPeers",
        future: "asyncio.Future[Answer]",
        result: Reply | BaseException,
    ) -> None:
        if future.done() or self._network.nodes.get(target.node) is not target:
            return
        if self._silenced(target.node):
            return
        if isinstance(result, PinfoldError):
            future.set_exception(type(result)(result.message, detail=result.detail))
            future.exception()
        elif isinstance(result, BaseException):
            future.set_exception(result)
        else:
            payload = memoryview(b"".join(result.payload))
            future.set_result(Answer(_decode(_encode(result.body)), payload))


def _expire(future: "asyncio.Future[Answer]") -> None:
    if not future.done():
        future.set_exception(DeadlineExceeded("no answer in time"))
        future.exception()
