"""Many seeds, in a few processes, and what they found in words.

A seed's result does not depend on the process that runs it. `--twice` runs each a second time, in
whichever process is free: equal traces or it is a violation.
"""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, Final

from pinfold.sim.account import Line, Violation
from pinfold.sim.run import REAL_S, run_seed

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


def run_one(seed: int, runs: int) -> Outcome:
    """A seed's outcome after one run or several, whose traces must be equal."""
    with _real_time_limit(runs * 2 * REAL_S):
        results = [run_seed(seed) for _ in range(runs)]
    first = results[0]
    violations = first.violations
    traces = [result.trace for result in results]
    if len(set(traces)) > 1:
        what = f"equal seeds, different runs: {', '.join(traces)}"
        violations = [*violations, Violation("determinism", what, first.virtual_s)]
    return Outcome(
        seed=seed,
        plan=first.plan.describe(),
        trace=first.trace,
        events=first.events,
        virtual_s=first.virtual_s,
        real_s=sum(result.real_s for result in results),
        violations=tuple(violations),
        counts=first.counts,
        timeline=tuple(first.timeline),
    )


def run_many(first: int, count: int, *, runs: int, processes: int) -> Iterator[Outcome]:
    """The outcomes of `count` seeds from `first` on, in the order in which they end."""
    seeds = iter(range(first, first + count))
    if processes <= 1 or count == 1:
        for seed in seeds:
            yield run_one(seed, runs)
        return
    # Fresh interpreters: a hash seed of their own each, which nothing may depend on.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting: dict[Future[Outcome], int] = {}
        while True:
            for seed in islice(seeds, processes * _IN_HAND - len(waiting)):
                waiting[pool.submit(run_one, seed, runs)] = seed
            if not waiting:
                return
            ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(ended, key=waiting.__getitem__):
                del waiting[future]
                yield future.result()


class _real_time_limit:  # noqa: N801 - reads as a statement
    """Interrupt code that loops without ever coming back to the loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


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
