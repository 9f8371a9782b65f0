import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pinfold.cli.device import device
from pinfold.model.errors import Conflict, NotFound

CLUSTER = "00112233445566778899aabbccddeeff"


def test_a_formatted_device_shows_whose_it_is(tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    made = runner.invoke(device, ["format", path, "--cluster-id", CLUSTER, "--json"])
    assert made.exit_code == 0, made.output
    shown = json.loads(runner.invoke(device, ["show", path, "--json"]).stdout)
    assert shown == {**json.loads(made.stdout), "format": 1, "boot": 0}
    assert json.loads(made.stdout)["uuid"] in runner.invoke(device, ["show", path]).stdout


def test_nothing_is_formatted_twice_or_by_mistake(tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    arguments = ["format", path, "--cluster-id", CLUSTER]
    assert runner.invoke(device, arguments).exit_code == 0
    with pytest.raises(Conflict):
        runner.invoke(device, arguments, catch_exceptions=False)
    with pytest.raises(NotFound):
        runner.invoke(device, ["show", str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize("bad", ["xyz", "0011", CLUSTER + "00"])
def test_a_cluster_id_has_32_hex_digits(tmp_path: Path, bad: str) -> None:
    asked = CliRunner().invoke(device, ["format", str(tmp_path / "d"), "--cluster-id", bad])
    assert asked.exit_code == 2
    assert not (tmp_path / "d").exists()
