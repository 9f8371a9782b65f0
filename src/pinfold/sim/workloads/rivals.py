"""Two gateways and one volume: each writes as if the volume were its own.

What ordinary clients do to each other once in a while, on purpose and at close quarters: a volume
is taken from a holder with requests on their way, from one that has gone on without a member, and
from one that ends together with a member, or with a write that only one has.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from pinfold.cluster.map import METADATA
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import VolumeId
from pinfold.model.limits import EXTENT_BYTES
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.events import Event
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

_READ_S: Final = 0.1
"""Between two reads of one that may have lost the volume."""

_READS: Final = 20

_AT_ONCE: Final = 4
"""Writes by which a member falls behind that does not hear of them."""

_FALLS_BEHIND: Final = 0.5
"""How likely it does not."""

_COMES_BACK: Final = 25
"""Looks at a member until it should be back."""

_FLUSHES: Final = 15
"""Some before all is settled, some after."""

_QUIET_S: Final = 0.3
"""In this time an idle volume's members are told that all is flushed."""

_PATIENCE_S: Final = 2.0
"""A side whose request takes longer has lost: this is enough to put a silent member out."""

_TAKES_OVER_S: Final = 8.0
"""Longer than it takes until a silent holder has lost the volume."""


async def rivals(bench: Bench, client: str) -> None:
    """Contend for a volume until the run stops."""
    rng = bench.rng(client)
    place = _placement(bench)
    while not bench.stopping:
        await asyncio.sleep(rng.expovariate(1 / _PAUSE_S))
        contest = _Contest(bench, client, rng, place)
        kinds = [contest.by_force, contest.unheard, contest.behind_a_member]
        kinds += [contest.coming_back, contest.late_confirmation]
        if not bench.plan.calm:
            kinds += [contest.dying_with_a_member, contest.known_to_one]
        kind = rng.choice(kinds)
        bench.account.count(f"contest {kind.__name__}")
        await kind()


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

    async def coming_back(self) -> None:
        """A member that was put out comes back, slowly, while the first goes on writing."""
        if not await self._take(self._one):
            return
        away = self._rng.choice(self._members)
        self._cut(self._one, away, both=True)
        try:
            await self._write(self._one)
            self._mend(self._one, away)
            cells = self._bench.disks[self._volume].cells
            for _ in range(_COMES_BACK):
                if not self._out() or self._bench.stopping:
                    break
                if self._rng.random() < _FALLS_BEHIND:
                    self._cut(self._one, away)
                async with asyncio.TaskGroup() as sides:
                    firsts = self._rng.sample(cells[:-1:2], _AT_ONCE)
                    writes = [
                        sides.create_task(self._write(self._one, first=first)) for first in firsts
                    ]
                    await asyncio.sleep(_ARRIVES_S)
                self._mend(self._one, away)
                if not all(write.result() for write in writes):
                    break
                await asyncio.sleep(_READ_S)
        finally:
            self._mend(self._one, away)
        await self._read_of_all(self._one)

    async def late_confirmation(self) -> None:
        """The first hears late that the row was confirmed, and then nothing more of it.

        The second waits for it to be silent, and takes the volume while clients of the first read.
        """
        if not await self._take(self._one):
            return
        bench, primary = self._bench, self._primary()
        self._cut(primary, self._one)
        try:
            async with asyncio.TaskGroup() as sides:
                sides.create_task(self._write(self._other, patience_s=_TAKES_OVER_S))
                await asyncio.sleep(self._rng.uniform(1.0, 2.8))
                self._mend(primary, self._one)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ARRIVES_S):
                        await bench.cluster.events.wait(self._is_confirmed, 1)
                self._cut(self._one, primary, both=True)
                for _ in range(_READS):
                    await asyncio.sleep(_READ_S)
                    if self._bench.stopping or not await self._read(self._one):
                        break
        finally:
            self._mend(self._one, primary)
        await self._read_of_all(self._other)

    def _is_confirmed(self, event: Event) -> bool:
        return event.name == "rows volume confirmed done" and event.node == self._one

    async def dying_with_a_member(self) -> None:
        """The first and a member of it end as writes are answered; the second flushes at once."""
        if not await self._take(self._one):
            return
        cluster = self._bench.cluster
        lost = self._rng.choice(self._members)
        await self._write(self._one)
        cluster.crash(self._one, power=False)
        cluster.crash(lost)
        cluster.start(lost)
        async with asyncio.TaskGroup() as sides:
            sides.create_task(self._take(self._other))
            for _ in range(_FLUSHES):
                await asyncio.sleep(_ARRIVES_S)
                sides.create_task(self._flush_unseen(self._other))
        cluster.start(self._one)
        await self._read_of_all(self._other)

    async def known_to_one(self) -> None:
        """The first ends with a write on one member only, which the second goes on without."""
        if not await self._take(self._one):
            return
        await self._settle_down(self._one)
        cluster, alone = self._bench.cluster, self._members[0]
        for name in self._members[1:]:
            self._cut(self._one, name)
        try:
            async with asyncio.TaskGroup() as sides:
                sides.create_task(self._write(self._one))
                await asyncio.sleep(_ARRIVES_S)
                cluster.crash(self._one, power=False)
            self._cut(self._other, alone, both=True)
            await seize(self._bench, self._client, self._other, self._volume)
            await self._flush(self._other)
        finally:
            self._mend(self._one, *self._members[1:])
            self._mend(self._other, alone)
            cluster.start(self._one)
        for _ in range(_COMES_BACK):
            if not self._out() or self._bench.stopping:
                break
            await asyncio.sleep(_READ_S)
        await self._read_of_all(self._other)

    def _out(self) -> bool:
        """Whether a device is out of sync by the volume's row."""
        return self._bench.cluster.auditor.volumes.out_of_sync(self._volume)

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

    async def _write(
        self, gateway: str, *, first: int = -1, patience_s: float = _PATIENCE_S
    ) -> bool:
        bench, client = self._bench, f"{self._client} at {gateway}"
        first = self._blocks[0] if first < 0 else first
        pairs = [bench.new_value(self._client, BLOCK) for _ in self._blocks]
        payload = b"".join(content for _, content in pairs)
        call = bench.recorder.begin_disk(
            client,
            "write",
            gateway=bench.cluster.life(gateway),
            volume=self._volume,
            block=first,
            tokens=[token for token, _ in pairs],
        )

        async def request(process: GatewayProcess) -> bool:
            start = first * BLOCK
            await process.guests.do(
                self._client, self._volume, WRITE, start, len(payload), payload=payload
            )
            return True

        what = f"write {self._volume} {first}+{len(pairs)}"
        asked = bench.ask(client, gateway, what, request, patience_s)
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

    async def _flush_unseen(self, gateway: str) -> None:
        """One that histories do not know, since many at once are hard to search; auditors do."""

        async def request(process: GatewayProcess) -> None:
            await process.guests.do(self._client, self._volume, FLUSH, 0, 0)

        with contextlib.suppress(PinfoldError, Down, ProcessDied, TimeoutError):
            await self._bench.ask(self._client, gateway, "flush", request, _PATIENCE_S)

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
