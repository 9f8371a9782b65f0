"""Random work under random faults: members die, hang, lose connections and bits, holders die.

Rarer ones are played apart: one member forgets all that it had, several have no room.

A run is a seed. Whatever happens, a block never goes back (`history`), a finished flush survives a
power cut of everything, and in the end the volume heals: all members in sync, equal and clean.
"""

import asyncio
import random

import pytest

from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Full, PinfoldError
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from tests.twins.virtual import run_virtual
from tests.volumes.history import History, Written
from tests.volumes.world import Client, Gateway, World

PER_EXTENT = EXTENT_BYTES // BLOCK_BYTES
BLOCKS = [extent * PER_EXTENT + block for extent in range(4) for block in (0, 1, 2, 9)]
"""Few, so that operations meet; in four extents, so that routes and copies do."""

WORKERS = 6
FAULTS = 14
SETTINGS = VolumeSettings(
    retained_bytes=1 << 20, retained_s=1.0, window_bytes=64 << 10, batches_max=3
)


class Chaos:
    """One seed's run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        spread = seed % 3 == 0
        self.world = World(seed, devices=5 if spread else 3, spread=spread, settings=SETTINGS)
        self.history = History()
        self.gateway: Gateway | None = None
        self.scope = TaskScope(self.failed)
        self.faulty: dict[int, str] = {}
        self.problem: BaseException | None = None
        self.done = 0

    def failed(self, error: BaseException) -> None:
        if not isinstance(error, PinfoldError):
            self.problem = self.problem or error

    def client(self) -> Client:
        assert self.gateway is not None
        return Client(self.gateway.session)

    # Work

    async def worker(self) -> None:
        client = self.client()
        while True:
            await asyncio.sleep(self.rng.expovariate(60))
            choice = self.rng.random()
            block = self.rng.choice(BLOCKS)
            if choice < 0.45:
                await self.read(client, block)
            elif choice < 0.9:
                await self.write(client, block)
            else:
                await self.flush(client)
            self.done += 1

    async def read(self, client: Client, block: int) -> None:
        floor = self.history.begin_read(block)
        found = await client.read(block * BLOCK_BYTES, BLOCK_BYTES)
        self.history.end_read(block, floor, decode(found))

    async def write(self, client: Client, block: int) -> None:
        fua = self.rng.random() < 0.1
        value = self.history.value()
        written = self.history.begin_write(block, value)
        await client.write(block * BLOCK_BYTES, encode(value), fua=fua)
        self.history.end_write(block, written)
        if fua:
            self.history.end_flush([written])

    async def flush(self, client: Client) -> None:
        covered: list[Written] = self.history.begin_flush()
        await client.flush()
        self.history.end_flush(covered)

    # Faults

    async def fault(self) -> None:
        assert self.gateway is not None
        world, rng = self.world, self.rng
        number = rng.randrange(len(world.nodes))
        node = world.nodes[number]
        kind = rng.choice(["kill", "kill", "cut", "cut", "hang", "slow", "rot", "holder", "power"])
        if kind == "cut" and node.up:
            self.gateway.network.cut(node, deliver=rng.randint(0, 6))
        elif kind == "kill" and node.up:
            world.kill(self.gateway, number, deliver=rng.randint(0, 6))
            self.later(rng.choice([0.05, 0.5, 4.0]), self.revive, number)
        elif kind == "hang" and node.up and not node.hung:
            node.hung = True
            self.later(rng.choice([0.3, 2.0, 6.0]), self.thaw, number)
        elif kind == "slow":
            node.latency = rng.choice([0.0002, 0.002, 0.05])
        elif kind == "rot" and self.may_rot(number):
            block = rng.choice(BLOCKS)
            world.devices[number].extents.corrupt.add(divmod(block, PER_EXTENT))
        elif kind == "holder":
            await self.change_holder(power_cut=False)
        elif kind == "power":
            await self.change_holder(power_cut=True)

    def may_rot(self, number: int) -> bool:
        return not any(device.extents.corrupt for device in self.world.devices)

    def later(self, delay: float, action, number: int) -> None:  # type: ignore[no-untyped-def]
        async def act() -> None:
            await asyncio.sleep(delay)
            action(number)

        self.scope.start(act())

    def revive(self, number: int) -> None:
        if not self.world.nodes[number].up:
            self.world.start(number)

    def thaw(self, number: int) -> None:
        node = self.world.nodes[number]
        if node.hung:
            assert self.gateway is not None
            node.hung = False
            self.gateway.network.cut(node, deliver=self.rng.randint(0, 6))

    async def change_holder(self, *, power_cut: bool) -> None:
        assert self.gateway is not None
        await self.stop_work()
        for node in self.world.nodes:
            self.gateway.network.cut(node, deliver=self.rng.randint(0, 8))
        await self.gateway.die()
        if power_cut:
            for number, node in enumerate(self.world.nodes):
                if node.up:
                    self.world.kill(self.gateway, number)
            for number in range(len(self.world.nodes)):
                self.world.start(number)
        if power_cut or await self.memory_lost():
            self.history.power_cut()
        self.begin_work()

    async def memory_lost(self) -> bool:
        """Whether some extent has no member that kept its memory, now that the holder is gone."""
        row = await self.world.row()
        whole = {
            number
            for number, device in enumerate(self.world.devices)
            if self.world.nodes[number].up
            and number not in row.out
            and all(boots.get(number) == device.boot for boots in row.trust.values())
            and row.trust
        }
        return any(not whole & set(members) for members in self.world.placement.member_sets())

    # Course

    def begin_work(self) -> None:
        self.gateway = self.world.gateway()
        self.work = TaskScope(self.failed)
        for _ in range(WORKERS):
            self.work.start(self.worker())

    async def stop_work(self) -> None:
        await self.work.close()

    async def run(self) -> None:
        await self.world.create()
        self.begin_work()
        for _ in range(FAULTS):
            await asyncio.sleep(self.rng.choice([0.01, 0.2, 1.0, 3.0]))
            await self.fault()
            if self.problem is not None:
                break
        await self.heal()
        if self.problem is not None:
            raise self.problem

    async def heal(self) -> None:
        world = self.world
        await asyncio.sleep(10)
        assert self.gateway is not None
        for number, node in enumerate(world.nodes):
            node.hung = False
            node.latency = 0.0002
            if not node.up:
                world.start(number)
        before = self.done
        async with asyncio.timeout(120):
            await world.in_sync()
            while self.done < before + 50 and self.problem is None:  # noqa: ASYNC110 - virtual
                await asyncio.sleep(1)
        await self.stop_work()
        await self.scope.close()
        assert self.gateway.lost is None, self.gateway.lost
        client = self.client()
        for block in BLOCKS:
            await self.read(client, block)
        await self.gateway.session.close(deadline=world.env.clock.monotonic() + 60)
        await asyncio.sleep(1)  # what was told last is still on its way
        row = await world.row()
        assert row.holder is None
        self.compare(row.id)

    def compare(self, volume: bytes) -> None:
        world = self.world
        for extent in range(4):
            members = world.placement.members(volume, extent)  # type: ignore[arg-type]
            contents = {
                world.devices[d].extents.content(volume, extent * EXTENT_BYTES, EXTENT_BYTES)
                for d in members
            }
            assert len(contents) == 1, f"members of extent {extent} differ"
        for device in world.devices:
            assert not device.extents.dirty(volume)


def encode(value: int) -> bytes:
    return value.to_bytes(8, "big") * (BLOCK_BYTES // 8)


def decode(found: bytes) -> int:
    value = int.from_bytes(found[:8], "big")
    assert found == encode(value), "a torn block"
    return value


class RarerChaos(Chaos):
    """The same with one member that forgets, and members without room."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.forgetful = self.rng.randrange(len(self.world.devices))
        """The only one, and the only one that rots: one device may be lost, no more."""

    async def write(self, client: Client, block: int) -> None:
        value = self.history.value()
        written = self.history.begin_write(block, value)
        try:
            await client.write(block * BLOCK_BYTES, encode(value))
        except Full:
            self.history.refused_write(block, value)
        else:
            self.history.end_write(block, written)

    async def fault(self) -> None:
        assert self.gateway is not None
        world, rng, choice = self.world, self.rng, self.rng.random()
        if choice < 0.2 and world.nodes[self.forgetful].up:
            world.kill(self.gateway, self.forgetful, deliver=rng.randint(0, 6))
            world.devices[self.forgetful].extents.forget()
            self.later(rng.choice([0.01, 0.5, 4.0]), self.revive, self.forgetful)
        elif choice < 0.4:
            for number in rng.sample(range(len(world.devices)), rng.randint(1, 3)):
                began = rng.choice([0.0, 0.01, 0.1])
                self.later(began, self.fill, number)
                self.later(began + rng.choice([0.05, 0.3, 2.0, 5.0]), self.empty, number)
        else:
            await super().fault()

    def may_rot(self, number: int) -> bool:
        return number == self.forgetful and super().may_rot(number)

    def compare(self, volume: bytes) -> None:
        super().compare(volume)
        forgetful = self.world.devices[self.forgetful].extents
        assert not forgetful.claimed_lost(volume)  # type: ignore[arg-type]

    def fill(self, number: int) -> None:
        self.world.devices[number].extents.full = True

    def empty(self, number: int) -> None:
        self.world.devices[number].extents.full = False


FOUND = (178, 285, 420)
"""Seeds that found a bug: a flush answered for a predecessor's unflushed writes, and a member that
lost its memory while extents were unsettled and was still believed."""


@pytest.mark.parametrize("seed", [*range(9), *FOUND])
def test_a_volume_behaves_as_a_disk(seed: int) -> None:
    async def run() -> None:
        async with asyncio.timeout(900):
            await Chaos(seed).run()

    run_virtual(run)


@pytest.mark.parametrize("seed", range(7))
def test_a_volume_outlives_a_member_that_forgets_and_members_without_room(seed: int) -> None:
    async def run() -> None:
        async with asyncio.timeout(900):
            await RarerChaos(seed).run()

    run_virtual(run)
