"""The clients of a simulated gateway's volumes, without a wire: a connection each, as NBD has them.

A connection attaches when it is first needed and again after it was told that the volume has ended;
many requests may be under way. A client that waits for one no longer hangs up: what it has asked
for is then answered, and done, or not.
"""

import asyncio
from collections.abc import Sequence

from pinfold.env.api import Buffer
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.sim.audit.volumes import VolumeAudit
from pinfold.volumes.io import Io
from pinfold.volumes.row import Told
from pinfold.volumes.session import Session
from pinfold.volumes.sessions import Sessions


class _Connection:
    """One client's connection to one volume."""

    def __init__(self, guests: "Guests", client: str, volume: str) -> None:
        self._guests = guests
        self.key = client, volume
        self.session: Session | None = None
        self._waiting: dict[Io, asyncio.Future[Io]] = {}

    def submit(self, io: Io) -> asyncio.Future[Io]:
        """Have a request done; the answer."""
        assert self.session is not None
        self._waiting[io] = answer = asyncio.get_running_loop().create_future()
        self._guests.audit.began(self._guests.gateway, self.key[1], io)
        self.session.submit([io])
        return answer

    def finished(self, ios: list[Io]) -> None:
        """See `Owner`."""
        for io in ios:
            self._guests.audit.ended(io)
            answer = self._waiting.pop(io, None)
            if answer is not None and not answer.done():
                answer.set_result(io)

    def ended(self, reason: PinfoldError) -> None:
        """See `User`."""
        self._guests.leave(self, reason)

    def fail(self, reason: PinfoldError) -> None:
        """Nobody answers what was not answered."""
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(reason)


class Guests:
    """Every connection of one process."""

    def __init__(self, sessions: Sessions, gateway: str, audit: VolumeAudit) -> None:
        self._sessions = sessions
        self.gateway = gateway
        self.audit = audit
        self._connections: dict[tuple[str, str], _Connection] = {}
        self._left: dict[tuple[str, str], int] = {}
        """How often a client's connection to a volume has ended here."""

    async def do(
        self,
        client: str,
        volume: str,
        kind: int,
        offset: int,
        length: int,
        *,
        payload: bytes = b"",
        fua: bool = False,
    ) -> Sequence[Buffer]:
        """One request of a volume; what a read found. Raises what the session answers."""
        key = client, volume
        connection = self._connections.get(key)
        if connection is None:
            before = self._left.get(key)
            shown = await self._sessions.show(volume)
            if self._left.get(key) != before:  # asked for by a connection that has ended
                raise Unavailable("the client has hung up")
            connection = self._enter(client, volume, shown.told)
        answer = connection.submit(Io(kind, offset, length, connection, payload=payload, fua=fua))
        try:
            io = await answer
        except asyncio.CancelledError:
            self.leave(connection, Unavailable("the client has hung up"))
            raise
        if io.error is not None:
            raise io.error
        return io.parts

    def _enter(self, client: str, volume: str, told: Told) -> _Connection:
        connection = self._connections.get((client, volume))
        if connection is None:  # another request of this client may have been quicker
            connection = self._connections[client, volume] = _Connection(self, client, volume)
            connection.session = self._sessions.attach(volume, told, connection)
        return connection

    def hang_up(self, client: str, volume: str) -> None:
        """The client has finished with the volume here."""
        connection = self._connections.get((client, volume))
        if connection is not None:
            self.leave(connection, Unavailable("the client has hung up"))

    def leave(self, connection: _Connection, reason: PinfoldError) -> None:
        """A connection has ended, from either side."""
        if self._connections.get(connection.key) is not connection:
            return
        del self._connections[connection.key]
        self._left[connection.key] = self._left.get(connection.key, 0) + 1
        assert connection.session is not None
        connection.session.withdraw(connection)
        self._sessions.detach(connection)
        connection.fail(reason)
