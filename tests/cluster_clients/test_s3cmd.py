"""s3cmd: the oldest client in use."""

from pathlib import Path

import pytest

from tests.cluster_clients.conftest import Run
from tests.running import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def s3cmd(pen: Cluster, run: Run) -> Run:
    address = pen.facts["s3"].removeprefix("http://")
    options = ("--no-ssl", "--host", address, "--host-bucket", address, "--no-progress")
    keys = ("--access_key", pen.facts["access_key"], "--secret_key", pen.facts["secret_key"])

    def call(*arguments: str, status: int = 0) -> str:
        return run("s3cmd", *options, *keys, *arguments, status=status)

    return call


def test_put_list_get_delete(s3cmd: Run, tree: Path, tmp_path: Path) -> None:
    s3cmd("mb", "s3://s3cmd")
    s3cmd("put", "--multipart-chunk-size-mb=5", str(tree / "large.bin"), "s3://s3cmd/large")
    s3cmd("put", str(tree / "small.txt"), "s3://s3cmd/dir/small")
    assert "s3://s3cmd/large" in s3cmd("ls", "s3://s3cmd")
    assert "DIR" in s3cmd("ls", "s3://s3cmd")
    s3cmd("get", "s3://s3cmd/large", "back")
    assert (tmp_path / "back").read_bytes() == (tree / "large.bin").read_bytes()
    s3cmd("del", "--recursive", "--force", "s3://s3cmd")
    s3cmd("rb", "s3://s3cmd")
    assert "s3://s3cmd" not in s3cmd("ls")
