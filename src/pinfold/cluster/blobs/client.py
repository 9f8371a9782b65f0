"""Store and fetch blobs from any node: the async shell around `tally`.

A put sends the whole payload to every primary at once and answers after W durable
acknowledgements; the copies still under way finish behind. A read asks one device and hedges:
when it is slow or fails, the next is asked, until one returns bytes that verify.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from pinfold.cluster.api import BlobRef
from pinfold.cluster.blobs.tally import Verdict, WriteTally
from pinfold.cluster.placement import Placement, known_node
from pinfold.cluster.slowness import ROWS, SlowWatch
from pinfold.codec.checks import payload_checks
from pinfold.env.api import Buffer, Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Busy, Corrupt, Full, NotFound, PinfoldError, Unavailable
from pinfold.model.ids import BlobId, DeviceId, NodeName
from pinfold.model.limits import JOURNAL_BLOB_BYTES, SEGMENT_BYTES
from pinfold.model.settings import BlobSettings
from pinfold.rpc.api import Answer, Peers

HINT: Final = "blob.hint"
"""Told to a node that has a copy when others could not be made: [blob, length, devices that have
it, devices that should]. It may get lost: whoever repairs copies finds them in the end."""


class BlobClient:
    """`cluster.api.Blobs` over the rpc layer. `placement()` is the newest ring's."""

    def __init__(
        self,
        env: Env,
        peers: Peers,
        placement: Callable[[], Placement],
        settings: BlobSettings,
        scope: TaskScope,
    ) -> None:
        self._env = env
        self._scope = scope
        self._peers = peers
        self._placement = placement
        self._settings = settings
        self._behind: dict[_Put, None] = {}
        """Answered puts of which a copy is still under way, oldest first."""
        self._behind_bytes = 0
        self.watch = SlowWatch(ROWS, env.clock.monotonic)
        """Compares the devices by how soon they have a blob: the same bytes at the same time."""
        self.given_up = 0
        """Copies given up because too many bytes were under way behind their answers."""

    async def put(self, payload: Sequence[Buffer]) -> BlobRef:
        """See `cluster.api.Blobs`. When W is out of reach: Full if a device refused for room, Busy
        if it refused for load, else Unavailable.
        """
        length = sum(map(len, payload))
        assert 0 < length <= SEGMENT_BYTES, "a blob is one segment"
        checks = payload_checks(payload)
        blob = self._new_id()
        deadline = self._env.clock.monotonic() + self._settings.put_timeout_s
        while True:
            attempt = _Put(self, blob, payload, length, checks, deadline)
            try:
                devices = await attempt.start()
            except (Unavailable, Busy):
                pause = self._settings.retry_pause_s
                if self._env.clock.monotonic() + pause >= deadline:
                    raise
                await asyncio.sleep(pause)
                continue
            self.watch.look()
            return BlobRef(id=blob, length=length, devices=devices)

    async def read(self, ref: BlobRef, offset: int, length: int) -> list[Buffer]:
        """See `cluster.api.Blobs`."""
        assert offset >= 0, "a range starts within the blob"
        assert offset + length <= ref.length, "a range ends within the blob"
        return await _Read(self, ref, offset, length).start()

    async def discard(self, refs: Sequence[BlobRef]) -> None:
        """See `cluster.api.Blobs`. Devices that do not answer keep their copy for the collector.

        Those that have left the cluster are asked nothing: what they hold is out of it.
        """
        by_device: dict[DeviceId, list[bytes]] = {}
        placement = self._placement()
        for ref in refs:
            for device in dict.fromkeys((*ref.devices, *placement.primaries(ref.id))):
                by_device.setdefault(DeviceId(device), []).append(ref.id)
        deadline = self._env.clock.monotonic() + self._settings.put_timeout_s
        failed: PinfoldError | None = None
        calls = [
            self._peers.call(node, "blob.delete", (device, blobs), deadline=deadline)
            for device, blobs in by_device.items()
            if (node := known_node(placement, device)) is not None
        ]
        for call in calls:
            try:
                await call
            except PinfoldError as error:
                failed = error
        if failed is not None:
            raise failed

    def _fell_behind(self, put: "_Put") -> None:
        """An answered put goes on in the background; over the limit the oldest ones do not."""
        self._behind[put] = None
        self._behind_bytes += put.length
        while self._behind_bytes > self._settings.behind_bytes:
            oldest = next(iter(self._behind))
            self.given_up += oldest.give_up()
            self._ended(oldest)

    def _ended(self, put: "_Put") -> None:
        if put in self._behind:
            del self._behind[put]
            self._behind_bytes -= put.length

    def _new_id(self) -> BlobId:
        stamp = int(self._env.clock.wall() * 1000) & ((1 << 48) - 1)
        return BlobId(stamp.to_bytes(6, "big") + self._env.rng.randbytes(10))


