import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pinfold.node.logs import LOG_GENERATIONS, LogFile, open_log


class StoppedClock:
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 1_700_000_000.25


def test_a_line_is_one_json_document_with_time_node_and_level(tmp_path: Path) -> None:
    log = open_log(tmp_path / "n1.log", "n1", "info", StoppedClock())
    log.debug("too quiet")
    log.warning("disk slow", device=3, took_s=1.5)
    (line,) = (tmp_path / "n1.log").read_text().splitlines()
    assert json.loads(line) == {
        "event": "disk slow",
        "device": 3,
        "took_s": 1.5,
        "level": "warning",
        "time": "2023-11-14T22:13:20.250+00:00",
        "node": "n1",
    }


def test_an_exception_is_told_with_its_trace(tmp_path: Path) -> None:
    log = open_log(tmp_path / "n1.log", "n1", "info", StoppedClock())
    try:
        raise ValueError("odd")
    except ValueError as error:
        log.error("failed", exc_info=error)
    assert "test_logs.py" in json.loads((tmp_path / "n1.log").read_text())["exception"]


def test_a_log_is_bounded_and_keeps_the_newest_lines(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", limit=100)
    lines = [f"line {number:04}" for number in range(1000)]
    for line in lines:
        file.write(line)
    parts = sorted(tmp_path.iterdir(), reverse=True)
    assert len(parts) == 1 + LOG_GENERATIONS
    assert all(part.stat().st_size <= 100 for part in parts)
    kept = [line for part in parts[:-1] for line in part.read_text().splitlines()]
    kept += (tmp_path / "log").read_text().splitlines()
    assert kept == lines[-len(kept) :]


def test_a_reopened_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    LogFile(tmp_path / "log").write("before")
    LogFile(tmp_path / "log").write("after")
    assert (tmp_path / "log").read_text() == "before\nafter\n"


def test_what_a_full_disk_does_not_take_is_counted_and_nobody_fails(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from pinfold.node.logs import LogFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = LogFile(Path(sys.argv[1]))\n"
        "log.write('before')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, -1))\n"
        "log.write('the file takes three bytes of this')\n"
        "log.write('two lines\\nat once')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "log.write('after')\n"
        "log.write('and on')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30)
    assert path.read_text() == 'before\n{"lines_left_out":3}\nafter\nand on\n'


def test_what_libraries_log_is_in_the_process_log_and_not_on_stderr(tmp_path: Path) -> None:
    script = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from pinfold.env.real import OsClock\n"
        "from pinfold.node.logs import become_process_log\n"
        "become_process_log(Path(sys.argv[1]), 'n1', 'info', OsClock())\n"
        "logging.getLogger('asyncio').info('too quiet')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('asyncio').exception('task %s', 7)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert done.stderr == b""
    (line,) = (tmp_path / "log").read_text().splitlines()
    told = json.loads(line)
    assert (told["event"], told["origin"], told["level"]) == ("task 7", "asyncio", "error")
    assert "ZeroDivisionError" in told["exception"]


def test_a_file_that_cannot_be_begun_costs_no_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFile(tmp_path / "log", limit=10)
    for number in range(5):
        log.write(f"line {number}..")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(kept) == 1 + LOG_GENERATIONS

    def no_descriptor(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_descriptor)
        for _ in range(2 * LOG_GENERATIONS):
            log.write("left out")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == kept
    log.write("and on")
    assert (tmp_path / "log").read_text() == '{"lines_left_out":6}\nand on\n'
    assert (tmp_path / "log.1").read_text() == kept["log"]
