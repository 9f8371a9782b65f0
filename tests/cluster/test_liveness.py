"""Suspicion: quick enough for failover, slow enough for a busy machine."""

from pinfold.cluster.groups.liveness import Liveness
from pinfold.model.ids import NodeName

A = NodeName("a")
TICK_S = 0.1


def run(liveness, start, seconds, heard=False):
    """Tick on time for a while; returns when it is."""
    for step in range(1, round(seconds / TICK_S) + 1):
        liveness.tick(start + step * TICK_S, TICK_S)
        if heard:
            liveness.heard(A)
    return start + seconds


def test_silence_is_suspected_after_a_second():
    liveness = Liveness(0.0)
    now = run(liveness, 0.0, 3.0, heard=True)
    now = run(liveness, now, 0.9)
    assert liveness.alive(A)
    run(liveness, now, 0.3)
    assert not liveness.alive(A)


def test_a_broken_session_is_suspected_sooner_unless_it_comes_back():
    liveness = Liveness(0.0)
    now = run(liveness, 0.0, 1.0, heard=True)
    liveness.session(A, up=False)
    now = run(liveness, now, 0.2)
    assert liveness.alive(A)
    liveness.session(A, up=True)
    now = run(liveness, now, 0.5)
    assert liveness.alive(A)
    liveness.session(A, up=False)
    run(liveness, now, 0.4)
    assert not liveness.alive(A)


def test_time_in_which_this_process_did_not_run_is_nobodys_silence():
    liveness = Liveness(0.0)
    now = run(liveness, 0.0, 1.0, heard=True)
    liveness.tick(now + 30.0, TICK_S)
    assert liveness.alive(A)
    run(liveness, now + 30.0, 1.2)
    assert not liveness.alive(A)


def test_a_node_never_heard_of_gets_one_silence():
    liveness = Liveness(0.0)
    now = run(liveness, 0.0, 0.9)
    assert liveness.alive(A)
    run(liveness, now, 0.3)
    assert not liveness.alive(A)
