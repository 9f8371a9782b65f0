"""Faults of processes and machines: killed, without power, stopped, with clocks that are wrong."""

import asyncio
from typing import Final

from pinfold.sim.checkers.history import DiskOperation, Operation
from pinfold.sim.faults.stage import Stage

_OF_OBJECTS: Final = frozenset(("put", "copy", "delete", "complete"))
_OF_VOLUMES: Final = frozenset(("flush",))
"""What a client may rely on from the instant at which it hears of it."""

_UNFLUSHED: Final = frozenset(("write",))
"""What a client may rely on while the gateway lives."""

_FILES: Final = ("", "", "/journal/", "/packs/", "/arena/", "/index", "superblock")
"""Parts of paths: the files in whose changes a machine may lose power."""

_SOON_KILLED: Final = 0.3
"""How often all processes are killed soon after one machine had no power."""

_STOP_S: Final = 15.0
"""Patience with a process that was asked to end."""

_MONTH_S: Final = 30 * 86_400.0

_ANSWER_S: Final = 3.0
"""How long such an instant is waited for."""


async def crash(stage: Stage) -> None:
    """A process is killed, or its machine with it; it is back after a while."""
    name = stage.any_node().name
    stage.cluster.crash(name, power=stage.rng.random() < 0.5)
    await stage.back_after(name, 0.05, 3.0)


async def lose_power(stage: Stage) -> None:
    """A machine falls silent: peers have to notice by themselves."""
    name = stage.storage_node().name
    stage.cluster.crash(name, silent=True)
    await stage.back_after(name, 0.5, 4.0)


async def cut_power(stage: Stage) -> None:
    """Everything loses its power in the same instant and starts again, one node after the other."""
    stage.account.tell("world", "a power cut of everything")
    for name in stage.cluster.names:
        stage.cluster.crash(name, silent=True)
    await stage.wait(0.0, 2.0)
    names = list(stage.cluster.names)
    stage.rng.shuffle(names)
    for name in names:
        stage.cluster.start(name)
        await stage.wait(0.0, 0.3)


async def kill_all(stage: Stage) -> None:
    """Every process is killed in the same instant; page caches stay, heaps are gone."""
    stage.account.tell("world", "everything is killed")
    for name in stage.cluster.names:
        stage.cluster.crash(name, power=False)
    await stage.wait(0.0, 1.0)
    for name in stage.cluster.names:
        stage.cluster.start(name)


async def kill_at_answer(stage: Stage) -> None:
    """Everything is killed just as a write of a volume, or a change, is answered."""
    if await _answered(stage, _OF_OBJECTS | _OF_VOLUMES | _UNFLUSHED):
        await kill_all(stage)


async def stop(stage: Stage) -> None:
    """A process ends as it is asked to: it takes no more work, flushes and closes."""
    name = stage.any_node().name
    stage.account.tell(name, "is stopped gracefully")
    await stage.cluster.stop(name, patience_s=_STOP_S)
    await stage.back_after(name, 0.0, 1.0)


async def cut_at_answer(stage: Stage) -> None:
    """Power is lost, here or everywhere, just as a client hears that its change is safe."""
    kinds = _OF_OBJECTS
    if stage.cluster.plan.volume_clients and stage.rng.random() < 0.5:
        kinds = _OF_VOLUMES
    if not await _answered(stage, kinds):
        return
    if stage.rng.random() < 0.3:
        await lose_power(stage)
    else:
        await cut_power(stage)


async def blink(stage: Stage) -> None:
    """A machine loses its power just as a volume's write is answered, and is back at once.

    Sooner than anybody gives it up: what it had taken and not flushed has to come again. Or it
    never does: every process is killed before, and others have it in the caches of their kernels.
    """
    if not await _answered(stage, _UNFLUSHED):
        return
    name = stage.storage_node().name
    stage.cluster.crash(name)
    await stage.back_after(name, 0.0, 0.1)
    if stage.rng.random() < _SOON_KILLED:
        await stage.wait(0.0, 0.05)
        await kill_all(stage)


async def _answered(stage: Stage, kinds: frozenset[str]) -> bool:
    """Wait for the instant at which a client hears of one of these; whether it has come."""
    recorder = stage.cluster.recorder
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look(ended: Operation | DiskOperation) -> None:
        if ended.kind in kinds and not answered.done():
            answered.set_result(None)

    recorder.listeners.append(look)
    try:
        async with asyncio.timeout(_ANSWER_S):
            await answered
    except TimeoutError:
        return False
    finally:
        recorder.listeners.remove(look)
    return True


async def freeze(stage: Stage) -> None:
    """A process is stopped, as by SIGSTOP, for up to a minute; mostly far less."""
    node = stage.any_node()
    process = node.process
    if process is None or process.frozen:
        return
    stage.account.tell(node.name, "is frozen")
    node.freeze()
    await stage.wait(0.05, 60.0 if stage.rng.random() < 0.1 else 6.0)
    if node.process is process:
        node.thaw()
        stage.account.tell(node.name, "goes on")


async def jump_clock(stage: Stage) -> None:
    """A wall clock jumps, by seconds or by hours: within the 12 h that may lie between clocks."""
    node = stage.any_node()
    by = stage.rng.choice((2.0, 600.0, 6 * 3600.0))
    node.skew_s = stage.rng.uniform(-by, by) / 2
    stage.account.tell(node.name, f"has a wall clock that is wrong by {node.skew_s:.1f} s")


async def mistake_day(stage: Stage) -> None:
    """The victim's node takes the day for one a month away; nobody else's clock is so wrong."""
    node = stage.world.node(stage.victim.node)
    by_s = stage.rng.choice((-_MONTH_S, _MONTH_S, _MONTH_S))
    node.skew_s += by_s
    stage.account.tell(node.name, f"has a wall clock that is wrong by {by_s / 86_400:.0f} days")
    try:
        await stage.wait(0.5, 6.0)
    finally:
        node.skew_s = 0.0


async def crash_in_write(stage: Stage) -> None:
    """A machine loses power between two changes of its disk, or in one; of some files, perhaps."""
    node = stage.storage_node()
    if not node.alive or node.disk.faults.crash_after >= 0:
        return
    node.disk.faults.crash_in = stage.rng.choice(_FILES)
    node.disk.faults.crash_after = stage.rng.choice((0, 1, 2, 5, 20, 100))
    life = stage.cluster.lives[node.name]
    await stage.wait(0.2, 2.0)
    if stage.cluster.lives[node.name] == life:
        node.disk.faults.crash_after = -1
        stage.cluster.start(node.name)
