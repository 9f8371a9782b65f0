"""Nodes that talk without bytes: `Peers` and `Dispatcher` whose faults a test chooses."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from pinfold.env.api import Buffer
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import Answer, Body, Handler, Reply, Request, StreamHandler


class TwinDispatcher:
    """What one node answers."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.streams: dict[str, StreamHandler] = {}

    def bind(self, operation: str, handler: Handler) -> None:
        assert operation not in self.handlers
        self.handlers[operation] = handler

    def bind_stream(self, operation: str, handler: StreamHandler) -> None:
        assert operation not in self.streams
        self.streams[operation] = handler


class TwinNet:
    """All nodes of a test. `down` refuse, `silent` never answer."""

    def __init__(self) -> None:
        self.nodes: dict[NodeName, TwinDispatcher] = {}
        self.down: set[NodeName] = set()
        self.silent: set[NodeName] = set()
        self.calls: list[tuple[NodeName, str]] = []
        self.told: list[tuple[NodeName, str, Body]] = []

    def node(self, name: str) -> TwinDispatcher:
        return self.nodes.setdefault(NodeName(name), TwinDispatcher())


class TwinPeers:
    """`Peers` as one caller sees it. Every answer takes one loop tick."""

    def __init__(self, net: TwinNet) -> None:
        self._net = net
        self._tasks: set[asyncio.Task[None]] = set()

    def call(
        self,
        node: NodeName,
        operation: str,
        body: Body = None,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._net.calls.append((node, operation))
        request = self._request(operation, body, memoryview(b"".join(payload)), deadline)
        task = asyncio.get_running_loop().create_task(self._run(node, request, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _run(
        self, node: NodeName, request: Request, future: "asyncio.Future[Answer]"
    ) -> None:
        await asyncio.sleep(0)
        if node in self._net.silent:
            return
        try:
            if node in self._net.down:
                raise Unavailable(f"{node} is down")
            result = self._net.nodes[node].handlers[request.operation](request)
            reply = result if isinstance(result, Reply) else await result
        except PinfoldError as error:
            if not future.done():
                future.set_exception(error)
            return
        if not future.done():
            future.set_result(Answer(reply.body, memoryview(b"".join(reply.payload))))

    def _request(self, operation: str, body: Body, payload: memoryview, deadline: float) -> Request:
        return Request(NodeName("caller"), Boot(1), operation, body, payload, deadline, 1)

    def open(
        self, node: NodeName, operation: str, body: Body = None, *, deadline: float
    ) -> "TwinStream":
        if node in self._net.down:
            raise Unavailable(f"{node} is down")
        self._net.calls.append((node, operation))
        request = self._request(operation, body, memoryview(b""), deadline)
        return TwinStream(self._net.nodes[node].streams[operation], request)

    def tell(self, node: NodeName, operation: str, body: Body = None) -> None:
        self._net.told.append((node, operation, body))

    def connected(self, node: NodeName) -> bool:
        return node not in self._net.down


class TwinStream:
    """`OutStream` that keeps the chunks and hands them over at the end."""

    def __init__(self, handler: StreamHandler, request: Request) -> None:
        self._handler = handler
        self._request = request
        self._chunks: list[memoryview] = []

    async def write(self, buffer: Buffer) -> None:
        self._chunks.append(memoryview(buffer))

    async def finish(self) -> Answer:
        async def chunks() -> AsyncIterator[memoryview]:
            for chunk in self._chunks:
                yield chunk

        reply = await self._handler(self._request, chunks())
        return Answer(reply.body, memoryview(b""))

    def abort(self) -> None:
        self._chunks.clear()
