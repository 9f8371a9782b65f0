"""Calls from a process to itself: the same promises without a socket.

Bodies still go through msgpack, so that a handler sees exactly what it would see from another
node and can change it without changing its caller's; payload is handed over as it is.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from pinfold.env.api import Buffer, Clock
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Busy, DeadlineExceeded, PinfoldError
from pinfold.rpc.api import Answer, Body, Reply, Request
from pinfold.rpc.calls import CallTable, fail_quietly
from pinfold.rpc.dispatch import Operations, as_answer, describe, revive, settle
from pinfold.rpc.frames import as_received
from pinfold.rpc.handshake import Identity
from pinfold.rpc.limits import STREAMS, TELL_S, RpcLimits
from pinfold.rpc.receiver import EMPTY
from pinfold.rpc.serving import UnderWay
from pinfold.rpc.streams import CreditedOutStream, InStream, sender_aborted


class LocalCaller:
    """The own node as a peer. Calls of one tick reach their handlers in order, in the next."""

    def __init__(
        self,
        clock: Clock,
        identity: Identity,
        operations: Operations,
        scope: TaskScope,
        under_way: UnderWay,
        limits: RpcLimits,
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._operations = operations
        self._scope = scope
        self._under_way = under_way
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._calls = CallTable(clock)
        self._streams = 0
        self.epoch = 0

    def call(
        self, operation: str, body: Body, payload: Sequence[Buffer], deadline: float
    ) -> asyncio.Future[Answer]:
        """See `Peers.call`."""
        if deadline <= self._clock.monotonic():
            future: asyncio.Future[Answer] = self._loop.create_future()
            fail_quietly(future, DeadlineExceeded("the deadline had passed before the call"))
            return future
        if len(self._calls) >= self._limits.held_requests:
            future = self._loop.create_future()
            fail_quietly(future, Busy(f"{len(self._calls)} calls within the node wait"))
            return future
        request = self._request(operation, as_received(body), payload, deadline)
        number, future = self._calls.add(deadline)
        self._under_way.count += 1
        self._loop.call_soon(self._serve, number, request)
        return future

    def tell(self, operation: str, body: Body) -> None:
        """See `Peers.tell`."""
        request = self._request(operation, as_received(body), (), self._clock.monotonic() + TELL_S)
        self._loop.call_soon(self._hear, request)

    def open(self, operation: str, body: Body, deadline: float) -> CreditedOutStream:
        """See `Peers.open`."""
        request = self._request(operation, as_received(body), (), deadline)
        handler = self._operations.stream(request, self._clock.monotonic())
        if self._streams >= STREAMS:
            raise Busy(f"{self._streams} streams are open within the node")
        self._streams += 1
        number, future = self._calls.add(deadline)
        wire = _LocalWire(deadline)
        stream = wire.out = CreditedOutStream(wire, future)
        self._under_way.count += 1
        work = settle(operation, handler(request, wire.source))
        task = self._scope.start(work, name=operation)
        task.add_done_callback(partial(self._stream_settled, number, operation))
        return stream

    def fail_all(self, error: PinfoldError) -> None:
        """The process ends: fail what has not been answered."""
        self._calls.fail_all(error)

    def _request(
        self, operation: str, body: Body, payload: Sequence[Buffer], deadline: float
    ) -> Request:
        whole = _whole(payload)
        me = self._identity
        return Request(me.node, me.boot, operation, body, whole, deadline, self.epoch)

    def _serve(self, number: int, request: Request) -> None:
        result = self._operations.run(request, self._clock.monotonic())
        if type(result) is Reply:
            self._under_way.end()
            self._reply(number, request.operation, result)
        elif isinstance(result, PinfoldError):
            self._under_way.end()
            self._fail(number, result)
        else:
            done = partial(self._settled, number, request.operation)
            if isinstance(result, asyncio.Future):
                result.add_done_callback(done)
            else:
                work = settle(request.operation, cast(Any, result))
                self._scope.start(work, name=request.operation).add_done_callback(done)

    def _hear(self, request: Request) -> None:
        result = self._operations.run(request, self._clock.monotonic())
        if asyncio.iscoroutine(result):
            self._scope.start(settle(request.operation, result), name=request.operation)

    def _settled(self, number: int, operation: str, future: asyncio.Future[Any]) -> None:
        self._under_way.end()
        result = self._operations.outcome(operation, future)
        if isinstance(result, PinfoldError):
            self._fail(number, result)
        else:
            self._reply(number, operation, result)

    def _stream_settled(self, number: int, operation: str, task: asyncio.Task[Any]) -> None:
        self._streams -= 1
        self._settled(number, operation, task)

    def _reply(self, number: int, operation: str, reply: Reply) -> None:
        payload = reply.payload
        whole = _whole(payload)
        try:
            body = as_received(reply.body)
        except TypeError as error:
            self._fail(number, as_answer(operation, error))
            return
        self._calls.succeed(number, Answer(body, whole))

    def _fail(self, number: int, error: PinfoldError) -> None:
        code, message, detail = describe(error)
        self._calls.fail(number, revive(code, message, as_received(detail)))


def _whole(payload: Sequence[Buffer]) -> memoryview:
    """The payload as one view; copied only when it has several parts."""
    if not payload:
        return EMPTY
    return memoryview(payload[0] if len(payload) == 1 else b"".join(payload))


class _LocalWire:
    """A stream's two ends wired together."""

    def __init__(self, deadline: float) -> None:
        self.source = InStream(self._grant, deadline)
        self.out: CreditedOutStream | None = None

    def _grant(self, count: int) -> None:
        assert self.out is not None
        self.out.grant(count)

    def chunk(self, view: memoryview) -> None:
        self.source.feed(view)

    def finish(self) -> None:
        self.source.end()

    def abort(self) -> None:
        self.source.fail(sender_aborted())
