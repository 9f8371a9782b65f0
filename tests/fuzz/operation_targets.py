"""The operations on top of rpc, asked by a member that is broken.

A real device in a simulated world answers. Whatever is asked, each request gets its answer or an
error of ours (never the bare base class, which stands for a handler's own failure), others are
served afterwards, and the device opens again with what it had.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from hypothesis import strategies as st

from pinfold.cluster.api import BlobRef, Change, Check, Collapse, Row
from pinfold.cluster.blobs.server import BlobServer
from pinfold.cluster.extents import OP, SPAN, ExtentHost
from pinfold.cluster.groups import wire
from pinfold.cluster.groups.entries import encode_body
from pinfold.cluster.groups.messages import (
    Ack,
    CopyPage,
    Fetch,
    Fetched,
    Join,
    NeedCopy,
    OfferCopy,
    Outside,
    Prepare,
    Vote,
)
from pinfold.cluster.groups.service import GroupService
from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.ids import Boot, DeviceId, GroupId, NodeName
from pinfold.rpc.api import Answer, Reply, Request
from pinfold.sim.world import World
from tests.device.worlds import CLUSTER, PATH, SETTINGS
from tests.fuzz.harness import MIB, Target
from tests.fuzz.mutations import mutated, twisted

ALONE, SHARED = GroupId(0), GroupId(1)
"""Groups: one that this device leads, and one whose other members are away."""

ME, OTHER, THIRD = DeviceId(1), DeviceId(2), DeviceId(3)
BLOB, VOLUME = b"b" * 16, b"v" * 16
GOOD_VOLUME = b"g" * 16
CONTENT = b"content"
OPS = OP.pack(0, 3, 4096, 4) + OP.pack(2, 3, 0, 4096)
STREAM = [1, 1, VOLUME, 7, 1]
ROW = Row(b"body", b"tag", 5, (BlobRef(BLOB, 7, (1,)),))
CHANGE = Change(b"o" * 16, (Check("absent", b"k"),), ((b"k", ROW),), (b"d",),
                ((b"r", b"s"),), b"counter")  # fmt: skip
ENTRIES = [Entry(1, 3, encode_body([(b"k", b"v"), (b"l", None)]))]
MESSAGES = [
    Prepare(4, 0, 0, 1, 0, 1, ENTRIES),
    Ack(4, 1, 1, True, 9),
    NeedCopy(4, 0, b""),
    Join(4, 1),
    Vote(4, 1, 1, 1, 1, 9),
    OfferCopy(4, 9, 4),
    Outside(4, 1),
    Fetch(4, 0, 0, 0),
    Fetched(4, 0, False, ENTRIES),
    CopyPage(4, 1, 0, 1, 1, 1, 1, b"", b"", b"", b"", True, False, [(b"k", b"v")]),
]


def _messages() -> list[tuple[str, Any, bytes]]:
    found = []
    for message in MESSAGES:
        head, payload = wire.encode(SHARED, ME, OTHER, message)
        found.append(("group.messages", [head], b"".join(payload)))
    return found


VALID: list[tuple[str, Any, bytes]] = [
    ("blob.put", [1, BLOB, len(CONTENT), list(checks_of(CONTENT))], CONTENT),
    ("blob.read", [1, BLOB, 0, 3], b""),
    ("blob.delete", [1, [BLOB]], b""),
    ("blob.stream", [1, b"s" * 16, len(CONTENT), list(checks_of(CONTENT))], CONTENT),
    ("extent.claim", [1, VOLUME, 7, 1], b""),
    ("extent.write", [*STREAM, 0, 1, 1, 0, OPS], b"abcd"),
    ("extent.read", [*STREAM, 1, SPAN.pack(3, 4096, 4)], b""),
    ("extent.flush", [*STREAM, 1], b""),
    ("extent.stable", [*STREAM, 1], b""),
    ("extent.marks", [*STREAM, -1, 9, True], b""),
    ("extent.restored", STREAM, b""),
    ("extent.allocated", [*STREAM, [3, 4]], b""),
    ("extent.drop", [1, VOLUME], b""),
    ("extent.opening", [1], b""),
    *_messages(),
    ("group.ping", [[9], [8], [[1, 1, 4, 1, 1]], [[9, 0.1]], 5], b""),
    ("group.confirm", [1, 1, 4, 0, 1, 0, 1, 9], b""),
    ("group.get", [1, 0, b"k", [["absent", b"k", 0, [], b""]]], b""),
    ("group.scan", [1, 0, b"", b"z", 10, [1, b"/"], False, True, []], b""),
    ("group.change", [1, 0, False], msgspec.msgpack.encode(CHANGE)),
    ("group.status", None, b""),
]


class Node:
    """The handlers of a node with one device."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.streams: dict[str, Callable[..., Any]] = {}

    async def start(self) -> "Node":
        self.device = await Device.open(self.env, PATH, SETTINGS, cluster_id=CLUSTER)
        BlobServer({ME: self.device}, self)  # type: ignore[dict-item, arg-type]
        ExtentHost(self, {ME: self.device})  # type: ignore[dict-item, arg-type]
        self.groups = GroupService(self.env, NodeName("a"), self, self, self)  # type: ignore[arg-type]
        await self.groups.add_device(ME, self.device.log, self.device.rows, [ALONE, SHARED])
        self.groups.start()
        await asyncio.sleep(1)
        return self

    # What the dispatcher, the peers and the membership are asked.

    def bind(self, operation: str, handler: Callable[..., Any]) -> None:
        self.handlers[operation] = handler

    def bind_stream(self, operation: str, handler: Callable[..., Any]) -> None:
        self.streams[operation] = handler

    def watch(self, _callback: Any) -> None:
        return

    def connected(self, _node: NodeName) -> bool:
        return False

    def tell(self, _node: NodeName, _operation: str, _body: Any = None) -> None:
        return

    def call(self, node: NodeName, *_arguments: Any, **_named: Any) -> "asyncio.Future[Answer]":
        future = asyncio.get_running_loop().create_future()
        future.set_exception(Unavailable(f"{node} is away"))
        return future

    def founding(self) -> bool:
        return True

    def members(self, group: GroupId) -> tuple[DeviceId, ...]:
        return (ME,) if group == ALONE else (ME, OTHER, THIRD)

    def node_of(self, device: DeviceId) -> NodeName:
        return NodeName("a" if device == ME else "b")

    # asking

    def begin(self, operation: str, body: Any, payload: bytes) -> "asyncio.Future[Any]":
        """Call a handler as the rpc layer does; a future of the code of what it answers."""
        loop = asyncio.get_running_loop()
        request = Request(
            NodeName("b"), Boot(1), operation, body, memoryview(payload), loop.time() + 5, 1
        )
        return loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> Any:
        try:
            if request.operation in self.streams:
                chunks = _chunks(request.payload)
                return await self.streams[request.operation](request, chunks)
            result = self.handlers[request.operation](request)
            if isinstance(result, Reply):
                return result
            return await result or Reply()
        except PinfoldError as error:
            return error

    async def demand_served(self) -> None:
        """Others get what they ask for."""
        content = b"good"
        asked = [
            ("blob.put", [1, b"g" * 16, 4, list(checks_of(content))], content),
            ("blob.read", [1, b"g" * 16, 0, 4], b""),
            ("extent.claim", [1, GOOD_VOLUME, 1, 1], b""),
            ("extent.write", [1, self.device.boot, GOOD_VOLUME, 1, 1, 0, 1, 1, 0,
                              OP.pack(0, 0, 0, 4)], content),
            ("extent.read", [1, self.device.boot, GOOD_VOLUME, 1, 1, 1, SPAN.pack(0, 0, 4)], b""),
            ("group.change", [1, 0, False], msgspec.msgpack.encode(
                Change(self.env.rng.randbytes(16), (), ((b"good", Row(content)),)))),
            ("group.get", [1, 0, b"good", []], b""),
        ]  # fmt: skip
        for operation, body, payload in asked:
            async with asyncio.timeout(20):
                answer = await self.begin(operation, body, payload)
            assert isinstance(answer, Reply), (operation, answer)
            if operation.endswith(("read", "get")):
                assert content in b"".join(map(bytes, answer.payload))