class _Put:
    """One attempt to store one blob on W devices."""

    def __init__(
        self,
        client: BlobClient,
        blob: BlobId,
        payload: Sequence[Buffer],
        length: int,
        checks: Sequence[int],
        deadline: float,
    ) -> None:
        self._client = client
        self._peers = client._peers
        self._scope = client._scope
        self._placement = client._placement()
        self._blob = blob
        self._payload = payload
        self.length = length
        self._streams: dict[asyncio.Task[None], DeviceId] = {}
        """They hold the payload; calls give it to the rpc layer's queue, which has a limit."""
        self._checks = checks
        self._deadline = deadline
        self._now = client._env.clock.monotonic
        self._began = self._now()
        primaries = self._placement.primaries(blob)
        self._primaries = primaries
        self._tally = WriteTally.start(
            client._settings.quorum(len(primaries)),
            primaries,
            self._placement.handoffs(blob),
            partial(known_node, self._placement),
        )
        self._result: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._last_error: PinfoldError | None = None

    def start(self) -> asyncio.Future[tuple[int, ...]]:
        """The devices that acknowledged, W of them or more."""
        for device in self._primaries:
            self._send(device)
        return self._result

    def _send(self, device: DeviceId) -> None:
        node = known_node(self._placement, device)
        if node is None or not self._peers.connected(node):
            where = f"device {device}, which has left the cluster" if node is None else node
            self._failed(device, Unavailable(f"no session to {where}"))
            return
        body = (device, self._blob, self.length, self._checks)
        if self.length > JOURNAL_BLOB_BYTES:
            task = self._scope.start(self._stream(device, node, body), name="blob copy")
            self._streams[task] = device
            task.add_done_callback(self._stream_ended)
            return
        call = self._peers.call(node, "blob.put", body, self._payload, deadline=self._deadline)
        call.add_done_callback(lambda answer: self._answered(device, answer))

    async def _stream(self, device: DeviceId, node: NodeName, body: object) -> None:
        try:
            stream = self._peers.open(node, "blob.stream", body, deadline=self._deadline)
            try:
                for buffer in self._payload:
                    await stream.write(buffer)
                await stream.finish()
            except asyncio.CancelledError:
                stream.abort()
                raise
        except PinfoldError as error:
            self._failed(device, error)
        else:
            self._acknowledged(device)

    def _stream_ended(self, task: asyncio.Task[None]) -> None:
        del self._streams[task]
        if not self._streams:
            self._client._ended(self)

    def give_up(self) -> int:
        """Stop the copies that are still under way; how many there were."""
        count = len(self._streams)
        for task, device in self._streams.items():
            task.cancel()
            if device in self._tally.waiting:  # not the one that has just acknowledged
                self._tally.waiting.remove(device)
        self._hint_when_over()
        return count

    def _answered(self, device: DeviceId, answer: "asyncio.Future[Answer]") -> None:
        if answer.cancelled():
            self._failed(device, Unavailable("the call was cancelled"))
            return
        error = answer.exception()
        if error is None:
            self._acknowledged(device)
        elif isinstance(error, PinfoldError):
            self._failed(device, error)
        elif not self._result.done():
            self._result.set_exception(error)

    def _acknowledged(self, device: DeviceId) -> None:
        self._client.watch.observed(device, self._now() - self._began)
        verdict = self._tally.on_ack(device)
        if verdict is Verdict.LOST:
            self._lost()
        elif verdict is Verdict.DONE and not self._result.done():
            self._result.set_result(tuple(self._tally.acknowledged))
            if len(self._streams) > 1:  # the one that has just ended is still among them
                self._client._fell_behind(self)
        self._hint_when_over()

    def _failed(self, device: DeviceId, error: PinfoldError) -> None:
        if self._last_error is None or isinstance(error, Full | Busy):
            self._last_error = error
        verdict, handoff = self._tally.on_failure(device)
        if handoff is not None:
            self._send(handoff)
        if verdict is Verdict.LOST:
            self._lost()
        self._hint_when_over()

    def _lost(self) -> None:
        cause = self._last_error
        if not isinstance(cause, Full | Busy):
            cause = Unavailable(f"blob not stored: {cause}")
        if not self._result.done():
            self._result.set_exception(cause)

    def _hint_when_over(self) -> None:
        """All have answered: tell which primaries lack a copy."""
        holders = self._tally.acknowledged
        if self._tally.waiting or len(holders) < self._tally.quorum:
            return
        missing = [device for device in self._primaries if device not in holders]
        if missing:
            body = (self._blob, self.length, holders, missing)
            self._peers.tell(self._placement.node_of(holders[0]), HINT, body)


