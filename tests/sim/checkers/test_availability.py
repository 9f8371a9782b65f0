"""Requests that must not fail: the judge of what was disturbed meanwhile."""

from dataclasses import replace

import pytest

from pinfold.sim.checkers.availability import AFTER_S, check
from pinfold.sim.checkers.history import Disturbance, History, Operation
from pinfold.sim.weather import EVERYTHING

FAILED = Operation(
    id=0,
    client="c",
    kind="get",
    bucket="b",
    name="n",
    gateway="g1",
    began=10.0,
    ended=11.0,
    outcome="unknown",
    error="unavailable",
)


def found(operation: Operation, *disturbed: tuple[str, float, float]) -> bool:
    disturbances = tuple(
        Disturbance(subject=subject, began=began, ended=ended)
        for subject, began, ended in disturbed
    )
    history = History(operations=(operation,), disturbances=disturbances)
    return bool(check(history, gateways=("g1", "g2"), everything=EVERYTHING, may_be_full=False))


def test_a_failure_without_an_excuse_is_found() -> None:
    assert found(FAILED)
    assert found(FAILED, ("n1", 9.0, 12.0))
    assert found(FAILED, ("n1", 9.0, 12.0), ("g2", 0.0, 20.0))
    assert found(FAILED, ("n1", 9.0, 12.0), ("n2", 0.0, 10.0 - AFTER_S - 0.1))


@pytest.mark.parametrize(
    "disturbed",
    [
        [("n1", 9.0, 12.0), ("n2", 0.0, 10.0 - AFTER_S + 0.1)],
        [("g1", 10.5, 10.6)],
        [(EVERYTHING, 10.5, 10.6)],
    ],
)
def test_two_nodes_the_gateway_or_everything_excuse_it(
    disturbed: list[tuple[str, float, float]],
) -> None:
    assert not found(FAILED, *disturbed)


@pytest.mark.parametrize("error", ["not-found", "conflict", "denied", "ProcessDied", "down"])
def test_an_answer_is_no_failure(error: str) -> None:
    assert not found(replace(FAILED, outcome="refused", error=error))


def test_who_is_impatient_waits_for_nobody() -> None:
    impatient = replace(FAILED, error="TimeoutError")
    assert found(impatient)
    assert not found(impatient, ("n1", 9.0, 12.0))
    assert found(replace(impatient, ended=20.0), ("n1", 9.0, 12.0))
