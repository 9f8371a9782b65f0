"""Answer blob operations for the devices of this node.

The rule of this file: decode, call the device, encode; what is durable is the device's word.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from pinfold.cluster.bodies import Check, Form, Id, Number, Short, taken
from pinfold.device.api import Device
from pinfold.model.errors import Invalid, NotFound
from pinfold.model.ids import BlobId, DeviceId
from pinfold.rpc.api import Dispatcher, HandlerResult, Reply, Request

_PUT: Final = Form(tuple[Short, Id, Number, list[Check]])
_READ: Final = Form(tuple[Short, Id, Number, Number])
_DELETE: Final = Form(tuple[Short, list[Id]])


class BlobServer:
    """Binds `blob.*` to devices. A device not (or no longer) served here is NotFound."""

    def __init__(self, devices: Mapping[DeviceId, Device], dispatcher: Dispatcher) -> None:
        self._devices = devices
        dispatcher.bind("blob.put", self._put)
        dispatcher.bind("blob.read", self._read)
        dispatcher.bind("blob.delete", self._delete)
        dispatcher.bind_stream("blob.stream", self._stream)

    def _device(self, device: int) -> Device:
        try:
            return self._devices[DeviceId(device)]
        except KeyError:
            raise NotFound(f"device {device} is not served here") from None

    def _put(self, request: Request) -> HandlerResult:
        device, blob, length, checks = taken("blob.put", request.body, _PUT)
        if length != len(request.payload):
            raise Invalid(f"blob of {length} bytes came with {len(request.payload)}")
        return self._device(device).blobs.put(BlobId(blob), request.payload, checks)

    def _read(self, request: Request) -> HandlerResult:
        device, blob, offset, length = taken("blob.read", request.body, _READ)
        buffers = self._device(device).blobs.read(
            BlobId(blob), offset, length, deadline=request.deadline
        )
        if isinstance(buffers, list):
            return Reply(None, buffers)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def done(read: "asyncio.Future[list[memoryview | bytes | bytearray]]") -> None:
            if reply.done():
                return
            if (error := read.exception()) is not None:
                reply.set_exception(error)
            else:
                reply.set_result(Reply(None, read.result()))

        buffers.add_done_callback(done)
        return reply

    def _delete(self, request: Request) -> HandlerResult:
        device, blobs = taken("blob.delete", request.body, _DELETE)
        return self._device(device).blobs.delete([BlobId(blob) for blob in blobs])

    async def _stream(self, request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
        device, blob, length, checks = taken("blob.stream", request.body, _PUT)
        writer = self._device(device).blobs.begin(BlobId(blob), length, checks)
        try:
            async for chunk in chunks:
                await writer.write(chunk)
            await writer.commit()
        except BaseException:
            writer.abort()
            raise
        return Reply()
