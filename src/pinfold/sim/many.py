"""Many seeds, in a few processes, and what they found in words.

A seed's result does not depend on the process that runs it. A seed that is run twice is so in
whichever process is free, each with a hash seed of its own: equal traces or it is a violation.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, Final

from pinfold.sim.account import Line, Violation
from pinfold.sim.run import CPU_S, run_seed

_IN_HAND: Final = 2
"""Seeds given to each process ahead, so that none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is told of one seed."""

    seed: int
    plan: str
    trace: str
    events: int
    virtual_s: float
    real_s: float
    violations: tuple[Violation, ...]
    counts: dict[str, int]
    timeline: tuple[Line, ...]

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.violations)


def run_one(seed: int) -> Outcome:
    """A seed's outcome."""
    with _cpu_limit(2 * CPU_S):
        result = run_seed(seed)
    return Outcome(
        seed=seed,
        plan=result.plan.describe(),
        trace=result.trace,
        events=result.events,
        virtual_s=result.virtual_s,
        real_s=result.real_s,
        violations=tuple(result.violations),
        counts=result.counts,
        timeline=tuple(result.timeline),
    )


def compared(outcomes: Sequence[Outcome]) -> Outcome:
    """What several runs of one seed amount to: different traces are a violation."""
    first = outcomes[0]
    traces = [outcome.trace for outcome in outcomes]
    violations = first.violations
    if len(set(traces)) > 1:
        what = f"equal seeds, different runs: {', '.join(traces)}"
        violations = (*violations, Violation("determinism", what, first.virtual_s))
    real_s = sum(outcome.real_s for outcome in outcomes)
    return replace(first, real_s=real_s, violations=violations)


def run_many(first: int, count: int, *, runs: int, processes: int) -> Iterator[Outcome]:
    """The outcomes of `count` seeds from `first` on, in the order in which they end."""
    seeds = iter(range(first, first + count))
    if processes <= 1 or count * runs == 1:
        for seed in seeds:
            yield compared([run_one(seed) for _ in range(runs)])
        return
    ended: dict[int, list[Outcome]] = {}
    # Fresh interpreters: a hash seed of their own each, which nothing may depend on.
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:
        waiting: dict[Future[Outcome], int] = {}
        while True:
            for seed in islice(seeds, max(0, processes * _IN_HAND - len(waiting))):
                waiting.update((pool.submit(run_one, seed), seed) for _ in range(runs))
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=waiting.__getitem__):
                seed = waiting.pop(future)
                outcomes = ended.setdefault(seed, [])
                outcomes.append(future.result())
                if len(outcomes) == runs:
                    yield compared(ended.pop(seed))


def _end_with_parent() -> None:
    """Let this worker end when whoever asked it has gone, however that went."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


class _cpu_limit:  # noqa: N801 - reads as a statement
    """Interrupt code that loops without ever coming back to the loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGPROF, _interrupt)
        signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._before)


def _interrupt(_number: int, _frame: object) -> None:
    raise TimeoutError("the code under test does not come back")


def report(outcome: Outcome, write: Callable[[str], None]) -> None:
    """Tell what is wrong with a seed, what went before, and how to see it again."""
    write(f"seed {outcome.seed}: {len(outcome.violations)} violations")
    write(f"  plan: {outcome.plan}")
    write("")
    for line in outcome.timeline:
        write(f"  {str(line)[:400]}")
    write("")
    for violation in outcome.violations[:8]:
        write(f"  {violation}")
    if len(outcome.violations) > 8:
        write(f"  and {len(outcome.violations) - 8} more")
    write("")
    write(f"replay: pinfold sim run --seed {outcome.seed}")
