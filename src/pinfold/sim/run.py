"""One seed, from its plan to its verdict.

    a device alone
    found and fill the cluster -> safety: faults and clients -> heal -> converge -> read everything
    -> lose all power once more and open every device

Each phase is bounded in virtual time and the whole in CPU time; what does not end is a violation,
with an account of who waits for what. Equal seeds give equal results, trace included.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from pinfold.env.tasks import TaskScope
from pinfold.sim import workloads
from pinfold.sim.account import Account, Line, Violation
from pinfold.sim.alone.life import live_alone
from pinfold.sim.checkers.history import History, Recorder
from pinfold.sim.cluster import SimCluster
from pinfold.sim.convergence import converge, reopen
from pinfold.sim.faults import FAULTS
from pinfold.sim.faults.stage import Stage
from pinfold.sim.logs import told_to, traced
from pinfold.sim.loop import Deadlock
from pinfold.sim.plan import Plan, make_plan
from pinfold.sim.redundancy import redundant
from pinfold.sim.verdict import judge
from pinfold.sim.waits import who_waits
from pinfold.sim.weather import Weather
from pinfold.sim.workloads.bench import Bench
from pinfold.sim.workloads.final import prepare, read_everything
from pinfold.sim.world import World

FOUND_S: Final = 40.0
"""Virtual seconds within which an unharmed cluster serves."""

CLIENTS_S: Final = 40.0
"""Virtual seconds within which the clients' last calls end after healing."""

CONVERGE_S: Final = 180.0
"""Virtual seconds within which a healed cluster is whole again: a copy that has failed often is
tried again after a minute."""

READ_S: Final = 60.0
"""Virtual seconds within which everything is read."""

REPAIR_S: Final = 60.0
"""Virtual seconds within which every blob has all its copies, none of them rotten."""

CPU_S: Final = 120.0
"""CPU seconds of a whole run, some hundred times what it takes. Machines may be busy or sleep."""


@dataclass(slots=True)
class Result:
    """What came out of a run."""

    plan: Plan
    trace: str = ""
    events: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    timeline: list[Line] = field(default_factory=list)
    history: History = field(default_factory=History)
    trace_lines: list[str] = field(default_factory=list)


def run_seed(
    seed: int,
    *,
    keep_trace: int = 0,
    plan: Plan | None = None,
    events: dict[str, int] | None = None,
) -> Result:
    """Run one seed. `plan`: another plan than the seed's own, for directed tests. `events` is
    told how often what `sim.events` tells of has happened.
    """
    plan = plan or make_plan(seed)
    started = time.monotonic()
    alone, alone_trace = live_alone(seed)
    world = World(seed, keep_trace=keep_trace)
    account = Account(lambda: world.loop.now)
    with told_to(account), world:
        run = _Run(world, plan, account)
        run.cluster.events.counts = events
        world.loop.cpu_end = time.process_time() + CPU_S
        run.play()
        told = alone if alone.violations else account
        first = told.violations[0].when if told.violations else world.loop.now
        result = Result(
            plan=plan,
            trace=alone_trace + world.trace.digest(),
            events=world.trace.count,
            virtual_s=world.loop.now,
            violations=alone.violations + account.violations,
            counts=dict(sorted(account.counts.items())),
            timeline=told.around(first) if told.violations else [],
            history=run.recorder.history(),
            trace_lines=list(world.trace.lines),
        )
    result.real_s = time.monotonic() - started
    return result


class _Run:
    def __init__(self, world: World, plan: Plan, account: Account) -> None:
        self._world = world
        self._plan = plan
        self._account = account
        self.recorder = Recorder(lambda: world.loop.now)
        self.cluster = SimCluster(world, plan, account, self.recorder)
        self._bench = Bench(self.cluster)
        self._phase = "found"

    def play(self) -> None:
        """All phases; whatever ends them early is a violation."""
        limit_s = FOUND_S + self._plan.safety_s + CLIENTS_S + CONVERGE_S + REPAIR_S
        limit_s += 2 * READ_S + 100
        try:
            self._world.run(self._scenario(), limit_s=limit_s)
        except (Deadlock, TimeoutError) as error:
            self._hung(repr(error))
        except _Hung:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed has found it
            self._account.violated("exception", f"in {self._phase}: {traced(error)}")

    async def _scenario(self) -> None:
        cluster, bench = self.cluster, self._bench
        await self._within(FOUND_S, "found", self._begin)
        stage = Stage(cluster)
        weather = Weather(cluster, stage)
        pauses = {name: (FAULTS[name], pause) for name, pause in self._plan.faults.items()}
        scope = TaskScope(self._client_failed)
        clients = [scope.start(work, name=n) for n, work in workloads.start(bench).items()]
        scope.start(weather.watch(), name="weather")
        self._phase = "safety"
        stage.play(pauses)
        await asyncio.sleep(self._plan.safety_s)
        bench.stopping = True
        await stage.heal()

        async def clients_end() -> None:
            for client in clients:
                await client

        await self._within(CLIENTS_S, "clients end", clients_end)
        await scope.close()
        weather.end()
        await self._within(CONVERGE_S, "converge", lambda: converge(bench, stage))
        await self._within(READ_S, "read everything", lambda: read_everything(bench))
        await self._within(REPAIR_S, "repair", lambda: redundant(bench))
        await self._within(READ_S, "reopen", lambda: reopen(bench))
        self._phase = "judge"
        judge(bench, stage)

    async def _begin(self) -> None:
        await self.cluster.found()
        await prepare(self._bench)

    async def _within(
        self, seconds: float, phase: str, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._phase = phase
        self._account.tell("world", f"phase: {phase}")
        try:
            async with asyncio.timeout(seconds):
                await work()
        except TimeoutError:
            self._hung(f"not done within {seconds:.0f} s")
            raise _Hung from None

    def _hung(self, why: str) -> None:
        waits = who_waits(self._world, self._bench)
        self._account.violated(f"hang in {self._phase}", "\n".join([why, *waits]))

    def _client_failed(self, error: BaseException) -> None:
        self._account.violated("simulator", f"a client failed: {traced(error)}")


class _Hung(Exception):
    """A phase did not end; it has been told."""
