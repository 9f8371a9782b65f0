"""How much work a call does, in steps of the interpreter: the same on every machine."""

import signal
import sys
from collections.abc import Callable
from typing import Any

from tests.fuzz.harness import Hang


def steps_of(work: Callable[[], Any], *, seconds: float = 10.0) -> int:
    """Lines of Python run and functions called; Hang when C code alone takes that long."""
    count = 0

    def trace(_frame: Any, _event: str, _argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "c_call"

    def ring(_signal: int, _frame: object) -> None:
        raise Hang(f"no end after {seconds} s of work")

    tracing, alarm = sys.gettrace(), signal.signal(signal.SIGPROF, ring)
    before = signal.setitimer(signal.ITIMER_PROF, seconds)
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        sys.settrace(tracing)
        signal.setitimer(signal.ITIMER_PROF, *before)
        signal.signal(signal.SIGPROF, alarm)
    return count