class _Read:
    """One read, hedged over the devices that may hold the blob."""

    def __init__(self, client: BlobClient, ref: BlobRef, offset: int, length: int) -> None:
        self._peers = client._peers
        self._watch = client.watch
        self._settings = client._settings
        self._deadline = client._env.clock.monotonic() + client._settings.read_timeout_s
        self._placement = client._placement()
        self._ref = ref
        self._offset = offset
        self._length = length
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[list[Buffer]] = self._loop.create_future()
        self._error: PinfoldError = NotFound("no device holds the blob")
        self._candidates = self._order()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def _order(self) -> Iterator[tuple[DeviceId, NodeName]]:
        """Acknowledged primaries first (turned by the id, to spread load), then the others.

        Handoffs come last: they are asked only while the copies they stand in for are missing.
        Behind all that can be reached come the slow devices, then those that cannot. One that has
        left the cluster is not asked, and so not known to lack the blob.
        """
        primaries = self._placement.primaries(self._ref.id)
        holders = [device for device in self._ref.devices if device in primaries]
        turn = self._ref.id[15] % len(holders) if holders else 0
        order = dict.fromkeys(
            (*holders[turn:], *holders[:turn], *primaries, *map(DeviceId, self._ref.devices))
        )
        nodes = {DeviceId(one): known_node(self._placement, DeviceId(one)) for one in order}
        known = [(device, node) for device, node in nodes.items() if node is not None]
        if len(known) < len(nodes):
            self._error = Unavailable("a device that may hold the blob has left the cluster")
        return iter(sorted(known, key=self._reluctance))

    def _reluctance(self, candidate: tuple[DeviceId, NodeName]) -> int:
        device, node = candidate
        if not self._peers.connected(node):
            return 2
        return 1 if self._watch.slow(device) else 0

    def start(self) -> asyncio.Future[list[Buffer]]:
        self._next()
        return self._result

    def _next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._result.done():
            return
        candidate = next(self._candidates, None)
        if candidate is None:
            if self._waiting == 0:
                self._result.set_exception(self._error)
            return
        self._waiting += 1
        device, node = candidate
        call = self._peers.call(
            node,
            "blob.read",
            (device, self._ref.id, self._offset, self._length),
            deadline=self._deadline,
        )
        call.add_done_callback(self._answered)
        self._timer = self._loop.call_later(self._settings.hedge_s, self._next)

    def _answered(self, answer: "asyncio.Future[Answer]") -> None:
        self._waiting -= 1
        if self._result.done() or answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            if self._timer is not None:
                self._timer.cancel()
            payload = answer.result().payload
            if len(payload) == self._length:
                self._result.set_result([payload])
            else:
                self._error = Corrupt(f"{len(payload)} bytes answered for {self._length}")
                self._next()
        elif isinstance(error, PinfoldError):
            if not isinstance(error, NotFound) and not isinstance(self._error, Corrupt):
                self._error = error
            self._next()
        else:
            self._result.set_exception(error)
