"""Which shards to split, and going on with splits: one worker in every process that serves objects.

A shard grows and is busy only through such processes, so what each of them changed is all that need
be looked at. Several workers may find the same shard, or the same split lying: the steps of
`splitting` are taken once whoever takes them, and one that was overtaken leaves the split alone
until its next pass. A split whose process died is gone on with by any process that reads the
bucket's row, at the latest when a name it is moving is asked for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

import structlog

from pinfold.cluster.api import Counter
from pinfold.env.api import Clock
from pinfold.model.errors import PinfoldError
from pinfold.model.settings import ObjectSettings
from pinfold.objects.bucket import NoSuchBucket
from pinfold.objects.buckets import Buckets
from pinfold.objects.shards import Shard
from pinfold.objects.splitting import EVERYTHING, Overtaken, Step

_log: Final = structlog.get_logger("pinfold.objects")

SAMPLES: Final = 63
"""Names of a shard's changes that are kept: their median halves the traffic well enough."""

SHARDS_MAX: Final = 10_000
"""Shards whose changes are counted between two looks; of more some wait for the next."""


@dataclass(slots=True)
class Load:
    """What this process did to one shard since it was last looked at."""

    bucket: str
    changes: int = 0
    names: list[bytes] = field(default_factory=list)
    """A fair sample of the names changed."""


@dataclass(frozen=True, slots=True)
class Goal:
    """How much a shard is to give, as `SplitRecord` says it."""

    until: bytes
    rows: int


class Loads:
    """Counts changes by shard."""

    def __init__(self, rng: Random) -> None:
        # Which names are kept is no secret, and the system's generator is a call into the kernel.
        self._rng = Random(rng.getrandbits(64))
        self._loads: dict[bytes, Load] = {}

    def note(self, shard: Shard, name: bytes) -> None:
        """A name of a shard was changed."""
        load = self._loads.get(shard.id)
        if load is None:
            if len(self._loads) == SHARDS_MAX:
                return
            load = self._loads[shard.id] = Load(shard.bucket)
        load.changes += 1
        if len(load.names) < SAMPLES:
            load.names.append(name)
        elif self._rng.random() * load.changes < SAMPLES:
            load.names[self._rng.randrange(SAMPLES)] = name

    def take(self) -> dict[bytes, Load]:
        """All loads since the last call, by shard."""
        loads, self._loads = self._loads, {}
        return loads


def goal_of(
    shard: Shard, load: Load, counter: Counter, elapsed_s: float, settings: ObjectSettings
) -> Goal | None:
    """Whether a shard is to be split, and how."""
    if counter.rows > settings.shard_rows_max:
        return Goal(b"", counter.rows // 2)
    if load.changes <= settings.shard_changes_per_s_max * elapsed_s:
        return None
    names = sorted(load.names)
    middle = names[len(names) // 2]
    if middle <= shard.first or middle == names[0]:
        above = [name for name in names if name > max(shard.first, names[0])]
        if not above:
            return None  # one name: no split divides it
        middle = above[0]
    return Goal(middle, EVERYTHING)


class Splitter:
    """`run` ends only by cancellation. `on_done` hears of every split that ended here."""

    def __init__(
        self,
        clock: Clock,
        buckets: Buckets,
        loads: Loads,
        settings: ObjectSettings,
        *,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_done = on_done
        self._clock = clock
        self._buckets = buckets
        self._loads = loads
        self._settings = settings
        self._looked_at = clock.monotonic()

    async def run(self) -> None:
        """Look, split, pause, for ever."""
        while True:
            await asyncio.sleep(self._settings.split_interval_s)
            await self.pass_once()

    async def pass_once(self) -> int:
        """Split what has become too large or too busy, and go on with what lies; steps taken."""
        now = self._clock.monotonic()
        elapsed_s = max(now - self._looked_at, self._settings.split_interval_s)
        self._looked_at = now
        steps = 0
        for shard, load in self._loads.take().items():
            try:
                await self._look(shard, load, elapsed_s)
            except NoSuchBucket:
                continue
            except PinfoldError as error:
                _log.info("shard not looked at", bucket=load.bucket, reason=error.message)
        for name in self._buckets.splitting():
            try:
                steps += await self._go_on(name)
            except Overtaken:
                continue
            except PinfoldError as error:
                _log.info("split waits", bucket=name, reason=error.message)
        return steps

    async def _look(self, shard: bytes, load: Load, elapsed_s: float) -> None:
        """Begin to split a shard if it needs to be."""
        bucket = await self._buckets.get(load.bucket)
        if bucket.split is not None or bucket.deleting:
            return
        known = await self._buckets.shard_now(bucket, load.names[0])
        if known is None or known.id != shard:
            return
        counter = await self._buckets.count(known)
        goal = goal_of(known, load, counter, elapsed_s, self._settings)
        if goal is None:
            return
        if await self._buckets.mover.begin(known, until=goal.until, rows=goal.rows):
            _log.info("split begins", bucket=bucket.name, shard=shard.hex(), objects=counter.rows)
            await self._buckets.get(bucket.name)

    async def _go_on(self, name: str) -> int:
        """Take the steps of a bucket's split until it is done; how many. Overtaken."""
        steps, last = 0, None
        while (step := await self._buckets.mover.step(name)) is not None:
            steps, last = steps + 1, step
        await self._buckets.get(name)
        if last is Step.FINISH:
            self._on_done()
            _log.info("split done", bucket=name, steps=steps)
        return steps
