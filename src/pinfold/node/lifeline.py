"""The socket between the supervisor and a process it started.

The process says when it is ready or why it cannot be; when the supervisor is gone, however it
went, the socket ends and the process stops itself: no orphan keeps a device open.
"""

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Final, Literal

import msgspec

State = Literal["ready", "failed"]

LAST_RESORT_S: Final = 5.0
"""After this much more than the drain time an abandoned process is ended by its alarm clock."""

LINE_BYTES_MAX: Final = 16 << 10
"""Longest report; longer ones would mean a bug."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a process tells its supervisor."""

    state: State
    message: str = ""
    """Why it failed, for the operator."""


class Lifeline:
    """The process's end."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)

    def report(self, report: Report) -> None:
        """Tell the supervisor, if it is still there."""
        try:
            self._socket.send(encode_report(report))
        except OSError:
            return  # it is gone, and `watch` will say so

    def watch(self, on_lost: Callable[[], None], drain_timeout_s: float) -> None:
        """Call back once when the supervisor is gone, and see to it that the process ends."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                if self._socket.recv(1):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
            loop.remove_reader(self._socket.fileno())
            signal.setitimer(signal.ITIMER_REAL, drain_timeout_s + LAST_RESORT_S)
            on_lost()

        loop.add_reader(self._socket.fileno(), readable)


def encode_report(report: Report) -> bytes:
    """One line."""
    return msgspec.json.encode(report) + b"\n"


def decode_report(line: bytes) -> Report:
    """Read what `encode_report` wrote; msgspec.MsgspecError for anything else."""
    return _DECODER.decode(line)


_DECODER = msgspec.json.Decoder(Report)
