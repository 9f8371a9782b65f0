"""Sessions under faults, in virtual time: what is lost, how soon it is noticed, what comes back."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pinfold.env.api import Env
from pinfold.model.errors import DeadlineExceeded, PinfoldError, Unavailable
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import Answer, Reply, Request
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity, Keyring
from pinfold.rpc.limits import RpcLimits
from pinfold.rpc.peers import PeerTable
from pinfold.sim.world import SimNode, World

A, B = NodeName("a"), NodeName("b")
ADDRESSES = {A: "tcp://a:1", B: "tcp://b:1"}


class RpcNode:
    """A node that speaks rpc, and what happened to it."""

    def __init__(self, world: World, name: NodeName, limits: RpcLimits | None = None) -> None:
        self.world = world
        self.name = name
        self.node: SimNode = world.node(name)
        self.limits = limits
        self.boots = 0
        self.told: list[tuple[float, NodeName, bool, Boot]] = []
        self.epochs: list[tuple[NodeName, int]] = []
        self.served: list[object] = []
        self.held: list[asyncio.Future[Reply]] = []
        self.table: PeerTable

    async def start(self) -> None:
        self.boots += 1
        await self.node.start(self._main)

    async def _main(self, env: Env) -> None:
        operations = Operations()
        operations.bind("echo", self._echo)
        operations.bind("hold", self._hold)
        identity = Identity(
            node=self.name, boot=Boot(self.boots), cluster=b"c", keyring=Keyring.of(b"s")
        )
        self.table = PeerTable(env, identity, operations, limits=self.limits)
        self.table.watch(
            lambda node, up, boot: self.told.append((self.world.loop.now, node, up, boot))
        )
        self.table.watch_epochs(lambda node, epoch: self.epochs.append((node, epoch)))
        await self.table.listen(ADDRESSES[self.name])
        self.table.set_addresses(ADDRESSES)

    def _echo(self, request: Request) -> Reply:
        self.served.append(request.body)
        return Reply([request.body, request.deadline], (request.payload,))

    def _hold(self, request: Request) -> asyncio.Future[Reply]:
        self.held.append(asyncio.get_running_loop().create_future())
        return self.held[-1]

    async def call(
        self, target: NodeName, operation: str, body: object = None, payload: bytes = b"payload"
    ) -> Answer:
        """Call with five seconds of patience, on this node."""

        async def work() -> Answer:
            deadline = asyncio.get_running_loop().time() + 5
            return await self.table.call(target, operation, body, [payload], deadline=deadline)

        return await self.node.spawn(work)


Scenario = Callable[[World, RpcNode, RpcNode], Awaitable[None]]


def run(seed: int, scenario: Scenario, limits: RpcLimits | None = None) -> str:
    with World(seed) as world:
        a, b = RpcNode(world, A, limits), RpcNode(world, B, limits)

        async def whole() -> None:
            await a.start()
            await b.start()
            await asyncio.sleep(2)
            assert a.table.connected(B)
            assert b.table.connected(A)
            await scenario(world, a, b)

        world.run(whole())
        return world.trace.digest()


seeds = pytest.mark.parametrize("seed", range(8))


@seeds
def test_a_deadline_is_carried_as_remaining_time(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        answer = await a.call(B, "echo", 1)
        remaining = answer.body[1] - b.node.env.clock.monotonic()
        assert 4.9 < remaining <= 5.1  # on b's clock, which has another base

    run(seed, scenario)


@seeds
def test_a_stopped_peer_is_noticed_in_about_a_second(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        frozen_at = world.loop.now
        b.node.freeze()
        with pytest.raises(Unavailable, match="nothing heard"):
            await a.call(B, "echo")
        assert world.loop.now - frozen_at < 1.4
        assert not a.table.connected(B)
        await asyncio.sleep(10)
        b.node.thaw()
        await asyncio.sleep(2)
        assert a.table.connected(B)
        assert b.table.connected(A)

    run(seed, scenario)


@seeds
def test_a_short_stall_loses_nothing(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        for node in (a, b):
            node.node.freeze()
            await asyncio.sleep(0.6)
            node.node.thaw()
            await asyncio.sleep(1)
        assert [up for _, _, up, _ in a.told + b.told] == [True, True]

    run(seed, scenario)


@seeds
def test_a_crashed_peer_is_noticed_at_once_and_met_again_with_a_higher_boot(seed: int) -> None:
    async def with_call(world: World, a: RpcNode, b: RpcNode) -> None:
        async def held() -> str:
            deadline = asyncio.get_running_loop().time() + 60
            try:
                await a.table.call(B, "hold", deadline=deadline)
            except PinfoldError as error:
                return type(error).__name__
            return "answered"

        call = a.node.spawn(held)
        await asyncio.sleep(0.1)
        b.node.crash()
        assert await call == "Unavailable"

    run(seed, with_call)
    run(seed, met_again)


async def met_again(world: World, a: RpcNode, b: RpcNode) -> None:
    crashed_at = world.loop.now
    b.node.crash()
    await asyncio.sleep(3)
    assert a.told[-1][1:] == (B, False, 1)
    assert a.told[-1][0] - crashed_at < 0.01
    restarted_at = world.loop.now
    await b.start()
    await asyncio.sleep(2)
    assert a.told[-1][1:] == (B, True, 2)
    assert a.told[-1][0] - restarted_at < 1.1  # the longest back-off
    assert (await a.call(B, "echo", 7)).body[0] == 7


@seeds
def test_lost_power_is_noticed_in_about_a_second(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        crashed_at = world.loop.now
        b.node.crash(silent=True)
        await asyncio.sleep(3)
        assert a.told[-1][2] is False
        assert a.told[-1][0] - crashed_at < 1.4

    run(seed, scenario)


@seeds
def test_a_one_way_cut_ends_both_directions_and_heals(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        world.net.cut("a", "b", both=False)
        await asyncio.sleep(3)
        assert not b.table.connected(A)
        assert not a.table.connected(B)
        world.net.heal()
        await asyncio.sleep(3)
        assert a.table.connected(B)
        assert b.table.connected(A)

    run(seed, scenario)


@seeds
def test_deadlines_pass_on_time(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        started_at = world.loop.now
        with pytest.raises(DeadlineExceeded):
            await a.call(B, "hold")
        assert 4.9 < world.loop.now - started_at < 5.2
        b.held[0].set_result(Reply())  # an answer that nobody awaits any more
        await asyncio.sleep(1)
        assert (await a.call(B, "echo", 1)).body[0] == 1

    run(seed, scenario)


@seeds
@pytest.mark.parametrize(
    "limits", [RpcLimits(held_requests=5), RpcLimits(held_requests=9, held_bytes=5000)]
)
def test_a_peer_that_reads_nothing_more_is_kept_by_its_beats(seed: int, limits: RpcLimits) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        calls = []
        for _ in range(20):
            calls.append(a.node.spawn(lambda: a.call(B, "hold")))
            await asyncio.sleep(0.05)
        await asyncio.sleep(3)
        assert len(b.held) == limits.held_requests + 1
        assert a.table.connected(B)
        while any(not call.done() for call in calls):
            for future in b.held:
                if not future.done():
                    future.set_result(Reply())
            await asyncio.sleep(0.01)
        for call in calls:
            await call

    run(seed, scenario, limits)


@seeds
def test_epochs_are_heard_when_they_change(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        a.table.set_epoch(3)
        await asyncio.sleep(1)
        assert (A, 3) in b.epochs
        assert len(b.epochs) <= 6

    run(seed, scenario)


@seeds
def test_a_peer_removed_from_the_map_is_let_go(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        async def remove() -> None:
            a.table.set_addresses({A: ADDRESSES[A]})

        await a.node.spawn(remove)
        await asyncio.sleep(1)
        assert not a.table.connected(B)
        assert a.told[-1][1:3] == (B, False)
        assert b.table.connected(A)
        with pytest.raises(Unavailable):
            await a.call(B, "echo")

    run(seed, scenario)


@pytest.mark.parametrize("seed", range(25))
def test_calls_under_random_faults_are_answered_right_or_fail(seed: int) -> None:
    """Every call ends, an answer is the call's own, and no request is served twice."""

    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        faults = world.net.faults
        faults.reset_chance, faults.spike_chance = 0.005, 0.02
        outcomes: list[str] = []

        async def client(n: int) -> None:
            for m in range(20):
                try:
                    answer = await a.call(B, "echo", f"{n}.{m}")
                    assert answer.body[0] == f"{n}.{m}"
                    assert bytes(answer.payload) == b"payload"
                    outcomes.append("ok")
                except Unavailable:
                    outcomes.append("lost")
                await asyncio.sleep(world.rng.random() * 0.3)

        async def weather() -> None:
            for _ in range(6):
                await asyncio.sleep(world.rng.random())
                match world.rng.randrange(4):
                    case 0:
                        world.net.cut("a", "b", both=False)
                    case 1:
                        b.node.crash(silent=world.rng.random() < 0.5)
                        await asyncio.sleep(world.rng.random())
                        await b.start()
                    case 2:
                        b.node.freeze()
                        await asyncio.sleep(2 * world.rng.random())
                        b.node.thaw()
                    case _:
                        world.net.heal()

        async with asyncio.TaskGroup() as group:
            group.create_task(weather())
            for n in range(5):
                group.create_task(client(n))
        assert len(outcomes) == 100
        assert len(b.served) == len(set(map(str, b.served)))
        faults.reset_chance = faults.spike_chance = 0.0
        world.net.heal()
        await asyncio.sleep(4)
        assert (await a.call(B, "echo", "healed")).body[0] == "healed"

    if seed < 5:
        assert run(seed, scenario) == run(seed, scenario)
    else:
        run(seed, scenario)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_change_on_the_way_reach_nobody_and_the_session_comes_back(seed: int) -> None:
    async def scenario(world: World, a: RpcNode, b: RpcNode) -> None:
        outcomes: list[bool] = []

        async def client(n: int) -> None:
            for m in range(30):
                payload = world.rng.randbytes(world.rng.choice((1, 4096, 100_000)))
                try:
                    answer = await a.call(B, "echo", f"{n}.{m}", payload)
                    assert answer.body[0] == f"{n}.{m}"
                    assert bytes(answer.payload) == payload
                    outcomes.append(True)
                except Unavailable:
                    outcomes.append(False)
                await asyncio.sleep(0.3)

        world.net.faults.corrupt_chance = 0.02
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(client(n))
        assert any(outcomes)
        assert not all(outcomes)
        world.net.faults.corrupt_chance = 0.0
        await asyncio.sleep(10)
        assert (await a.call(B, "echo", "healed")).body[0] == "healed"

    run(seed, scenario)
