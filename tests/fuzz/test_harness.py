"""The harness finds what it is there to find."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz import harness
from tests.fuzz.harness import Hang, Target, TooMuchMemory, judge, keep, kept
from tests.fuzz.meters import steps_of


def target(run, **named) -> Target:
    return Target(name="t", inputs=st.binary(), run=run, **named)


def test_an_outcome_tells_kinds_and_no_numbers() -> None:
    assert judge(target(lambda data: f"{len(data)} of b'abc' at 0xff"), b"12345") == "# of # at #"


def test_an_endless_loop_is_a_hang() -> None:
    def spin(_data: bytes) -> str:
        while True:
            pass

    with pytest.raises(Hang):
        judge(target(spin, seconds=0.2), b"")


def test_memory_given_back_counts_at_its_peak() -> None:
    def hold(data: bytes) -> str:
        return f"{len(bytes(5 << 20))} {len(data)}"

    with pytest.raises(TooMuchMemory):
        judge(target(hold), b"")
    judge(target(hold, memory_bytes=6 << 20), b"")
    judge(target(hold, memory_bytes=0, memory_factor=6 << 10), bytes(1 << 10))


def test_what_fails_is_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "CORPUS", tmp_path)
    path = keep("t", b"bad")
    assert [one.read_bytes() for one in kept("t")] == [b"bad"]
    assert keep("t", b"bad") == path


def test_steps_count_lines_and_calls() -> None:
    few, many = (steps_of(lambda n=n: [len(str(i)) for i in range(n)]) for n in (10, 1000))
    assert 50 * few < many < 110 * few
