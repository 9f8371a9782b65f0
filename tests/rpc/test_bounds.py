"""What waits is bounded, and what waited too long is not done: rpc in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.env.api import Env
from pinfold.env.real import OsClock
from pinfold.model.errors import Busy, DeadlineExceeded, Invalid, PinfoldError
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import Answer, Reply, Request
from pinfold.rpc.caller import Caller
from pinfold.rpc.clocks import WINDOW_S, PeerClock
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import PROTOCOL_MAX, Identity, Keyring, PeerIdentity
from pinfold.rpc.limits import STREAMS, RpcLimits
from pinfold.rpc.peers import PeerTable
from pinfold.sim.world import World

A, B = NodeName("a"), NodeName("b")
ADDRESSES = {A: "tcp://a:1", B: "tcp://b:1"}


class Node:
    """Holds calls until told, and counts what it was asked to do."""

    def __init__(
        self, world: World, name: NodeName, limits: RpcLimits, protocol_max: int = PROTOCOL_MAX
    ) -> None:
        self.node = world.node(name)
        self.name = name
        self.limits = limits
        self.protocol_max = protocol_max
        self.operations = Operations()
        self.operations.bind("hold", self._hold)
        self.operations.bind("work", self._work)
        self.operations.bind("length", lambda request: Reply(len(request.body)))
        self.operations.bind_stream("sink", self._sink)
        self.held: list[asyncio.Future[Reply]] = []
        self.remaining_s: list[float] = []
        self.table: PeerTable

    async def start(self) -> None:
        await self.node.start(self._main)

    async def _main(self, env: Env) -> None:
        identity = Identity(
            node=self.name,
            boot=Boot(1),
            cluster=b"c",
            keyring=Keyring.of(b"s"),
            protocol_max=self.protocol_max,
        )
        self.table = PeerTable(env, identity, self.operations, limits=self.limits)
        await self.table.listen(ADDRESSES[self.name])
        self.table.set_addresses(ADDRESSES)

    def _hold(self, request: Request) -> asyncio.Future[Reply]:
        self.held.append(asyncio.get_running_loop().create_future())
        return self.held[-1]

    def _work(self, request: Request) -> Reply:
        self.remaining_s.append(request.deadline - self.node.env.clock.monotonic())
        return Reply(None, (bytes(request.body or 0),))

    async def _sink(self, request: Request, chunks: object) -> Reply:
        await self._hold(request)
        return Reply()

    def release(self) -> None:
        for future in self.held:
            if not future.done():
                future.set_result(Reply())

    def call(
        self, target: NodeName, operation: str, body: object = None, *, patience_s: float = 20.0
    ) -> asyncio.Task[Answer | PinfoldError]:
        async def work() -> Answer | PinfoldError:
            deadline = self.node.env.clock.monotonic() + patience_s
            try:
                return await self.table.call(target, operation, body, deadline=deadline)
            except PinfoldError as error:
                return error

        return self.node.spawn(work)


Scenario = Callable[[World, Node, Node], Awaitable[None]]


def run(
    scenario: Scenario, limits: RpcLimits, *, seed: int = 1, protocol_max: int = PROTOCOL_MAX
) -> None:
    with World(seed) as world:
        a, b = Node(world, A, limits, protocol_max), Node(world, B, limits)

        async def whole() -> None:
            await a.start()
            await b.start()
            await asyncio.sleep(2)
            await scenario(world, a, b)

        world.run(whole())


def test_calls_that_a_peer_does_not_answer_do_not_pile_up() -> None:
    async def scenario(world: World, a: Node, b: Node) -> None:
        waiting = [a.call(B, "hold") for _ in range(10)]
        await asyncio.sleep(0.1)
        assert isinstance(await a.call(B, "work"), Busy)
        b.release()
        for call in waiting:
            assert isinstance(await call, Answer)
        assert isinstance(await a.call(B, "work"), Answer)

    run(scenario, RpcLimits(calls=10))


def test_streams_within_a_node_do_not_pile_up() -> None:
    async def scenario(world: World, a: Node, b: Node) -> None:
        async def open_one() -> None:
            a.table.open(A, "sink", deadline=a.node.env.clock.monotonic() + 5)

        for _ in range(STREAMS):
            await a.node.spawn(open_one)
        with pytest.raises(Busy, match="256 streams"):
            await a.node.spawn(open_one)
        await asyncio.sleep(0.1)
        a.release()
        await asyncio.sleep(0.1)
        await a.node.spawn(open_one)
        a.release()

    run(scenario, RpcLimits())


def test_answers_that_a_peer_does_not_take_do_not_pile_up() -> None:
    async def scenario(world: World, a: Node, b: Node) -> None:
        calls = [a.call(B, "work", 20_000) for _ in range(200)]
        results = [await call for call in calls]
        refused = [result for result in results if isinstance(result, Busy)]
        assert len(refused) > 100  # one tick's requests came before the first answer could leave
        assert len(b.remaining_s) + len(refused) == 200
        assert len(b.remaining_s) * 20_000 < 300_000

    run(scenario, RpcLimits(send_bytes=100_000))


@pytest.mark.parametrize("seed", range(5))
def test_what_waited_on_the_way_until_its_deadline_is_not_done(seed: int) -> None:
    async def scenario(world: World, a: Node, b: Node) -> None:
        held = [a.call(B, "hold") for _ in range(6)]
        await asyncio.sleep(0.5)  # from now on b reads nothing
        late = [a.call(B, "work", patience_s=1.0) for _ in range(5)]
        in_time = a.call(B, "work", patience_s=10.0)
        await asyncio.sleep(3)
        for call in late:
            assert isinstance(await call, DeadlineExceeded)
        b.release()
        assert isinstance(await in_time, Answer)
        assert len(b.remaining_s) == 1
        assert 6.5 < b.remaining_s[0] <= 7.05
        assert b.operations.late == {"work": 5}
        for call in held:
            await call

    run(scenario, RpcLimits(held_requests=5), seed=seed)


def test_a_body_that_fills_a_frame_alone_arrives_also_as_the_first_call() -> None:
    with World(3) as world:
        a, b = Node(world, A, RpcLimits()), Node(world, B, RpcLimits())

        async def scenario() -> None:
            await b.start()
            await a.start()
            while not a.table.connected(B):  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(0.0001)
            answer = await a.call(B, "length", b"x" * 300_000)
            assert isinstance(answer, Answer)
            assert answer.body == 300_000

        world.run(scenario())


@pytest.mark.parametrize("protocol_max", [1, 2])
def test_a_peer_of_an_older_protocol_is_understood(protocol_max: int) -> None:
    async def scenario(world: World, a: Node, b: Node) -> None:
        await asyncio.sleep(1)
        for caller, called in ((a, b), (b, a)):
            answer = await caller.call(called.name, "work", 1000)
            assert isinstance(answer, Answer)
            assert bytes(answer.payload) == bytes(1000)
            assert 19.9 < called.remaining_s.pop() < 20.01

    run(scenario, RpcLimits(), protocol_max=protocol_max)


@given(
    base=st.floats(-1e6, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(0.001, 30)), min_size=1, max_size=50),
)
def test_a_translated_deadline_is_never_early_and_late_by_the_shortest_journey_at_most(
    base: float, steps: list[tuple[float, float]]
) -> None:
    clock, sent = PeerClock(), 0.0
    journeys: list[tuple[float, float]] = []
    arrived = 0.0
    for pause, journey in steps:
        sent += pause
        arrived = max(arrived, sent + journey)  # frames keep their order
        clock.heard(sent, arrived + base)
        journeys.append((arrived, arrived - sent))
        late = clock.ahead() - base
        assert late >= -1e-6
        recent = [took for at, took in journeys if arrived - at < WINDOW_S]
        assert late <= min(recent) + 1e-6


def test_a_deadline_needs_a_clock() -> None:
    with pytest.raises(Invalid):
        PeerClock().ahead()


def test_a_session_established_just_as_it_is_given_up_does_no_harm() -> None:
    class Session:
        tells_clock = False
        sent = 0

        def send(self, message: object) -> None:
            self.sent += 1

    async def run() -> None:
        caller = Caller(OsClock(), RpcLimits(), epoch_seen=lambda peer, epoch: None)
        caller.up.cancel()  # as a time-out of whoever awaits it does
        session = Session()
        peer = PeerIdentity(node=B, boot=Boot(1), protocol=PROTOCOL_MAX)
        caller.established(session, peer)  # type: ignore[arg-type]
        assert session.sent == 1

    asyncio.run(run())
