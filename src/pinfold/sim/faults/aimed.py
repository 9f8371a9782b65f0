"""Faults that wait for an instant of the protocol and strike there, as BUGGIFY does.

At random a power loss hardly ever falls between a claim and its flush. Here the seed draws the
name of an event (see `sim.events`; nothing is planted in the product for it), how many of them to
let pass, and what strikes: where it happened, everywhere, or between that node and another.

To aim at more: add a name to `AIMS`, and where nobody tells of it yet, tell it in `sim.seams`,
`sim.audit` or `sim.disk`. To strike otherwise: add to `_STRIKES`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pinfold.sim.events import Event
from pinfold.sim.faults.stage import Stage

_WAIT_S: Final = 3.0
"""How long an event is waited for: many never come."""

AIMS: Final = (
    "log.append",
    "log.append done",
    "log.set_view",
    "log.set_view done",
    "log.install",
    "log.install done",
    "log.install last",
    "log.install last done",
    "blobs.put",
    "blobs.put done",
    "blobs.commit",
    "blobs.commit done",
    "blobs.delete",
    "blobs.delete done",
    "extents.claim",
    "extents.claim done",
    "extents.write",
    "extents.write done",
    "extents.flush",
    "extents.flush done",
    "extents.stable",
    "extents.restored",
    "extents.drop",
    "extents.drop done",
    "rpc extent.marks",
    "rpc extent.stable",
    "rows volume held",
    "rows volume held done",
    "rows volume put out",
    "rows volume put out done",
    "rows volume taken in",
    "rows volume taken in done",
    "rows volume given back",
    "rows volume given back done",
    "rows put bucket",
    "rows put bucket done",
    "rows delete bucket",
    "rows delete bucket done",
    "rows put note done",
    "rows put bound done",
    "rows put moved done",
    "rows put received",
    "rows put received done",
    "rows put map",
    "rows put map done",
    "rows delete name",
    "rows delete name done",
    "device opened",
    "disk journal",
    "disk packs",
    "disk arena",
    "disk index",
)
"""What a fault may be aimed at."""

_VOLUMES: Final = tuple(aim for aim in AIMS if "extent" in aim or "volume" in aim)

_BUCKETS: Final = tuple(aim for aim in AIMS if aim.startswith("rows ") and aim not in _VOLUMES)

_SPLITS: Final = tuple(
    aim for aim in _BUCKETS if any(row in aim for row in ("bound", "received", "moved", "map"))
)

_LOGS: Final = tuple(aim for aim in AIMS if aim.startswith("log."))


async def strike(stage: Stage) -> None:
    """Anything, at any of these instants."""
    await _strike_at(stage, AIMS)


async def strike_volumes(stage: Stage) -> None:
    """Anything, as a volume is claimed, written, resynchronised or put out."""
    await _strike_at(stage, _VOLUMES)


async def strike_buckets(stage: Stage) -> None:
    """Anything, as a gateway makes or deletes a bucket, splits a shard or ends an upload."""
    await _strike_at(stage, _BUCKETS)


async def strike_splits(stage: Stage) -> None:
    """Anything, between two steps of a split, or two pages of one."""
    await _strike_at(stage, _SPLITS)


async def strike_logs(stage: Stage) -> None:
    """Anything, as a group's members append, vote or copy."""
    await _strike_at(stage, _LOGS)


async def _strike_at(stage: Stage, aims: tuple[str, ...]) -> None:
    aim, nth = stage.rng.choice(aims), stage.rng.choice((1, 1, 2, 3, 7))
    event = await seen(stage, aim, nth)
    if event is None:
        return
    how = stage.rng.choice(_STRIKES)
    stage.account.count(f"struck at {aim}")
    stage.account.tell(event.node, f"is struck at the {nth}. {aim}: {how.__name__}")
    await how(stage, event.node)


async def seen(stage: Stage, aim: str, nth: int = 1) -> Event | None:
    """The n-th event of a name from now on, if it comes soon enough."""
    try:
        async with asyncio.timeout(_WAIT_S):
            return await stage.cluster.events.wait(lambda event: event.name == aim, nth)
    except TimeoutError:
        return None


async def _kill(stage: Stage, node: str) -> None:
    stage.cluster.crash(node, power=False)
    await stage.back_after(node, 0.0, 1.0)


async def _lose_power(stage: Stage, node: str) -> None:
    stage.cluster.crash(node, silent=stage.rng.random() < 0.5)
    await stage.back_after(node, 0.0, 2.0)


async def _lose_power_with_another(stage: Stage, node: str) -> None:
    """Any two at once: a holder and a member, or a primary and the only other that knows."""
    other = stage.rng.choice([name for name in stage.cluster.names if name != node])
    for name in (node, other):
        stage.cluster.crash(name, silent=True)
    await stage.back_after(other, 0.0, 1.0)
    await stage.back_after(node, 0.0, 1.0)


async def _end_all(stage: Stage, node: str) -> None:
    """All processes at once, by a kill or for want of power."""
    power = stage.rng.random() < 0.5
    for name in stage.cluster.names:
        stage.cluster.crash(name, silent=power, power=power)
    late = stage.rng.random() < 0.3
    for name in stage.cluster.names:
        if name != node or not late:
            stage.cluster.start(name)
    await stage.back_after(node, 0.0, 2.0)


async def _cut_off(stage: Stage, node: str) -> None:
    net = stage.world.net
    others = [name for name in stage.cluster.names if name != node]
    cut = others if stage.rng.random() < 0.5 else [stage.rng.choice(others)]
    for other in cut:
        net.cut(node, other, both=stage.rng.random() < 0.7)
    await stage.wait(0.2, 4.0)
    for other in cut:
        net.mend(node, other)


async def _break_off(stage: Stage, node: str) -> None:
    for other in stage.cluster.names:
        if other != node:
            stage.world.net.reset(node, other)


async def _stop(stage: Stage, node: str) -> None:
    """The process does not run for longer than others have patience."""
    process = stage.world.node(node).process
    if process is None or process.frozen:
        return
    stage.world.node(node).freeze()
    await stage.wait(0.5, 8.0)
    if stage.world.node(node).process is process:
        stage.world.node(node).thaw()


_STRIKES: Final[tuple[Callable[[Stage, str], Awaitable[None]], ...]] = (
    _kill,
    _lose_power,
    _lose_power,
    _lose_power_with_another,
    _end_all,
    _end_all,
    _cut_off,
    _break_off,
    _stop,
)
