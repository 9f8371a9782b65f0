"""A cluster of real processes in a fresh directory, for the length of a measurement."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BASE_PORT = 19340


@contextlib.contextmanager
def running(base_port: int = BASE_PORT) -> Iterator[dict[str, Any]]:
    """`pinfold up --json` on loopback; yields what it printed when ready."""
    home = tempfile.mkdtemp(prefix="pinfold-bench-")
    program = Path(sys.executable).with_name("pinfold")
    command = [program, "up", "--data", f"{home}/data", "--base-port", str(base_port), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the cluster did not start; run `pinfold up` to see why")
        yield json.loads(line) | {"data": f"{home}/data", "supervisor": process.pid}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
