"""Which devices are slow: decided from times alone."""

import pytest

from pinfold.cluster.slowness import SAMPLES_MIN, SlowRules, SlowWatch
from pinfold.model.ids import DeviceId

A, B, C = DeviceId(1), DeviceId(2), DeviceId(3)
RULES = SlowRules(ratio=5, calm_ratio=2, floor_s=0.005, enter_s=2, leave_s=10)


class Story:
    """Ten times a second every device tells how long it took."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch = SlowWatch(RULES, lambda: self.now)
        self.changes: list[tuple[float, DeviceId]] = []

    def goes_on(self, seconds: float, **took_s: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for name, seconds_taken in took_s.items():
                self.watch.observed({"a": A, "b": B, "c": C}[name], seconds_taken)
            self.changes += [(round(self.now, 1), device) for device in self.watch.look()]

    def slow(self) -> list[DeviceId]:
        return [device for device in (A, B, C) if self.watch.slow(device)]


def test_ten_times_slower_for_some_seconds_is_slow_and_recovered_for_long_is_not() -> None:
    story = Story()
    story.goes_on(10, a=0.001, b=0.001, c=0.001)
    story.goes_on(1.5, a=0.010, b=0.001, c=0.001)
    assert story.slow() == []
    story.goes_on(3, a=0.010, b=0.001, c=0.001)
    assert story.slow() == [A]
    story.goes_on(9, a=0.001, b=0.001, c=0.001)
    assert story.slow() == [A]
    story.goes_on(4, a=0.001, b=0.001, c=0.001)
    assert story.slow() == []
    assert len(story.changes) == 2


def test_single_slow_times_and_short_stalls_tell_nothing() -> None:
    story = Story()
    for _ in range(20):
        story.goes_on(0.1, a=0.5, b=0.001, c=0.001)
        story.goes_on(0.9, a=0.001, b=0.001, c=0.001)
    story.goes_on(1.5, a=0.5, b=0.001, c=0.001)
    story.goes_on(3, a=0.001, b=0.001, c=0.001)
    assert story.changes == []


@pytest.mark.parametrize(
    "took", [(0.05, 0.05, 0.05), (0.0040, 0.0001, 0.0001), (0.02, 0.006, 0.006)]
)
def test_a_busy_machine_and_differences_that_do_not_matter_are_not_slow(
    took: tuple[float, float, float],
) -> None:
    story = Story()
    story.goes_on(30, a=took[0], b=took[1], c=took[2])
    assert story.slow() == []


def test_two_slow_devices_do_not_hide_one_another() -> None:
    story = Story()
    story.goes_on(5, a=0.1, b=0.1, c=0.001)
    assert story.slow() == [A, B]


def test_who_does_nothing_or_is_alone_is_not_judged() -> None:
    story = Story()
    story.goes_on(5, a=1.0)
    assert story.slow() == []
    for _ in range(SAMPLES_MIN - 1):
        story.watch.observed(B, 0.001)
    story.goes_on(5, a=1.0)
    assert story.slow() == []
    story.goes_on(5, a=1.0, b=0.001)
    assert story.slow() == [A]
    story.goes_on(60, b=0.001)
    assert story.slow() == [A]  # silence is no recovery


def test_on_the_edge_nothing_comes_and_goes() -> None:
    story = Story()
    for _ in range(10):
        story.goes_on(3, a=0.011, b=0.002, c=0.002)
        story.goes_on(3, a=0.009, b=0.002, c=0.002)
    assert len(story.changes) == 1
