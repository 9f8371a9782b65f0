"""A whole cluster on one machine: three storage nodes and the front ends under one supervisor.

Everything is a process of its own, as on many machines; only the map is embedded and rpc goes over
unix sockets. Listens on loopback only.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from pinfold.admin.client import AdminClient
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Conflict, Corrupt, PinfoldError, Unavailable
from pinfold.model.ids import NodeName
from pinfold.node.access import Access, Endpoints, read_access, write_access
from pinfold.node.control import Command, serve_control
from pinfold.node.creation import ensure_cluster, hold_data
from pinfold.node.formation import FRONT_ENDS, STORAGE_NODES
from pinfold.node.layout import Layout
from pinfold.node.logs import open_log
from pinfold.node.rotation import held
from pinfold.node.settings import read_settings
from pinfold.node.supervisor import ChildSpec, OnEvent, Supervisor

HOST: Final = "127.0.0.1"

S3_NODE: Final = next(NodeName(name) for name, role in FRONT_ENDS if role == "s3")

START_TIMEOUT_S: Final = 60.0
"""For all processes to report ready; recovery of a large journal takes some seconds."""

SERVE_TIMEOUT_S: Final = 30.0
"""For every group to have a primary after that."""

POLL_S: Final = 0.1
"""Between looks at /readyz while starting."""

STOP_RANKS: Final = {"s3": 0, "nbd": 0, "admin": 1, "storage": 2}
"""Order of the stop: what serves clients first, what holds data last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the front ends listen."""

    s3: int = 9000
    swift: int = 8080
    """Reserved: nothing listens there yet."""
    nbd: int = 10809
    admin: int = 9300

    @classmethod
    def of(cls, endpoints: Endpoints) -> "Ports":
        """The ports that a cluster had; Corrupt when its file names none."""
        try:
            s3, nbd, admin = (
                int(urlsplit(url).port or 0)
                for url in (endpoints.s3, endpoints.nbd, endpoints.admin)
            )
        except ValueError as error:
            raise Corrupt(f"cluster.json names no ports: {error}") from error
        return cls(s3=s3, nbd=nbd, admin=admin)

    @classmethod
    def from_base(cls, base: int) -> "Ports":
        """Four ports in a row."""
        return cls(s3=base, swift=base + 1, nbd=base + 2, admin=base + 3)

    def of_role(self, role: str) -> int:
        """The port a front end of this role gets."""
        port: int = getattr(self, role)
        return port

    def endpoints(self) -> Endpoints:
        """As clients write them."""
        return Endpoints(
            s3=f"http://{HOST}:{self.s3}",
            nbd=f"nbd://{HOST}:{self.nbd}",
            admin=f"http://{HOST}:{self.admin}",
        )


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A running process, for whoever started the cluster."""

    name: str
    pid: int | None
    data: str
    """Its devices' directory, or a front end's own."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What `pinfold up --json` prints, once, when the cluster serves."""

    ready: bool = True
    created: bool
    """Whether this start made the cluster."""
    s3: str
    nbd: str
    admin: str
    access_key: str
    secret_key: str
    region: str
    """What S3 requests are signed for."""
    token: str
    nodes: list[ProcessFacts]
    """The storage nodes."""
    frontends: list[ProcessFacts]
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """How to run."""

    layout: Layout
    ports: Ports | None
    """None: those of the last time, or the first cluster's."""
    restart: bool


def run_up(
    env: Env, options: UpOptions, announce: Callable[[Ready], None], on_event: OnEvent
) -> None:
    """Run the cluster until SIGTERM or SIGINT; `announce` is called once it serves.

    Conflict when the directory is in use, not ours, or a port is taken; Unavailable when a process
    cannot start. In every case nothing is left running.
    """
    asyncio.run(_Up(env, options, announce, on_event).run())


def note_run(env: Env, options: UpOptions, ports: Ports) -> Access:
    """Say in cluster.json how the cluster runs, whatever secrets it has by now.

    Conflict while these are being replaced.
    """
    layout = options.layout
    with held(env, layout):
        access = msgspec.structs.replace(
            read_access(env.disk, layout), endpoints=ports.endpoints(), restarts=options.restart
        )
        write_access(env.disk, layout, access)
        return access


