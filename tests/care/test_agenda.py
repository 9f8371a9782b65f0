"""Jobs once each, urgent ones first, failed ones later and not for ever."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pinfold.care.agenda import BACKOFF_MAX_S, Agenda
from pinfold.care.pace import SLOWEST, Pace


@dataclass(frozen=True)
class Task:
    key: int
    rank: int = 0
    size: int = 10


def agenda(limit=10, tries_max=3, backoff_s=1.0):
    return Agenda[Task](limit=limit, tries_max=tries_max, backoff_s=backoff_s)


def test_urgent_jobs_go_first_and_equal_ones_in_the_order_they_came():
    todo = agenda()
    for task in (Task(1, 2), Task(2, 1), Task(3, 2), Task(4, 1)):
        assert todo.offer(task)
    assert [todo.take(0.0).key for _ in range(4)] == [2, 4, 1, 3]
    assert todo.take(0.0) is None


def test_a_job_is_on_it_once_also_while_it_runs_and_no_more_than_the_limit():
    todo = agenda(limit=2)
    assert todo.offer(Task(1))
    assert not todo.offer(Task(1))
    assert todo.take(0.0) == Task(1)
    assert not todo.offer(Task(1))
    assert todo.offer(Task(2))
    assert not todo.offer(Task(3))
    todo.done(Task(1))
    assert todo.offer(Task(3))
    assert todo.offer(Task(1)) is False
    assert (todo.queued, todo.room, todo.queued_bytes) == (2, 0, 20)


def test_a_failed_job_waits_longer_each_time_and_is_given_up():
    todo = agenda()
    todo.offer(Task(1))
    assert todo.take(0.0)
    assert todo.failed(Task(1), 0.0)
    assert todo.take(0.99) is None
    assert todo.wait_s(0.5) == 0.5
    assert todo.take(1.0)
    assert todo.failed(Task(1), 1.0)
    assert todo.take(2.99) is None
    assert todo.take(3.0)
    assert not todo.failed(Task(1), 3.0)
    assert (todo.queued, todo.queued_bytes, todo.wait_s(3.0)) == (0, 0, None)


def test_the_pause_between_tries_ends_somewhere():
    todo = agenda(tries_max=2000)
    todo.offer(Task(1))
    for _ in range(1500):
        assert todo.take(float("inf"))
        todo.failed(Task(1), 0.0)
    assert todo.wait_s(0.0) == BACKOFF_MAX_S


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(0, 1)), max_size=40),
    st.lists(st.floats(0, 2), min_size=40, max_size=40),
)
def test_no_window_sees_more_than_its_share_and_one_grant(grants, gaps):
    """Grants asked for at any times, under any load, keep to both budgets."""
    pace = Pace(bytes_per_s=1 << 20, operations_per_s=10)
    now, begun = 100.0, []
    for (size, load), gap in zip(grants, gaps, strict=False):
        now += gap
        wait_s = pace.take(now, size, load)
        assert wait_s >= 0
        begun.append((now + wait_s, size))
    for first, (start, _) in enumerate(begun):
        for last in range(first, len(begun)):
            span_s = begun[last][0] - start + 1e-6
            before_last = begun[first:last]
            assert sum(size for _, size in before_last) <= span_s * (1 << 20) + 1
            assert len(before_last) <= span_s * 10 + 1e-6


def test_load_slows_down_and_never_stops():
    idle, busy = Pace(1e9, 10), Pace(1e9, 10)
    for _ in range(11):
        idle_s = idle.take(0.0, 1, 0.0)
        busy_s = busy.take(0.0, 1, 1.0)
    assert abs(idle_s - 1.0) < 1e-9
    assert abs(busy_s - 1.0 / SLOWEST) < 1e-6
