"""Calls between nodes over real sockets: promises of `Peers` that need no clock to be moved."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from pinfold.env.api import Buffer
from pinfold.env.real import real_env
from pinfold.model.errors import (
    BY_CODE,
    Busy,
    Conflict,
    DeadlineExceeded,
    Invalid,
    PinfoldError,
    Unavailable,
    Unsupported,
)
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.api import OutStream, Reply, Request
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity, Keyring
from pinfold.rpc.limits import HANDSHAKE_S, PAYLOAD_BYTES, RpcLimits
from pinfold.rpc.peers import PeerTable

A, B = NodeName("a"), NodeName("b")
DEFAULTS = RpcLimits()


class Pair:
    """Nodes a and b, connected."""

    def __init__(self, root: Path, limits: RpcLimits) -> None:
        self.root = root
        self.operations = {A: Operations(), B: Operations()}
        self.seen: list[Request] = []
        self.operations[B].bind("echo", self.echo)
        self.operations[A].bind("echo", self.echo)
        self.tables = {
            name: PeerTable(
                real_env(),
                Identity(node=name, boot=Boot(boot), cluster=b"c", keyring=Keyring.of(b"s")),
                self.operations[name],
                limits=limits,
            )
            for name, boot in ((A, 5), (B, 6))
        }

    def echo(self, request: Request) -> Reply:
        self.seen.append(request)
        return Reply(request.body, (request.payload,))

    async def start(self) -> None:
        addresses = {}
        for name, table in self.tables.items():
            addresses[name] = await table.listen(f"unix://{self.root}/{name}")
        for table in self.tables.values():
            await reach(table, addresses)

    @property
    def a(self) -> PeerTable:
        return self.tables[A]

    async def close(self) -> None:
        for table in self.tables.values():
            await table.close()


async def reach(table: PeerTable, addresses: dict[NodeName, str]) -> None:
    up = asyncio.Event()
    table.watch(lambda node, is_up, boot: up.set())
    table.set_addresses(addresses)
    await up.wait()


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


def run(
    tmp_path: Path, body: Callable[[Pair], Awaitable[None]], limits: RpcLimits = DEFAULTS
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            pair = Pair(tmp_path, limits)
            await pair.start()
            try:
                await body(pair)
            finally:
                await pair.close()

    for run_loop in (asyncio.run, uvloop.run):
        run_loop(bounded())


both = pytest.mark.parametrize("target", [A, B], ids=["itself", "another"])


@both
def test_a_call_carries_body_payload_deadline_and_epoch(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        pair.a.set_epoch(42)
        deadline = soon()
        payload: list[Buffer] = [b"abc", memoryview(b"def"), bytearray(b"x" * 500_000)]
        answer = await pair.a.call(
            target, "echo", (1, b"two", "3", None), payload, deadline=deadline
        )
        assert answer.body == [1, b"two", "3", None]
        assert bytes(answer.payload) == b"".join(payload)
        [request] = pair.seen
        assert (request.peer, request.peer_boot, request.operation) == (A, 5, "echo")
        assert request.deadline == pytest.approx(deadline, abs=0.5)
        assert request.epoch == 42

    run(tmp_path, body)


@both
def test_calls_of_a_tick_reach_their_handlers_in_order(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        calls = [
            pair.a.call(target, "echo", n, [b"p" * (n % 3 * 3000)], deadline=soon())
            for n in range(500)
        ]
        for n, call in enumerate(calls):
            answer = await call
            assert (answer.body, len(answer.payload)) == (n, n % 3 * 3000)
        assert [request.body for request in pair.seen] == list(range(500))

    run(tmp_path, body)


@both
def test_handlers_may_answer_at_once_later_or_from_a_task(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        later: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        async def work(request: Request) -> Reply:
            await asyncio.sleep(0)
            later.set_result(Reply("from a future"))
            return Reply("from a task")

        pair.operations[target].bind("later", lambda _: later)
        pair.operations[target].bind("work", work)
        calls = [pair.a.call(target, name, deadline=soon()) for name in ("later", "work", "echo")]
        assert [(await call).body for call in calls] == ["from a future", "from a task", None]

    run(tmp_path, body)


@both
@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_keeps_its_class(tmp_path: Path, target: NodeName, code: str) -> None:
    async def body(pair: Pair) -> None:
        def at_once(request: Request) -> Reply:
            raise BY_CODE[code]("because", detail=[1, b"row"])

        async def later(request: Request) -> Reply:
            raise BY_CODE[code]("because", detail=[1, b"row"])

        pair.operations[target].bind("at-once", at_once)
        pair.operations[target].bind("later", later)
        for name in ("at-once", "later"):
            with pytest.raises(PinfoldError) as caught:
                await pair.a.call(target, name, deadline=soon())
            error = caught.value
            assert (type(error), error.message) == (BY_CODE[code], "because")
            assert error.detail == [1, b"row"]

    run(tmp_path, body)


@both
def test_a_bug_in_a_handler_ends_its_request_only(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        async def wrong(request: Request) -> Reply:
            raise ZeroDivisionError

        def divide(request: Request) -> Reply:
            return Reply(1 // 0)

        pair.operations[target].bind("wrong", wrong)
        pair.operations[target].bind("at-once", divide)
        pair.operations[target].bind("unsendable", lambda request: Reply(object()))
        for name in ("wrong", "at-once", "unsendable"):
            with pytest.raises(PinfoldError, match="internal error"):
                await pair.a.call(target, name, deadline=soon())
        with pytest.raises(Unsupported, match="nothing"):
            await pair.a.call(target, "nothing", deadline=soon())
        assert (await pair.a.call(target, "echo", 1, deadline=soon())).body == 1

    run(tmp_path, body)


@both
def test_deadlines_end_calls(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        pair.operations[target].bind("never", lambda _: loop.create_future())
        long = pair.a.call(target, "never", deadline=loop.time() + 60)
        short = pair.a.call(target, "never", deadline=loop.time() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await pair.a.call(target, "echo", deadline=loop.time() - 1)
        with pytest.raises(DeadlineExceeded):
            await short
        assert not long.done()
        assert pair.seen == []

    run(tmp_path, body, RpcLimits(drain_s=0.01))


@both
def test_a_message_told_arrives_behind_the_calls_before_it(
    tmp_path: Path, target: NodeName
) -> None:
    async def body(pair: Pair) -> None:
        first = pair.a.call(target, "echo", 1, deadline=soon())
        pair.a.tell(target, "echo", 2)
        pair.a.tell(target, "unknown", 2)
        await pair.a.call(target, "echo", 3, deadline=soon())
        await first
        assert [request.body for request in pair.seen] == [1, 2, 3]

    run(tmp_path, body)


def test_what_is_too_large_or_cannot_be_encoded_never_leaves(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        block = b"\0" * (1 << 20)
        count = PAYLOAD_BYTES // len(block)
        with pytest.raises(TypeError):
            pair.a.call(B, "echo", object(), deadline=soon())
        with pytest.raises(Invalid, match="too many"):
            await pair.a.call(B, "echo", None, [block] * count + [b"x"], deadline=soon())
        with pytest.raises(Invalid, match="too many"):
            await pair.a.call(B, "echo", b"b" * (16 << 20), deadline=soon())
        assert (await pair.a.call(B, "echo", 1, deadline=soon())).body == 1

    run(tmp_path, body, RpcLimits(send_bytes=2 * PAYLOAD_BYTES))


def test_over_the_byte_limit_a_call_is_busy_at_once(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        block = b"x" * 400_000
        calls = [pair.a.call(B, "echo", n, [block], deadline=soon()) for n in range(4)]
        assert [call.done() for call in calls] == [False, False, True, True]
        for call in calls[:2]:
            assert len((await call).payload) == len(block)
        for call in calls[2:]:
            with pytest.raises(Busy):
                await call
        assert len((await pair.a.call(B, "echo", 9, [block], deadline=soon())).payload) == 400_000

    run(tmp_path, body, RpcLimits(send_bytes=1_000_000))


def test_nobody_else_gets_in(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        stranger = PeerTable(
            real_env(),
            Identity(node=NodeName("x"), boot=Boot(1), cluster=b"c", keyring=Keyring.of(b"guess")),
            Operations(),
        )
        stranger.set_addresses({B: f"unix://{tmp_path}/b"})
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/b")
        writer.write(b"GET / HTTP/1.1\r\nHost: example.invalid\r\n\r\n")
        assert b"starts with b'GET '" in await reader.read()
        writer.close()
        await writer.wait_closed()
        with pytest.raises(Unavailable):
            await stranger.call(B, "echo", deadline=soon())
        assert not stranger.connected(B)
        await stranger.close()

    run(tmp_path, body)


def test_watchers_hear_of_sessions_and_their_loss(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        pair.operations[B].bind("never", lambda _: loop.create_future())
        told: list[object] = []
        lost = asyncio.Event()

        def hear(node: NodeName, up: bool, boot: Boot) -> None:
            told.append((node, up, boot, call.done()))
            lost.set()

        call = pair.a.call(B, "never", deadline=soon())
        pair.a.watch(hear)
        await pair.tables[B].close()
        await lost.wait()
        assert told == [(B, False, 6, True)]  # calls have failed before a loss is told
        with pytest.raises(Unavailable):
            await call
        assert not pair.a.connected(B)
        assert pair.a.connected(A)

    run(tmp_path, body, RpcLimits(drain_s=0.01))


def test_close_waits_for_requests_under_way(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        gate = asyncio.Event()

        async def work(request: Request) -> Reply:
            await gate.wait()
            return Reply("done")

        pair.operations[B].bind("work", work)
        call = pair.a.call(B, "work", deadline=soon())
        await pair.a.call(B, "echo", deadline=soon())
        async with asyncio.TaskGroup() as group:
            group.create_task(pair.tables[B].close())
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="leaving"):
                await pair.a.call(B, "work", deadline=soon())
            gate.set()
            assert (await call).body == "done"

    run(tmp_path, body)


# streams


async def write_for_ever(stream: OutStream) -> None:
    while True:
        await stream.write(b"y")
        await asyncio.sleep(0.01)


def bind_sum(pair: Pair, target: NodeName) -> list[int]:
    sizes: list[int] = []

    async def take(request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
        total = 0
        async for chunk in chunks:
            sizes.append(len(chunk))
            total += sum(chunk[:: len(chunk) // 10 + 1])
        return Reply([request.body, sum(sizes)])

    pair.operations[target].bind_stream("take", take)
    return sizes


@both
def test_a_stream_arrives_whole(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        sizes = bind_sum(pair, target)
        stream = pair.a.open(target, "take", "name", deadline=soon())
        for size in (1, 3_000_000, 0, 70_000):
            await stream.write(b"x" * size)
        assert (await stream.finish()).body == ["name", 3_070_001]
        assert max(sizes) < 1 << 20

    run(tmp_path, body)


@both
def test_a_sender_waits_for_credit(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        gate = asyncio.Event()

        async def slow(request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
            await gate.wait()
            return Reply(sum([len(chunk) async for chunk in chunks]))

        pair.operations[target].bind_stream("slow", slow)
        stream = pair.a.open(target, "slow", deadline=soon())
        await stream.write(b"x" * (1 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.write(b"y"), 0.05)
        gate.set()
        await stream.write(b"z")
        assert (await stream.finish()).body == (1 << 20) + 1

    run(tmp_path, body)


@both
def test_a_stream_may_be_answered_before_its_end(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        async def refuse(request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
            await anext(chunks)
            raise Conflict("enough")

        async def content(request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
            return Reply("fine")

        pair.operations[target].bind_stream("refuse", refuse)
        pair.operations[target].bind_stream("content", content)
        stream = pair.a.open(target, "refuse", deadline=soon())
        with pytest.raises(Conflict):
            await stream.write(b"x" * (3 << 20))
        with pytest.raises(Conflict):
            await stream.finish()
        stream = pair.a.open(target, "content", deadline=soon())
        await stream.write(b"x" * (3 << 20))
        assert (await stream.finish()).body == "fine"

    run(tmp_path, body)


@both
def test_an_abort_is_heard(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        heard: asyncio.Future[PinfoldError] = asyncio.get_running_loop().create_future()

        async def take(request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
            try:
                async for _ in chunks:
                    pass
            except PinfoldError as error:
                heard.set_result(error)
                raise
            return Reply()

        pair.operations[target].bind_stream("take", take)
        stream = pair.a.open(target, "take", deadline=soon())
        await stream.write(b"x")
        stream.abort()
        stream.abort()
        assert isinstance(await heard, Unavailable)

    run(tmp_path, body)


@both
def test_a_stream_ends_at_its_deadline(tmp_path: Path, target: NodeName) -> None:
    async def body(pair: Pair) -> None:
        bind_sum(pair, target)
        stream = pair.a.open(target, "take", deadline=asyncio.get_running_loop().time() + 0.05)
        await stream.write(b"x")
        with pytest.raises(DeadlineExceeded):
            await write_for_ever(stream)
        with pytest.raises(DeadlineExceeded):
            await stream.finish()
        with pytest.raises(Unsupported):
            await pair.a.open(target, "none", deadline=soon()).finish()

    run(tmp_path, body)


def test_no_session_no_stream(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        with pytest.raises(Unavailable):
            pair.a.open(NodeName("x"), "take", deadline=soon())

    run(tmp_path, body)


def test_a_handshake_begun_before_a_secret_was_replaced_proves_nothing(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/b")
        await pair.a.call(B, "echo", deadline=soon())  # b has seen the newcomer meanwhile
        pair.tables[B].set_keyring(Keyring(1, {0: b"s", 1: b"new"}))
        async with asyncio.timeout(HANDSHAKE_S / 2):  # sooner than by its own limit
            assert await reader.read() == b""
        writer.close()

    run(tmp_path, body)


def test_sessions_of_a_secret_that_was_replaced_end_and_come_again(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        both_known = {0: b"s", 1: b"new"}
        for table in pair.tables.values():
            table.set_keyring(Keyring(0, both_known))
        for table in pair.tables.values():
            table.set_keyring(Keyring(1, both_known))
        assert pair.a.connected(B)  # nobody has to come again while the old secret is known
        downs, ups = asyncio.Event(), asyncio.Event()
        pair.a.watch(lambda node, is_up, boot: (ups if is_up else downs).set())
        for table in pair.tables.values():
            table.set_keyring(Keyring(1, {1: b"new"}))
        await downs.wait()
        await ups.wait()
        answer = await pair.a.call(B, "echo", (1,), deadline=soon())
        assert answer.body == [1]

    run(tmp_path, body)
