"""Bytes as they arrive, cut into frames. No I/O: the session lends it the socket's reads.

Heads are read into one reusable buffer, many frames at a time; a payload gets a fresh buffer of
its exact size, which the reads then fill directly. So a large payload is copied by nobody but the
kernel, except for what came in the same read as its head.
"""

from typing import Final

import numpy as np

from pinfold.rpc.frames import (
    HEADER,
    SUM_BYTES,
    Header,
    Message,
    decode_head,
    decode_header,
    verified,
)
from pinfold.rpc.limits import (
    HANDSHAKE_BYTES,
    HEAD_BYTES,
    PAYLOAD_BYTES,
    RECEIVE_BUFFER_BYTES,
)

EMPTY: Final = memoryview(b"")

Frame = tuple[list[Message], memoryview, int, int]
"""Messages, payload of all of them, the sender's map epoch, bytes of the head."""


class FrameReceiver:
    """Cuts a byte stream into frames.

    Memory is bounded by one reusable buffer and one frame's limits, which are those of a stranger
    until `trust`. After an error it must not be used again.
    """

    __slots__ = ("_buffer", "_end", "_filled", "_frames", "_head_max", "_header", "_messages",
                 "_payload_max", "_target")  # fmt: skip

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._end = 0
        self._header: Header | None = None
        self._messages: list[Message] | None = None
        self._target: memoryview | None = None
        """A head too large for the buffer, or a payload, being filled by the reads."""
        self._filled = 0
        self._head_max = HANDSHAKE_BYTES
        self._payload_max = 0

    def trust(self) -> None:
        """The peer has proved who it is: from the next frame on the full limits hold."""
        self._head_max = HEAD_BYTES
        self._payload_max = PAYLOAD_BYTES

    @property
    def in_head(self) -> bool:
        """Whether a frame has begun whose lengths nothing has verified yet."""
        return self._messages is None and (self._header is not None or self._end > 0)

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._target is not None:
            return self._target[self._filled :]
        return self._buffer[self._end :]

    def received(self, count: int) -> list[Frame]:
        """Take `count` bytes put into `buffer()`; the frames they complete. Raises Invalid."""
        frames: list[Frame] = []
        target = self._target
        if target is None:
            self._end += count
            self._parse(frames)
            return frames
        self._filled += count
        if self._filled == len(target):
            self._target = None
            assert self._header is not None
            if self._messages is None:
                self._messages = decode_head(target, self._header)
                self._parse(frames)
            else:
                self._complete(frames, target)
        return frames

    def _complete(self, frames: list[Frame], payload: memoryview) -> None:
        assert self._messages is not None
        assert self._header is not None
        header = self._header
        if header.summed:
            payload = verified(payload)
        frames.append((self._messages, payload, header.epoch, header.head_length))
        self._messages = self._header = None

    def _parse(self, frames: list[Frame]) -> None:
        """Complete frames from the buffer, then move what remains to its front."""
        start = 0
        while True:
            before = start
            start = self._parse_one(frames, start)
            if start == before or self._target is not None:
                break
        rest = self._end - start
        if start and rest:
            self._buffer[:rest] = self._buffer[start : self._end]
        self._end = rest

    def _parse_one(self, frames: list[Frame], start: int) -> int:
        """Advance by one part (header, head or payload) if it is there; the new position."""
        buffer, available = self._buffer, self._end - start
        header = self._header
        if header is None:
            if available < HEADER.size:
                return start
            header = self._header = decode_header(
                buffer[start:], head_max=self._head_max, payload_max=self._payload_max
            )
            start += HEADER.size
            available -= HEADER.size
        if self._messages is None:
            if available < header.head_length:
                if header.head_length > len(buffer) - HEADER.size:
                    return self._fill(header.head_length, start)
                return start
            end = start + header.head_length
            self._messages = decode_head(buffer[start:end], header)
            start = end
        if header.payload_length == 0:
            self._complete(frames, EMPTY)
            return start
        length = header.payload_length + (SUM_BYTES if header.summed else 0)
        start = self._fill(length, start)
        if self._filled == length:
            payload, self._target = self._target, None
            assert payload is not None
            self._complete(frames, payload)
        return start

    def _fill(self, length: int, start: int) -> int:
        """Begin a fresh buffer with what has arrived of it; the position behind that."""
        # numpy's allocation is not zeroed first, which bytearray's is: 1 MiB costs 50 us less.
        self._target = np.empty(length, np.uint8).data
        self._filled = min(length, self._end - start)
        self._target[: self._filled] = self._buffer[start : start + self._filled]
        return start + self._filled