class _Up:
    """One run."""

    def __init__(
        self,
        env: Env,
        options: UpOptions,
        announce: Callable[[Ready], None],
        on_event: OnEvent,
    ) -> None:
        self._env = env
        self._options = options
        self._announce = announce
        self._on_event = on_event
        self._stop = asyncio.Event()
        self._created = False
        self._ports = options.ports or Ports()

    async def run(self) -> None:
        layout = self._options.layout
        if self._options.ports is None and layout.endpoints.exists():
            known = read_access(self._env.disk, layout).endpoints
            self._ports = self._ports if known is None else Ports.of(known)
        if not layout.marker.exists():
            await self._check_ports()  # before anything is made
        lock = hold_data(self._env, layout)
        try:
            await self._check_ports()  # a second `up` of a cluster has heard by now that one runs
            self._created = await ensure_cluster(self._env, layout)
            access = note_run(self._env, self._options, self._ports)
            prepare_socket_dir(layout)
            await self._supervise(access)
        finally:
            lock.close()

    async def _check_ports(self) -> None:
        """Say it now and clearly, rather than from a front end's log."""
        ports = self._ports
        for role, option in (("s3", 0), ("nbd", 2), ("admin", 3)):
            port = ports.of_role(role)
            try:
                listener = await self._env.net.listen(f"tcp://{HOST}:{port}", asyncio.Protocol)
            except OSError as error:
                raise Conflict(
                    f"port {port} for {role} cannot be used ({_reason(error)}): "
                    f"choose others with --base-port N ({role} gets N+{option})"
                ) from error
            listener.close()

    async def _supervise(self, access: Access) -> None:
        log = open_log(
            self._options.layout.logs / "supervisor.log", "supervisor", "info", self._env.clock
        )

        def on_event(event: str, name: NodeName, detail: str) -> None:
            log.info(event, process=name, detail=detail)
            self._on_event(event, name, detail)

        supervisor = Supervisor(
            self._env.clock,
            child_specs(self._options.layout, self._ports),
            on_event,
            restart=self._options.restart,
        )
        scope = TaskScope(lambda _error: None)  # the one task is awaited below

        async def obey(command: Command, name: NodeName) -> None:
            if command != "start":
                await supervisor.stop_one(name)
            if command != "stop":
                await supervisor.start_one(name, START_TIMEOUT_S)

        control = await serve_control(self._options.layout, obey)
        supervisor.start()
        starting = scope.start(self._bring_up(supervisor, access))
        self._listen_for_stop(starting)
        try:
            await starting
            await self._stop.wait()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            control.close()
            await supervisor.stop()

    def _listen_for_stop(self, starting: "asyncio.Task[Any]") -> None:
        def stop() -> None:
            self._stop.set()
            starting.cancel()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)

    async def _bring_up(self, supervisor: Supervisor, access: Access) -> None:
        await supervisor.ready(START_TIMEOUT_S)
        await self._until_serving(access)
        self._announce(self._facts(supervisor, access))

    async def _until_serving(self, access: Access) -> None:
        assert access.endpoints is not None, "endpoints are set before the start"
        client = AdminClient(access.endpoints.admin, access.token)
        lane = self._env.new_offload("readiness")
        deadline = self._env.clock.monotonic() + SERVE_TIMEOUT_S
        try:
            while waiting := await lane(_waiting_for, client):
                if self._env.clock.monotonic() > deadline:
                    raise Unavailable("the cluster does not serve: " + "; ".join(waiting))
                await asyncio.sleep(POLL_S)
        finally:
            lane.close()

    def _facts(self, supervisor: Supervisor, access: Access) -> Ready:
        layout = self._options.layout
        endpoints = self._ports.endpoints()

        def facts(name: str, data: Path) -> ProcessFacts:
            pid = supervisor.children[NodeName(name)].pid
            return ProcessFacts(name=name, pid=pid, data=str(data / name))

        return Ready(
            created=self._created,
            s3=endpoints.s3,
            nbd=endpoints.nbd,
            admin=endpoints.admin,
            access_key=access.access_key,
            secret_key=access.secret_key,
            region=region_of(layout),
            token=access.token,
            nodes=[facts(name, layout.devices) for name in STORAGE_NODES],
            frontends=[facts(name, layout.root / "nodes") for name, _role in FRONT_ENDS],
            data=str(layout.root),
        )


def region_of(layout: Layout) -> str:
    """What S3 requests are signed for."""
    return read_settings(layout, S3_NODE).s3.region


def _reason(error: OSError) -> str:
    """What the system says: asyncio wraps it in a sentence of its own."""
    return os.strerror(error.errno) if error.errno else str(error)


def _waiting_for(client: AdminClient) -> list[str]:
    try:
        return client.ready()
    except PinfoldError as error:
        return [error.message]


def child_specs(layout: Layout, ports: Ports) -> Sequence[ChildSpec]:
    """The processes of a machine-wide cluster, storage nodes first."""

    def spec(name: str, role: str, *options: str) -> ChildSpec:
        command = [sys.executable, "-m", "pinfold", "node", "run", name]
        command += ["--data", str(layout.root), *options, "--lifeline"]
        return ChildSpec(
            name=NodeName(name),
            command=command,
            output=str(layout.logs / f"{name}.out"),
            stop_rank=STOP_RANKS[role],
        )

    return [
        *(spec(name, "storage") for name in STORAGE_NODES),
        *(
            spec(name, role, "--listen", f"{HOST}:{ports.of_role(role)}")
            for name, role in FRONT_ENDS
        ),
    ]


def prepare_socket_dir(layout: Layout) -> None:
    """Make the directory for rpc sockets, for our user only.

    Conflict when a directory outside DATA is somebody else's: sockets there could be replaced.
    """
    directory = layout.socket_dir()
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if directory.is_symlink() or status.st_uid != os.getuid():
        raise Conflict(f"{directory} belongs to somebody else: remove it, or use a shorter --data")
    directory.chmod(0o700)
