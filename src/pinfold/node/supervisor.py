"""Runs the processes of one machine: starts them, starts them again, stops them in order.

Front ends stop before storage nodes, so that requests being answered still find their data.
Each process holds one end of a socket pair (see `lifeline`), which ends when the supervisor does.
"""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from typing import Final

from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Clock
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Conflict, NotFound, Unavailable
from pinfold.model.ids import NodeName
from pinfold.node.lifeline import LINE_BYTES_MAX, State, decode_report
from pinfold.node.restarts import RestartPolicy

KILL_AFTER_S: Final = 12.0
"""A process told to stop is killed after this: longer than its own drain time."""

OnEvent = Callable[[str, NodeName, str], None]
"""(event, process, detail): started, ready, failed, ended, left down, restarting, killed. What it
cannot tell anybody (OSError: a terminal that is gone, a full disk) stays untold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A process to run. `stop_rank`: lower ranks are stopped first, equal ones together."""

    name: NodeName
    command: Sequence[str]
    """The lifeline's descriptor is appended as the last argument."""
    output: str
    """File that gets what the process prints: a trace, if it dies of one."""
    stop_rank: int = 0


@dataclass(slots=True, kw_only=True)
class Child:
    """A supervised process and what is known of it."""

    spec: ChildSpec
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    process: Process | None = None
    state: State | None = None
    """What it last reported; None while it is starting or down."""
    message: str = ""
    starts: int = 0
    held: bool = False
    """Left down until somebody asks for it: on command, or as it ended under `restart=False`."""
    down: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the process is held and does not run."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to start a held process."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the supervisor is done with the process."""

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self.process.pid if self.process is not None else None


class Supervisor:
    """The processes of one machine. Use: start, ready, (wait for a signal), stop."""

    def __init__(
        self,
        clock: Clock,
        specs: Sequence[ChildSpec],
        on_event: OnEvent,
        *,
        restart: bool = True,
        kill_after_s: float = KILL_AFTER_S,
    ) -> None:
        self._clock = clock
        self._kill_after_s = kill_after_s
        self._listener = on_event
        self._restart = restart
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._scope = TaskScope(self._broken)
        self._error: BaseException | None = None
        self.children = {spec.name: Child(spec=spec) for spec in specs}

    def _on_event(self, event: str, name: NodeName, detail: str) -> None:
        with suppress(OSError):
            self._listener(event, name, detail)

    def start(self) -> None:
        """Start every process; `ready` tells how it went."""
        for child in self.children.values():
            self._scope.start(self._keep(child), name=f"keep {child.spec.name}")

    async def ready(self, timeout_s: float) -> None:
        """Return when every process has reported ready.

        Unavailable with the process's own words as soon as one says that it cannot start, or
        with the names of those still silent after `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while waiting := [c for c in self.children.values() if c.state != "ready"]:
                    self._raise_failed(waiting)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            names = ", ".join(child.spec.name for child in waiting)
            raise Unavailable(f"not ready after {timeout_s:.0f} s: {names}") from None

    async def stop(self) -> None:
        """Stop all processes, rank by rank. Never fails; a deaf process is killed."""
        self._stopping.set()
        for child in self.children.values():
            child.released.set()
        for rank in sorted({child.spec.stop_rank for child in self.children.values()}):
            ranked = [c for c in self.children.values() if c.spec.stop_rank == rank]
            for child in ranked:
                _signal(child, signal.SIGTERM)
            await self._all_ended(ranked)
        await self._scope.close()

    async def _all_ended(self, ranked: list[Child]) -> None:
        deadline = self._clock.monotonic() + self._kill_after_s
        for child in ranked:
            try:
                async with asyncio.timeout_at(deadline):
                    await child.ended.wait()
            except TimeoutError:
                self._on_event("killed", child.spec.name, "it did not stop in time")
                _signal(child, signal.SIGKILL)
                await child.ended.wait()

    def _raise_failed(self, waiting: list[Child]) -> None:
        if self._error is not None:
            raise self._error
        for child in waiting:
            if child.state == "failed":
                raise Unavailable(f"{child.spec.name} cannot start: {child.message}")
            if child.down.is_set() or child.ended.is_set():
                raise Unavailable(
                    f"{child.spec.name} ended while starting: see {child.spec.output}"
                )

    async def _keep(self, child: Child) -> None:
        """Keep one process running until told to stop."""
        try:
            while not self._stopping.is_set():
                if child.held:
                    await self._hold(child)
                    continue
                started = self._clock.monotonic()
                how = await self._run_once(child)
                if self._stopping.is_set():
                    self._on_event("ended", child.spec.name, how)
                    return
                child.held = child.held or not self._restart
                if child.held:
                    self._on_event("left down", child.spec.name, how)
                    continue
                delay = child.policy.on_exit(self._clock.monotonic() - started)
                detail = f"{how}; starting again in {delay:.1f} s"
                self._on_event("restarting", child.spec.name, detail)
                await self._pause(delay)
        finally:
            child.down.set()
            child.ended.set()
            self._changed.set()

    async def _hold(self, child: Child) -> None:
        """Leave a process down until it is released, or the supervisor stops."""
        child.released.clear()
        child.down.set()
        self._changed.set()
        await child.released.wait()
        child.down.clear()

    async def stop_one(self, name: NodeName) -> None:
        """Stop a process and leave it down. NotFound; Conflict when it is down already."""
        child = self._child(name)
        if child.down.is_set():
            raise Conflict(f"{name} is down already")
        child.held = True
        _signal(child, signal.SIGTERM)
        try:
            async with asyncio.timeout(self._kill_after_s):
                await child.down.wait()
        except TimeoutError:
            self._on_event("killed", name, "it did not stop in time")
            _signal(child, signal.SIGKILL)
            await child.down.wait()

    async def start_one(self, name: NodeName, timeout_s: float) -> None:
        """Start a process that was left down and wait until it is ready.

        NotFound; Conflict when it runs; Unavailable with its own words when it cannot start.
        """
        child = self._child(name)
        if not child.down.is_set():
            raise Conflict(f"{name} is not down")
        child.state = None
        child.held = False  # now, and not when its keeper wakes: a stop may come in between
        child.released.set()
        child.down.clear()
        try:
            async with asyncio.timeout(timeout_s):
                while child.state != "ready":
                    self._raise_failed([child])
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(f"{name} is not ready after {timeout_s:.0f} s") from None

    def _child(self, name: NodeName) -> Child:
        try:
            return self.children[name]
        except KeyError:
            raise NotFound(f"no process {name}: there are {', '.join(self.children)}") from None

    async def _pause(self, delay_s: float) -> None:
        """Sleep, but not past a stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()

    async def _run_once(self, child: Child) -> str:
        """Start the process, follow its reports, say how it ended, or why it did not begin."""
        try:
            process, ours = await _begin(child.spec)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread is left to wait for it
            child.state, child.message = "failed", str(error)
            self._changed.set()
            return f"could not be started: {error}"
        child.process = process
        child.starts += 1
        self._on_event("started", child.spec.name, f"pid {process.pid}")
        if self._stopping.is_set() or child.held:  # the stop came while it was being started
            _signal(child, signal.SIGTERM)
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        try:
            await self._follow(child, reader)
            return _describe(await process.wait())
        finally:
            child.process = None
            child.state = None if child.state == "ready" else child.state
            writer.close()

    async def _follow(self, child: Child, reader: asyncio.StreamReader) -> None:
        """Take the process's reports until it closes its end."""
        while line := await reader.readline():
            try:
                report = decode_report(line)
            except UNREADABLE:
                continue  # not from our code: its exit status will tell
            child.state, child.message = report.state, report.message
            self._on_event(report.state, child.spec.name, report.message)
            self._changed.set()

    def _broken(self, error: BaseException) -> None:
        """Keeping a process failed in itself: a bug."""
        self._error = error
        self._on_event("failed", NodeName("supervisor"), repr(error))
        self._changed.set()


async def _begin(spec: ChildSpec) -> tuple[Process, socket.socket]:
    """A process and our end of its lifeline, which ends it when it is closed."""
    ours, theirs = socket.socketpair()
    try:
        with theirs, _appending(spec.output) as output:
            process = await asyncio.create_subprocess_exec(
                *spec.command,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the supervisor's to pass on, in order
            )
    except BaseException:
        ours.close()
        raise
    return process, ours


def _appending(path: str) -> FileIO:
    return open(path, "ab", buffering=0)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process is not None and child.process.returncode is None:
        try:
            os.kill(child.process.pid, number)
        except ProcessLookupError:
            return  # it ended by itself; its keeper will see


def _describe(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
