"""Mutation check: does the simulator find protocol bugs that are put in on purpose?

    python tests/mutants/run.py [--seeds 200] [--jobs 2] [--waiting] [NAME ...]

Each `*.patch` beside this file is one bug: what it is, which invariant it breaks, and the change.
For each the program plants it in a copy of `src` and `ring` and runs seeds until one breaks a
promise. A seed counts only if the product without the bug passes it. Exit status 1 when a bug is
not found, or a patch does not apply any more: then make its change again by hand and diff.

The bugs in `waiting/` have been hunted with fewer seeds and were not found; `--waiting` hunts them.
One that is found moves up. One that is not, says what the workloads and faults still lack.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
SOURCES: Final = ("src", "ring")

SEEDS_MAX: Final = 200
"""Seeds within which a bug has to be found: some minutes of one core."""

SEED_S: Final = 120.0
"""Real seconds after which a seed that does not end counts as a hang; most take one or two."""

SAID_CHARS: Final = 60
"""Of what a checker said, as much as fits into a line of the table."""

ONE_SEED: Final = """
import json, sys
import pinfold
from pinfold.sim.run import run_seed
assert pinfold.__file__.startswith(sys.argv[1]), pinfold.__file__
for line in sys.stdin:
    found = run_seed(int(line)).violations
    print(json.dumps([f"{one.rule}: {one.what}" for one in found[:3]]), flush=True)
"""
"""Runs the seeds that it is told; the first argument is the tree that it must have come from."""


class PatchDoesNotApplyError(Exception):
    """A patch is older than the code."""


@dataclass(frozen=True)
class Mutant:
    """One deliberate bug."""

    name: str
    bug: str
    breaks: str
    path: Path


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    seed: int | None
    """The seed that found it; None: not found."""
    seeds: int
    seconds: float
    said: str


def mutants() -> list[Mutant]:
    """Those that must be found, by name."""
    return [_mutant(path) for path in sorted(HERE.glob("*.patch"))]


def waiting() -> list[Mutant]:
    """Those that no seed is known to find, by name."""
    return [_mutant(path) for path in sorted(HERE.glob("waiting/*.patch"))]


def _mutant(path: Path) -> Mutant:
    head = path.read_text().partition("\n--- ")[0]
    bug, _, breaks = head.partition("\n\nBreaks: ")
    return Mutant(path.stem, " ".join(bug.split()), " ".join(breaks.split()), path)


def copy_tree(into: Path) -> Path:
    """A copy of the product's code."""
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, into / name, ignore=ignored)
    return into


def plant(mutant: Mutant, tree: Path) -> None:
    """Put the bug into a copy of the code."""
    done = subprocess.run(
        ["git", "apply", "-C1", "--whitespace=nowarn", str(mutant.path)],
        cwd=tree,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise PatchDoesNotApplyError(f"{mutant.name}: {done.stderr.strip()}")


class Tree:
    """A copy of the code and a process that runs seeds on it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[str] | None = None

    def run(self, seed: int) -> list[str]:
        """What the simulator says against a seed; a process that does not come back says so."""
        process = self._process or self._start()
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        killer = threading.Timer(SEED_S, process.kill)
        killer.start()
        try:
            process.stdin.write(f"{seed}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            killer.cancel()
        if line:
            found: list[str] = json.loads(line)
            return found
        self.close()
        return ["the process died or hung"]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(str(self._root / name) for name in SOURCES)
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", ONE_SEED, str(self._root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            text=True,
        )


class Control:
    """The product without bugs, and which seeds it passes."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._passes: dict[int, bool] = {}

    def passes(self, seed: int) -> bool:
        """Whether a seed says nothing against it."""
        with self._lock:
            if seed not in self._passes:
                self._passes[seed] = not self._tree.run(seed)
            return self._passes[seed]

    @property
    def failing(self) -> list[int]:
        """Seeds that say something against the product as it is."""
        return sorted(seed for seed, passed in self._passes.items() if not passed)


def hunt(
    mutant: Mutant, control: Control, first: int, count: int, besides: tuple[str, ...] = ()
) -> Verdict:
    """Run seeds until one finds the bug; what begins with one of `besides` does not count."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        root = copy_tree(Path(place).resolve())
        plant(mutant, root)
        tree = Tree(root)
        try:
            for number, seed in enumerate(range(first, first + count), start=1):
                found = [one for one in tree.run(seed) if not one.startswith(besides)]
                if found and control.passes(seed):
                    return Verdict(mutant, seed, number, time.monotonic() - began, found[0])
        finally:
            tree.close()
    return Verdict(mutant, None, count, time.monotonic() - began, "nothing")


def hunt_all(
    chosen: Sequence[Mutant],
    *,
    first: int,
    count: int,
    jobs: int,
    control: Control,
    besides: tuple[str, ...],
) -> Iterator[Verdict]:
    """Verdicts as they come."""
    with ThreadPoolExecutor(jobs) as pool:
        hunts = [pool.submit(hunt, mutant, control, first, count, besides) for mutant in chosen]
        for ended in as_completed(hunts):
            yield ended.result()


def row(verdict: Verdict) -> str:
    """A line of the table."""
    found = f"seed {verdict.seed}" if verdict.seed is not None else "NOT FOUND"
    said = " ".join(verdict.said.split())[:SAID_CHARS]
    return f"{verdict.mutant.name:34} {found:>12} {verdict.seeds:6} {verdict.seconds:7.1f}  {said}"


def main() -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants to hunt; all if none is named")
    parser.add_argument("--waiting", action="store_true", help="hunt those not found so far")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="seeds for each at most")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--besides", action="append", default=[], help="a rule whose violations do not count"
    )
    wish = parser.parse_args()
    known = {mutant.name: mutant for mutant in (waiting() if wish.waiting else mutants())}
    unknown = [name for name in wish.names if name not in known]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in wish.names or known]
    print(f"{'mutant':34} {'found by':>12} {'seeds':>6} {'seconds':>7}  what was said")
    missed = []
    with tempfile.TemporaryDirectory(prefix="control-") as place:
        tree = Tree(copy_tree(Path(place).resolve()))
        control = Control(tree)
        try:
            for verdict in hunt_all(
                chosen,
                first=wish.first,
                count=wish.seeds,
                jobs=wish.jobs,
                control=control,
                besides=tuple(wish.besides),
            ):
                print(row(verdict), flush=True)
                if verdict.seed is None:
                    missed.append(verdict.mutant.name)
        except PatchDoesNotApplyError as error:
            print(f"a patch does not apply any more: {error}", file=sys.stderr)
            return 1
        finally:
            tree.close()
    if control.failing:
        print(f"seeds that the product itself does not pass, left out: {control.failing}")
    print(f"{len(chosen) - len(missed)} of {len(chosen)} found" + (": MISSED " if missed else ""))
    for name in missed:
        print(f"  {name}: {known[name].bug}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
