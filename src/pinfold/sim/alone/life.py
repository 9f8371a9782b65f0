"""The lives of a lone device, one after the other, and what is looked at between them."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from pinfold.device.api import Device
from pinfold.device.device import Device as OpenDevice
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.limits import KIB, MIB
from pinfold.model.settings import DeviceSettings
from pinfold.sim.account import Account
from pinfold.sim.alone.clients import BlobClient, Client, LogClient, VolumeClient
from pinfold.sim.audit.auditor import Auditor
from pinfold.sim.autopsy import autopsy
from pinfold.sim.events import Event, Events
from pinfold.sim.logs import told_to, traced
from pinfold.sim.loop import Deadlock
from pinfold.sim.world import World

NODE: Final = "lone"
"""The machine."""

PATH: Final = "/data/lone"

_CLUSTER: Final = bytes(16)

LIVES: Final = 4

_LIFE_S: Final = 0.12
"""How long a life lasts at most, but for the last, of which the end is a rest."""

_REST_S: Final = 1.5
"""After so long without a request nothing is left to be given back."""

_PAUSE_S: Final = 0.004
"""Between two steps of a client, on average."""

_LIMIT_S: Final = 60.0
"""Virtual seconds within which all lives are over."""

_CAPACITY_BYTES: Final = 64 * MIB

_ENDS: Final = (
    "log.create",
    "log.append",
    "log.set_view",
    "log.install",
    "log.install last",
    "blobs.put",
    "blobs.commit",
    "blobs.delete",
    "extents.claim",
    "extents.write",
    "extents.flush",
    "extents.drop",
    "extents.restored",
)
"""Calls at whose answers a life may end."""

_FILES: Final = ("", "/journal/", "/packs/", "/arena/", "/index")
"""Parts of paths: the files at a change of which a life may end."""


def live_alone(seed: int) -> tuple[Account, str]:
    """All lives of a seed's lone device, in a world of its own: (account, digest of the trace)."""
    with World(f"{seed}/alone") as world:
        account = Account(lambda: world.loop.now)
        with told_to(account):
            try:
                world.run(LoneDevice(world, account, seed).run(), limit_s=_LIMIT_S)
            except (Deadlock, TimeoutError) as error:
                account.violated("a device alone hangs", repr(error))
        return account, world.trace.digest()


