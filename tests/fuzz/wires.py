"""A transport in memory for one protocol object: bytes in as a socket would bring them."""

import asyncio
from typing import Any


class MemoryWire(asyncio.Transport):
    """Connects a protocol, buffered or not, when it is made. `end` tells it that it is lost."""

    def __init__(self, protocol: Any, peer: str = "fuzz") -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.reading = True
        self.closing = False
        self.ended = False
        self._peer = peer
        protocol.connection_made(self)

    def feed(self, data: bytes, piece: int = 1 << 20) -> bytes:
        """Give bytes as long as the protocol reads; what was not taken."""
        buffered = isinstance(self.protocol, asyncio.BufferedProtocol)
        while data and self.reading and not self.closing:
            if buffered:
                buffer = self.protocol.get_buffer(-1)
                assert len(buffer) > 0, "a buffer with room"
                taken = min(len(buffer), len(data), piece)
                buffer[:taken] = data[:taken]
                self.protocol.buffer_updated(taken)
            else:
                taken = min(len(data), piece)
                self.protocol.data_received(data[:taken])
            data = data[taken:]
        return data

    def end(self) -> None:
        """The connection is gone."""
        if not self.ended:
            self.ended = self.closing = True
            self.protocol.connection_lost(None)

    def write(self, data: Any) -> None:
        if not self.ended:
            self.sent += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._peer, 1) if name in ("peername", "sockname") else default

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
