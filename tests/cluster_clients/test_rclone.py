"""rclone: copy, verify, sync."""

from pathlib import Path

import pytest

from tests.cluster_clients.conftest import Run, same_files
from tests.running import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def rclone(pen: Cluster, run: Run) -> Run:
    options = ("--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", pen.facts["s3"])

    def call(*arguments: str, status: int = 0) -> str:
        return run("rclone", "--config", "/dev/null", *options, *arguments, status=status)

    return call


def test_a_tree_goes_there_is_checked_and_comes_back(
    rclone: Run, tree: Path, tmp_path: Path
) -> None:
    rclone("mkdir", ":s3:rclone-tree")
    rclone("copy", str(tree), ":s3:rclone-tree/in")
    rclone("check", "--download", str(tree), ":s3:rclone-tree/in")
    rclone("copy", ":s3:rclone-tree/in", str(tmp_path / "back"))
    assert same_files(tree, tmp_path / "back")


def test_sync_removes_what_is_gone(rclone: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("kept", "removed"):
        (source / name).write_text(name)
    rclone("mkdir", ":s3:rclone-sync")
    rclone("sync", str(source), ":s3:rclone-sync")
    (source / "removed").unlink()
    rclone("sync", str(source), ":s3:rclone-sync")
    assert rclone("lsf", ":s3:rclone-sync").split() == ["kept"]
