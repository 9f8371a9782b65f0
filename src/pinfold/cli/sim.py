"""`pinfold sim`: run the whole cluster in virtual time, break it, and judge what clients saw."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import click

from pinfold.cli.cluster import json_option
from pinfold.sim.many import Outcome, report, run_many
from pinfold.sim.run import run_seed

_PROGRESS: Final = 50
"""Seeds between two lines of progress: about half a minute."""


@click.group(epilog="Example: pinfold sim run --seed 7")
def sim() -> None:
    """Simulate whole clusters under faults; needs and touches no real one."""


@sim.command(
    epilog="Examples: pinfold sim run --seed 7; pinfold sim run --seed 1 --seeds 2000 --jobs 2"
)
@click.option("--seed", type=int, default=1, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--twice", is_flag=True, help="Run each seed twice and compare the traces.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--keep-going", is_flag=True, help="Run the other seeds after a violation.")
@click.option("--trace", is_flag=True, help="Print every event of the first seed, and stop.")
@json_option
def run(
    seed: int, seeds: int, twice: bool, jobs: int, keep_going: bool, trace: bool, as_json: bool
) -> None:
    """Run seeds; exit status 1 when any of them breaks a promise.

    One seed decides the topology, limits, faults and clients of a run, and every step in it.
    """
    if trace:
        _print_trace(seed)
        return
    outcomes = run_many(seed, seeds, runs=2 if twice else 1, processes=jobs)
    if not tell(outcomes, seeds, keep_going=keep_going, as_json=as_json):
        raise SystemExit(1)


def tell(outcomes: Iterable[Outcome], seeds: int, *, keep_going: bool, as_json: bool) -> bool:
    """Print outcomes as they come, and progress; whether all seeds kept every promise."""
    started = time.monotonic()
    failed = 0
    for done, outcome in enumerate(outcomes, 1):
        failed += outcome.failed
        if as_json:
            click.echo(json.dumps(_document(outcome)))
        elif outcome.failed:
            report(outcome, click.echo)
        elif seeds == 1:
            _print_good(outcome)
        elif done % _PROGRESS == 0 or done == seeds:
            took = time.monotonic() - started
            click.echo(f"{done} of {seeds} seeds, {failed} with violations, {took:.0f} s")
        if outcome.failed and not keep_going:
            break
    return not failed


def _print_good(outcome: Outcome) -> None:
    click.echo(f"seed {outcome.seed}: no violation")
    click.echo(f"  plan   {outcome.plan}")
    click.echo(
        f"  ran    {outcome.virtual_s:.1f} virtual seconds, {outcome.events} events "
        f"in {outcome.real_s:.2f} s, trace {outcome.trace}"
    )
    counts = ", ".join(f"{count} {name}" for name, count in outcome.counts.items())
    click.echo(f"  calls  {counts}")


def _print_trace(seed: int) -> None:
    result = run_seed(seed, keep_trace=1_000_000)
    for line in result.trace_lines:
        click.echo(line)


def _document(outcome: Outcome) -> dict[str, Any]:
    document = asdict(outcome)
    document["timeline"] = [str(line) for line in outcome.timeline]
    return document
