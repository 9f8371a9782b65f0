"""Every target on what once failed, and on a bounded number of fresh inputs.

A failure prints the input; `make fuzz` finds more and keeps what fails in the corpus.
"""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.harness import Target, judge, kept

KEPT = [(target, path) for target in TARGETS for path in kept(target.name)]


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_bad_input_is_refused_in_bounds(target: Target) -> None:
    @settings(
        max_examples=target.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def search(data: bytes) -> None:
        judge(target, data)

    search()


@pytest.mark.parametrize(
    ("target", "path"), KEPT, ids=[f"{target.name}-{path.stem}" for target, path in KEPT]
)
def test_what_once_failed_does_not_any_more(target: Target, path: object) -> None:
    judge(target, path.read_bytes())  # type: ignore[attr-defined]


def test_targets_have_names_of_their_own() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
