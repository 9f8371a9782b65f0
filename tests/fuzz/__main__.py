"""`make fuzz MINUTES=n`: every target for n minutes, one after the other, and a table at the end.

Each round is a Hypothesis run with a seed of its own. What fails is shrunk and kept in the corpus,
where the unit tests pick it up: commit it with the fix. The status is 1 when something failed.
"""

import argparse
import secrets
import sys
import time
import traceback
import warnings
from collections.abc import Sequence

import structlog
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.harness import Hang, Target, judge, keep, kept

ROUND = 500
"""Inputs of one seed: beyond that a fresh one finds more."""

FINDINGS_MAX = 5
"""A target that fails so often has told enough."""


class _FoundAgain(Exception):
    """What stands in the way of everything else: no further round will find more."""


class Tally:
    """What one target's inputs came to."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tried = 0
        self.outcomes: dict[str, int] = {}
        self.findings: list[str] = []

    def attempt(self, data: bytes) -> None:
        """One input; a failure passes through."""
        self.tried += 1
        outcome = judge(self.target, data)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def search(self, number: int, until: float) -> None:
        """One round; keeps what fails."""
        failing = b""

        @seed(number)
        @settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(self.target.inputs)
        def run(data: bytes) -> None:
            nonlocal failing
            if time.monotonic() > until and not failing:
                return
            try:
                self.attempt(data)
            except (Exception, Hang):
                failing = data
                raise

        try:
            run()
        except (Exception, Hang) as error:
            path = keep(self.target.name, failing)
            finding = f"{path.name}: {error!r}"[:200]
            if finding in self.findings:
                raise _FoundAgain from error
            self.findings.append(finding)
            traceback.print_exc()


def fuzz(target: Target, seconds: float, first_seed: int) -> Tally:
    """Run a target's corpus and then fresh inputs for so long."""
    tally = Tally(target)
    for path in kept(target.name):
        try:
            tally.attempt(path.read_bytes())
        except (Exception, Hang) as error:  # noqa: BLE001 - whatever it is, it is a finding
            tally.findings.append(f"{path.name} again: {error!r}"[:200])
    until = time.monotonic() + seconds
    number = first_seed
    while time.monotonic() < until and len(tally.findings) < FINDINGS_MAX:
        try:
            tally.search(number, until)
        except _FoundAgain:
            break
        number += 1
    return tally


def table(tallies: Sequence[Tally]) -> str:
    """What was tried and found, a line for each target."""
    lines = [f"{'target':20} {'inputs':>9} {'outcomes':>9} {'findings':>9}"]
    for tally in tallies:
        counts = f"{tally.tried:9} {len(tally.outcomes):9} {len(tally.findings):9}"
        lines.append(f"{tally.target.name:20} {counts}")
        lines += [f"    {finding}" for finding in tally.findings]
    return "\n".join(lines)


def main() -> int:
    """Parse the arguments, run, print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default 1)")
    parser.add_argument("--seed", type=int, help="of the first round (default: random)")
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    wanted = parser.parse_args()
    unknown = set(wanted.targets) - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    # What the product logs of bad input is not looked at here; that it does not fail, is.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    warnings.simplefilter("ignore")
    first = secrets.randbelow(1 << 32) if wanted.seed is None else wanted.seed
    print(f"first seed {first}", flush=True)
    tallies = []
    for target in TARGETS:
        if not wanted.targets or target.name in wanted.targets:
            tallies.append(fuzz(target, 60 * wanted.minutes, first))
            print(table(tallies[-1:]).partition("\n")[2], flush=True)
    print()
    print(table(tallies))
    return 1 if any(tally.findings for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
