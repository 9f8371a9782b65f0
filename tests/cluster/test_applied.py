"""How old a result is at least, by what a member saw of its entry."""

from pinfold.cluster.groups.applied import AppliedTimes
from pinfold.cluster.groups.results import KEPT_S
from tests.twins.virtual import VirtualClock


class Set(VirtualClock):
    """A clock that stands where it is put."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_an_entry_is_never_older_than_its_application_and_hardly_younger() -> None:
    clock = Set()
    times = AppliedTimes(clock)
    for op in range(1, 1001):
        clock.now = op / 10
        times.applied(op)
    assert len(times._seen) < KEPT_S + 3
    for op in range(1000 - int(10 * KEPT_S), 1001):
        assert op / 10 <= times.time_of(op) <= op / 10 + 1
    assert times.time_of(1) < clock.now - KEPT_S
    clock.now += 7
    assert times.time_of(1001) == clock.now


def test_of_replaced_rows_nothing_is_known() -> None:
    clock = Set()
    times = AppliedTimes(clock)
    times.applied(50)
    clock.now = 10.0
    times.forget()
    assert times.time_of(40) == 10.0
