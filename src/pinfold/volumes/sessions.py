"""The volumes that one gateway has in use: a session each, shared by all of its users there.

A session takes the lease with its first request and gives it back a little after its last user has
gone. When the volume turns out to be held by another gateway, resized or deleted, its users are
told and the session ends; the next one begins after that, since it would take the lease away from
an end that is still flushing.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from pinfold.cluster.api import Rows
from pinfold.cluster.extents import ExtentClient
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Fenced, PinfoldError, Unavailable
from pinfold.model.ids import Boot, NodeName, Token, VolumeId
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.lease import Lease
from pinfold.volumes.placement import ExtentPlacement
from pinfold.volumes.registry import Registry, VolumeShown
from pinfold.volumes.row import Holder, Told, VolumeRow
from pinfold.volumes.session import Session

CLOSE_S: Final = 10.0
"""Time a session has to flush and give its lease back."""


class User(Protocol):
    """Whoever sends requests to a volume, as long as it is there: a connection."""

    def ended(self, reason: PinfoldError) -> None:
        """The volume is not served here any more, or not as it was; nobody is attached now."""
        ...


class _Use:
    """A volume in use: its session and the users that share it."""

    def __init__(self, name: str, told: Told, session: Session) -> None:
        self.name = name
        self.told = told
        self.session = session
        self.users: dict[User, None] = {}


class Sessions:
    """Every session of one process."""

    def __init__(
        self,
        env: Env,
        rows: Rows,
        extents: ExtentClient,
        placement: ExtentPlacement,
        *,
        gateway: NodeName,
        boot: Boot,
        settings: VolumeSettings,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._env = env
        self._rows = rows
        self._extents = extents
        self._placement = placement
        self._gateway = gateway
        self._boot = boot
        self._settings = settings
        self.registry = Registry(env, rows, extents, placement.devices, settings)
        self._scope = TaskScope(on_error)
        self._uses: dict[str, _Use] = {}
        self._attached: dict[User, _Use] = {}
        self._ending: dict[_Use, asyncio.Event] = {}
        """Several of one volume when users are told something new of it faster than it is given
        back."""
        self._incarnations = 0
        self._closing = False

    async def show(self, name: str) -> VolumeShown:
        """A volume as it is, when no earlier session of it is ending: attach in the same tick."""
        while True:
            shown = await self.registry.show(name)
            ending = [ended for use, ended in self._ending.items() if use.name == name]
            if not ending:
                return shown
            await ending[0].wait()

    def attach(self, name: str, told: Told, user: User) -> Session:
        """The volume's session, with one more user, who was told this of it.

        Where others were told something else one of them is wrong: they have to ask again.
        """
        assert user not in self._attached, "a user has one volume"
        use = self._uses.get(name)
        if use is not None and use.told != told:
            use.session.lose(Fenced(f"volume {name!r} has been resized or replaced"))
            use = None
        if use is None:
            use = self._uses[name] = self._open(name, told)
        use.users[user] = None
        self._attached[user] = use
        return use.session

    def detach(self, user: User) -> None:
        """The user has gone; the last one leaves the session to linger."""
        use = self._attached.pop(user, None)
        if use is None:
            return
        del use.users[user]
        if not use.users and not self._closing and self._current(use):
            self._scope.start(self._linger(use), name="volume session linger")

    async def release(self, name: str) -> None:
        """Flush and give the lease back, whoever uses the volume here."""
        use = self._uses.get(name)
        if use is not None:
            self._tell(use, Unavailable(f"volume {name!r} has been given back"))
            await self._end(use)

    async def seize(self, name: str) -> None:
        """Take the volume from whoever holds it, without asking: see `Lease.acquire`.

        A past session of this process holds it then, which the next one need not wait for. Where a
        device cannot be told so, the former holder could still read there: its trust ends first.
        """
        await self.release(name)
        lease = self._lease(name)
        await lease.acquire(force=True)
        if not await self._told_everywhere(lease.row):
            await asyncio.sleep(self._settings.takeover_s)

    async def _told_everywhere(self, row: VolumeRow) -> bool:
        """Whether every device in sync refuses tokens below the row's by now."""
        for device in self._placement.devices():
            deadline = self._env.clock.monotonic() + self._settings.claim_s
            try:
                if device not in row.out:
                    volume, token = VolumeId(row.id), Token(row.token)
                    await self._extents.claim(device, volume, token, 1, deadline=deadline)
            except PinfoldError:
                return False
        return True

    async def close(self) -> None:
        """End every session; users are not told."""
        self._closing = True
        while self._ending:
            await next(iter(self._ending.values())).wait()
        await self._scope.close()
        async with asyncio.TaskGroup() as group:
            for use in list(self._uses.values()):
                group.create_task(self._end(use))

    def _lease(self, name: str) -> Lease:
        self._incarnations += 1
        holder = Holder(self._gateway, self._boot, self._incarnations)
        return Lease(self._env, self._rows, name, holder, self._settings)

    def _open(self, name: str, told: Told) -> _Use:
        session = Session(
            self._env,
            self._extents,
            self._lease(name),
            self._placement,
            self._settings,
            lambda reason: self._lost(use, reason),
            told=told,
        )
        use = _Use(name, told, session)
        return use

    def _current(self, use: _Use) -> bool:
        return self._uses.get(use.name) is use

    def _lost(self, use: _Use, reason: PinfoldError) -> None:
        self._tell(use, reason)
        if self._current(use) and not self._closing:
            self._scope.start(self._close(use, self._retire(use)), name="volume session end")

    def _tell(self, use: _Use, reason: PinfoldError) -> None:
        users, use.users = use.users, {}
        for user in users:
            del self._attached[user]
            user.ended(reason)

    async def _linger(self, use: _Use) -> None:
        """Keep the lease a little: users often come back at once."""
        await asyncio.sleep(self._settings.linger_s)
        if not use.users and self._current(use):
            await self._end(use)

    async def _end(self, use: _Use) -> None:
        if self._current(use):
            await self._close(use, self._retire(use))

    def _retire(self, use: _Use) -> asyncio.Event:
        """Nobody finds the session any more; the event is set when it has closed."""
        del self._uses[use.name]
        self._ending[use] = ended = asyncio.Event()
        return ended

    async def _close(self, use: _Use, ended: asyncio.Event) -> None:
        try:
            await use.session.close(deadline=self._env.clock.monotonic() + CLOSE_S)
        finally:
            del self._ending[use]
            ended.set()
