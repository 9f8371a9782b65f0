"""What must work works: with all but one node at rest, a request has no excuse for failing.

Policies promise to survive the loss of any one node, and clients wait longer than it takes the
others to go on without it. So a request of a gateway at rest, in whose time and somewhat before it
at most one storage node was disturbed, is answered as its data is: bytes that a device lacks, or
that do not verify, are another's.
"""

from collections.abc import Collection, Iterator
from typing import Final

from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import Disturbance, History, Operation
from pinfold.sim.checkers.timeline import describe

CHECKER: Final = "availability"

AFTER_S: Final = 4.0
"""In this time from the end of a disturbance its traces are gone: leaders are elected, sessions
established, logs caught up with."""

PATIENCE_S: Final = 8.0
"""A client that gave up sooner was impatient; unless nothing at all was disturbed."""

_ANSWERED: Final = frozenset(("conflict", "not-found", "invalid", "denied", "unclear", "down"))
"""Errors that say something about what was asked for, or that nobody was asked."""


def check(
    history: History, *, gateways: Collection[str], everything: str, may_be_full: bool
) -> list[Finding]:
    """Requests that failed without an excuse. `may_be_full`: a leader's disk excuses Full."""
    return [
        Finding(
            checker=CHECKER,
            subject=operation.gateway,
            explanation=f"failed, though only {sorted(disturbed) or 'nothing'} was disturbed\n"
            f"-> {describe(operation)}",
        )
        for operation in history.operations
        if _failed(operation) and not (may_be_full and operation.error == "full")
        for disturbed in _excuses(operation, history.disturbances, gateways, everything)
    ]


def _failed(operation: Operation) -> bool:
    if operation.outcome == "ok" or operation.ended is None or not operation.gateway:
        return False
    return operation.error not in _ANSWERED and operation.error != "ProcessDied"


def _excuses(
    operation: Operation,
    disturbances: Collection[Disturbance],
    gateways: Collection[str],
    everything: str,
) -> Iterator[set[str]]:
    """What was disturbed, if that excuses nothing."""
    assert operation.ended is not None
    since = operation.began - AFTER_S
    disturbed = {
        one.subject for one in disturbances if one.began <= operation.ended and one.ended >= since
    }
    if disturbed & {operation.gateway, everything}:
        return
    disturbed -= set(gateways)
    impatient = operation.error == "TimeoutError" and (
        operation.ended - operation.began < PATIENCE_S
    )
    if len(disturbed) <= (0 if impatient else 1):
        yield disturbed
