"""The judges of a run: what the history, and the cluster at rest, say about the promises."""

from collections.abc import Callable
from typing import Final

from pinfold.sim.checkers import (
    access,
    availability,
    counters,
    linearizable,
    listings,
    uploads,
    volumes,
)
from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import GARBLED, History
from pinfold.sim.faults.stage import Stage
from pinfold.sim.weather import EVERYTHING
from pinfold.sim.workloads.bench import Bench

HISTORY_CHECKS: Final[tuple[Callable[[History], list[Finding]], ...]] = (
    linearizable.check,
    listings.check,
    uploads.check,
    volumes.check,
)
"""Each is given the whole history."""


_ROUNDING_S: Final = 0.001
"""More than instants lose when they are told apart."""


def judge(bench: Bench, stage: Stage) -> None:
    """Tell the account of everything that is wrong."""
    history = bench.recorder.history()
    _garbled(bench, history)
    findings = [finding for check in HISTORY_CHECKS for finding in check(history)]
    findings += availability.check(
        history,
        gateways=bench.plan.front,
        everything=EVERYTHING,
        may_be_full="full-disk" in bench.plan.faults,
    )
    accounts = bench.plan.settings.s3.accounts
    stale_s = max(accounts.cache_s, accounts.negative_cache_s) * (1 + bench.plan.drift)
    findings += access.check(history, stale_s=stale_s + _ROUNDING_S)
    findings += counters.check(bench.counted, bench.listed)
    for finding in findings:
        rule = finding.checker + (" undecided" if finding.undecided else "")
        bench.account.violated(rule, str(finding))


def _garbled(bench: Bench, history: History) -> None:
    for operation in history.operations:
        if operation.value == GARBLED:
            bench.account.violated("garbled bytes", f"{operation}")
    for request in history.disk:
        if GARBLED in request.tokens:
            bench.account.violated("garbled blocks", f"{request}")
