"""What happens to the processes meanwhile: killed, stopped for a while, all killed at once."""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

from tests.hostile.bounds import rss_of
from tests.running import Cluster, gone
from tests.soak.tally import Tally

PAUSE_S = (2.0, 5.0)
"""Between two troubles."""

STOP_S = (0.5, 4.0)
"""How long a process is stopped: also longer than peers have patience."""

ALL_EVERY_S = 45.0
"""Between two times that everything is killed, supervisor included."""


def processes_of(supervisor: int) -> dict[str, int]:
    """Names and ids of the processes that a supervisor runs now."""
    found = {}
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError, ValueError, IndexError):
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                found[words[words.index(b"run") + 1].decode()] = int(child)
    return found


class Troubles:
    """Makes trouble in a thread until `stop`; then the cluster is whole again."""

    def __init__(self, data: Path, base_port: int, tally: Tally, seed: int) -> None:
        self._data = data
        self._base_port = base_port
        self._tally = tally
        self._rng = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="troubles")
        self._all_at = time.monotonic() + ALL_EVERY_S
        self.cluster = self._up()

    def _up(self) -> Cluster:
        cluster = Cluster(self._data, self._base_port)
        cluster.wait_ready()
        return cluster

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No more trouble; returns when whatever was under way is over."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._wait(self._rng.uniform(*PAUSE_S)):
            processes = processes_of(self.cluster.process.pid)
            if not processes:
                self._tally.violated("the supervisor has ended by itself")
                return
            if time.monotonic() > self._all_at:
                self._all_at = time.monotonic() + ALL_EVERY_S
                self._kill_all(processes)
                continue
            name = self._rng.choice(sorted(processes))
            if self._rng.random() < 0.3:
                self._stop_for_a_while(name, processes[name])
            else:
                self._tally.troubled(f"kill -9 {name}")
                _signal(processes[name], signal.SIGKILL)

    def _kill_all(self, processes: dict[str, int]) -> None:
        self._tally.troubled("kill -9 of everything")
        everybody = [self.cluster.process.pid, *processes.values()]
        for pid in everybody:
            _signal(pid, signal.SIGKILL)
        self.cluster.end()
        for pid in everybody:
            assert gone(pid), f"process {pid} does not die"
        self.cluster = self._up()
        self._tally.troubled("started again")

    def _stop_for_a_while(self, name: str, pid: int) -> None:
        self._tally.troubled(f"SIGSTOP {name}")
        _signal(pid, signal.SIGSTOP)
        self._wait(self._rng.uniform(*STOP_S))
        _signal(pid, signal.SIGCONT)

    def _wait(self, seconds: float) -> bool:
        """Sample memory meanwhile; whether to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for name, pid in processes_of(self.cluster.process.pid).items():
                self._tally.held(name, rss_of(pid))
            if self._stopping.wait(min(left, 1.0)):
                return True
        return self._stopping.is_set()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
