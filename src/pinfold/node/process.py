"""One process: one node with one role, from settings to a clean stop.

Order of the start: lock and boot, log, map, rpc, role, registration, ready. The stop goes the
other way. A step that fails takes down what was started before it and names its reason.
"""

import asyncio
import gc
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import uvloop
from structlog.typing import FilteringBoundLogger

from pinfold import __version__
from pinfold.cluster.embedded_map import EmbeddedMap
from pinfold.cluster.map import NodeEntry
from pinfold.env.api import Env
from pinfold.env.real import keep_freed_memory, raise_descriptor_limit, real_env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import NodeName
from pinfold.node.boot import hold, next_boot
from pinfold.node.context import Endpoint, NodeContext, Role
from pinfold.node.joining import join_peers, register
from pinfold.node.layout import Layout
from pinfold.node.lifeline import Lifeline, Report
from pinfold.node.logs import become_process_log
from pinfold.node.metrics import new_registry, render
from pinfold.node.roles import starter_of
from pinfold.node.secrets import follow_secrets, read_secrets
from pinfold.node.settings import NodeSettings, read_settings
from pinfold.node.stacks import print_stacks
from pinfold.rpc.api import Reply, Request
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_BROKEN: Final = 70
"""An assertion failed: sysexits' EX_SOFTWARE."""

GC_YOUNG: Final = 20_000
GC_MIDDLE: Final = 20
GC_OLD: Final = 50
"""Thresholds of the garbage collector: objects, then collections of the generation below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a process is started."""

    name: NodeName
    layout: Layout
    listen: Endpoint | None = None
    lifeline: int | None = None
    """Descriptor of the socket to the supervisor."""


def run_process(launch: Launch) -> int:
    """Run until told to stop; returns the exit status. Blocks; call it on the main thread."""
    assert __debug__, "Pinfold does not run under -O: its assertions are part of its safety"
    lifeline = Lifeline(launch.lifeline) if launch.lifeline is not None else None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Process(launch, lifeline).run())
    except (PinfoldError, OSError) as error:
        if lifeline is not None:
            lifeline.report(Report(state="failed", message=str(error)))
        print(f"{launch.name}: {error}", file=sys.stderr)
        return EXIT_REFUSED


class _Process:
    """The steps, and what is running."""

    def __init__(self, launch: Launch, lifeline: Lifeline | None) -> None:
        self._launch = launch
        self._lifeline = lifeline
        self._stop = asyncio.Event()
        self._status = EXIT_OK
        self._log: FilteringBoundLogger | None = None

    async def run(self) -> int:
        """Start, wait for the stop, stop."""
        keep_freed_memory()
        descriptors = raise_descriptor_limit()
        env = real_env()
        settings = read_settings(self._launch.layout, self._launch.name)
        sys.setswitchinterval(settings.process.switch_interval_s)
        self._listen_for_stop(settings)
        async with AsyncExitStack() as stack:
            role = await self._start(env, settings, stack)
            self._check_descriptors(settings, descriptors)
            _spare_the_collector()
            if self._lifeline is not None:
                self._lifeline.report(Report(state="ready"))
            await self._stop.wait()
            await self._drain(role, settings.process.drain_timeout_s)
        return self._status

    def _listen_for_stop(self, settings: NodeSettings) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, print_stacks)
        if self._lifeline is not None:
            self._lifeline.watch(self._stop.set, settings.process.drain_timeout_s)

    def _check_descriptors(self, settings: NodeSettings, allowed: int) -> None:
        """Say early what would otherwise show as connections refused under load."""
        wanted = settings.descriptors()
        if allowed < wanted and self._log is not None:
            self._log.warning(
                "too few open files allowed: raise the hard limit (ulimit -Hn)",
                allowed=allowed,
                wanted=wanted,
            )

    async def _start(self, env: Env, settings: NodeSettings, stack: AsyncExitStack) -> Role:
        name, layout = self._launch.name, self._launch.layout
        home = layout.node(name)
        env.disk.mkdir(str(home))
        lock = hold(env.disk, home / "lock", f"the node {name} is running already")
        stack.callback(lock.close)
        boot = next_boot(env.disk, home)
        log = self._log = become_process_log(
            layout.log(name), name, settings.process.log_level, env.clock
        )
        log.info("starting", boot=boot, pid=os.getpid(), version=__version__)
        map_store = EmbeddedMap(env, str(layout.map), self._on_error)
        stack.push_async_callback(map_store.close)
        entry = map_store.get().node(name)

        scope = TaskScope(self._on_error)
        stack.push_async_callback(scope.close)
        operations = Operations()
        secrets = read_secrets(env, layout)
        cluster_id = map_store.get().cluster_id
        identity = Identity(node=name, boot=boot, cluster=cluster_id, keyring=secrets.keyring)
        peers = join_peers(env, identity, map_store, operations)
        stack.push_async_callback(peers.close)
        following = follow_secrets(env, layout, secrets, peers.set_keyring, self._on_error)
        scope.start(following, name="secrets")
        context = NodeContext(
            name=name,
            boot=boot,
            env=env,
            layout=layout,
            settings=settings,
            secrets=secrets,
            map=map_store,
            peers=peers,
            dispatcher=operations,
            scope=scope,
            metrics=new_registry(),
            log=log,
            listen=self._launch.listen,
        )
        role = await starter_of(entry.role)(context)
        _answer_operators(context, entry, role)
        await register(context, entry, layout.rpc_address(name))
        log.info("ready")
        return role

    async def _drain(self, role: Role, timeout_s: float) -> None:
        assert self._log is not None, "a process that started has a log"
        self._log.info("stopping")
        try:
            async with asyncio.timeout(timeout_s):
                await role.stop()
        except TimeoutError:
            self._log.warning("stop cut short", after_s=timeout_s)
        self._log.info("stopped")

    def _on_error(self, error: BaseException) -> None:
        """A background task failed: log it; a broken assertion stops the process."""
        if self._log is not None:
            self._log.error("background failure", error=repr(error), exc_info=error)
        if isinstance(error, AssertionError):
            self._status = EXIT_BROKEN
            self._stop.set()


def _spare_the_collector() -> None:
    """Keep the cyclic garbage collector away from what lives as long as the process.

    Requests make few cycles, but CPython's thresholds walk every object every few seconds' worth
    of them: pauses of 80 ms were measured, and 6 % of a gateway's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, GC_MIDDLE, GC_OLD)


def _answer_operators(context: NodeContext, entry: NodeEntry, role: Role) -> None:
    """Bind `node.status` and `node.metrics`."""
    started = context.env.clock.monotonic()

    def status(_request: Request) -> Reply:
        return Reply(
            {
                "name": context.name,
                "role": entry.role,
                "boot": context.boot,
                "pid": os.getpid(),
                "version": __version__,
                "uptime_s": context.env.clock.monotonic() - started,
                "map_version": context.map.get().version,
                **role.status(),
            }
        )

    def metrics(_request: Request) -> Reply:
        return Reply(None, [render(context.metrics)])

    context.dispatcher.bind("node.status", status)
    context.dispatcher.bind("node.metrics", metrics)
