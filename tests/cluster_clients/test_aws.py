"""The aws command."""

import urllib.request
from pathlib import Path

import pytest

from tests.cluster_clients.conftest import Run, same_files
from tests.running import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def aws(pen: Cluster, run: Run) -> Run:
    def call(*arguments: str, status: int = 0) -> str:
        return run("aws", "--endpoint-url", pen.facts["s3"], *arguments, status=status)

    return call


def test_a_tree_goes_there_and_back(aws: Run, tree: Path, tmp_path: Path) -> None:
    aws("s3", "mb", "s3://aws-tree")
    aws("s3", "sync", "--no-progress", str(tree), "s3://aws-tree/some/where")
    listed = aws("s3", "ls", "--recursive", "s3://aws-tree")
    assert len(listed.splitlines()) == 5
    aws("s3", "sync", "--no-progress", "s3://aws-tree/some/where", str(tmp_path / "back"))
    assert same_files(tree, tmp_path / "back")
    aws("s3", "rb", "s3://aws-tree", status=1)  # not empty
    aws("s3", "rb", "--force", "s3://aws-tree")
    assert "aws-tree" not in aws("s3", "ls")


def test_a_presigned_url_needs_no_key(aws: Run, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("signed")
    aws("s3", "mb", "s3://aws-signed")
    aws("s3", "cp", "--no-progress", "note", "s3://aws-signed/note")
    # For us-east-1 the command would still sign in the way of 2006, which nobody serves any more.
    aws("configure", "set", "default.s3.signature_version", "s3v4")
    url = aws("s3", "presign", "s3://aws-signed/note").strip()
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == b"signed"


def test_an_error_is_told(aws: Run) -> None:
    aws("s3api", "head-object", "--bucket", "aws-none", "--key", "x", status=255)
