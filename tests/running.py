"""A cluster of real processes for a test: `pinfold up` in a directory of its own."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 60.0
"""A loaded machine may take long; a healthy one needs 2 s."""

ROOT = Path(__file__).parent.parent


class Cluster:
    """A running `pinfold up` and what it printed."""

    def __init__(self, data: Path, base_port: int | None, *options: str) -> None:
        """Without a port: those that the cluster had."""
        self.data = data
        self.base_port = base_port
        command = [sys.executable, "-m", "pinfold", "up", "--data", str(data)]
        ports = () if base_port is None else ("--base-port", str(base_port))
        self.process = subprocess.Popen(
            [*command, *ports, "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.facts: dict[str, Any] = {}

    def wait_ready(self) -> None:
        """Read the line that `up` prints when it serves."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        assert line, f"the cluster did not start: {self.end()}"
        self.facts = json.loads(line)

    def end(self) -> str:
        """Stop it as an operator would; returns what it said on stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            _, said = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, said = self.process.communicate()
        return said

    def end_refused(self) -> str:
        """Wait for a start that must fail by itself; returns what it said."""
        printed, said = self.process.communicate(timeout=START_S)
        assert (printed, self.process.returncode) == ("", 1), (printed, said)
        return said

    def pinfold(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster."""
        return subprocess.run(
            [sys.executable, "-m", "pinfold", *arguments, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with --json that must succeed."""
        done = self.pinfold(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pids(self) -> dict[str, int]:
        """Process ids by name, as last told by the cluster itself."""
        return {node["name"]: node["pid"] for node in self.json("status")["nodes"] if node["pid"]}

    @property
    def environment(self) -> dict[str, str]:
        """What S3 clients take their credentials from."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.data.parent),
            "AWS_ACCESS_KEY_ID": self.facts["access_key"],
            "AWS_SECRET_ACCESS_KEY": self.facts["secret_key"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def cluster(data: Path, *options: str, base_port: int | None = None) -> Iterator[Cluster]:
    """A cluster that serves, stopped at the end."""
    running = Cluster(data, base_port or free_ports(), *options)
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


def free_ports() -> int:
    """The first of four ports in a row that nobody uses now."""
    for base in range(20_000 + os.getpid() % 8000, 60_000, 4):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + 4):
                    taken = stack.enter_context(socket.socket())
                    taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no four free ports in a row")


def gone(pid: int, timeout_s: float = 30.0) -> bool:
    """Whether a process, not ours to wait for, ends within the time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


def kill(pid: int) -> None:
    """As a power cut would, for one process; returns when it is gone."""
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
