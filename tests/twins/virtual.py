"""An asyncio loop whose time jumps to the next timer: seconds of waiting cost nothing."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoFiles(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen: a deadlock"
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._no_files = _NoFiles()
        super().__init__(self._no_files)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._no_files.now

    def suspend(self, seconds: float) -> None:
        """The process does not run for so long: every timer is late at once."""
        self._no_files.now += seconds


class VirtualClock:
    """The loop's time, and a wall that started in 2026."""

    def __init__(self, wall_offset_s: float = 0.0) -> None:
        self._offset_s = 1_780_000_000.0 + wall_offset_s

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self._offset_s + asyncio.get_running_loop().time()


def run_virtual(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a fresh loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())
