"""What the simulated network and dying nodes do to connections."""

import asyncio

import pytest

from pinfold.env.api import Env
from pinfold.sim.world import World

ADDRESS = "tcp://server:1"


class Ear(asyncio.Protocol):
    """Notes what it hears and when, in world time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard: list[tuple[float, bytes]] = []
        self.lost: list[tuple[float, Exception | None]] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard.append((self.world.loop.now, data))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append((self.world.loop.now, error))

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in self.heard)


class Pair:
    """A client node connected to a server node."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.server = world.node("server")
        self.client = world.node("client")
        self.at_server: list[Ear] = []
        self.at_client = Ear(world)

    async def connect(self) -> None:
        async def serve(env: Env) -> None:
            def factory() -> Ear:
                self.at_server.append(Ear(self.world))
                return self.at_server[-1]

            await env.net.listen(ADDRESS, factory)

        async def dial(env: Env) -> None:
            await env.net.connect(ADDRESS, lambda: self.at_client)

        await self.server.start(serve)
        await self.client.start(dial)
        await asyncio.sleep(0.1)

    def say(self, text: bytes) -> None:
        assert self.at_client.transport is not None
        self.at_client.transport.write(text)


@pytest.fixture(params=range(5))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(World(request.param))


def run(pair: Pair, scenario: object) -> None:
    async def whole() -> None:
        await pair.connect()
        await scenario()  # type: ignore[operator]

    with pair.world:
        pair.world.run(whole())


def test_a_cut_keeps_bytes_back_until_it_is_healed(pair: Pair) -> None:
    async def scenario() -> None:
        pair.say(b"one ")
        await asyncio.sleep(1)
        pair.world.net.cut("client", "server", both=False)
        pair.say(b"two ")
        assert pair.at_server[0].transport is not None
        pair.at_server[0].transport.write(b"the other way")
        await asyncio.sleep(5)
        assert pair.at_server[0].text == b"one "
        assert pair.at_client.text == b"the other way"
        pair.world.net.heal()
        pair.say(b"three")
        await asyncio.sleep(1)
        assert pair.at_server[0].text == b"one two three"

    run(pair, scenario)


def test_a_connect_over_a_cut_waits_then_fails(pair: Pair) -> None:
    async def scenario() -> None:
        async def dial() -> Ear:
            ear = Ear(pair.world)
            await pair.client.env.net.connect(ADDRESS, lambda: ear)
            return ear

        pair.world.net.isolate("client", ["client", "server"])
        with pytest.raises(OSError):
            await pair.client.spawn(dial)
        waiting = pair.client.spawn(dial)
        await asyncio.sleep(1)
        assert not waiting.done()
        pair.world.net.heal()
        assert (await waiting).transport is not None

    run(pair, scenario)


def test_a_reset_is_heard_by_both(pair: Pair) -> None:
    async def scenario() -> None:
        pair.world.net.reset("client", "server")
        await asyncio.sleep(1)
        for ear in (pair.at_client, pair.at_server[0]):
            [(_, error)] = ear.lost
            assert isinstance(error, ConnectionResetError)

    run(pair, scenario)


def test_a_crash_is_heard_at_once_and_its_listener_is_gone(pair: Pair) -> None:
    async def scenario() -> None:
        async def dial() -> None:
            await pair.client.env.net.connect(ADDRESS, lambda: Ear(pair.world))

        before = pair.world.loop.now
        pair.server.crash()
        await asyncio.sleep(1)
        [(when, error)] = pair.at_client.lost
        assert when - before < 0.01
        assert isinstance(error, ConnectionResetError)
        assert pair.at_server[0].lost == []  # the dead hear nothing
        with pytest.raises(ConnectionRefusedError):
            await pair.client.spawn(dial)

    run(pair, scenario)


def test_lost_power_is_silence_until_the_node_returns(pair: Pair) -> None:
    async def scenario() -> None:
        pair.server.crash(silent=True)
        pair.say(b"anybody?")
        await asyncio.sleep(100)
        assert pair.at_client.lost == []
        pair.server.boot()
        await asyncio.sleep(1)
        assert len(pair.at_client.lost) == 1

    run(pair, scenario)


def test_a_frozen_node_hears_later(pair: Pair) -> None:
    async def scenario() -> None:
        pair.server.freeze()
        pair.say(b"hello")
        await asyncio.sleep(5)
        assert pair.at_server[0].heard == []
        assert pair.at_client.lost == []
        pair.server.thaw()
        await asyncio.sleep(1)
        assert pair.at_server[0].text == b"hello"

    run(pair, scenario)


def test_a_stream_keeps_its_order_at_any_latency(pair: Pair) -> None:
    async def scenario() -> None:
        faults = pair.world.net.faults
        faults.latency_s = (0.0001, 0.5)
        faults.spike_chance = 0.1
        sent = b"".join(b"%06d " % n for n in range(2000))
        for start in range(0, len(sent), 100):
            pair.say(sent[start : start + 100])
            await asyncio.sleep(0.001)
        await asyncio.sleep(5)
        assert pair.at_server[0].text == sent
        assert len(pair.at_server[0].heard) != len(sent) // 100  # cut elsewhere than written

    run(pair, scenario)


def test_what_is_late_holds_up_what_comes_behind_it(pair: Pair) -> None:
    async def scenario() -> None:
        faults = pair.world.net.faults
        started_at = pair.world.loop.now
        faults.latency_s = (0.5, 0.5)
        pair.say(b"late")
        faults.latency_s = (0.001, 0.001)
        pair.say(b"quick")
        await asyncio.sleep(1)
        assert pair.at_server[0].text == b"latequick"
        assert min(when for when, _ in pair.at_server[0].heard) - started_at >= 0.5

    run(pair, scenario)


def test_random_resets_come() -> None:
    pair = Pair(World(9))

    async def scenario() -> None:
        pair.world.net.faults.reset_chance = 0.2
        said = 0
        while not pair.at_client.lost and said < 100:
            pair.say(b"x")
            said += 1
            await asyncio.sleep(0.01)
        assert len(pair.at_server[0].text) < said < 100
        with pytest.raises(RuntimeError):
            pair.say(b"too late")

    run(pair, scenario)


def test_a_crash_armed_on_a_disk_call_ends_the_node_there() -> None:
    ran: list[str] = []

    async def main(env: Env) -> None:
        env.disk.mkdir("/d")
        file = env.disk.open("/d/f", create=True)
        lane = env.new_offload("writer")

        def work(n: int) -> None:
            file.pwritev([b"x"], n)
            ran.append(f"wrote {n}")

        try:
            for n in range(10):
                await lane(work, n)
        finally:
            ran.append("finally")

    async def scenario(world: World) -> None:
        node = world.node("n1")
        node.start(main)
        node.disk.faults.crash_after = 4
        await asyncio.sleep(1)
        assert not node.alive
        assert ran == ["wrote 0", "wrote 1"]

    with World(1) as world:
        world.run(scenario(world))
        ran.clear()
