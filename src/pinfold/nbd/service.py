"""The NBD front end of one gateway: exports are volumes, all connections to one share a session.

A connection takes no lease; the session asks for it with the first request and gives it back a
little after the last connection has gone. When a volume is lost to another gateway or resized, its
connections are closed: clients that reconnect get the volume as it is then.
"""

import asyncio
from typing import Final

from pinfold.cluster.api import Rows
from pinfold.cluster.extents import ExtentClient
from pinfold.env.api import Env, Listener
from pinfold.env.crowd import Crowd
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import NotFound, PinfoldError
from pinfold.model.ids import Boot, NodeName
from pinfold.model.settings import NbdSettings, VolumeSettings
from pinfold.nbd.connection import Connection, Volume
from pinfold.nbd.counters import Counters
from pinfold.nbd.handshake import ExportFacts
from pinfold.nbd.window import Window
from pinfold.volumes.lease import Lease
from pinfold.volumes.placement import ExtentPlacement
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import Holder
from pinfold.volumes.session import Session

EXPORTS_LISTED_MAX: Final = 10_000
"""Exports told to a client that asks for the list: some 300 KB of replies."""

CLOSE_S: Final = 10.0
"""Time a session has to flush and give its lease back."""

ERRORS_KEPT: Final = 16
"""Errors of background work remembered."""


class _Export:
    """A volume in use here: its session and the connections that share it."""

    def __init__(self, name: str, session: Session) -> None:
        self.name = name
        self.session = session
        self.connections: dict[Connection, None] = {}


class NbdService:
    """Serves every volume of the cluster over NBD."""

    def __init__(
        self,
        env: Env,
        rows: Rows,
        extents: ExtentClient,
        placement: ExtentPlacement,
        *,
        gateway: NodeName,
        boot: Boot,
        settings: NbdSettings | None = None,
        volume_settings: VolumeSettings | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._env = env
        self._rows = rows
        self._extents = extents
        self._placement = placement
        self._gateway = gateway
        self._boot = boot
        self.settings = settings or NbdSettings()
        self.volume_settings = volume_settings or VolumeSettings()
        self.counters = counters or Counters()
        self.window = Window(self.settings.total_bytes)
        self._registry = Registry(env, rows, extents, placement.devices, self.volume_settings)
        self._scope = TaskScope(self._on_error)
        self._listeners: list[Listener] = []
        self._crowd: Crowd[Connection] = Crowd(self.settings.connections_max)
        self._exports: dict[str, _Export] = {}
        self._attached: dict[Connection, _Export] = {}
        self._ending: dict[str, asyncio.Event] = {}
        self._incarnations = 0
        self._closing = False
        self.errors: list[BaseException] = []
        """What background work failed with, the last few: for logs and tests."""

    async def start(self, host: str, port: int) -> str:
        """Listen on TCP; the address bound (`tcp://host:port`)."""
        return await self.listen(f"tcp://{host}:{port}")

    async def listen(self, address: str) -> str:
        """Listen on any address that `env.net` knows; the address bound."""
        listener = await self._env.net.listen(address, self._accept)
        self._listeners.append(listener)
        return listener.address

    async def close(self) -> None:
        """Stop accepting, end the connections, flush and give back every lease."""
        self._closing = True
        for listener in self._listeners:
            listener.close()
        for connection in self._crowd.everybody():
            connection.close()
        await self._scope.close()
        async with asyncio.TaskGroup() as group:
            for export in list(self._exports.values()):
                group.create_task(self._end(export))
        for connection in self._crowd.everybody():
            connection.abort()

    # The connections' desk

    def _accept(self) -> Connection:
        connection = Connection(self)
        goes = self._crowd.enter(connection)
        if self._closing or goes is connection:
            connection.refused = True
        elif goes is not None:
            self._crowd.leave(goes)
            goes.refused = True
            goes.abort()
        return connection

    def lookup(self, connection: Connection, name: str) -> None:
        """See `Desk`."""
        if self._closing:
            connection.resolved(None, shutdown=True)
        else:
            self._scope.start(self._lookup(connection, name), name="nbd lookup")

    async def _lookup(self, connection: Connection, name: str) -> None:
        try:
            facts = await self._facts(name)
            while (ending := self._ending.get(facts.name)) is not None:
                await ending.wait()  # its lease is given back first, else it would be taken away
        except NotFound:
            connection.resolved(None)
        except PinfoldError:
            connection.resolved(None, shutdown=True)
        else:
            connection.resolved(facts, shutdown=self._closing)

    async def _facts(self, name: str) -> ExportFacts:
        if not name:
            names = await self._registry.names(limit=2)
            if len(names) != 1:
                raise NotFound("there is no default export")
            name = names[0]
        shown = await self._registry.show(name)
        return ExportFacts(name=name, size=shown.size, description=f"pinfold volume {name}")

    def list_exports(self, connection: Connection) -> None:
        """See `Desk`."""
        self._scope.start(self._list(connection), name="nbd list")

    async def _list(self, connection: Connection) -> None:
        try:
            names = await self._registry.names(limit=EXPORTS_LISTED_MAX)
        except PinfoldError:
            connection.abort()
        else:
            connection.listed(names)

    def attach(self, connection: Connection, facts: ExportFacts) -> Volume:
        """See `Desk`."""
        export = self._exports.get(facts.name)
        if export is None:
            export = self._open(facts)
        self._crowd.prove(connection)
        export.connections[connection] = None
        self._attached[connection] = export
        return export.session

    def gone(self, connection: Connection) -> None:
        """See `Desk`."""
        self._crowd.leave(connection)
        export = self._attached.pop(connection, None)
        if export is None:
            return
        export.connections.pop(connection, None)
        if not export.connections and not self._closing and self._current(export):
            self._scope.start(self._linger(export), name="nbd session linger")

    # Sessions

    def _current(self, export: _Export) -> bool:
        return self._exports.get(export.name) is export

    def _open(self, facts: ExportFacts) -> _Export:
        self._incarnations += 1
        holder = Holder(self._gateway, self._boot, self._incarnations)
        lease = Lease(self._env, self._rows, facts.name, holder, self.volume_settings)
        session = Session(
            self._env,
            self._extents,
            lease,
            self._placement,
            self.volume_settings,
            lambda _reason: self._drop(export),
            size=facts.size,
        )
        export = _Export(facts.name, session)
        self._exports[facts.name] = export
        return export

    def _drop(self, export: _Export) -> None:
        """The volume is not ours any more, or not as it was: clients must come again."""
        for connection in list(export.connections):
            connection.close()
        if self._current(export) and not self._closing:
            self._scope.start(self._end(export), name="nbd session end")

    async def _linger(self, export: _Export) -> None:
        """Keep the lease a little: clients often come back at once."""
        await asyncio.sleep(self.volume_settings.linger_s)
        if not export.connections and self._current(export):
            await self._end(export)

    async def _end(self, export: _Export) -> None:
        if not self._current(export):
            return
        del self._exports[export.name]
        self._ending[export.name] = ended = asyncio.Event()
        try:
            await export.session.close(deadline=self._env.clock.monotonic() + CLOSE_S)
        finally:
            del self._ending[export.name]
            ended.set()

    def _on_error(self, error: BaseException) -> None:
        self.errors.append(error)
        del self.errors[:-ERRORS_KEPT]
