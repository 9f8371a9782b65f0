"""Devices with extents in memory and a network to them, with the faults real ones have.

`MemoryExtents` keeps what was not flushed revocable: a crash loses any suffix of it, as a journal
does. `MemoryNetwork` delivers in order per connection and can hang, cut and refuse.
"""

import asyncio
import math
import random
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pinfold.device.api import Claim, Device, DeviceStatus, ExtentOp, Mark
from pinfold.env.api import Buffer
from pinfold.model.errors import (
    Busy,
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Fenced,
    Full,
    PinfoldError,
    Unavailable,
)
from pinfold.model.ids import (
    Boot,
    DeviceId,
    DeviceUuid,
    ExtentIndex,
    NodeName,
    Token,
    VolumeId,
)
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.rpc.api import Answer, Body, Handler, Reply, Request

_ZERO_EXTENT = bytes(EXTENT_BYTES)


Keeps = Literal["nothing", "some", "all"]
"""Of what was not flushed: "all" when only the process died."""


@dataclass
class _Volume:
    token: int = 0
    lost: bool = False
    told: bool = True
    extents: dict[int, bytearray] = field(default_factory=dict)
    marks: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """extent -> (epoch, sequence, token that marked it dirty or 0)"""


class MemoryExtents:
    """`ExtentStore` as dictionaries. `undoable` False drops crash semantics, for speed."""

    def __init__(self, *, undoable: bool = True) -> None:
        self._volumes: dict[bytes, _Volume] = {}
        self._undo: list[Callable[[], None]] = []
        self._undoable = undoable
        self.full = False
        self.busy = False
        self.corrupt: set[tuple[int, int]] = set()
        """(extent, block) that fail verification until written whole."""
        self.whole_blocks = False
        """Refuse, as a mistake, writes of parts of blocks."""
        self.flush_gate: asyncio.Future[None] | None = None
        """While set, flushes wait for it."""
        self.restored_gate: asyncio.Future[None] | None = None
        """While set, the answer that a loss was made good waits for it."""

    def crash(self, rng: random.Random, keeps: Keeps = "some") -> None:
        """Keep a part of what was not flushed: some is a random first part."""
        there = len(self._undo)
        keep = {"nothing": 0, "some": rng.randint(0, there), "all": there}[keeps]
        while len(self._undo) > keep:
            self._undo.pop()()
        self._undo.clear()

    def claim(self, volume: VolumeId, token: Token) -> asyncio.Future[Claim]:
        state = self._volumes.setdefault(volume, _Volume())
        done: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        if token < state.token:
            done.set_exception(Fenced(f"token {state.token} is known"))
        else:
            state.token = token
            state.told = True
            done.set_result(Claim(state.lost))
        return done

    def _enter(self, volume: VolumeId, token: Token) -> _Volume:
        state = self._volumes.get(volume)
        if state is None or state.token != token:
            raise Fenced("another token")
        if not state.told:
            raise Conflict("the volume has lost extents here: claim it again")
        return state

    def write(
        self,
        volume: VolumeId,
        token: Token,
        epoch: int,
        sequence: int,
        ops: Sequence[ExtentOp],
        payload: memoryview,
    ) -> asyncio.Future[None]:
        state = self._enter(volume, token)
        if self.busy:
            raise Busy("the journal waits to be applied")
        if self.full:
            raise Full("no room")
        if self.whole_blocks:
            assert not any((op.offset | op.length) % BLOCK_BYTES for op in ops)
        position = 0
        for kind, extent, offset, length in ops:
            bytes_at = state.extents.get(extent)
            if bytes_at is None and length:
                bytes_at = state.extents[extent] = bytearray(EXTENT_BYTES)
            if self._undoable:
                self._remember(state, extent, offset, length)
            state.marks[extent] = (epoch, sequence, token)
            if not length:
                continue
            assert bytes_at is not None
            assert offset + length <= EXTENT_BYTES
            if kind == 0:
                bytes_at[offset : offset + length] = payload[position : position + length]
                position += length
            else:
                bytes_at[offset : offset + length] = _ZERO_EXTENT[:length]
            if self.corrupt:
                self._heal(extent, offset, length)
        assert position == len(payload)
        return _done()

    def _heal(self, extent: int, offset: int, length: int) -> None:
        first = -(-offset // BLOCK_BYTES)
        for block in range(first, (offset + length) // BLOCK_BYTES):
            self.corrupt.discard((extent, block))

    def _remember(self, state: _Volume, extent: int, offset: int, length: int) -> None:
        old_mark = state.marks.get(extent)
        old = bytes(state.extents[extent][offset : offset + length]) if length else b""

        def undo() -> None:
            if length:
                state.extents[extent][offset : offset + length] = old
            if old_mark is None:
                state.marks.pop(extent, None)
            else:
                state.marks[extent] = old_mark

        self._undo.append(undo)

    def flush(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        self._enter(volume, token)
        count = len(self._undo)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(_gate: object = None) -> None:
            del self._undo[:count]
            if not done.done():
                done.set_result(None)

        if self.flush_gate is not None:
            self.flush_gate.add_done_callback(finish)
        else:
            finish()
        return done

    def read(
        self,
        volume: VolumeId,
        token: Token,
        spans: Sequence[tuple[int, int, int]],
        *,
        deadline: float = math.inf,
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        state = self._enter(volume, token)
        if state.lost:
            raise Corrupt("the volume was lost here", detail=[spans[0][0], 0])
        found: list[Buffer] = []
        for extent, offset, length in spans:
            if self.corrupt:
                self._verify(extent, offset, length)
            held = state.extents.get(extent)
            if held is None:
                found.append(_ZERO_EXTENT[:length])
            else:
                found.append(bytes(memoryview(held)[offset : offset + length]))
        return found

    def _verify(self, extent: int, offset: int, length: int) -> None:
        for block in range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1):
            if (extent, block) in self.corrupt:
                raise Corrupt("a block fails verification", detail=[extent, block])

    def stable(self, volume: VolumeId, token: Token, sequence: int) -> None:
        state = self._enter(volume, token)
        for extent, (epoch, last, marked) in list(state.marks.items()):
            if marked == token and last <= sequence:
                state.marks[extent] = (epoch, last, 0)

    def marks(
        self, volume: VolumeId, token: Token, after: int, limit: int, *, dirty: bool
    ) -> list[Mark]:
        state = self._enter(volume, token)
        return [
            Mark(extent, epoch, marked, sequence if marked else 0)
            for extent, (epoch, sequence, marked) in sorted(state.marks.items())
            if extent > after and (marked or not dirty)
        ][:limit]

    def allocated(
        self, volume: VolumeId, token: Token, index: ExtentIndex
    ) -> list[tuple[int, int]]:
        state = self._enter(volume, token)
        return [(0, EXTENT_BYTES)] if index in state.extents else []

    def check(self, volume: VolumeId, token: Token) -> None:
        self._enter(volume, token)

    def forget(self) -> None:
        """Every extent is gone, and the device knows it: tokens stay."""
        self._undo.clear()
        for state in self._volumes.values():
            state.extents.clear()
            state.marks.clear()
            state.lost = True

    def lose(self, volume: VolumeId) -> None:
        """A row of an extent turns out to be rotten: the device serves on, and has to tell."""
        state = self._volumes[volume]
        state.lost, state.told = True, False

    def claimed_lost(self, volume: VolumeId) -> bool:
        """Whether a holder would be told of the loss."""
        return self._volumes[volume].lost

    def restored(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        self._enter(volume, token).lost = False
        return self.restored_gate or self.flush(volume, token)

    def drop(self, volume: VolumeId) -> asyncio.Future[None]:
        if volume in self._volumes:
            self._volumes[volume] = _Volume(token=self._volumes[volume].token)
        return _done()

    def volumes(self, after: bytes, limit: int) -> list[VolumeId]:
        held = [volume for volume, state in sorted(self._volumes.items()) if state.extents]
        return [VolumeId(volume) for volume in held if volume > after][:limit]

    def content(self, volume: bytes, offset: int, length: int) -> bytes:
        """What is held there, unverified: for checkers."""
        state = self._volumes.get(volume, _Volume())
        extent, within = divmod(offset, EXTENT_BYTES)
        return bytes(state.extents.get(extent, _ZERO_EXTENT)[within : within + length])

    def dirty(self, volume: bytes) -> list[int]:
        """Extents marked dirty."""
        state = self._volumes.get(volume, _Volume())
        return sorted(extent for extent, mark in state.marks.items() if mark[2])


def _done() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


class MemoryDevice(Device):
    """A device of nothing but extents."""

    def __init__(self, number: int, *, undoable: bool = True) -> None:
        self._uuid = DeviceUuid(struct.pack(">QQ", 0, number + 1))
        self._boot = Boot(1)
        self._extents = MemoryExtents(undoable=undoable)

    @property
    def uuid(self) -> DeviceUuid:
        return self._uuid

    @property
    def boot(self) -> Boot:
        return self._boot

    @property
    def extents(self) -> MemoryExtents:
        return self._extents

    def restart(self, rng: random.Random, keeps: Keeps = "some") -> None:
        self._extents.crash(rng, keeps)
        self._boot = Boot(self._boot + 1)

    def status(self) -> DeviceStatus:
        raise NotImplementedError

    async def close(self) -> None:
        return


class MemoryDispatcher:
    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def bind(self, operation: str, handler: Handler) -> None:
        assert operation not in self.handlers
        self.handlers[operation] = handler


@dataclass
class _Call:
    request: Request
    answer: asyncio.Future[Answer]
    expiry: asyncio.TimerHandle | None = None


class MemoryNode:
    """A process behind a network connection."""

    def __init__(self, name: str) -> None:
        self.name = NodeName(name)
        self.dispatcher = MemoryDispatcher()
        self.up = True
        self.hung = False
        self.latency = 0.0002
        self.waiting: deque[_Call] = deque()
        self.unanswered: dict[int, _Call] = {}
        self.incarnation = 0
        self.calls = 0


class MemoryNetwork:
    """`Peers` of one gateway, to nodes in this process.

    `before_delivery(node, operation)` and `before_answer` may raise or cut connections: faults at
    exact places. Nothing here waits in real time under a virtual loop.
    """

    def __init__(self, nodes: Sequence[MemoryNode], name: str = "gw") -> None:
        self._nodes = {node.name: node for node in nodes}
        self._name = NodeName(name)
        self.before_delivery: Callable[[MemoryNode, str], None] | None = None
        self.before_answer: Callable[[MemoryNode, str], None] | None = None
        self.isolated = False

    def call(
        self,
        node: NodeName,
        operation: str,
        body: Body = None,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        target = self._nodes[node]
        if not target.up or self.isolated:
            answer.set_exception(Unavailable(f"{node} is down"))
            return answer
        joined = payload[0] if len(payload) == 1 else b"".join(payload)
        view = memoryview(joined)
        body = list(body) if isinstance(body, tuple) else body
        request = Request(self._name, Boot(1), operation, body, view, deadline, 0)
        call = _Call(request, answer)
        target.calls += 1
        target.waiting.append(call)
        target.unanswered[id(call)] = call
        call.expiry = loop.call_at(deadline, self._expire, target, call)
        loop.call_later(target.latency, self._deliver, target, target.incarnation)
        return answer

    def tell(self, node: NodeName, operation: str, body: Body = None) -> None:
        raise NotImplementedError

    def connected(self, node: NodeName) -> bool:
        return self._nodes[node].up

    def watch(self, callback: Callable[[NodeName, bool, Boot], None]) -> None:
        return

    def _expire(self, node: MemoryNode, call: _Call) -> None:
        node.unanswered.pop(id(call), None)
        if not call.answer.done():
            call.answer.set_exception(DeadlineExceeded("no answer in time"))

    def _deliver(self, node: MemoryNode, incarnation: int) -> None:
        if incarnation != node.incarnation or node.hung or not node.waiting:
            return
        call = node.waiting.popleft()
        operation = call.request.operation
        if self.before_delivery is not None:
            self.before_delivery(node, operation)
            if incarnation != node.incarnation:
                return
        try:
            result = node.dispatcher.handlers[operation](call.request)
        except PinfoldError as error:
            self._reply(node, incarnation, call, error)
            return
        if isinstance(result, Reply):
            self._reply(node, incarnation, call, result)
        elif isinstance(result, asyncio.Future):
            result.add_done_callback(lambda done: self._settled(node, incarnation, call, done))
        else:
            task = asyncio.get_running_loop().create_task(result)
            task.add_done_callback(lambda done: self._settled(node, incarnation, call, done))

    def _settled(
        self, node: MemoryNode, incarnation: int, call: _Call, done: asyncio.Future[Reply]
    ) -> None:
        error = done.exception()
        if error is None:
            self._reply(node, incarnation, call, done.result())
        else:
            assert isinstance(error, PinfoldError), error
            self._reply(node, incarnation, call, error)

    def _reply(
        self, node: MemoryNode, incarnation: int, call: _Call, reply: Reply | PinfoldError
    ) -> None:
        if incarnation != node.incarnation:
            return
        if self.before_answer is not None:
            self.before_answer(node, call.request.operation)
            if incarnation != node.incarnation:
                return
        asyncio.get_running_loop().call_later(
            node.latency, self._answer, node, incarnation, call, reply
        )

    def _answer(
        self, node: MemoryNode, incarnation: int, call: _Call, reply: Reply | PinfoldError
    ) -> None:
        if incarnation != node.incarnation or node.hung or call.answer.done():
            return
        node.unanswered.pop(id(call), None)
        if call.expiry is not None:
            call.expiry.cancel()
        if isinstance(reply, Reply):
            payload = reply.payload
            joined = payload[0] if len(payload) == 1 else b"".join(payload)
            call.answer.set_result(Answer(reply.body, memoryview(joined)))
        else:
            call.answer.set_exception(reply)

    # Faults

    def cut(self, node: MemoryNode, *, deliver: int = 0) -> None:
        """Break the connection: calls in flight fail; the first `deliver` of them still arrive."""
        for _ in range(min(deliver, len(node.waiting))):
            call = node.waiting.popleft()
            try:
                result = node.dispatcher.handlers[call.request.operation](call.request)
                if asyncio.iscoroutine(result):
                    result.close()
            except PinfoldError:
                break
        node.incarnation += 1
        node.waiting.clear()
        unanswered, node.unanswered = node.unanswered, {}
        for call in unanswered.values():
            if call.expiry is not None:
                call.expiry.cancel()
            if not call.answer.done():
                call.answer.set_exception(Unavailable("the connection was lost"))

    def kill(self, node: MemoryNode, *, deliver: int = 0) -> None:
        """The process dies."""
        self.cut(node, deliver=deliver)
        node.up = False


def device_ids(count: int) -> tuple[DeviceId, ...]:
    return tuple(DeviceId(number) for number in range(count))
