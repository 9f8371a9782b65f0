from hypothesis import given
from hypothesis import strategies as st

from pinfold.sim.checkers.counters import check

SIZES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9))


@given(SIZES, st.integers(-2, 2), st.integers(-2, 2))
def test_any_difference_is_found_and_nothing_else(
    sizes: dict[str, int], more: int, larger: int
) -> None:
    counted = {"b": (len(sizes) + more, sum(sizes.values()) + larger)}
    findings = check(counted, {"b": list(sizes.items())})
    assert bool(findings) == bool(more or larger)


def test_a_bucket_without_counters_is_compared_with_nothing() -> None:
    assert check({}, {"b": []}) == []
    (finding,) = check({}, {"b": [("n", 3)]})
    assert "counted 0 objects, 0 bytes; listed 1 objects, 3 bytes" in finding.explanation
    assert check({"b": (1, 3)}, {})
