"""Copies of blobs on this node's devices: told which are lacking, described, and fetched.

A fetch is done by the node that lacks the copy: bytes cross the network once. They are verified by
the device they come from when it reads them, and by the device they go to against the checks that
came with the very first put: end to end, whatever happened on the way.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from pinfold.cluster.bodies import Form, Id, Short, taken
from pinfold.device.api import Device
from pinfold.model.errors import (
    Corrupt,
    DeadlineExceeded,
    Full,
    NotFound,
    PinfoldError,
    Unavailable,
)
from pinfold.model.ids import BlobId, DeviceId, NodeName
from pinfold.model.limits import JOURNAL_BLOB_BYTES, MIB
from pinfold.rpc.api import Dispatcher, Peers, Reply, Request

LACKING: Final = "care.lacking"
"""Body: [device, [blob, …]]; answer: the positions of those it does not hold. Full or Unavailable
from a device that would not take them now: it lacks nothing that could be made."""

DESCRIBE: Final = "care.describe"
"""Body: [device, blob]; answer: [length, checks]."""

FETCH: Final = "care.fetch"
"""Body: [device, blob, [(source device, its node), …]]; answer: bytes moved, 0 if it had it."""

LACKING_MAX: Final = 1024
"""Blobs in one question: 16 KiB, and some milliseconds of index look-ups."""

PIECE_BYTES: Final = 1 * MIB
"""Read from the source at a time."""

_LACKING: Final = Form(tuple[Short, list[Id]])
_DESCRIBE: Final = Form(tuple[Short, Id])
_FETCH: Final = Form(tuple[Short, Id, list[tuple[Short, str]]])


class Copies:
    """Answers for the devices of this node."""

    def __init__(
        self,
        peers: Peers,
        devices: Mapping[DeviceId, Device],
        dispatcher: Dispatcher,
    ) -> None:
        self._peers = peers
        self._devices = devices
        dispatcher.bind(LACKING, self._lacking)
        dispatcher.bind(DESCRIBE, self._describe)
        dispatcher.bind(FETCH, self._fetch)

    def _device(self, device: int) -> Device:
        try:
            return self._devices[DeviceId(device)]
        except KeyError:
            raise NotFound(f"device {device} is not served here") from None

    def _lacking(self, request: Request) -> Reply:
        device, blobs = taken(LACKING, request.body, _LACKING)
        found = self._device(device)
        _demand_serving(found)
        state = found.blobs.state
        return Reply([at for at, blob in enumerate(blobs) if state(BlobId(blob)) is None])

    def _describe(self, request: Request) -> Reply:
        device, blob = taken(DESCRIBE, request.body, _DESCRIBE)
        state = self._device(device).blobs.state(BlobId(blob))
        if state is None:
            raise NotFound(f"no blob {blob.hex()}")
        return Reply((state.length, state.checks))

    async def _fetch(self, request: Request) -> Reply:
        """Copy a blob here from the first source that has it whole."""
        number, blob_id, sources = taken(FETCH, request.body, _FETCH)
        device, blob = self._device(number), BlobId(blob_id)
        last: PinfoldError = NotFound("no source was named")
        for source, name in sources:
            node = NodeName(name)
            if device.blobs.state(blob) is not None:
                return Reply(0)
            try:
                async with asyncio.timeout_at(request.deadline):
                    return Reply(await self._copy(device, blob, source, node, request.deadline))
            except TimeoutError:
                raise DeadlineExceeded(f"blob {blob.hex()} was not copied in time") from None
            except PinfoldError as error:
                last = error
        raise last

    async def _copy(
        self, device: Device, blob: BlobId, source: int, node: NodeName, deadline: float
    ) -> int:
        answer = await self._peers.call(node, DESCRIBE, (source, blob), deadline=deadline)
        length, checks = answer.body
        if length <= JOURNAL_BLOB_BYTES:
            payload = await self._read(node, source, blob, 0, length, deadline)
            await device.blobs.put(blob, payload, checks)
            return len(payload)
        writer = device.blobs.begin(blob, length, checks)
        try:
            for start in range(0, length, PIECE_BYTES):
                size = min(PIECE_BYTES, length - start)
                await writer.write(await self._read(node, source, blob, start, size, deadline))
            await writer.commit()
        except BaseException:
            writer.abort()
            raise
        return int(length)

    async def _read(
        self, node: NodeName, source: int, blob: BlobId, offset: int, length: int, deadline: float
    ) -> memoryview:
        body = (source, blob, offset, length)
        payload = (await self._peers.call(node, "blob.read", body, deadline=deadline)).payload
        if len(payload) != length:
            raise Corrupt(f"{len(payload)} bytes came of {length} asked for")
        return payload


def _demand_serving(device: Device) -> None:
    status = device.status()
    if status.state == "stopped":
        raise Unavailable(f"the device has stopped: {status.reason}")
    if status.state == "full":
        raise Full("the device has no room for copies")


async def lacking(
    peers: Peers, node: NodeName, device: DeviceId, blobs: Sequence[bytes], deadline: float
) -> list[bytes]:
    """Those of the blobs that a device does not hold, or holds damaged."""
    found: list[bytes] = []
    for first in range(0, len(blobs), LACKING_MAX):
        asked = blobs[first : first + LACKING_MAX]
        answer = await peers.call(node, LACKING, (device, asked), deadline=deadline)
        found += [asked[at] for at in answer.body]
    return found
