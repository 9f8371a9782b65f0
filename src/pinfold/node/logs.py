"""JSON log lines, one file per process, bounded in size.

Levels: debug (off), info (something began or ended), warning (handled, but an operator may care),
error (a promise to somebody was not kept). Times are UTC from the env's clock.
"""

import asyncio
import logging
import os
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from pinfold.env.api import Clock, Env
from pinfold.node.settings import Level

LOG_BYTES_MAX: Final = 64 << 20
"""A log file is turned over at this size; days of normal running."""

LOG_GENERATIONS: Final = 3
"""Old log files kept beside the current one."""

_APPENDING: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE: Final = 0o600

BATCH_S: Final = 0.2
"""How long lines of a `BatchedLog` wait for others."""

BATCH_BYTES_MAX: Final = 8 << 20
"""Bytes of lines that wait: some 20,000 requests."""

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LogFile:
    """Appends lines and turns the file over at `limit` bytes. Lines are whole and never lost
    by a kill: each is one write to the page cache.

    What a full or broken file system does not take is left out, and the next line that it takes is
    told how many: who logs has something else to do than to fail.
    """

    def __init__(self, path: Path, *, limit: int = LOG_BYTES_MAX) -> None:
        self._path = path
        self._limit = limit
        self._left_out = 0
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, _APPENDING, _MODE)
        self._size = os.fstat(self._file).st_size

    def write(self, line: str) -> None:
        """Append one line (or several, with newlines between) and its newline."""
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        told = msgspec.json.encode({"lines_left_out": self._left_out}) + b"\n"
        try:
            self._append(told + content if self._left_out else content)
            self._left_out = 0
        except OSError:
            self._left_out += content.count(b"\n")

    def _append(self, content: bytes) -> None:
        if self._size + len(content) > self._limit and self._size:
            self._turn_over()
        written = os.write(self._file, content)
        if written < len(content):
            os.ftruncate(self._file, self._size)  # lines are whole or not there
            raise OSError(ENOSPC, "a line was cut short")
        self._size += written

    def _turn_over(self) -> None:
        """Begin a new file; nothing is moved before it is there: a failure costs no older one."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(fresh, _APPENDING, _MODE)
        try:
            for number in range(LOG_GENERATIONS, 0, -1):
                older = self._path if number == 1 else _generation(self._path, number - 1)
                if older.exists():
                    older.rename(_generation(self._path, number))
            fresh.rename(self._path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._file)
        self._file, self._size = descriptor, 0

    # What structlog's filtering logger calls on us.
    debug = info = warning = error = critical = write


class BatchedLog:
    """Lines that may be many: gathered, and written together by a lane of their own.

    A kill loses the last `BATCH_S` of them. When the disk does not keep up lines are left out, and
    the next one written is told how many.
    """

    def __init__(self, env: Env, path: Path) -> None:
        self._file = LogFile(path)
        self._lane = env.new_offload(path.name)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._left_out = 0

    def line(self, line: bytes) -> None:
        """Take one line; see `s3.access_log.WriteLine`."""
        if self._bytes + len(line) > BATCH_BYTES_MAX:
            self._left_out += 1
            return
        self._lines.append(line)
        self._bytes += len(line) + 1

    async def run(self) -> None:
        """Write what has gathered, for ever; what is left when cancelled too."""
        try:
            while True:
                await asyncio.sleep(BATCH_S)
                if self._lines:
                    await self._lane(self._file.write, self._taken())
        finally:
            if self._lines:
                self._lane(self._file.write, self._taken())
            self._lane.close()

    def _taken(self) -> str:
        if self._left_out:
            self._lines.append(msgspec.json.encode({"lines_left_out": self._left_out}))
        text = b"\n".join(self._lines).decode()
        self._lines, self._bytes, self._left_out = [], 0, 0
        return text


def open_log(path: Path, node: str, level: Level, clock: Clock) -> FilteringBoundLogger:
    """A logger whose lines carry the node's name and UTC time."""
    options = _options(node, level, clock)
    logger: FilteringBoundLogger = structlog.wrap_logger(LogFile(path), **options).bind()
    return logger


def become_process_log(path: Path, node: str, level: Level, clock: Clock) -> FilteringBoundLogger:
    """`open_log`, and from now on the destination of every module's `structlog.get_logger`.

    For a process that is one node; the supervisor and tests use `open_log`.
    """
    file = LogFile(path)
    options = _options(node, level, clock)
    structlog.configure(logger_factory=lambda *_names: file, **options)
    logger: FilteringBoundLogger = structlog.get_logger()
    logging.basicConfig(handlers=[_FromLibraries(logger)], level=logging.WARNING, force=True)
    return logger


class _FromLibraries(logging.Handler):
    """What asyncio and other libraries log: in the same file, which is bounded, unlike stderr."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """One line for a record, with the library's name as its origin."""
        tell = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        tell(record.getMessage(), origin=record.name, exc_info=record.exc_info)


def _options(node: str, level: Level, clock: Clock) -> dict[str, Any]:
    def stamp(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["time"] = datetime.fromtimestamp(clock.wall(), UTC).isoformat(timespec="milliseconds")
        event["node"] = node
        return event

    return {
        "processors": [
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_serialise),
        ],
        "wrapper_class": structlog.make_filtering_bound_logger(_LEVELS[level]),
    }


def _generation(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _serialise(event: dict[str, Any], **_options: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
