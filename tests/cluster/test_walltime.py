"""One wrong clock among several decides nothing, however wrong, and whenever it is set."""

import pytest

from pinfold.cluster.groups.walltime import WallTime
from pinfold.model.ids import NodeName

DAY_S = 86_400
NOW_S = 20_000 * DAY_S
ME = NodeName("me")


class Clock:
    def __init__(self) -> None:
        self.mono = 5.0
        self.ahead = 0.0

    def monotonic(self) -> float:
        return self.mono

    def wall(self) -> float:
        return NOW_S + self.mono + self.ahead


def told(time: WallTime, clock: Clock, *ahead_s: float) -> None:
    for number, one in enumerate(ahead_s):
        time.heard(NodeName(f"n{number}"), int((NOW_S + clock.mono + one) * 1000))


@pytest.mark.parametrize(
    ("own", "others", "counts"),
    [
        (0, (), 0),
        (30 * DAY_S, (), 30 * DAY_S),
        (30 * DAY_S, (0, 1), 1),
        (-30 * DAY_S, (0, 1), 0),
        (0, (30 * DAY_S, 1), 1),
        (0, (30 * DAY_S,), 0),
        (30 * DAY_S, (0,), 0),
        (0, (1, 30 * DAY_S, -30 * DAY_S, 2), 1),
    ],
)
def test_the_clock_in_the_middle_counts(own, others, counts):
    clock = Clock()
    clock.ahead = own
    time = WallTime(clock, ME)
    told(time, clock, *others)
    assert time.now_ms() == int((NOW_S + clock.mono + counts) * 1000)


def test_a_clock_set_between_two_pings_changes_nothing():
    clock = Clock()
    time = WallTime(clock, ME)
    told(time, clock, 0, 0)
    clock.mono += 100
    clock.ahead = 30 * DAY_S
    assert time.now_ms() == int((NOW_S + clock.mono) * 1000)


def test_what_a_node_with_two_devices_tells_itself_does_not_count():
    clock = Clock()
    clock.ahead = 30 * DAY_S
    time = WallTime(clock, ME)
    time.heard(ME, time.own_ms())
    told(time, clock, 0)
    assert time.now_ms() == int((NOW_S + clock.mono) * 1000)
