"""Clients of volumes: writes, zeroes, trims, flushes, forced unit access, reads, takeovers."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from pinfold.model.errors import Conflict, PinfoldError
from pinfold.sim.checkers.history import DiskCall
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads.bench import Bench
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE, ZERO

_PAUSE_S: Final = 0.08
"""Mean pause between a client's requests."""

_PATIENCE_S: Final = 6.0
"""A guest waits longer; but a client that takes a volume over should not wait for ever."""


async def create_volume(gateway: GatewayProcess, name: str, size: int) -> None:
    """Make a volume, or find that an earlier attempt has."""
    try:
        await gateway.sessions.registry.create(name, size)
    except Conflict:
        return


async def volume_client(bench: Bench, client: str) -> None:
    """One user of a volume, through one gateway at a time."""
    await _VolumeClient(bench, client).run()


class _VolumeClient:
    def __init__(self, bench: Bench, client: str) -> None:
        self._bench = bench
        self._client = client
        self._rng: random.Random = bench.rng(client)
        self._gateway = self._rng.choice(bench.plan.front)
        self._volume = self._rng.choice(bench.volumes)
        self._disk = bench.disks[self._volume]

    async def run(self) -> None:
        """As many requests at once as the plan says, on one connection."""
        async with asyncio.TaskGroup() as group:
            for lane in range(self._bench.plan.depth):
                group.create_task(self._one_after_the_other(lane))

    async def _one_after_the_other(self, lane: int) -> None:
        """Each on cells of its own, if they are many: orders of equals are hard to search."""
        share = len(self._disk.cells) // self._bench.plan.depth
        cells = self._disk.cells[lane * share : (lane + 1) * share]
        calls: dict[Callable[[], Coroutine[Any, Any, None]], float] = {
            partial(self._write, cells): 6,
            partial(self._clear, cells): 1,
            partial(self._read, cells): 4,
            self._flush: 2,
            self._move: 0.4 / self._bench.plan.depth,
        }
        while not self._bench.stopping:
            await asyncio.sleep(self._rng.expovariate(1 / _PAUSE_S))
            (call,) = self._rng.choices(list(calls), list(calls.values()))
            await call()

    def _run_of(self, cells: list[int]) -> tuple[int, int]:
        """A first cell and how many."""
        first = self._rng.choice(cells)
        count = self._rng.choice((1, 1, 2, 4))
        end = first
        while end < first + count and end in cells:
            end += 1
        return first, end - first

    async def _write(self, cells: list[int]) -> None:
        first, count = self._run_of(cells)
        pairs = [self._bench.new_value(self._client, self._disk.unit) for _ in range(count)]
        payload = b"".join(content for _, content in pairs)
        fua = self._rng.random() < 0.15
        call = self._begin("write", first, [token for token, _ in pairs], fua=fua)
        await self._do(call, WRITE, first * self._disk.unit, payload=payload, fua=fua)

    async def _clear(self, cells: list[int]) -> None:
        first, count = self._run_of(cells)
        kind = self._rng.choice((TRIM, ZERO))
        call = self._begin("write", first, [""] * count)
        await self._do(call, kind, first * self._disk.unit, length=count * self._disk.unit)

    async def _read(self, cells: list[int]) -> None:
        first, count = self._run_of(cells)
        await read_blocks(
            self._bench, self._client, self._gateway, self._volume, first, count, _PATIENCE_S
        )

    async def _flush(self) -> None:
        call = self._bench.recorder.begin_disk(
            self._client,
            "flush",
            gateway=self._bench.cluster.life(self._gateway),
            volume=self._volume,
        )
        await self._do(call, FLUSH, 0)

    async def _move(self) -> None:
        """Go on at another gateway: the one before gives the volume back, keeps it, or loses it.

        Where it is lost, other clients may still be using it.
        """
        bench, how, before = self._bench, self._rng.random(), self._gateway
        self._gateway = self._rng.choice(bench.plan.front)
        if how < 0.5:  # from here on none of its requests goes there
            await release(bench, self._client, before, self._volume)
        bench.account.tell(self._client, f"goes to {self._gateway}")
        if how > 0.75:
            await seize(bench, self._client, self._gateway, self._volume)

    def _begin(self, kind: Any, block: int, tokens: list[str], *, fua: bool = False) -> DiskCall:
        return self._bench.recorder.begin_disk(
            self._client,
            kind,
            gateway=self._bench.cluster.life(self._gateway),
            volume=self._volume,
            block=block,
            tokens=tokens,
            fua=fua,
        )

    async def _do(
        self,
        call: DiskCall,
        kind: int,
        offset: int,
        *,
        length: int = 0,
        payload: bytes = b"",
        fua: bool = False,
    ) -> None:
        length = length or len(payload)
        client, volume, unit = self._client, self._volume, self._disk.unit
        what = f"{_NAMES[kind]} {volume} {offset // unit}+{length // unit}"

        async def request(gateway: GatewayProcess) -> None:
            await gateway.guests.do(client, volume, kind, offset, length, payload=payload, fua=fua)

        asked = self._bench.ask(self._client, self._gateway, what, request, _PATIENCE_S)
        await settle(self._bench, call, self._client, what, asked)


