from hypothesis import given
from hypothesis import strategies as st

from pinfold.node.restarts import DELAY_MAX_S, FIRST_DELAY_S, STEADY_S, RestartPolicy


def test_a_crash_loop_slows_down_and_a_steady_run_forgives() -> None:
    policy = RestartPolicy()
    assert [policy.on_exit(0.0) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert policy.on_exit(STEADY_S) == FIRST_DELAY_S
    assert policy.on_exit(0.0) == 2 * FIRST_DELAY_S


@given(st.lists(st.floats(0, 100)))
def test_delays_stay_in_bounds(runs: list[float]) -> None:
    policy = RestartPolicy()
    assert all(FIRST_DELAY_S <= policy.on_exit(ran) <= DELAY_MAX_S for ran in runs)
