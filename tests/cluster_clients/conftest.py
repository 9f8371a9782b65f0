"""One cluster for all client tests, files to move, and the clients themselves."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import ROOT, Cluster, cluster

Run = Callable[..., str]


@pytest.fixture(scope="session")
def pen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that all tests of this folder share."""
    with cluster(tmp_path_factory.mktemp("clients") / "data") as running:
        yield running


@pytest.fixture
def run(pen: Cluster, tmp_path: Path) -> Run:
    """Run a client in a directory of its own; its output. A missing client fails the test."""
    search = f"{ROOT / '.venv-clients' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def call(name: str, *arguments: str, status: int = 0) -> str:
        program = shutil.which(name, path=search)
        assert program, f"{name} is not installed: .ci/run installs what the tests need"
        done = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env={**pen.environment, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == status, f"{name} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    return call


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of awkward names and sizes; the same bytes in every run."""
    root = tmp_path_factory.mktemp("tree")
    for name, size in {
        "empty": 0,
        "small.txt": 11,
        "a b+c&d=é/ünï.bin": 4097,
        "deep/er/and/deeper": 70_000,
        "large.bin": 20 << 20,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name, size))
    return root


def content(name: str, size: int) -> bytes:
    """Bytes that depend on name and place, so that a mix-up of either shows."""
    seed = name.encode() + b"\n"
    line = b"".join(seed + b"%012d" % number for number in range(0, 4096, 16))
    return (line * (size // len(line) + 1))[:size]


def same_files(one: Path, other: Path) -> bool:
    """Whether two directories hold the same files with the same bytes."""

    def files(root: Path) -> dict[str, Path]:
        return {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}

    left, right = files(one), files(other)
    return left.keys() == right.keys() and all(
        left[name].read_bytes() == right[name].read_bytes() for name in left
    )
