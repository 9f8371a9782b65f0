"""A world: nodes with disks on one network and one loop, all from one seed.

    world = World(seed)
    n1 = world.node("n1")
    n1.start(main)              # main(env) is a coroutine function: the node's process
    world.run(scenario())       # the scenario stands outside of every node and may crash them

Equal seeds give equal traces (`world.trace.digest()`), provided that the code draws on nothing but
its `Env`.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pinfold.env.api import Env
from pinfold.sim.disk import SimDisk
from pinfold.sim.lane import SimLane
from pinfold.sim.loop import Process, SimLoop
from pinfold.sim.net import SimNet
from pinfold.sim.trace import Trace

T = TypeVar("T")

_EPOCH_S = 1_750_000_000.0
"""The wall clock of a world's beginning."""


class SimClock:
    """The simulated `Clock` of one process."""

    def __init__(self, loop: SimLoop, process: Process, node: "SimNode") -> None:
        self._loop = loop
        self._process = process
        self._node = node

    def monotonic(self) -> float:
        """See `Clock`; the loop's `time()` within the process."""
        return self._process.local(self._loop.now)

    def wall(self) -> float:
        """See `Clock`; wrong by the node's skew."""
        return self._node.wall()


class SimNode:
    """A machine: a disk that stays, and one process after the other."""

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self.name = name
        self.disk = SimDisk(f"{world.seed}/{name}")
        self.disk.on_crash = self.crash
        self._rng = random.Random(f"{world.seed}/{name}")
        self.skew_s = self._rng.uniform(-2.0, 2.0)
        """How wrong the wall clock is; a change is a jump."""
        self.drift = self._rng.uniform(-0.01, 0.01)
        """How wrong the monotonic clock's rate is, from the next start on."""
        self.process: Process | None = None
        self._env: Env | None = None

    def wall(self) -> float:
        """What its wall clock shows."""
        return _EPOCH_S + self.skew_s + self._world.loop.now

    @property
    def alive(self) -> bool:
        """Whether the node has a process."""
        return self.process is not None

    @property
    def env(self) -> Env:
        """The running process's world."""
        assert self._env is not None, f"{self.name} is down"
        return self._env

    def boot(self) -> Env:
        """Begin a process without any code yet; `start` and `spawn` run some in it."""
        assert self.process is None, f"{self.name} is up"
        world = self._world
        process = Process(
            self.name, base=self._rng.uniform(1_000, 1_000_000), rate=1.0 + self.drift
        )
        world.loop.adopt(process)
        world.net.rise(self.name)
        self.process = process
        rng = random.Random(self._rng.getrandbits(64))
        self._env = Env(
            clock=SimClock(world.loop, process, self),
            rng=rng,
            disk=self.disk.of(process),
            net=world.net.of(process),
            new_offload=lambda name: SimLane(name, world.loop, process, self.disk, self._rng),
        )
        return self._env

    def start(self, main: Callable[[Env], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Begin a process with `main(env)` as its first task."""
        env = self.boot()
        return self.spawn(lambda: main(env))

    def spawn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run `work()` as a task of the running process.

        Awaited from outside it never ends if the node crashes first.
        """
        assert self.process is not None, f"{self.name} is down"
        context = self.process.context.copy()
        return context.run(lambda: self._world.loop.create_task(work()))

    def crash(self, *, silent: bool = False, power: bool = True) -> None:
        """End the process between two of its steps: no code of it runs again.

        Its disk keeps what was flushed and some of the rest; without `power` lost, only the
        process was killed and the disk keeps all. Peers hear resets, or nothing with `silent`.
        """
        assert self.process is not None, f"{self.name} is down"
        process, self.process, self._env = self.process, None, None
        self._world.trace.add(self._world.loop.now, self.name, "crash")
        self._world.loop.bury(process)
        self._world.net.bury(process, silent=silent)
        if power:
            self.disk.crash()
        else:
            self.disk.restart()

    def freeze(self) -> None:
        """Stop the process as SIGSTOP would: connections stay, nothing is answered."""
        assert self.process is not None, f"{self.name} is down"
        self.process.frozen = True

    def thaw(self) -> None:
        """Let a frozen process go on."""
        assert self.process is not None, f"{self.name} is down"
        self._world.loop.thaw(self.process)


class World:
    """All of it. Close it, or use it in a `with`, so that nothing suspended outlives it."""

    def __init__(self, seed: int | str, *, keep_trace: int = 0) -> None:
        self.seed = seed
        self.trace = Trace(keep=keep_trace)
        # Abstract to the type checker: sockets, pipes and signals are left out on purpose.
        self.loop = SimLoop(seed, self.trace)  # type: ignore[abstract]
        self.net = SimNet(seed, self.loop, self.trace)
        self.rng = random.Random(f"{seed}/scenario")
        """For the scenario's own choices."""
        self.nodes: dict[str, SimNode] = {}

    def node(self, name: str) -> SimNode:
        """The node of that name, made if there is none."""
        if name not in self.nodes:
            self.nodes[name] = SimNode(self, name)
        return self.nodes[name]

    def run(self, scenario: Coroutine[Any, Any, T], *, limit_s: float = 600.0) -> T:
        """Run a scenario to its end; see `SimLoop.run` for what it raises."""
        return self.loop.run(scenario, limit_s=limit_s)

    def close(self) -> None:
        """Dissolve every process that is left."""
        for node in self.nodes.values():
            if node.process is not None:
                self.loop.bury(node.process)
        self.loop.close()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
