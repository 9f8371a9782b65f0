"""The NBD front end against servers without replication: nbdkit's memory plugin and qemu-nbd."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.cluster import running

WORKLOADS = {
    "random write 4 KiB, depth 32": ("randwrite", "4k", 32),
    "random read 4 KiB, depth 32": ("randread", "4k", 32),
    "random write 4 KiB, depth 1": ("randwrite", "4k", 1),
    "random read 4 KiB, depth 1": ("randread", "4k", 1),
    "sequential write 1 MiB": ("write", "1m", 4),
    "sequential read 1 MiB": ("read", "1m", 4),
}
SIZE = "256m"


def fio(uri: str, pattern: str, block: str, depth: int, seconds: float) -> tuple[float, float]:
    """(operations per second, p50 microseconds)."""
    command = [
        "fio",
        "--name=bench",
        "--ioengine=nbd",
        f"--uri={uri}",
        f"--rw={pattern}",
        f"--bs={block}",
        f"--iodepth={depth}",
        f"--size={SIZE}",
        f"--runtime={seconds}",
        "--time_based",
        "--thread",
        "--output-format=json",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    job = json.loads(output.stdout[output.stdout.index("{") :])["jobs"][0]
    side = job["write" if "write" in pattern else "read"]
    return side["iops"], side["clat_ns"]["percentile"]["50.000000"] / 1000


def measure(uri: str, seconds: float = 4.0) -> dict[str, tuple[float, float]]:
    """Every workload; the span is written once first so that reads find data."""
    fio(uri, "write", "1m", 4, 3.0)
    return {name: fio(uri, *workload, seconds) for name, workload in WORKLOADS.items()}


@contextlib.contextmanager
def serving(command: list[str], uri: str) -> Iterator[str]:
    """A reference server for the length of a measurement."""
    process = subprocess.Popen(command)
    try:
        for _ in range(100):
            if subprocess.run(["nbdinfo", uri], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        yield uri
    finally:
        process.terminate()
        process.wait(10)


def report() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="pinfold-bench-") as home:
        uri = "nbd://127.0.0.1:19399/"
        listen = ["-p", "19399"]
        with serving(["nbdkit", "-f", "-i", "127.0.0.1", *listen, "memory", "1G"], uri):
            memory = measure(uri)
        disk = Path(home) / "disk"
        with disk.open("wb") as file:
            file.truncate(1 << 30)
        shared = ["--persistent", "--shared=8", "-f", "raw", "-b", "127.0.0.1"]
        with serving(["qemu-nbd", *shared, *listen, str(disk)], uri):
            qemu = measure(uri)
    with running() as cluster:
        pinfold = Path(sys.executable).with_name("pinfold")
        create = [pinfold, "volume", "create", "--data", cluster["data"], "bench", "1GiB"]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
        ours = measure(f"{cluster['nbd']}/bench")
    for name, (rate, p50) in ours.items():
        print(
            f"{name}: {rate:,.0f}/s = {rate / memory[name][0]:.2f} x nbdkit memory, "
            f"{rate / qemu[name][0]:.2f} x qemu-nbd on a file, p50 {p50:,.0f} us"
        )


if __name__ == "__main__":
    report()