_NAMES: Final = {WRITE: "write", ZERO: "zero", TRIM: "trim", READ: "read", FLUSH: "flush"}


async def settle(
    bench: Bench, call: DiskCall, client: str, what: str, asked: Coroutine[Any, Any, Any]
) -> Any:
    """Await a recorded request and say how it ended; its result, or None."""
    try:
        result = await asked
    except Down:
        call.refused("down")
        outcome = "refused: down"
    except (ProcessDied, TimeoutError, PinfoldError) as error:
        call.lost(getattr(error, "code", type(error).__name__))
        outcome = f"unknown: {error!r}"
    else:
        outcome = "ok"
        if not what.startswith("read"):
            call.done()
    bench.account.tell(client, f"{what} {outcome}")
    bench.account.count(f"{what.split()[0]} {outcome.split(':')[0]}")
    return result if outcome == "ok" else None


async def read_blocks(
    bench: Bench,
    client: str,
    gateway: str,
    volume: str,
    first: int,
    count: int,
    patience_s: float,
) -> bool:
    """Read blocks, recorded; whether they came."""
    call = bench.recorder.begin_disk(
        client, "read", gateway=bench.cluster.life(gateway), volume=volume, block=first
    )
    what = f"read {volume} {first}+{count}"
    unit = bench.disks[volume].unit

    async def request(process: GatewayProcess) -> bytes:
        parts = await process.guests.do(client, volume, READ, first * unit, count * unit)
        return b"".join(parts)

    content = await settle(
        bench, call, client, what, bench.ask(client, gateway, what, request, patience_s)
    )
    if content is None:
        return False
    pieces = [content[at : at + unit] for at in range(0, len(content), unit)]
    tokens = ["" if not any(piece) else bench.token_of(piece) for piece in pieces]
    call.done(tokens=tokens)
    bench.account.tell(client, f"{what} found {' '.join(token or '0' for token in tokens)}")
    return True


async def release(bench: Bench, client: str, gateway: str, volume: str) -> None:
    """Have a gateway give a volume back, if it can."""

    async def request(process: GatewayProcess) -> None:
        await process.sessions.release(volume)

    try:
        await bench.ask(client, gateway, f"release {volume}", request)
    except (Down, ProcessDied, TimeoutError, PinfoldError):
        return


async def seize(bench: Bench, client: str, gateway: str, volume: str) -> None:
    """Have a gateway take a volume by force, if it can."""

    async def request(process: GatewayProcess) -> None:
        bench.cluster.auditor.volumes.forced(volume)
        await process.sessions.seize(volume)

    try:
        await bench.ask(client, gateway, f"seize {volume}", request, _PATIENCE_S)
    except (Down, ProcessDied, TimeoutError, PinfoldError):
        return
