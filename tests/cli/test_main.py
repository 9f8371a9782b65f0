"""The command line without a cluster: help, usage, and what unreachable looks like."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pinfold.cli import COMMANDS

HEAVY = ("aiohttp", "numpy", "rich", "uvloop", "lmdb", "structlog", "boto3")


def pinfold(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pinfold", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_help_names_every_command() -> None:
    done = pinfold("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from pinfold.cli import main\n"
        "try: main(['--help'], prog_name='pinfold')\n"
        "except SystemExit: pass\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30, capture_output=True)


@pytest.mark.parametrize("group", [["up"], ["status"], ["volume", "create"], ["user", "create"]])
def test_every_command_has_help_with_an_example(group: list[str]) -> None:
    done = pinfold(*group, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["volume", "create", "disk1", "huge"],
        ["user", "create"],
        ["user", "create", "alice", "--secret-key", "seen-by-all"],
        ["nonsense"],
        ["status", "--x"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert pinfold(*arguments).returncode == 2


def test_a_directory_without_a_cluster_is_unreachable_and_says_what_to_do(tmp_path: Path) -> None:
    done = pinfold("status", "--data", str(tmp_path))
    assert done.returncode == 3
    assert "pinfold up" in done.stderr


def test_an_admin_endpoint_that_does_not_answer_is_unreachable() -> None:
    done = pinfold("volume", "list", "--json", PINFOLD_ADMIN="http://127.0.0.1:1")
    assert done.returncode == 3
    assert json.loads(done.stderr)["error"]["code"] == "unreachable"


def test_a_bad_admin_url_is_refused() -> None:
    done = pinfold("volume", "list", "--admin", "ftp://example.org")
    assert done.returncode == 2
    assert "not an admin URL" in done.stderr


def test_a_directory_that_cannot_be_made_is_told_without_a_stack() -> None:
    done = pinfold("up", "--data", "/dev/null/x", "--base-port", "19980")
    assert done.returncode == 1
    assert "/dev/null" in done.stderr
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr
