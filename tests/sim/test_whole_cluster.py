"""Whole clusters in a world: the product's own composition, its clients, and what is told of it."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pinfold.cli.sim import sim, tell
from pinfold.sim.account import Line, Violation
from pinfold.sim.faults import FAULTS
from pinfold.sim.many import Outcome, compared, report, run_many
from pinfold.sim.plan import FAULT_RATES, Plan, make_plan
from pinfold.sim.run import run_seed

QUIET = dataclasses.replace(
    make_plan(0),
    faults={},
    safety_s=3.0,
    object_clients=2,
    volume_clients=1,
    names=3,
    rivals=False,
)
"""A run in which nothing breaks."""


def test_in_an_unharmed_cluster_calls_succeed_and_nothing_is_wrong() -> None:
    result = run_seed(0, plan=QUIET)
    assert not result.violations
    ended = [call for call in result.history.operations if call.outcome != "refused"]
    assert len(ended) > 40
    assert all(call.outcome == "ok" for call in ended)
    requests = result.history.disk
    assert len(requests) > 20
    assert all(request.outcome == "ok" for request in requests)
    assert result.history.pages


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_happens_and_the_cluster_survives_it(fault: str) -> None:
    plan = dataclasses.replace(QUIET, faults={fault: 1.0}, safety_s=5.0)
    result = run_seed(1, plan=plan)
    assert result.counts[f"fault {fault}"] >= 1
    assert not result.violations, result.violations[0]


def test_members_of_groups_are_replaced_while_nodes_crash_and_clients_are_served() -> None:
    plan = dataclasses.replace(
        QUIET, nodes=5, faults={"new-members": 0.5, "crash": 1.0, "power-cut": 3.0}, safety_s=8.0
    )
    result = run_seed(3, plan=plan)
    assert result.counts["members replaced"] >= 3
    assert not result.violations, result.violations[0]


def test_gateways_that_contend_for_a_volume_leave_it_as_one_disk() -> None:
    result = run_seed(2, plan=dataclasses.replace(QUIET, rivals=True, safety_s=8.0))
    contests = {name: n for name, n in result.counts.items() if name.startswith("contest ")}
    assert sum(contests.values()) >= 3
    assert contests["contest by_force"]
    by_rivals = [request for request in result.history.disk if request.client.startswith("r at ")]
    assert {request.kind for request in by_rivals} == {"read", "write", "flush"}
    assert {request.gateway for request in by_rivals} == {"g1#1", "g2#1"}
    assert any(request.error == "fenced" for request in by_rivals)
    assert not result.violations, result.violations[0]


def test_every_fault_has_a_pause() -> None:
    assert list(FAULTS) == [name for name in FAULTS if name in FAULT_RATES]
    assert FAULTS.keys() == FAULT_RATES.keys()


def test_seeds_choose_topologies_limits_and_faults() -> None:
    plans = [make_plan(seed) for seed in range(300)]
    assert {plan.nodes for plan in plans} == {3, 4, 5}
    assert {plan.group_copies for plan in plans} == {3, 5}
    assert {plan.devices_per_node for plan in plans} == {1, 2}
    assert {name for plan in plans for name in plan.faults} == FAULTS.keys()
    assert len({plan.settings for plan in plans}) > 200
    assert make_plan(5) == make_plan(5)


def _digest_under(hash_seed: str, seed: int) -> str:
    program = f"from pinfold.sim.run import run_seed; print(run_seed({seed}).trace)"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return ran.stdout.strip()


@pytest.mark.parametrize("seed", [11, 26])
def test_equal_seeds_run_equally_whatever_the_hash_seed(seed: int) -> None:
    assert _digest_under("1", seed) == _digest_under("2", seed)


def test_a_seed_runs_equally_twice_in_one_process_and_others_differ() -> None:
    assert run_seed(6).trace == run_seed(6).trace
    assert run_seed(6).trace != run_seed(10).trace


def _unfounded() -> Plan:
    """A cluster whose groups need more members than there ever are: it cannot begin to serve."""
    settings = QUIET.settings
    tiny = dataclasses.replace(QUIET, volumes=0)
    device = settings.device.__class__(index_engine="ordered", reserve_bytes=1 << 39)
    changed = settings.__class__(
        device=device, blobs=settings.blobs, s3=settings.s3, volumes=settings.volumes
    )
    return dataclasses.replace(tiny, settings=changed)


def test_a_run_that_does_not_end_is_a_violation_that_says_who_waits() -> None:
    result = run_seed(0, plan=_unfounded())
    (violation, *_) = result.violations
    assert violation.rule == "hang in found"
    assert "n1: 1 x run (journal.py" in violation.what
    assert result.timeline


def _outcome(seed: int, violations: tuple[Violation, ...]) -> Outcome:
    return Outcome(
        seed=seed,
        plan="3 nodes",
        trace="abc",
        events=5,
        virtual_s=9.5,
        real_s=0.5,
        violations=violations,
        counts={"put ok": 7},
        timeline=(Line(4.25, "n1", "crashes"), Line(4.5, "o1", "get b/a ok: o1.7")),
    )


LOST = Violation("linearizable", "no place for: get b/a", 4.5)


def test_a_violation_is_told_with_its_timeline_and_the_command_that_replays_it() -> None:
    lines: list[str] = []
    report(_outcome(31, (LOST,)), lines.append)
    assert "      4.2500  n1         crashes" in lines
    assert "  linearizable at 4.5000 s: no place for: get b/a" in lines
    assert lines[-1] == "replay: pinfold sim run --seed 31"


def test_the_first_violation_ends_the_run_unless_told_to_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes = [_outcome(31, ()), _outcome(32, (LOST,)), _outcome(33, ())]
    assert not tell(outcomes, 3, keep_going=False, as_json=False)
    assert "replay: pinfold sim run --seed 32" in capsys.readouterr().out
    assert not tell(outcomes, 3, keep_going=True, as_json=False)
    assert "3 of 3 seeds, 1 with violations" in capsys.readouterr().out
    assert tell(outcomes[:1], 1, keep_going=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["counts"] == {"put ok": 7}


def test_many_seeds_in_two_processes_have_the_results_they_have_alone() -> None:
    together = list(run_many(10, 3, runs=2, processes=2))
    assert not any(outcome.failed for outcome in together)
    traces = {outcome.seed: outcome.trace for outcome in together}
    assert traces == {seed: run_seed(seed).trace for seed in (10, 11, 12)}


def test_runs_of_a_seed_that_differ_are_a_violation() -> None:
    one = _outcome(31, ())
    assert not compared([one, one]).failed
    (violation,) = compared([one, dataclasses.replace(one, trace="abd")]).violations
    assert violation.rule == "determinism"
    assert "abc, abd" in violation.what


def test_the_command_prints_one_document_a_seed() -> None:
    ran = CliRunner().invoke(sim, ["run", "--seed", "6", "--twice", "--json"])
    assert ran.exit_code == 0, ran.output
    document = json.loads(ran.output)
    assert document["seed"] == 6
    assert document["violations"] == []
    assert document["trace"] == run_seed(6).trace
