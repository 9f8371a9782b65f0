"""Clients of volumes: writes, zeroes, trims, flushes, forced unit access, reads, takeovers."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pinfold.model.errors import Conflict, PinfoldError
from pinfold.sim.checkers.history import DiskCall
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.plan import BLOCK
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads.bench import Bench
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE, ZERO

_PAUSE_S: Final = 0.08
"""Mean pause between a client's requests."""

_PATIENCE_S: Final = 6.0
"""A guest waits longer; but a client that takes a volume over should not wait for ever."""

_ZEROES: Final = bytes(BLOCK)

BLOCKS_USED: Final = 24
"""Blocks that clients touch: few, so that they are written again and again."""


async def create_volume(gateway: GatewayProcess, name: str, size: int) -> None:
    """Make a volume, or find that an earlier attempt has."""
    try:
        await gateway.sessions.registry.create(name, size)
    except Conflict:
        return


def blocks_of(bench: Bench) -> list[int]:
    """The blocks that clients touch: at both ends of the volume, around its extents' borders."""
    total = bench.plan.volume_bytes // BLOCK
    middle = total // 2
    spread = [*range(8), *range(middle - 4, middle + 4), *range(total - 8, total)]
    return spread[:BLOCKS_USED]


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
        self._blocks = blocks_of(bench)

    async def run(self) -> None:
        calls: dict[Callable[[], Coroutine[Any, Any, None]], float] = {
            self._write: 6,
            self._clear: 1,
            self._read: 4,
            self._flush: 2,
            self._move: 0.4,
        }
        while not self._bench.stopping:
            await asyncio.sleep(self._rng.expovariate(1 / _PAUSE_S))
            (call,) = self._rng.choices(list(calls), list(calls.values()))
            await call()

    def _run_of_blocks(self) -> tuple[int, int]:
        """A first block and how many."""
        first = self._rng.choice(self._blocks)
        count = self._rng.choice((1, 1, 2, 4))
        end = first
        while end < first + count and end in self._blocks:
            end += 1
        return first, end - first

    async def _write(self) -> None:
        first, count = self._run_of_blocks()
        pairs = [self._bench.new_value(self._client, BLOCK) for _ in range(count)]
        payload = b"".join(content for _, content in pairs)
        fua = self._rng.random() < 0.15
        call = self._begin("write", first, [token for token, _ in pairs], fua=fua)
        await self._do(call, WRITE, first * BLOCK, payload=payload, fua=fua)

    async def _clear(self) -> None:
        first, count = self._run_of_blocks()
        kind = self._rng.choice((TRIM, ZERO))
        call = self._begin("write", first, [""] * count)
        await self._do(call, kind, first * BLOCK, length=count * BLOCK)

    async def _read(self) -> None:
        first, count = self._run_of_blocks()
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
        bench, how = self._bench, self._rng.random()
        if how < 0.5:
            await release(bench, self._client, self._gateway, self._volume)
        self._gateway = self._rng.choice(bench.plan.front)
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
        client, volume = self._client, self._volume
        what = f"{_NAMES[kind]} {volume} {offset // BLOCK}+{length // BLOCK}"

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

    async def request(process: GatewayProcess) -> bytes:
        parts = await process.guests.do(client, volume, READ, first * BLOCK, count * BLOCK)
        return b"".join(parts)

    content = await settle(
        bench, call, client, what, bench.ask(client, gateway, what, request, patience_s)
    )
    if content is None:
        return False
    pieces = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    tokens = ["" if piece == _ZEROES else bench.token_of(piece) for piece in pieces]
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
        await process.sessions.seize(volume)

    try:
        await bench.ask(client, gateway, f"seize {volume}", request, _PATIENCE_S)
    except (Down, ProcessDied, TimeoutError, PinfoldError):
        return
