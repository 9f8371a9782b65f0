"""Two gateways and one volume: each writes as if the volume were its own.

What ordinary clients do to each other once in a while, on purpose and at close quarters: a volume
is taken by force from a holder with requests on their way, and it is taken from a holder that has
gone on without one of the members.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from pinfold.cluster.map import METADATA
from pinfold.model.ids import VolumeId
from pinfold.model.limits import EXTENT_BYTES
from pinfold.sim.inspection import group_status, volume_row
from pinfold.sim.plan import BLOCK
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads.bench import Bench
from pinfold.sim.workloads.volumes import read_blocks, seize, settle
from pinfold.volumes.io import FLUSH, WRITE
from pinfold.volumes.row import place_of
from pinfold_ring import Ring

_PAUSE_S: Final = 0.4
"""Mean pause between two contests."""

_LATE: Final = 2
"""Writes of the first side that arrive when the second has taken over."""

_ARRIVES_S: Final = 0.02
"""In this time what is not kept back has arrived, mostly."""

_QUIET_S: Final = 0.3
"""In this time an idle volume's members are told that all is flushed."""

_PATIENCE_S: Final = 2.0
"""A side whose request takes longer has lost: this is enough to put a silent member out."""


async def rivals(bench: Bench, client: str) -> None:
    """Contend for a volume until the run stops."""
    rng = bench.rng(client)
    place = _placement(bench)
    while not bench.stopping:
        await asyncio.sleep(rng.expovariate(1 / _PAUSE_S))
        contest = _Contest(bench, client, rng, place)
        bench.account.count("contest")
        kinds = (contest.by_force, contest.unheard, contest.behind_a_member)
        await rng.choice(kinds)()


