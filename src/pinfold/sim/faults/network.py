"""Faults of the network: cut one way or both, slow, with resets in the middle of frames."""

from pinfold.sim.faults.stage import Stage


async def cut(stage: Stage) -> None:
    """Two nodes do not hear each other, or only one does not hear the other."""
    one, other = stage.pair()
    both = stage.rng.random() < 0.5
    stage.account.tell("net", f"cut {one} {'<->' if both else '->'} {other}")
    stage.world.net.cut(one, other, both=both)
    await stage.wait(0.1, 5.0)
    stage.world.net.mend(one, other)
    stage.account.tell("net", f"mended {one}, {other}")


async def isolate(stage: Stage) -> None:
    """A node, or a part of all nodes, hears none of the others."""
    names = stage.cluster.names
    part = stage.rng.sample(names, stage.rng.choice((1, 1, 2)))
    if stage.cluster.plan.calm:
        part = [stage.storage_node().name]
    stage.account.tell("net", f"isolated {', '.join(part)}")
    for name in part:
        stage.world.net.isolate(name, [other for other in names if other not in part])
    await stage.wait(0.2, 6.0)
    for name in part:
        for other in names:
            stage.world.net.mend(name, other)
    stage.account.tell("net", f"joined {', '.join(part)}")


async def strand(stage: Stage) -> None:
    """A node that leads groups is cut off together with a gateway: who asks there asks the past."""
    leaders = [
        name for name, process in stage.cluster.storage.items() if process.role.status()["groups"]
    ]
    if not leaders:
        return
    part = [stage.rng.choice(sorted(leaders)), stage.rng.choice(stage.cluster.plan.front)]
    stage.account.tell("net", f"stranded {', '.join(part)}")
    for name in part:
        others = [other for other in stage.cluster.names if other not in part]
        stage.world.net.isolate(name, others)
    await stage.wait(4.0, 7.0)  # the others elect, and clients find out
    for name in part:
        for other in stage.cluster.names:
            stage.world.net.mend(name, other)
    stage.account.tell("net", f"joined {', '.join(part)}")


async def reset(stage: Stage) -> None:
    """Connections break, wherever in a frame they are."""
    one, other = stage.pair()
    stage.world.net.reset(one, other)
    stage.account.tell("net", f"reset {one} - {other}")


async def corrupt(stage: Stage) -> None:
    """Bits flip on the way, and nothing below notices."""
    faults = stage.world.net.faults
    faults.corrupt_chance = stage.rng.choice((0.001, 0.01))
    stage.account.tell("net", f"flips bits: {faults.corrupt_chance}")
    await stage.wait(0.5, 3.0)
    faults.corrupt_chance = 0.0
    stage.account.tell("net", "flips no bits")


async def slow(stage: Stage) -> None:
    """Deliveries take longer, some far longer; connections break and are dialled twice."""
    faults, rng = stage.world.net.faults, stage.rng
    faults.latency_s = rng.choice(((0.0001, 0.001), (0.001, 0.02), (0.01, 0.1)))
    faults.spike_chance = rng.choice((0.0, 0.01, 0.1))
    faults.spike_s = rng.choice((0.05, 0.3, 1.2))
    faults.reset_chance = rng.choice((0.0, 0.0005, 0.005))
    faults.ghost_chance = rng.choice((0.0, 0.3))
    stage.account.tell("net", f"is bad: {faults}")
    await stage.wait(0.5, 5.0)
    calm = type(faults)()
    for name in ("latency_s", "spike_chance", "spike_s", "reset_chance", "ghost_chance"):
        setattr(faults, name, getattr(calm, name))
    stage.account.tell("net", "is good again")
