"""How long the devices of a node's groups take to flush, its own and the others'.

A node times the appends of its own devices and tells the medians in its pings, so that all nodes
judge by the same numbers. A device found slow gives its groups away and is given none.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Final

import structlog

from pinfold.cluster.slowness import ROWS, SAMPLES, SlowWatch
from pinfold.env.api import Clock
from pinfold.model.ids import DeviceId

_log: Final = structlog.get_logger("pinfold.groups")


class Tempo:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watch = SlowWatch(ROWS, clock.monotonic)
        self._times: dict[DeviceId, deque[float]] = {}
        """Of appends since the last ping."""
        self._begun: dict[DeviceId, dict[object, float]] = {}
        """Appends under way, oldest first."""

    def began(self, device: DeviceId) -> object:
        """An append waits for the device's flush; what to `end` with."""
        append = object()
        self._begun.setdefault(device, {})[append] = self._clock.monotonic()
        return append

    def ended(self, device: DeviceId, append: object) -> None:
        """It is durable, or has failed."""
        began = self._begun[device].pop(append)
        times = self._times.setdefault(device, deque(maxlen=SAMPLES))
        times.append(self._clock.monotonic() - began)

    def tell(self) -> list[tuple[int, float]]:
        """(device, seconds) of own devices that had something to flush since the last call.

        A flush that does not come back tells by its age.
        """
        now = self._clock.monotonic()
        told: list[tuple[int, float]] = []
        for device, times in self._times.items():
            waited_s = now - next(iter(self._begun[device].values()), now)
            took_s = max(median(times) if times else 0.0, waited_s)
            if times or waited_s:
                told.append((device, took_s))
                self._watch.observed(device, took_s)
            times.clear()
        return told

    def heard(self, told: Iterable[tuple[int, float]]) -> None:
        """What another node tells of its devices."""
        for device, took_s in told:
            self._watch.observed(DeviceId(device), took_s)

    def look(self) -> None:
        """Judge by what has been told."""
        for device in self._watch.look():
            slow = self._watch.slow(device)
            said = "a device is slow" if slow else "a device is as fast as the others again"
            _log.warning(said, device=device, median_s=self._watch.typical_s(device))

    def slow(self, device: DeviceId) -> bool:
        """Whether the device should lead no group."""
        return self._watch.slow(device)

    def typical_s(self, device: DeviceId) -> float | None:
        """The median of its latest flushes; None before it had some."""
        return self._watch.typical_s(device)
