"""Messages waiting to be sent to one peer, and the buffers of the next frame. No I/O."""

from collections import deque
from collections.abc import Sequence

from pinfold.env.api import Buffer
from pinfold.rpc.frames import encode_frame, payload_sum
from pinfold.rpc.limits import BATCH_HEAD_BYTES, BATCH_PAYLOAD_BYTES, JOIN_BYTES


class Outbox:
    """A queue of encoded messages with their payloads; frames leave it in order."""

    __slots__ = ("_queue", "size")

    def __init__(self) -> None:
        self._queue: deque[tuple[bytes, Sequence[Buffer], int]] = deque()
        self.size = 0
        """Bytes queued, heads and payloads."""

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, message: bytes, payload: Sequence[Buffer], payload_length: int) -> None:
        """Queue a message whose payload buffers have `payload_length` bytes together."""
        self._queue.append((message, payload, payload_length))
        self.size += len(message) + payload_length

    def clear(self) -> None:
        """Forget everything."""
        self._queue.clear()
        self.size = 0

    def take_frame(self, epoch: int, first: bytes = b"", *, summed: bool = False) -> list[Buffer]:
        """The buffers of one frame: as many messages as fit its soft limits, at least one.

        `first` is a message put before them, unless what follows fills a frame alone. With
        `summed` the payload has its checksum behind it.
        """
        queue = self._queue
        messages: list[bytes] = []
        payloads: list[Buffer] = []
        if queue and len(first) + len(queue[0][0]) > BATCH_HEAD_BYTES:
            first = b""
        head_length = len(first)
        payload_length = 0
        while queue:
            message, payload, length = queue[0]
            if messages and (
                head_length + len(message) > BATCH_HEAD_BYTES
                or (length and payload_length + length > BATCH_PAYLOAD_BYTES)
            ):
                break
            queue.popleft()
            messages.append(message)
            head_length += len(message)
            if length:
                payload_length += length
                payloads.extend(payload)
        self.size -= head_length - len(first) + payload_length
        if first:
            messages.insert(0, first)
        summed = summed and payload_length > 0
        frame = encode_frame(messages, payload_length, epoch, summed=summed)
        if summed:
            payloads.append(payload_sum(payloads))
        return _join_small(frame, payloads)


def _join_small(first: bytes, buffers: Sequence[Buffer]) -> list[Buffer]:
    """The same bytes with neighbouring small buffers copied together, large ones as they are."""
    if not buffers:
        return [first]
    joined: list[Buffer] = []
    run: list[Buffer] = [first]
    for buffer in buffers:
        if len(buffer) < JOIN_BYTES:
            run.append(buffer)
            continue
        if run:
            joined.append(run[0] if len(run) == 1 else b"".join(run))
            run = []
        joined.append(buffer)
    if run:
        joined.append(run[0] if len(run) == 1 else b"".join(run))
    return joined
