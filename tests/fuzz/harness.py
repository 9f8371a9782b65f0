"""What a fuzz target is and what every one of them is held to.

An input is bytes, so that one that fails can be kept as a file. A target reads it, checks its own
part of the contract, and says what came of it; here the rest is checked: no exception, no hang, and
memory within a bound that follows from configured limits and the input's own size.
"""

import hashlib
import re
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis.strategies import SearchStrategy

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that once failed, by target: each run begins with them."""

KIB = 1 << 10
MIB = 1 << 20

_VARYING = re.compile(r"b?'[^']*'|b?\"[^\"]*\"|0x[0-9a-f]+|\d+")


class Hang(BaseException):
    """An input took longer than its target allows; no handler of the product may take this."""


class TooMuchMemory(AssertionError):
    """An input made its target hold more than its limits say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that reads bytes it cannot trust."""

    name: str
    inputs: SearchStrategy[bytes]
    run: Callable[[bytes], str]
    """Feed the input; what came of it, in a few words. Any exception is a finding."""
    examples: int = 150
    """Inputs in a run of the unit tests: all targets together take half a minute."""
    memory_bytes: int = 4 * MIB
    memory_factor: int = 64
    """The peak of traced memory is at most memory_bytes + memory_factor times the input."""
    seconds: float = 10.0
    """Of processor time, far above what any input needs: it only tells a hang, on a busy machine
    too. Loops are virtual, so what waits for nothing fails by itself."""


def judge(target: Target, data: bytes) -> str:
    """Run one input; its outcome, without the numbers and names in it. Raises for a finding."""
    allowed = target.memory_bytes + target.memory_factor * len(data)
    with _time_limit(target.seconds), _traced() as peak:
        outcome = target.run(data)
    if peak() > allowed:
        raise TooMuchMemory(f"{target.name}: {peak()} bytes, allowed {allowed}")
    return _VARYING.sub("#", outcome)[:120]


def kept(target: str) -> list[Path]:
    """The corpus of a target."""
    return sorted((CORPUS / target).glob("*.bin"))


def keep(target: str, data: bytes) -> Path:
    """Add an input to the corpus."""
    path = CORPUS / target / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def ring(_signal: int, _frame: object) -> None:
        raise Hang(f"no end after {seconds} s of work")

    before = signal.signal(signal.SIGPROF, ring)
    timer_before = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, *timer_before)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """Yields how many bytes were held at the peak, beyond what was held before."""
    nested = tracemalloc.is_tracing()
    if not nested:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    highest = 0

    def peak() -> int:
        return highest

    try:
        yield peak
    finally:
        highest = tracemalloc.get_traced_memory()[1] - before
        if not nested:
            tracemalloc.stop()