def _placement(bench: Bench) -> Callable[[str, int], list[str]]:
    """Says which nodes hold a block of a volume; made while the whole cluster is up."""
    cluster = bench.cluster
    placement = next(iter(cluster.gateways.values())).clients.extent_placement
    ids = {volume: VolumeId(volume_row(cluster, volume).id) for volume in bench.volumes}
    nodes = {device.id: device.node for device in cluster.map.devices}

    def place(volume: str, block: int) -> list[str]:
        members = placement.members(ids[volume], block * BLOCK // EXTENT_BYTES)
        return [nodes[device] for device in members]

    return place


class _Contest:
    def __init__(
        self,
        bench: Bench,
        client: str,
        rng: random.Random,
        place: Callable[[str, int], list[str]],
    ) -> None:
        self._bench = bench
        self._client = client
        self._rng = rng
        self._volume = bench.volumes[0]
        first = rng.choice(bench.disks[self._volume].cells[:-2])
        self._blocks = (first, first + 1)
        self._one, self._other = rng.sample(bench.plan.front, 2)
        members = place(self._volume, first)
        self._members = rng.sample(members, len(members))

    async def by_force(self) -> None:
        """The second takes the volume while the first has writes on their way to a member.

        They arrive when the second has written, and must be refused.
        """
        if not await self._take(self._one):
            return
        late = self._rng.choice(self._members)
        self._cut(self._one, late)
        try:
            async with asyncio.TaskGroup() as sides:
                for _ in range(_LATE):
                    sides.create_task(self._write(self._one))
                await asyncio.sleep(self._rng.uniform(0.0, 0.05))
                await self._take(self._other)
                self._mend(self._one, late)
        finally:
            self._mend(self._one, late)
        await self._read_of_all(self._other)

    async def unheard(self) -> None:
        """The second takes the volume while the first does not hear from the row of it.

        Then a write of the second is on its way to a member, and the first reads of all. Only when
        the second has reached them all: of others the first may read until its trust ends, and who
        forces a volume says that there is no first any more.
        """
        if not await self._take(self._one):
            return
        await self._settle_down(self._one)  # a flush would tell it, too
        primary = self._primary()
        late = self._rng.choice(self._members)
        self._cut(self._one, primary, both=True)
        try:
            if not await self._take(self._other) or self._out():
                return
            self._cut(self._other, late)
            async with asyncio.TaskGroup() as sides:
                sides.create_task(self._write(self._other))
                await asyncio.sleep(_ARRIVES_S)
                await self._read_of_all(self._one)
                self._mend(self._other, late)
        finally:
            self._mend(self._one, primary)
            self._mend(self._other, late)

    async def behind_a_member(self) -> None:
        """The first does not reach a member and goes on without it; the second reaches it."""
        if not await self._take(self._one):
            return
        await self._settle_down(self._one)
        away = self._rng.choice(self._members)
        self._cut(self._one, away, both=True)
        try:
            await self._write(self._one)
            await self._settle_down(self._one)
            await seize(self._bench, self._client, self._other, self._volume)
        finally:
            self._mend(self._one, away)
        await self._read_of_all(self._other)

    def _out(self) -> bool:
        """Whether a device is out of sync by the volume's row."""
        return bool(volume_row(self._bench.cluster, self._volume).out)

    def _primary(self) -> str:
        """A node that leads the group of the volume's row, or any."""
        cluster = self._bench.cluster
        ring = Ring.from_bytes(cluster.map.rings[METADATA].table)
        group = ring.partition(place_of(self._volume))
        for one in group_status(cluster):
            if one["group"] == group and one["role"] == "serving":
                return next(d.node for d in cluster.map.devices if d.id == one["device"])
        return self._rng.choice(self._bench.plan.storage)

    def _cut(self, one: str, other: str, *, both: bool = False) -> None:
        self._bench.account.tell("net", f"cut {one} {'<->' if both else '->'} {other}")
        self._bench.cluster.world.net.cut(one, other, both=both)

    def _mend(self, one: str, *others: str) -> None:
        for other in others:
            self._bench.cluster.world.net.mend(one, other)
        self._bench.account.tell("net", f"mended {one}, {', '.join(others)}")

    async def _take(self, gateway: str) -> bool:
        """Take the volume by force and write to it; whether that was answered."""
        await seize(self._bench, self._client, gateway, self._volume)
        return await self._write(gateway)

    async def _write(self, gateway: str) -> bool:
        bench, client = self._bench, f"{self._client} at {gateway}"
        pairs = [bench.new_value(self._client, BLOCK) for _ in self._blocks]
        payload = b"".join(content for _, content in pairs)
        call = bench.recorder.begin_disk(
            client,
            "write",
            gateway=bench.cluster.life(gateway),
            volume=self._volume,
            block=self._blocks[0],
            tokens=[token for token, _ in pairs],
        )

        async def request(process: GatewayProcess) -> bool:
            start = self._blocks[0] * BLOCK
            await process.guests.do(
                self._client, self._volume, WRITE, start, len(payload), payload=payload
            )
            return True

        what = f"write {self._volume} {self._blocks[0]}+{len(pairs)}"
        asked = bench.ask(client, gateway, what, request, _PATIENCE_S)
        return await settle(bench, call, client, what, asked) is not None

    async def _read(self, gateway: str) -> bool:
        client = f"{self._client} at {gateway}"
        first, count = self._blocks[0], len(self._blocks)
        return await read_blocks(
            self._bench, client, gateway, self._volume, first, count, _PATIENCE_S
        )

    async def _read_of_all(self, gateway: str) -> None:
        """Read of every member: a gateway asks one, and another where that one is silent."""
        silent = self._members[1:]
        going = await self._read(gateway)
        try:
            for name in silent:
                if going:
                    self._cut(gateway, name)
                    going = await self._read(gateway)
        finally:
            self._mend(gateway, *silent)
        if going:
            await self._read(gateway)

    async def _settle_down(self, gateway: str) -> None:
        """Flush, and have the members hear that everything is stable."""
        await self._flush(gateway)
        await asyncio.sleep(_QUIET_S)

    async def _flush(self, gateway: str) -> bool:
        bench, client = self._bench, f"{self._client} at {gateway}"
        call = bench.recorder.begin_disk(
            client, "flush", gateway=bench.cluster.life(gateway), volume=self._volume
        )

        async def request(process: GatewayProcess) -> bool:
            await process.guests.do(self._client, self._volume, FLUSH, 0, 0)
            return True

        what = f"flush {self._volume}"
        asked = bench.ask(client, gateway, what, request, _PATIENCE_S)
        return await settle(bench, call, client, what, asked) is not None
