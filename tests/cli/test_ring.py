import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pinfold.cli.ring import ring as command
from pinfold_ring import Builder, Ring


class Shell:
    """Run `pinfold ring` on one builder file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "objects.builder"

    def run(self, name: str, *arguments: object, code: int = 0, answer: str = "") -> Result:
        words = [name, str(self.file), *map(str, arguments)]
        result = CliRunner().invoke(command, words, input=answer)
        assert result.exit_code == code, result.output
        return result

    def json(self, name: str, *arguments: object) -> Any:
        return json.loads(self.run(name, *arguments, "--json").stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made.run("create", "--part-power", 6)
    for zone in range(4):
        made.run("add", "--zone", f"z{zone}", "--node", f"n{zone}", "--count", 3)
    return made


@pytest.fixture
def built(shell: Shell) -> Shell:
    shell.run("rebalance", "--yes")
    return shell


def test_from_nothing_to_a_ring(shell: Shell) -> None:
    answer = shell.json("rebalance", "--yes", "--output", shell.directory / "objects.ring")
    assert answer == {"done": True, "epoch": 1, "plan": None}
    alone = Ring.from_bytes((shell.directory / "objects.ring").read_bytes())
    inside = Builder.from_bytes(shell.file.read_bytes()).ring
    assert inside is not None
    assert alone.checksum == inside.checksum
    assert sorted(path.name for path in shell.directory.iterdir()) == [
        "objects.builder",
        "objects.ring",
    ]


def test_the_plan_is_shown_and_asked_about(built: Shell) -> None:
    before = built.file.read_bytes()
    built.run("set-weight", 3, 0)
    wished = built.file.read_bytes()
    assert wished != before
    shown = built.run("rebalance", "--bytes", "3TiB", "--rate", "50MiB", code=1, answer="n\n")
    assert "plan for epoch 2" in shown.output
    assert "of 192 replicas move, " in shown.output
    assert "hours" in shown.output
    assert "keeps at least 2 replicas in place" in shown.output
    assert built.file.read_bytes() == wished
    assert "dry run" in built.run("rebalance", "--dry-run").output
    assert built.file.read_bytes() == wished
    assert "epoch 2 made" in built.run("rebalance", answer="y\n").output
    assert built.json("show")["ring"]["epoch"] == 2


def test_a_change_that_leaves_too_few_replicas_in_place_is_refused(built: Shell) -> None:
    built.run("remove", 0, 3)
    wished = built.file.read_bytes()
    refused = built.run("rebalance", "--yes", code=1)
    assert "would keep 1 replicas in place, fewer than 2" in refused.stderr
    assert "next: remove fewer devices at a time" in refused.stderr
    assert built.file.read_bytes() == wished
    plan = built.json("rebalance", "--dry-run")["plan"]
    assert (plan["lowest_in_place"], plan["forced"]) == (1, 32)
    built.run("rebalance", "--yes", "--in-place", 1)
    built.run("remove", 6, 9)
    built.run("rebalance", "--yes", "--force")
    assert built.json("show")["ring"]["epoch"] == 3


def test_half_done_changes_say_so(built: Shell) -> None:
    for zone in range(4):
        built.run("add", "--zone", f"z{zone}", "--node", f"m{zone}", "--count", 6)
    assert "rebalance again" in built.run("rebalance", "--yes").output
    built.run("rebalance", "--yes")
    assert built.json("rebalance", "--dry-run")["plan"]["remaining"] == 0


def test_lookup_names_devices_and_handoffs(built: Shell) -> None:
    answer = built.json("lookup", "photos/cat.jpg")
    ring = Builder.from_bytes(built.file.read_bytes()).ring
    assert ring is not None
    partition = ring.partition(b"photos/cat.jpg")
    assert answer["partition"] == partition
    assert tuple(device["id"] for device in answer["devices"]) == ring.devices_of(partition)
    assert len(answer["handoffs"]) == 5
    assert f"partition {partition} of 64" in built.run("lookup", "photos/cat.jpg").output


def test_show_tells_open_changes_and_spread(built: Shell) -> None:
    built.run("remove", 1)
    built.run("set-weight", 2, 5)
    built.run("add", "--zone", "z9", "--node", "n9")
    state = built.json("show")
    assert state["open"] == {"added": [12], "removed": [1], "changed": [2]}
    assert all(domain["crowded"] == 0 for domain in state["ring"]["dispersion"])
    text = built.run("show").output
    assert "not in the ring yet: added 12; removed 1; changed 2" in text
    assert "r1/z0" in text


def test_diff_compares_two_files(built: Shell) -> None:
    old = built.directory / "old.builder"
    old.write_bytes(built.file.read_bytes())
    built.run("remove", 1)
    built.run("rebalance", "--yes")
    arguments = ["diff", str(old), str(built.file)]
    plan = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert plan["moves"] == plan["forced"] == 16
    assert "plan for epoch 2" in CliRunner().invoke(command, arguments).output


@pytest.mark.parametrize(
    ("name", "arguments", "message", "step"),
    [
        ("create", (), "exists", "choose another name"),
        ("add", ("--zone", "z", "--node", "n", "--id", 3), "id 3 is used twice", "ring show"),
        ("add", ("--zone", "z", "--node", "n", "--weight", -1), "negative", "ring show"),
        ("remove", (99,), "no device 99", "ring show"),
        ("set-weight", (99, 1), "no device 99", "ring show"),
        ("lookup", ("x",), "has no ring yet", "ring rebalance"),
    ],
)
def test_refusals_exit_1_say_why_and_what_next(
    shell: Shell, name: str, arguments: tuple[object, ...], message: str, step: str
) -> None:
    before = shell.file.read_bytes()
    refused = shell.run(name, *arguments, code=1)
    assert message in refused.stderr
    assert step in refused.stderr.partition("next: ")[2]
    as_json = shell.run(name, *arguments, "--json", code=1)
    assert message in json.loads(as_json.stderr)["error"]["message"]
    assert shell.file.read_bytes() == before


def test_too_few_devices_are_refused(shell: Shell) -> None:
    shell.run("remove", *range(10))
    assert "3 replicas need at least 3 devices" in shell.run("rebalance", code=1).stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rebalance", ("--json",)),
        ("add", ("--zone", "z1")),
        ("add", ("--zone", "z", "--node", "n", "--uuid", "xyz")),
        ("add", ("--zone", "z", "--node", "n", "--uuid", "00" * 16, "--count", 2)),
        ("rebalance", ("--bytes", "much")),
        ("set-weight", ("x", 1)),
    ],
)
def test_wrong_usage_exits_2(shell: Shell, name: str, arguments: tuple[object, ...]) -> None:
    shell.run(name, *arguments, code=2)


def test_damaged_and_missing_files_are_refused(built: Shell) -> None:
    whole = built.file.read_bytes()
    built.file.write_bytes(whole[:-1])
    assert "it was cut short" in built.run("show", code=1).stderr
    built.file.write_bytes(b"something else entirely")
    assert "not a ring builder file" in built.run("show", code=1).stderr
    built.file.unlink()
    assert "there is no file" in built.run("show", code=1).stderr
    assert "ring create" in built.run("remove", 1, code=1).stderr


def test_a_finished_ring_can_be_shown_but_not_changed(built: Shell) -> None:
    built.file.write_bytes(Builder.from_bytes(built.file.read_bytes()).ring.to_bytes())
    assert built.json("show")["ring"]["epoch"] == 1
    assert "is a finished ring" in built.run("remove", 1, code=1).stderr


@pytest.mark.parametrize("name", sorted(command.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(command, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Example: pinfold ring {name} " in shown.output
    assert "--json" in shown.output
