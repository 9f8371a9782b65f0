"""What a soak has seen: operations, errors by kind, pauses, violations. Shared by all workers."""

import threading
import time
from collections import Counter

VIOLATIONS_SHOWN = 20

PAUSE_TOLD_S = 8.0
"""Pauses that are told as they end: what a view change, a restart or a stop alone never take."""


class Tally:
    """Counts; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.operations: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.violations: list[str] = []
        self.verified_bytes = 0
        self.longest: dict[str, float] = {}
        """By kind of load, the longest time without a success."""
        self._success: dict[str, float] = {}
        self.rss: dict[str, int] = {}
        """By process, the most it held."""

    def succeeded(self, load: str, operation: str) -> None:
        """An operation was answered as it should be."""
        now = time.monotonic()
        with self._lock:
            self.operations[operation] += 1
            pause = now - self._success.get(load, now)
            self.longest[load] = max(self.longest.get(load, 0.0), pause)
            self._success[load] = now
            if pause > PAUSE_TOLD_S:
                self._tell(f"{load}: nothing for {pause:.1f} s")

    def failed(self, operation: str, how: object) -> None:
        """An operation had no certain outcome: expected while processes die."""
        with self._lock:
            self.errors[f"{operation}: {how}"] += 1

    def troubled(self, what: str) -> None:
        """Something was killed or stopped."""
        with self._lock:
            self.troubles[what] += 1
            self._tell(what)

    def violated(self, what: str) -> None:
        """A promise was broken."""
        with self._lock:
            self.violations.append(what)
            self._tell(f"VIOLATION {what}")

    def _tell(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:8.1f}  {what}", flush=True)

    def verified(self, count: int) -> None:
        """So many bytes were read and right."""
        with self._lock:
            self.verified_bytes += count

    def held(self, name: str, rss: int) -> None:
        """A process holds so much now."""
        self.rss[name] = max(self.rss.get(name, 0), rss)

    def table(self) -> str:
        """For people."""
        lines = ["", "operations answered"]
        lines += [f"  {name:<24}{count:>10}" for name, count in sorted(self.operations.items())]
        lines.append("without a certain answer")
        lines += [f"  {name:<54}{count:>6}" for name, count in sorted(self.errors.items())]
        lines.append("troubles")
        lines += [f"  {name:<24}{count:>10}" for name, count in sorted(self.troubles.items())]
        lines.append("longest time without a success")
        lines += [f"  {name:<24}{pause:>9.1f}s" for name, pause in sorted(self.longest.items())]
        lines.append("most memory held")
        lines += [f"  {name:<24}{held >> 20:>6} MiB" for name, held in sorted(self.rss.items())]
        lines.append(f"verified {self.verified_bytes} bytes, {len(self.violations)} violations")
        lines += self.violations[:VIOLATIONS_SHOWN]
        return "\n".join(lines)