class LoneDevice:
    """A device of its own."""

    def __init__(self, world: World, account: Account, seed: int) -> None:
        self._world = world
        self._account = account
        self._rng = rng = random.Random(f"{seed}/alone")
        self._events = Events()
        self._auditor = Auditor(account, self._events)
        self._node = world.node(NODE)
        self._node.disk.on_crash = partial(self._end, power=True)
        self._node.disk.on_change = lambda path: self._events.tell(f"change {path}", NODE)
        self._settings = _settings(rng)
        self._uuid = b""
        self._resting = False
        self._over = False
        self._opened = False
        """Whether it was ever open: until then its files need not be there."""
        self._clients: list[Client] = [
            BlobClient(rng).step,
            VolumeClient(rng).step,
            VolumeClient(rng).step,
            LogClient(rng).step,
        ]

    async def run(self) -> None:
        """All lives."""
        await self._node.start(self._format)
        self._node.crash()
        for number in range(LIVES):
            self._resting = number == LIVES - 1
            await self._live(number)
        self._over = True

    async def _format(self, env: Env) -> None:
        self._node.disk.faults.capacity_bytes = _CAPACITY_BYTES
        self._uuid = await OpenDevice.format(env, PATH, _CLUSTER, self._settings)

    async def _live(self, number: int) -> None:
        """One life, from its opening to what is found when it has ended."""
        rng, faults = self._rng, self._node.disk.faults
        faults.cached_chance = rng.choice((0.0, 0.7))
        faults.slowness = rng.choice((1.0, 1.0, 5.0))
        faults.read_s = rng.choice(((0.0, 0.0), (0.0, 0.001), (0.0, 0.01)))
        if rng.random() < 0.35 and not self._resting:
            faults.room_after = rng.choice((3, 20, 60))
            faults.room_failures = rng.choice((1, 4, 12))
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._node.start(partial(self._serve, ended=ended))
        how = "at rest"
        if self._resting:
            await ended
        else:
            how = await self._moment()
        power = rng.random() < 0.7
        if self._node.alive:
            self._end(power=power)
        faults.crash_after = faults.room_after = -1
        self._account.tell(NODE, f"life {number} ended {how}{'' if power else ', killed'}")
        for found in autopsy(self._node, PATH, rested=self._resting) if self._opened else ():
            self._account.violated("autopsy", f"{PATH} after life {number}: {found}")

    def _end(self, *, power: bool) -> None:
        self._auditor.of(self._uuid).extents.power_lost |= power
        self._node.crash(power=power)

    async def _moment(self) -> str:
        """Wait for the instant at which the life is to end; what it is."""
        rng = self._rng
        wait_s = rng.uniform(0.2, 1.0) * _LIFE_S
        kind = rng.choice(("time", "answer", "answer", "change", "write"))
        if kind == "time":
            await asyncio.sleep(wait_s)
            return "in time"
        await asyncio.sleep(wait_s / 2)
        if kind == "write":
            self._node.disk.faults.crash_in = rng.choice(_FILES)
            self._node.disk.faults.crash_after = rng.choice((0, 1, 5))
            await asyncio.sleep(wait_s / 2)
            return "in a write"
        name = f"{rng.choice(_ENDS)} done" if kind == "answer" else rng.choice(_FILES)
        match = _named(name) if kind == "answer" else _changing(name)
        try:
            async with asyncio.timeout(wait_s):
                await self._events.wait(match, rng.choice((1, 1, 2, 5)))
        except TimeoutError:
            return "in time"
        return f"at {name!r}"

    async def _serve(self, env: Env, ended: asyncio.Future[None]) -> None:
        """What the device's process does."""
        try:
            await self._use(
                await self._auditor.open(NODE, env, PATH, self._settings, cluster_id=_CLUSTER)
            )
        except Exception as error:
            if self._over:
                raise  # the world ends, and with it whatever was suspended
            self._account.violated("a device alone", traced(error))
        ended.set_result(None)

    async def _use(self, device: Device) -> None:
        """Have everything asked of it; in the last life for a while, and then nothing."""
        self._opened = True
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                group.create_task(self._work(client, device, group))
        await asyncio.sleep(_REST_S)

    async def _work(self, client: Client, device: Device, group: asyncio.TaskGroup) -> None:
        loop, rng = asyncio.get_running_loop(), self._rng
        end = loop.time() + _LIFE_S / 2
        while not self._resting or loop.time() < end:
            with suppress(PinfoldError):
                await client(device, group)
            await asyncio.sleep(rng.expovariate(1 / _PAUSE_S))


def _named(name: str) -> Callable[[Event], bool]:
    return lambda event: event.name == name


def _changing(part: str) -> Callable[[Event], bool]:
    return lambda event: event.name.startswith("change ") and part in event.name


def _settings(rng: random.Random) -> DeviceSettings:
    """Limits that are crossed in every life."""
    segment = rng.choice((32 * KIB, 64 * KIB, 128 * KIB))
    return DeviceSettings(
        index_engine="ordered",
        segment_bytes=segment,
        batch_bytes=rng.choice((8 * KIB, 64 * KIB)),
        inline_bytes=rng.choice((4 * KIB, 256 * KIB)),
        kick_bytes=rng.choice((4 * KIB, 64 * KIB)),
        journal_retain_bytes=rng.choice((0, 64 * KIB)),
        unapplied_bytes=rng.choice((1, 4)) * segment,
        apply_bytes=rng.choice((4 * KIB, 64 * KIB)),
        apply_interval_s=rng.choice((0.002, 0.01, 0.05)),
        log_tail_bytes=rng.choice((2 * KIB, 64 * KIB)),
        pack_bytes=rng.choice((24 * KIB, 48 * KIB)),
        compact_interval_s=rng.choice((0.005, 0.02)),
        open_packs=2,
        read_lanes=rng.choice((1, 2)),
        reserve_bytes=64 * KIB,
    )
