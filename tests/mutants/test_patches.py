"""Every mutant still applies to the tree; whether it is found is for `make mutants` to say."""

import shutil
from pathlib import Path

import pytest

from tests.mutants.run import ROOT, Mutant, PatchDoesNotApplyError, mutants, plant, waiting

MUTANTS_MIN = 12
"""Fewer would leave promises that nothing shows the simulator to watch."""


def touched(mutant: Mutant) -> list[str]:
    lines = mutant.path.read_text().splitlines()
    return [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]


@pytest.mark.parametrize("mutant", [*mutants(), *waiting()], ids=lambda mutant: mutant.name)
def test_a_mutant_says_what_it_breaks_and_applies(mutant: Mutant, tmp_path: Path) -> None:
    assert mutant.bug
    assert mutant.breaks.startswith("invariant ")
    names = touched(mutant)
    assert names
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    plant(mutant, tmp_path)
    for name in names:
        planted = (tmp_path / name).read_text()
        assert planted != (ROOT / name).read_text()
        compile(planted, name, "exec")


def test_there_are_enough_of_them() -> None:
    assert len(mutants()) >= MUTANTS_MIN


def test_a_patch_that_does_not_apply_any_more_is_an_error(tmp_path: Path) -> None:
    mutant = mutants()[0]
    for name in touched(mutant):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("something else by now\n")
    with pytest.raises(PatchDoesNotApplyError, match=mutant.name):
        plant(mutant, tmp_path)
