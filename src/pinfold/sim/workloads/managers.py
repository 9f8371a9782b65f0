"""Somebody who makes volumes, uses them a little, resizes and deletes them, and begins again.

Every life of the one name is a volume of its own in the history, so what an earlier life left
would be read as bytes that nobody wrote to this one.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pinfold.model.errors import Conflict, NotFound, PinfoldError
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.plan import BLOCK
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads.bench import Bench
from pinfold.sim.workloads.volumes import release, settle
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE

NAME: Final = "spare"

_SIZES: Final = (128 << 10, 6 << 20, 1 << 40)

_PATIENCE_S: Final = 8.0

_AGAIN_S: Final = 0.3
"""Between attempts at what has to be done in the end."""

_REST_S: Final = 2.0
"""Longest time for which a volume is left alone."""


async def manager(bench: Bench, client: str) -> None:
    """One life after the other, until the run stops."""
    rng = bench.rng(client)
    life = 0
    while not bench.stopping:
        life += 1
        await _Life(bench, client, rng, f"{NAME}.{life}").run()


class _Life:
    def __init__(self, bench: Bench, client: str, rng: random.Random, recorded: str) -> None:
        self._bench = bench
        self._client = client
        self._rng = rng
        self._recorded = recorded
        self._size = rng.choice(_SIZES)
        self._written: set[int] = set()
        self._used = ""
        """The gateway that served last."""

    async def run(self) -> None:
        made = await self._do(
            "create", lambda process: process.sessions.registry.create(NAME, self._size), Conflict
        )
        if not made:
            return
        for _ in range(self._rng.randrange(4)):
            if self._bench.stopping:
                return
            await self._use()
            step = self._rng.choice((self._rest, self._grow, self._shrink, self._give_back))
            await step()
        await self._do(
            "delete", lambda process: process.sessions.registry.delete(NAME, force=True), NotFound
        )

    async def _do(
        self,
        what: str,
        work: Callable[[GatewayProcess], Coroutine[Any, Any, Any]],
        done_already: type[PinfoldError],
    ) -> bool:
        """Ask until it is done, whoever did it; whether the run still goes on."""
        bench = self._bench
        while not bench.stopping:
            gateway = self._rng.choice(bench.plan.front)
            try:
                await bench.ask(self._client, gateway, f"{what} {NAME}", work, _PATIENCE_S)
            except done_already:
                pass
            except (PinfoldError, Down, ProcessDied, TimeoutError) as error:
                bench.account.tell(self._client, f"{what} {self._recorded}: {error!r}")
                await asyncio.sleep(_AGAIN_S)
                continue
            bench.account.tell(self._client, f"{what} {self._recorded} ok")
            bench.account.count(f"volume {what} ok")
            return True
        return False

    async def _rest(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, _REST_S))

    async def _grow(self) -> None:
        await self._resize(self._size + self._rng.choice((BLOCK, 1 << 20)))

    async def _shrink(self) -> None:
        """What was cut off is zeroes when it is shown again, however soon that is."""
        before = self._size
        smaller = self._rng.choice((BLOCK, 2 * BLOCK, before - BLOCK))
        calls = [
            self._bench.recorder.begin_disk(
                self._client,
                "write",
                gateway="the row",
                volume=self._recorded,
                block=cell,
                tokens=[""],
                fua=True,
            )
            for cell in sorted(self._written)
            if cell >= smaller // BLOCK
        ]
        shrunk = await self._resize(smaller)
        for call in calls:
            if shrunk:
                call.done()
            else:
                call.lost("unknown")
        if shrunk and self._rng.random() < 0.7:
            await self._resize(before)

    async def _resize(self, size: int) -> bool:
        """Have the size changed, and every gateway forget what its clients were told."""
        done = await self._do(
            "resize",
            lambda process: process.sessions.registry.resize(NAME, size, force=True),
            NotFound,
        )
        if done:
            self._size = size
            await self._give_back()
        return done

    async def _give_back(self) -> None:
        for gateway in self._bench.plan.front:
            await release(self._bench, self._client, gateway, NAME)

    def _cells(self) -> list[int]:
        """Blocks at both ends of what the volume is now."""
        total = self._size // BLOCK
        return sorted({cell for cell in (0, 1, 2, total - 2, total - 1) if 0 <= cell < total})

    async def _use(self) -> None:
        gateway = self._rng.choice(self._bench.plan.front)
        if self._used not in ("", gateway):  # who has a client keeps the lease, rightly for ever
            await release(self._bench, self._client, self._used, NAME)
        self._used = gateway
        for _ in range(self._rng.randrange(1, 6)):
            if self._bench.stopping:
                return
            cell = self._rng.choice(self._cells())
            kind = self._rng.choice((WRITE, WRITE, TRIM, FLUSH, READ, READ))
            if kind == READ:
                await self._read(gateway, cell)
            else:
                await self._change(gateway, kind, cell)

    async def _change(self, gateway: str, kind: int, cell: int) -> None:
        bench, payload, tokens = self._bench, b"", [""]
        if kind == WRITE:
            token, payload = bench.new_value(self._client, BLOCK)
            tokens = [token]
            self._written.add(cell)
        call = bench.recorder.begin_disk(
            self._client,
            "flush" if kind == FLUSH else "write",
            gateway=bench.cluster.life(gateway),
            volume=self._recorded,
            block=cell,
            tokens=() if kind == FLUSH else tokens,
        )
        offset, length = (0, 0) if kind == FLUSH else (cell * BLOCK, BLOCK)

        async def request(process: GatewayProcess) -> None:
            await process.guests.do(self._client, NAME, kind, offset, length, payload=payload)

        what = f"change {self._recorded} {cell}"
        asked = bench.ask(self._client, gateway, what, request, _PATIENCE_S)
        await settle(bench, call, self._client, what, asked)

    async def _read(self, gateway: str, cell: int) -> None:
        bench = self._bench
        call = bench.recorder.begin_disk(
            self._client,
            "read",
            gateway=bench.cluster.life(gateway),
            volume=self._recorded,
            block=cell,
        )

        async def request(process: GatewayProcess) -> bytes:
            parts = await process.guests.do(self._client, NAME, READ, cell * BLOCK, BLOCK)
            return b"".join(parts)

        what = f"read {self._recorded} {cell}"
        asked = bench.ask(self._client, gateway, what, request, _PATIENCE_S)
        content = await settle(bench, call, self._client, what, asked)
        if content is not None:
            call.done(tokens=[bench.token_of(content) if any(content) else ""])
