"""Extents across the wire: what a volume's holder asks of devices, and the devices' answers.

The promise is order. A holder opens a *stream* to a device with `claim` and numbers its write
messages; a device takes message n only behind n - 1 of the same stream and under the same boot,
and answers a read only when it has taken every write message sent before it. A connection that
broke and came back, a device that restarted, or a straggler of an older stream is therefore told
(`Conflict`), never half obeyed; the holder claims again and resends. A device that is busy (its
journal waits to be applied) parks the stream, order and all, until it has room.

Bodies are lists of integers and bytes; the operations of a message are one packed string, so that
a message costs the same msgpack work whatever it carries. Payloads are never copied.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from pinfold.cluster.bodies import Form, Id, Number, Short, answered, taken
from pinfold.device.api import Claim, Device, ExtentOp, ExtentStore, Mark
from pinfold.env.api import Buffer
from pinfold.model.errors import (
    Busy,
    Conflict,
    DeadlineExceeded,
    Fenced,
    Invalid,
    PinfoldError,
    Unavailable,
)
from pinfold.model.ids import Boot, DeviceId, DeviceUuid, NodeName, Token, VolumeId
from pinfold.rpc.api import Answer, Body, Dispatcher, Peers, Reply, Request
from pinfold.rpc.limits import PAYLOAD_BYTES

OP: Final = struct.Struct("<BIII")
"""One packed operation: kind, extent, offset, length."""

SPAN: Final = struct.Struct("<III")
"""One packed read: extent, offset, length."""

_TAKEN: Final = Reply()
"""The answer to every accepted write: shared, for nobody changes a reply."""

_BUSY_S: Final = 0.005
"""Pause before a busy device is tried again: some flushes of its journal."""

PARKED_MAX: Final = 4_096
"""Requests of one volume that wait for a busy device; the holder's window is far below."""

_ALLOCATED_EXTENTS_MAX: Final = 4096
"""Extents in one `allocated` request: bounds the answer (16 GiB of volume)."""

MARKS_PAGE: Final = 2048
"""Marks in one answer: 70 KiB at most, so that it shares a frame."""

_CLAIMED: Final = Form(tuple[Id, Short, bool])
_MARKS: Final = Form(list[tuple[Short, Number, Number, Number]])
_RUNS: Final = Form(list[list[tuple[Short, Short]]])
"""Answers."""

_OPENING: Final = Form(tuple[Id, Short])
_OPENED: Final = Form(tuple[Short])
_CLAIM: Final = Form(tuple[Short, Id, Number, Number])
_DROP: Final = Form(tuple[Short, Id])
_FORMS: Final[dict[str, Form[Any]]] = {
    "extent.write": Form(
        tuple[Short, Short, Id, Number, Number, Number, Number, Number, Number, bytes]
    ),
    "extent.read": Form(tuple[Short, Short, Id, Number, Number, Number, bytes]),
    "extent.flush": Form(tuple[Short, Short, Id, Number, Number, Number]),
    "extent.stable": Form(tuple[Short, Short, Id, Number, Number, Number]),
    "extent.marks": Form(
        tuple[
            Short,
            Short,
            Id,
            Number,
            Number,
            Annotated[int, msgspec.Meta(ge=-1, lt=1 << 32)],
            Annotated[int, msgspec.Meta(ge=1, le=MARKS_PAGE)],
            bool,
        ]
    ),
    "extent.restored": Form(tuple[Short, Short, Id, Number, Number]),
    "extent.allocated": Form(
        tuple[
            Short,
            Short,
            Id,
            Number,
            Number,
            Annotated[list[Short], msgspec.Meta(max_length=_ALLOCATED_EXTENTS_MAX)],
        ]
    ),
}
"""Bodies of a stream's messages: device, boot, volume, token, stream, and what is asked."""


class Address(NamedTuple):
    """Everything that says which stream of which device a message belongs to."""

    device: DeviceId
    boot: Boot
    volume: VolumeId
    token: Token
    stream: int


class Claimed(NamedTuple):
    """A device's answer to `claim`."""

    uuid: DeviceUuid
    boot: Boot
    lost: bool
    """See `device.api.Claim.lost`."""


