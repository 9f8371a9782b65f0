"""The volumes that a simulated gateway serves: one session each, without NBD around it.

It keeps the same rules as the NBD front end: the session takes the lease with the first request,
one that lost its volume is closed before the next one begins, and a request is answered once.
"""

import asyncio

from pinfold.env.api import Buffer
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import Boot, NodeName
from pinfold.model.settings import VolumeSettings
from pinfold.node.context import NodeContext
from pinfold.node.gateway import Gateway
from pinfold.volumes.io import Io
from pinfold.volumes.lease import Lease
from pinfold.volumes.registry import Registry
from pinfold.volumes.row import Holder
from pinfold.volumes.session import Session

CLOSE_S = 5.0
"""Time a session has to flush and give its lease back."""


class _Client:
    """Awaits one request."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Io] = asyncio.get_running_loop().create_future()

    def finished(self, ios: list[Io]) -> None:
        """See `Owner`."""
        (io,) = ios
        if not self.done.done():
            self.done.set_result(io)


class VolumeDesk:
    """Opens sessions as they are needed and hands requests to them."""

    def __init__(self, context: NodeContext, gateway: Gateway) -> None:
        self._env = context.env
        self._gateway = gateway
        self._name: NodeName = context.name
        self._boot: Boot = context.boot
        self._settings: VolumeSettings = context.settings.volumes
        self._scope: TaskScope = context.scope
        self.registry = Registry(
            context.env,
            gateway.rows,
            gateway.extents,
            gateway.extent_placement.devices,
            context.settings.volumes,
        )
        self._sessions: dict[str, Session] = {}
        self._sizes: dict[str, int] = {}
        self._ending: dict[str, asyncio.Event] = {}
        self._incarnations = 0

    async def do(
        self,
        volume: str,
        kind: int,
        offset: int,
        length: int,
        *,
        payload: bytes = b"",
        fua: bool = False,
    ) -> list[Buffer]:
        """One request of a volume; what a read found. Raises what the session answers."""
        session = await self._session(volume)
        client = _Client()
        session.submit([Io(kind, offset, length, client, payload=payload, fua=fua)])
        try:
            io = await client.done
        except asyncio.CancelledError:
            session.withdraw(client)
            raise
        if io.error is not None:
            raise io.error
        return list(io.parts)

    async def release(self, volume: str) -> None:
        """Flush and give the lease back, as when the last client has gone."""
        session = self._sessions.get(volume)
        if session is not None:
            await self._end(volume, session)

    async def seize(self, volume: str) -> None:
        """Take the volume from whoever holds it, without asking, as an operator may command."""
        await self.release(volume)
        self._incarnations += 1
        holder = Holder(self._name, self._boot, self._incarnations)
        lease = Lease(self._env, self._gateway.rows, volume, holder, self._settings)
        # Its own past holds the volume then, which the next session here need not wait for.
        await lease.acquire(force=True)

    async def _session(self, volume: str) -> Session:
        while (ending := self._ending.get(volume)) is not None:
            await ending.wait()
        if volume in self._sessions:
            return self._sessions[volume]
        size = self._sizes.get(volume)
        if size is None:
            size = self._sizes[volume] = (await self.registry.show(volume)).size
            return await self._session(volume)  # somebody may have been quicker
        self._incarnations += 1
        holder = Holder(self._name, self._boot, self._incarnations)
        session = Session(
            self._env,
            self._gateway.extents,
            Lease(self._env, self._gateway.rows, volume, holder, self._settings),
            self._gateway.extent_placement,
            self._settings,
            lambda _reason: self._lost(volume, session),
            size=size,
        )
        self._sessions[volume] = session
        return session

    def _lost(self, volume: str, session: Session) -> None:
        self._scope.start(self._end(volume, session), name="volume session end")

    async def _end(self, volume: str, session: Session) -> None:
        if self._sessions.get(volume) is not session:
            return
        del self._sessions[volume]
        self._ending[volume] = ended = asyncio.Event()
        try:
            await session.close(deadline=self._env.clock.monotonic() + CLOSE_S)
        except PinfoldError:
            pass
        finally:
            del self._ending[volume]
            ended.set()
