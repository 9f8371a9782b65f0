"""Whether a device still serves, and how much room it has left.

An I/O error is final for this boot: after a failed flush nobody knows which pages reached the
disk, so the device stops and the cluster repairs around it.
"""

from collections.abc import Callable
from typing import Final

from pinfold.model.errors import Full, Unavailable

_SMALLEST_BYTES: Final = 4096
"""What the smallest payload takes on disk: a page of a pack."""


class Health:
    """One device's state; every store asks it first."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the device has stopped; empty while it serves."""
        self._listeners: list[Callable[[Unavailable], None]] = []

    def check(self) -> None:
        """Raise Unavailable when the device has stopped."""
        if self.reason:
            raise self.error()

    def error(self) -> Unavailable:
        """What a stopped device answers."""
        return Unavailable(f"the device has stopped: {self.reason}")

    def on_stop(self, listener: Callable[[Unavailable], None]) -> None:
        """Call `listener` once, when the device stops."""
        self._listeners.append(listener)

    def stop(self, reason: str) -> None:
        """Serve nothing from now on. The first reason stays."""
        if self.reason:
            return
        self.reason = reason or "unknown"
        for listener in self._listeners:
            listener(self.error())


class Space:
    """Room on the file system, measured now and then and counted down in between.

    `take` is what makes a device refuse *before* it acknowledges anything it could not apply.
    """

    def __init__(self, reserve_bytes: int) -> None:
        self.reserve_bytes = reserve_bytes
        """Room kept for what goes on when payloads are refused; see `full_for_rows`."""
        self.index_bytes = 0
        """Room inside the index's file, which rows take before they take the file system's."""
        self._taken_bytes = 0
        self._promised_bytes = 0
        self.free_bytes = 0
        self.total_bytes = 0
        self.exhausted = False
        """Something already acknowledged finds no room for its place: nothing more is taken."""

    def measured(self, free_bytes: int, total_bytes: int, still_taken_bytes: int) -> None:
        """A fresh measurement; `still_taken_bytes` were taken and are not on disk yet."""
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes
        self._taken_bytes = still_taken_bytes

    @property
    def taken_bytes(self) -> int:
        """Taken since the last measurement, but for what is `promised`."""
        return self._taken_bytes

    @property
    def left_bytes(self) -> int:
        """What was free by the last measurement and is not taken since."""
        return self.free_bytes - self._taken_bytes - self._promised_bytes

    @property
    def full(self) -> bool:
        """Whether every payload is refused, the smallest too."""
        return self.exhausted or self.left_bytes - _SMALLEST_BYTES < self.reserve_bytes

    @property
    def full_for_rows(self) -> bool:
        """Whether groups should take in only what makes room: half the reserve is used up."""
        return self._room_for_rows < self.reserve_bytes // 2

    @property
    def _room_for_rows(self) -> int:
        return self.left_bytes + self.index_bytes

    def take(self, payload_bytes: int) -> None:
        """Count room for blobs and extents; Full leaves at least the reserve."""
        if self.exhausted:
            raise Full("the file system has no room")
        if self.left_bytes - payload_bytes < self.reserve_bytes:
            raise Full(f"less than {self.reserve_bytes} bytes would stay free")
        self._taken_bytes += payload_bytes

    def promise(self, payload_bytes: int) -> None:
        """`take` for what comes bit by bit: no measurement shows it before it is `kept`."""
        self.take(payload_bytes)
        self._taken_bytes -= payload_bytes
        self._promised_bytes += payload_bytes

    def kept(self, payload_bytes: int) -> None:
        """All of a promise is written, or nothing more of it will be."""
        self._promised_bytes -= payload_bytes
        self._taken_bytes += payload_bytes

    def take_entries(self, payload_bytes: int) -> None:
        """Count room for log entries, which may use up the reserve but for an eighth.

        Who proposes them looks at `full_for_rows` first: what lies between is for deletes.
        """
        self._take_row(payload_bytes, self.reserve_bytes // 8)

    def take_copy(self, payload_bytes: int) -> None:
        """Count room for a copy's rows: half the reserve is not for them."""
        self._take_row(payload_bytes, self.reserve_bytes // 2)

    def _take_row(self, payload_bytes: int, left_bytes: int) -> None:
        if self._room_for_rows - payload_bytes < left_bytes:
            raise Full(f"less than {left_bytes} bytes would stay free")
        self._taken_bytes += payload_bytes
