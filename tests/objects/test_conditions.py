"""Conditions: the order of RFC 9110, and the checks they become."""

import pytest

from pinfold.cluster.api import Check, Row
from pinfold.objects.conditions import ANY, Conditions, NoSuchKey, PreconditionFailed, refusal

SECOND = 1000


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        (Conditions(), "go"),
        (Conditions(if_match=("e",)), "go"),
        (Conditions(if_match=("x", "e")), "go"),
        (Conditions(if_match=ANY), "go"),
        (Conditions(if_match=("x",)), "failed"),
        (Conditions(if_none_match=("e",)), "not-modified"),
        (Conditions(if_none_match=ANY), "not-modified"),
        (Conditions(if_none_match=("x",)), "go"),
        (Conditions(modified_since_s=9), "go"),
        (Conditions(modified_since_s=10), "not-modified"),
        (Conditions(unmodified_since_s=10), "go"),
        (Conditions(unmodified_since_s=9), "failed"),
        # a tag outweighs a time
        (Conditions(if_match=("e",), unmodified_since_s=9), "go"),
        (Conditions(if_none_match=("x",), modified_since_s=10), "go"),
        (Conditions(if_match=("x",), if_none_match=("e",)), "failed"),
    ],
)
def test_reads(conditions: Conditions, verdict: str) -> None:
    assert conditions.verdict("e", 10 * SECOND + 999) == verdict


def test_tags_become_checks_of_the_log() -> None:
    conditions = Conditions(if_match=("a", "b"), if_none_match=ANY)
    assert conditions.checks(b"k") == (
        Check("tag-in", b"k", tags=(b"a", b"b")),
        Check("absent", b"k"),
    )
    assert Conditions(if_match=ANY).checks(b"k") == (Check("present", b"k"),)
    assert Conditions(if_none_match=("a",)).checks(b"k") == (
        Check("tag-not-in", b"k", tags=(b"a",)),
    )


def test_matching_nothing_is_not_found_and_all_else_a_failed_precondition() -> None:
    assert isinstance(refusal(Check("tag-in", b"k"), None), NoSuchKey)
    assert isinstance(refusal(Check("present", b"k"), None), NoSuchKey)
    assert isinstance(refusal(Check("absent", b"k"), None), PreconditionFailed)


def test_what_comes_after_a_refusal_does_not_change_what_was_refused() -> None:
    assert isinstance(refusal(Check("present", b"k"), Row(b"")), NoSuchKey)
    assert isinstance(refusal(Check("tag-in", b"k", tags=(b"a",)), Row(b"")), PreconditionFailed)