class ExtentClient:
    """Typed calls to the devices' extent stores, wherever they are.

    Every future fails with a PinfoldError: Conflict (another boot, stream or number than the
    device's: claim again), Fenced (a higher token is known: the volume has another holder), and
    what rpc and device say. A device that no node serves fails with Unavailable.
    """

    def __init__(self, peers: Peers, node_of: Callable[[DeviceId], NodeName | None]) -> None:
        self._peers = peers
        self._node_of = node_of

    def _call(
        self,
        device: DeviceId,
        operation: str,
        body: Body,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> asyncio.Future[Answer]:
        node = self._node_of(device)
        if node is None:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(Unavailable(f"no node serves device {device}"))
            return failed
        return self._peers.call(node, operation, body, payload, deadline=deadline)

    async def claim(
        self, device: DeviceId, volume: VolumeId, token: Token, stream: int, *, deadline: float
    ) -> Claimed:
        """Flush the token there and open a stream (higher than any of this token so far)."""
        body = [device, volume, token, stream]
        answer = await self._call(device, "extent.claim", body, deadline=deadline)
        uuid, boot, lost = answered("extent.claim", answer.body, _CLAIMED)
        return Claimed(DeviceUuid(uuid), Boot(boot), lost)

    def write(
        self,
        address: Address,
        number: int,
        epoch: int,
        sequence: int,
        stable: int,
        ops: bytes,
        payload: Sequence[Buffer],
        *,
        deadline: float,
    ) -> asyncio.Future[Answer]:
        """Message `number` of the stream: packed `OP`s and the bytes of its writes, in order.

        `stable` > 0 also declares everything up to that sequence stable.
        """
        body = (*address, number, epoch, sequence, stable, ops)
        return self._call(address.device, "extent.write", body, payload, deadline=deadline)

    def read(
        self, address: Address, number: int, spans: bytes, *, deadline: float
    ) -> asyncio.Future[Answer]:
        """Bytes of packed `SPAN`s, one behind the other, as of write message number - 1."""
        body = (*address, number, spans)
        return self._call(address.device, "extent.read", body, deadline=deadline)

    def flush(self, address: Address, number: int, *, deadline: float) -> asyncio.Future[Answer]:
        """Make every write message below `number` durable."""
        return self._call(address.device, "extent.flush", (*address, number), deadline=deadline)

    def stable(self, address: Address, sequence: int, *, deadline: float) -> asyncio.Future[Answer]:
        """Declare writes up to `sequence` flushed everywhere."""
        return self._call(address.device, "extent.stable", (*address, sequence), deadline=deadline)

    async def marks(
        self,
        address: Address,
        after: int,
        *,
        dirty: bool,
        deadline: float,
        limit: int = MARKS_PAGE,
    ) -> list[Mark]:
        """A page of marks: see `device.api.ExtentStore.marks`. The last page is the empty one."""
        body = (*address, after, limit, dirty)
        answer = await self._call(address.device, "extent.marks", body, deadline=deadline)
        marks = [Mark(*mark) for mark in answered("extent.marks", answer.body, _MARKS)]
        if marks and marks[-1].extent <= after:
            raise Unavailable(f"marks behind extent {after} were asked for")  # they would never end
        return marks

    async def allocated(
        self, address: Address, indexes: Sequence[int], *, deadline: float
    ) -> list[list[tuple[int, int]]]:
        """(offset, length) runs that hold data, for each extent asked about."""
        body = (*address, list(indexes))
        answer = await self._call(address.device, "extent.allocated", body, deadline=deadline)
        return answered("extent.allocated", answer.body, _RUNS)

    async def restored(self, address: Address, *, deadline: float) -> None:
        """Tell a device that had lost the volume that all of it was written and flushed again."""
        await self._call(address.device, "extent.restored", address, deadline=deadline)

    async def opening(self, device: DeviceId, *, deadline: float) -> tuple[DeviceUuid, Boot]:
        """Which device has this number, and how often it has been opened."""
        answer = await self._call(device, "extent.opening", [device], deadline=deadline)
        uuid, boot = answered("extent.opening", answer.body, _OPENING)
        return DeviceUuid(uuid), Boot(boot)

    async def drop(self, device: DeviceId, volume: VolumeId, *, deadline: float) -> None:
        """Forget a deleted volume there; done when durable."""
        await self._call(device, "extent.drop", [device, volume], deadline=deadline)


Act = Callable[[ExtentStore, "_Stream", Request, list[Any]], Reply | asyncio.Future[Reply]]
"""One operation on an open stream, given the fields behind the address."""


class _Stream:
    """The one open stream of a volume on a device: who writes, and which message is next."""

    __slots__ = ("next", "number", "parked", "stable", "token")

    def __init__(self, token: int, number: int) -> None:
        self.token = token
        self.number = number
        self.next = 0
        self.stable = 0
        self.parked: deque[tuple[Request, Act, asyncio.Future[Reply]]] = deque()
        """What came while the device was busy, in order; at most `PARKED_MAX`."""

    def end(self) -> None:
        """A newer stream takes over: nothing that waits here will be done."""
        while self.parked:
            _request, _act, reply = self.parked.popleft()
            if not reply.done():
                reply.set_exception(Conflict("the stream has been replaced"))


class ExtentHost:
    """Answers the extent operations for every device of this process.

    Streams live in memory on purpose: a restart changes the device's boot, which ends them.
    """

    def __init__(self, dispatcher: Dispatcher, devices: Mapping[DeviceId, Device]) -> None:
        self._devices = devices
        self._streams: dict[tuple[int, bytes], _Stream] = {}
        dispatcher.bind("extent.claim", self._claim)
        dispatcher.bind("extent.write", self._write)
        dispatcher.bind("extent.read", self._read)
        dispatcher.bind("extent.flush", self._flush)
        dispatcher.bind("extent.stable", self._stable)
        dispatcher.bind("extent.marks", self._marks)
        dispatcher.bind("extent.allocated", self._allocated)
        dispatcher.bind("extent.restored", self._restored)
        dispatcher.bind("extent.drop", self._drop)
        dispatcher.bind("extent.opening", self._opening)

    def _device(self, device: int) -> Device:
        found = self._devices.get(DeviceId(device))
        if found is None:
            raise Unavailable(f"device {device} is not served here")
        return found

    def _enter(self, request: Request) -> tuple[ExtentStore, _Stream, list[Any]]:
        """The store, the open stream that a message names, and its other fields.

        Conflict when it must not be obeyed.
        """
        device, boot, volume, token, stream, *fields = request.body
        found = self._device(device)
        if found.boot != boot:
            raise Conflict(f"device {device} is at boot {found.boot}", detail=found.boot)
        opened = self._streams.get((device, volume))
        if opened is None or opened.token != token or opened.number != stream:
            raise Conflict(f"the stream to device {device} is not open")
        return found.extents, opened, fields

    async def _claim(self, request: Request) -> Reply:
        device, volume, token, stream = taken("extent.claim", request.body, _CLAIM)
        found = self._device(device)
        key = (device, volume)
        opened = self._streams.get(key)
        if opened is not None and opened.token > token:
            raise Fenced(f"token {opened.token} is known here")
        if opened is not None and (opened.token, opened.number) >= (token, stream):
            raise Conflict("an older stream than the one open", detail=opened.number)
        claiming = found.extents.claim(VolumeId(volume), Token(token))
        # From here on nothing of an older stream is taken, whatever becomes of the flush.
        self._streams[key] = fresh = _Stream(token, stream)
        if opened is not None:
            opened.end()
        try:
            claim: Claim = await claiming
        except PinfoldError:
            if self._streams.get(key) is fresh:
                del self._streams[key]
            raise
        return Reply([found.uuid, found.boot, claim.lost])

    def _ordered(self, request: Request, act: Act) -> Reply | asyncio.Future[Reply]:
        """Act now, or in turn behind what waits for a busy device."""
        taken(request.operation, request.body, _FORMS[request.operation])
        store, opened, fields = self._enter(request)
        if len(opened.parked) >= PARKED_MAX:
            raise Busy(f"{len(opened.parked)} requests wait for device {request.body[0]}")
        if not opened.parked:
            try:
                return act(store, opened, request, fields)
            except Busy:
                asyncio.get_running_loop().call_later(_BUSY_S, self._retry, opened)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        opened.parked.append((request, act, reply))
        return reply

    def _retry(self, opened: _Stream) -> None:
        """The device may have room again: go on with what waits, in order."""
        loop = asyncio.get_running_loop()
        while opened.parked:
            request, act, reply = opened.parked[0]
            try:
                if request.deadline <= loop.time():
                    raise DeadlineExceeded("the device was busy")
                store, _opened, fields = self._enter(request)
                done = act(store, opened, request, fields)
            except Busy:
                loop.call_later(_BUSY_S, self._retry, opened)
                return
            except PinfoldError as error:
                opened.parked.popleft()
                if not reply.done():
                    reply.set_exception(error)
                continue
            opened.parked.popleft()
            if isinstance(done, Reply):
                if not reply.done():
                    reply.set_result(done)
            else:
                _chain(done, reply, lambda answer: answer)

    def _write(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_write)

    def _read(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_read)

    def _flush(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_flush)

    def _stable(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_stable)

    def _marks(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_marks)

    def _allocated(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_allocated)

    def _restored(self, request: Request) -> Reply | asyncio.Future[Reply]:
        return self._ordered(request, _act_restored)

    def _opening(self, request: Request) -> Reply:
        (device,) = taken("extent.opening", request.body, _OPENED)
        found = self._device(device)
        return Reply([found.uuid, found.boot])

    async def _drop(self, request: Request) -> Reply:
        device, volume = taken("extent.drop", request.body, _DROP)
        await self._device(device).extents.drop(VolumeId(volume))
        self._streams.pop((device, volume), None)
        return _TAKEN


def _act_write(
    store: ExtentStore, opened: _Stream, request: Request, fields: list[Any]
) -> asyncio.Future[Reply]:
    number, epoch, sequence, stable, packed = fields
    _check_next(opened, number)
    volume, token = request.body[2], request.body[3]
    try:
        ops = list(map(ExtentOp._make, OP.iter_unpack(packed)))
    except struct.error as error:
        raise Invalid("malformed operations") from error
    written = store.write(volume, token, epoch, sequence, ops, request.payload)
    opened.next = number + 1
    if stable > opened.stable:
        opened.stable = stable
        store.stable(volume, token, stable)
    return _later(written, lambda _done: _TAKEN)


def _act_read(
    store: ExtentStore, opened: _Stream, request: Request, fields: list[Any]
) -> Reply | asyncio.Future[Reply]:
    number, packed = fields
    _check_next(opened, number)
    try:
        spans = list(SPAN.iter_unpack(packed))
    except struct.error as error:
        raise Invalid("malformed spans") from error
    if (asked := sum(length for _, _, length in spans)) > PAYLOAD_BYTES:
        raise Invalid(f"{asked} bytes in one read, an answer carries {PAYLOAD_BYTES}")
    volume, token = request.body[2], request.body[3]
    found = store.read(volume, token, spans, deadline=request.deadline)
    if isinstance(found, list):
        return Reply(None, found)
    return _later(found, lambda buffers: Reply(None, buffers))


def _act_flush(
    store: ExtentStore, opened: _Stream, request: Request, fields: list[Any]
) -> asyncio.Future[Reply]:
    (number,) = fields
    _check_next(opened, number)
    return _later(store.flush(request.body[2], request.body[3]), lambda _done: _TAKEN)


def _act_stable(store: ExtentStore, opened: _Stream, request: Request, fields: list[Any]) -> Reply:
    (sequence,) = fields
    volume, token = request.body[2], request.body[3]
    if sequence > opened.stable:
        opened.stable = sequence
        store.stable(volume, token, sequence)
    else:  # no news, but a holder at rest hears in this way what the device has lost since
        store.check(volume, token)
    return _TAKEN


def _act_marks(store: ExtentStore, _opened: _Stream, request: Request, fields: list[Any]) -> Reply:
    after, limit, dirty = fields
    return Reply(store.marks(request.body[2], request.body[3], after, limit, dirty=dirty))


def _act_restored(
    store: ExtentStore, _opened: _Stream, request: Request, _fields: list[Any]
) -> asyncio.Future[Reply]:
    return _later(store.restored(request.body[2], request.body[3]), lambda _done: _TAKEN)


def _act_allocated(
    store: ExtentStore, _opened: _Stream, request: Request, fields: list[Any]
) -> Reply:
    (indexes,) = fields
    volume, token = request.body[2], request.body[3]
    return Reply([store.allocated(volume, token, index) for index in indexes])


def _check_next(opened: _Stream, number: int) -> None:
    if number != opened.next:
        raise Conflict(f"came behind message {number}, {opened.next} is next")


def _later(found: asyncio.Future[Any], wrap: Callable[[Any], Reply]) -> asyncio.Future[Reply]:
    """A future of the reply made from a store's future; a callback, not a task."""
    reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    _chain(found, reply, wrap)
    return reply


def _chain(
    found: asyncio.Future[Any], reply: asyncio.Future[Reply], wrap: Callable[[Any], Reply]
) -> None:
    def settle(done: asyncio.Future[Any]) -> None:
        if reply.done():
            return
        if done.cancelled():
            reply.set_exception(Unavailable("the device stopped"))
        elif (error := done.exception()) is not None:
            reply.set_exception(error)
        else:
            reply.set_result(wrap(done.result()))

    found.add_done_callback(settle)
