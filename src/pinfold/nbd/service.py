"""The NBD front end of one gateway: exports are volumes, all connections to one share a session.

When a volume is lost to another gateway or resized, its connections are closed: clients that
reconnect get the volume as it is then.
"""

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
from pinfold.volumes.placement import ExtentPlacement
from pinfold.volumes.sessions import Sessions

EXPORTS_LISTED_MAX: Final = 10_000
"""Exports told to a client that asks for the list: some 300 KB of replies."""

ERRORS_KEPT: Final = 16
"""Errors of background work remembered."""


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
        self.settings = settings or NbdSettings()
        self.volume_settings = volume_settings or VolumeSettings()
        self.counters = counters or Counters()
        self.window = Window(self.settings.total_bytes)
        self._sessions = Sessions(
            env,
            rows,
            extents,
            placement,
            gateway=gateway,
            boot=boot,
            settings=self.volume_settings,
            on_error=self._on_error,
        )
        self._scope = TaskScope(self._on_error)
        self._listeners: list[Listener] = []
        self._crowd: Crowd[Connection] = Crowd(self.settings.connections_max)
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
        await self._sessions.close()
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
        except NotFound:
            connection.resolved(None)
        except PinfoldError:
            connection.resolved(None, shutdown=True)
        else:
            connection.resolved(facts, shutdown=self._closing)

    async def _facts(self, name: str) -> ExportFacts:
        if not name:
            names = await self._sessions.registry.names(limit=2)
            if len(names) != 1:
                raise NotFound("there is no default export")
            name = names[0]
        shown = await self._sessions.show(name)
        return ExportFacts(name=name, told=shown.told, description=f"pinfold volume {name}")

    def list_exports(self, connection: Connection) -> None:
        """See `Desk`."""
        self._scope.start(self._list(connection), name="nbd list")

    async def _list(self, connection: Connection) -> None:
        try:
            names = await self._sessions.registry.names(limit=EXPORTS_LISTED_MAX)
        except PinfoldError:
            connection.abort()
        else:
            connection.listed(names)

    def attach(self, connection: Connection, facts: ExportFacts) -> Volume:
        """See `Desk`."""
        self._crowd.prove(connection)
        return self._sessions.attach(facts.name, facts.told, connection)

    def gone(self, connection: Connection) -> None:
        """See `Desk`."""
        self._crowd.leave(connection)
        self._sessions.detach(connection)

    def _on_error(self, error: BaseException) -> None:
        self.errors.append(error)
        del self.errors[:-ERRORS_KEPT]
