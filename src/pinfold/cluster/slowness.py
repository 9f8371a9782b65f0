"""Which devices are slow: far slower than their peers at the same work, and for some time. Pure.

A disk that is about to fail, or whose cache is full, still answers, only ten or a hundred times
later than the others. It must not set the pace of everybody. What counts is the median of a
device's latest times, against the lower median of its peers': one odd time tells nothing, a busy
machine slows all of them alike, and half of the devices may be slow without hiding one another.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, median_low
from typing import Final

from pinfold.model.ids import DeviceId

SAMPLES: Final = 16
"""Times kept for each device: under load the last tens of milliseconds, or few seconds."""

SAMPLES_MIN: Final = 4
"""With fewer a device is not judged and judges none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRules:
    """When a device becomes slow, and when it is so no more."""

    ratio: float = 5.0
    """So many times its peers' time: half of the ten times that hurt."""
    calm_ratio: float = 2.5
    """Below this it counts as recovered."""
    floor_s: float = 0.005
    """Faster than this nobody is slow, whatever the peers do."""
    enter_s: float = 2.0
    """How long it must have been so: above a stall, a checkpoint, a garbage collection."""
    leave_s: float = 10.0
    """How long it must have recovered: a device on the edge does not come and go."""


ROWS: Final = SlowRules()
"""For the flushes of row groups, and for blobs."""

VOLUMES: Final = SlowRules(floor_s=0.01, enter_s=3.0)
"""To put a device of a volume out of sync costs a resync: only for what a guest notices."""


class SlowWatch:
    """See the module. `look` now and then; times come in between."""

    def __init__(self, rules: SlowRules, now: Callable[[], float]) -> None:
        self._rules = rules
        self._now = now
        self._times: dict[DeviceId, deque[float]] = {}
        self._fresh: set[DeviceId] = set()
        """Devices that were observed since the last look."""
        self._since: dict[DeviceId, float] = {}
        """When a device began to look other than it is taken for."""
        self._slow: dict[DeviceId, None] = {}

    def observed(self, device: DeviceId, took_s: float) -> None:
        """A device has done a piece of work that the others do, too."""
        times = self._times.get(device)
        if times is None:
            times = self._times[device] = deque(maxlen=SAMPLES)
        times.append(took_s)
        self._fresh.add(device)

    def forget(self, device: DeviceId) -> None:
        """What was observed of a device tells nothing any more; what it is taken for stays."""
        self._times.pop(device, None)
        self._since.pop(device, None)
        self._fresh.discard(device)

    def slow(self, device: DeviceId) -> bool:
        """Whether a device is taken for slow."""
        return device in self._slow

    def typical_s(self, device: DeviceId) -> float | None:
        """The median of a device's latest times."""
        times = self._times.get(device, ())
        return median(times) if len(times) >= SAMPLES_MIN else None

    def look(self) -> list[DeviceId]:
        """Judge every device that did something since the last look; those that changed."""
        now, rules = self._now(), self._rules
        fresh, self._fresh = self._fresh, set()
        changed: list[DeviceId] = []
        for device in sorted(fresh):
            own_s, peers_s = self.typical_s(device), self._peers_s(device)
            if own_s is None or peers_s is None:
                continue
            was_slow = device in self._slow
            ratio = rules.calm_ratio if was_slow else rules.ratio
            is_slow = own_s > max(ratio * peers_s, rules.floor_s)
            if is_slow == was_slow:
                self._since.pop(device, None)
                continue
            since = self._since.setdefault(device, now)
            if now - since >= (rules.leave_s if was_slow else rules.enter_s):
                del self._since[device]
                changed.append(device)
                if is_slow:
                    self._slow[device] = None
                else:
                    del self._slow[device]
        return changed

    def _peers_s(self, device: DeviceId) -> float | None:
        found = [self.typical_s(other) for other in self._times if other != device]
        known = [seconds for seconds in found if seconds is not None]
        return median_low(known) if known else None