async def _chunks(payload: memoryview) -> AsyncIterator[memoryview]:
    for at in range(0, len(payload), 100):
        yield payload[at : at + 100]


def run_operations(data: bytes) -> str:
    """See the module. An input is a msgpack list of [operation, body, payload]."""
    try:
        asked = msgspec.msgpack.decode(data, type=list[tuple[str, Any, bytes]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "no input"

    async def serve(env: Env) -> set[str]:
        node = await Node(env).start()
        pending = [
            node.begin(operation, body, payload)
            for operation, body, payload in asked
            if operation in node.handlers or operation in node.streams
        ]
        await asyncio.sleep(10)
        assert all(one.done() for one in pending), "every request is answered"
        outcomes = {getattr(await one, "code", "ok") for one in pending}
        assert PinfoldError.code not in outcomes
        await node.demand_served()
        await node.groups.close()
        await node.device.close()
        return outcomes

    async def again(env: Env) -> None:
        node = await Node(env).start()
        await node.demand_served()
        await node.groups.close()
        await node.device.close()

    with World(1) as world:
        machine = world.node("a")

        async def story() -> set[str]:
            await machine.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
            machine.crash()
            outcomes = await machine.start(serve)
            machine.crash()
            await machine.start(again)
            return outcomes

        outcomes = world.run(story())
    return " ".join(sorted(outcomes))


def _twist(one: tuple[str, Any, bytes]) -> st.SearchStrategy[tuple[str, Any, bytes]]:
    operation, body, payload = one
    payloads = st.just(payload)
    if payload:
        payloads = st.one_of(payloads, payloads, mutated([payload]))
    bodies = st.one_of(twisted(body), twisted(body), st.just(body))
    return st.tuples(st.just(operation), bodies, payloads)


def _change(change: Any) -> tuple[str, Any, bytes]:
    return "group.change", [1, 0, False], msgspec.msgpack.encode(change)


_CHANGES = twisted(msgspec.to_builtins(CHANGE, builtin_types=(bytes,))).map(_change)
_COLLAPSE = msgspec.to_builtins(Collapse(1, b"/"), builtin_types=(bytes,))


def _encoded(asked: list[tuple[str, Any, bytes]]) -> bytes:
    return msgspec.msgpack.encode([list(one) for one in asked])


TARGETS = (
    Target(
        name="operations",
        inputs=st.lists(
            st.one_of(
                st.sampled_from(VALID), *[_twist(one) for one in VALID], _CHANGES, _CHANGES
            ),
            min_size=1,
            max_size=6,
        ).map(_encoded),
        run=run_operations,
        examples=60,
        memory_bytes=64 * MIB,
    ),
)  # fmt: skip
