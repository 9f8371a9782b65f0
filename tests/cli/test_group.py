"""`pinfold group` against a live admin API: what it prints and when it refuses."""

import json

import pytest
from click.testing import CliRunner, Result

from pinfold.cli.group import group, print_groups
from tests.admin.test_service import SHOWN, TOKEN, serve


def run(*arguments: str) -> Result:
    done: list[Result] = []

    def use(_client: object, url: str) -> None:
        where = {"PINFOLD_ADMIN": url, "PINFOLD_TOKEN": TOKEN}
        done.append(CliRunner().invoke(group, arguments, env=where))

    serve(use)
    return done[0]


def test_a_group_is_shown_with_its_change_under_way() -> None:
    done = run("show", "7")
    assert done.exit_code == 0
    for part in ("members 1, 2, 3 -> 2, 3, 4", "5 of device 2", "digests: equal", "silent: 1"):
        assert part in done.output
    assert json.loads(run("show", "7", "--json").output) == SHOWN
    assert "served" in run("show").output


def test_device_number_0_is_shown_as_a_primary(capsys: pytest.CaptureFixture[str]) -> None:
    print_groups([SHOWN | {"primary": 0}])
    assert "served  0  " in capsys.readouterr().out
    print_groups([SHOWN | {"primary": None}])
    assert "served  -  " in capsys.readouterr().out


def test_forcing_without_yes_changes_nothing_and_says_what_it_would_cost() -> None:
    done = run("force-members", "7", "--members", "2")
    assert done.exit_code == 2
    assert "nothing was changed" in done.output
    assert "LOST" not in done.output


def test_forcing_tells_what_was_lost() -> None:
    done = run("force-members", "7", "--members", "2", "--yes-i-lose-data")
    assert done.exit_code == 0
    assert "LOST: ops 89 to 90" in done.output
    told = run("force-members", "7", "--members", "2", "--yes-i-lose-data", "--json")
    assert json.loads(told.output.splitlines()[-1])["members"] == [2]  # behind the log


def test_a_refusal_is_passed_on() -> None:
    done = run("force-members", "7", "--members", "1,2", "--yes-i-lose-data")
    assert done.exit_code == 1
    assert "majority" in str(done.exception)


def test_members_are_numbers() -> None:
    done = run("force-members", "7", "--members", "n1", "--yes-i-lose-data")
    assert done.exit_code == 2
    assert "device numbers" in done.output
