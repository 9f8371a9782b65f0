"""The rpc layer against strangers and against members that are broken.

A stranger may send anything and gets a refusal; a member that has proved the secret may still send
anything, and gets its session ended by an Invalid, while a good peer beside it is served.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import xxhash
from hypothesis import strategies as st

from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Invalid, PinfoldError
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc import frames
from pinfold.rpc.api import Reply, Request
from pinfold.rpc.caller import Caller
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.frames import HEADER, Hello, Proof, Welcome, encode_frame, encode_message
from pinfold.rpc.handshake import NONCE_BYTES, Handshake, Identity, Keyring
from pinfold.rpc.limits import PAYLOAD_BYTES, STREAMS, RpcLimits
from pinfold.rpc.receiver import FrameReceiver
from pinfold.rpc.serving import Serving, UnderWay
from pinfold.rpc.session import Session
from tests.fuzz.harness import KIB, MIB, Target
from tests.fuzz.mutations import mutated, raw_or, twisted
from tests.fuzz.wires import MemoryWire
from tests.twins.virtual import VirtualClock, run_virtual

A = Identity(node=NodeName("a"), boot=Boot(3), cluster=b"c" * 16, keyring=Keyring.of(b"s3cret"))
B = dataclasses.replace(A, node=NodeName("b"), boot=Boot(9))
LIMITS = RpcLimits(send_bytes=64 * KIB, held_bytes=64 * KIB, held_requests=40)

REQUESTS: list[Any] = [
    (10, 1, "echo", 1000, ["body", 1], 5),
    (10, 2, "hold", 1000, None, 0),
    (11, "echo", [1, 2]),
    (14, 3, "sink", 1000, {"a": 1}),
    (15, 3, 5),
    (16, 3),
    (14, 4, "sink", 1000, None),
    (17, 4),
    (10, 5, "fail", 1000, None, 0),
    (10, 6, "nothing of this name", 1, None, 0),
    (19,),
    (20, 3),
]
ANSWERS: list[Any] = [
    (12, 1, ["body"], 5),
    (13, 2, "busy", "later", None),
    (18, 3, 1 << 20),
    (12, 3, None, 0),
    (19,),
]

_decoder = msgspec.msgpack.Decoder(frames.Message)
_FRAMES = [
    encode_frame([encode_message(one) for one in REQUESTS], 10, 7) + b"0123456789",
    encode_frame([encode_message(ANSWERS[0])], 5, 7) + b"01234" + encode_frame([frames.BEAT], 0, 8),
    encode_frame([encode_message((10, 1, "echo", 1, None, 300))], 300, 1) + bytes(300),
]


def checked(data: bytes) -> bytes:
    """The bytes with the checksum of the first frame made right, so that its head is looked at."""
    if len(data) < HEADER.size:
        return data
    length = int.from_bytes(data[8:12], "big")
    head = data[HEADER.size : HEADER.size + length]
    check = xxhash.xxh3_64_intdigest(head, xxhash.xxh3_64_intdigest(data[: HEADER.size - 8]))
    return data[: HEADER.size - 8] + check.to_bytes(8, "big") + data[HEADER.size :]


def _receive(data: bytes, piece: int) -> tuple[list[Any], str]:
    """(frames, error) of a trusted stream that comes in pieces."""
    receiver = FrameReceiver()
    receiver.trust()
    found: list[Any] = []
    try:
        while data:
            buffer = receiver.buffer()
            assert len(buffer) > 0, "room for what comes next"
            taken = min(len(buffer), len(data), piece)
            buffer[:taken] = data[:taken]
            data = data[taken:]
            found += [
                (msgspec.msgpack.encode(messages), bytes(payload), epoch)
                for messages, payload, epoch, _head in receiver.received(taken)
            ]
    except Invalid as error:
        return found, error.message
    return found, ""


def run_receiver(data: bytes) -> str:
    """However a stream is cut into reads, the same frames come out of it, and the same error."""
    whole, cut = _receive(data, 1 << 20), _receive(data, 1 + len(data) % 11)
    assert cut[0][: len(whole[0])] == whole[0]
    assert cut[1] == whole[1]
    return f"{len(whole[0])} frames, {whole[1]}"


class Member:
    """The answering side with one proved session, and what its handlers were given."""

    def __init__(self) -> None:
        self.operations = Operations()
        self.operations.bind("echo", lambda request: Reply([request.body], (request.payload,)))
        self.operations.bind("hold", self._hold)
        self.operations.bind("fail", self._fail)
        self.operations.bind_stream("sink", self._sink)
        self.held: list[asyncio.Future[Reply]] = []
        self.errors: list[BaseException] = []
        self.open_streams = 0
        self.scope = TaskScope(self.errors.append)
        self.under_way = UnderWay()

    def _hold(self, _request: Request) -> "asyncio.Future[Reply]":
        self.held.append(asyncio.get_running_loop().create_future())
        return self.held[-1]

    def _fail(self, _request: Request) -> Reply:
        raise Invalid("as asked")

    async def _sink(self, _request: Request, chunks: AsyncIterator[memoryview]) -> Reply:
        self.open_streams += 1
        try:
            return Reply(sum([len(chunk) async for chunk in chunks]))
        finally:
            self.open_streams -= 1

    def accept(self) -> tuple[Session, MemoryWire, Serving, list[PinfoldError]]:
        """A connection made."""
        lost: list[PinfoldError] = []
        serving = Serving(
            VirtualClock(),
            self.operations,
            self.scope,
            self.under_way,
            LIMITS,
            established=lambda _serving: None,
            lost=lambda _serving, error: lost.append(error),
            epoch_seen=lambda _peer, _epoch: None,
        )
        handshake = Handshake(B, b"2" * NONCE_BYTES, expected=None)
        session = Session(VirtualClock(), serving, handshake, lambda: 1)
        wire = MemoryWire(session)
        return session, wire, serving, lost


async def prove(wire: MemoryWire) -> None:
    """Go through the handshake as A does."""
    dialler = Handshake(A, b"1" * NONCE_BYTES, expected=NodeName("b"))
    wire.feed(encode_frame(dialler.start(), 0, 1))
    await asyncio.sleep(0)
    for message in sent_messages(wire):
        for answer in dialler.received(message):
            wire.feed(encode_frame([answer], 0, 1))
    await asyncio.sleep(0)
    for message in sent_messages(wire):
        dialler.received(message)
    assert dialler.peer is not None
    wire.feed(encode_frame([encode_message((20, 0))], 0, 1))


def sent_messages(wire: MemoryWire) -> list[Any]:
    """What the other side sent since the last look; it must be well-formed, whatever came in."""
    receiver = FrameReceiver()
    receiver.trust()
    data, messages = bytes(wire.sent), []
    wire.sent.clear()
    while data:
        buffer = receiver.buffer()
        taken = min(len(buffer), len(data))
        buffer[:taken] = data[:taken]
        data = data[taken:]
        for found, _payload, _epoch, _head in receiver.received(taken):
            messages += found
    return messages


async def demand_served(member: Member) -> None:
    """A good peer beside the bad one gets its answer."""
    _session, wire, _serving, lost = member.accept()
    await prove(wire)
    wire.feed(encode_frame([encode_message((10, 77, "echo", 1000, "good", 0))], 0, 1))
    await asyncio.sleep(0)
    [answer] = sent_messages(wire)
    assert (answer.id, answer.body) == (77, ["good"])
    assert not lost
    wire.end()


def run_stranger(data: bytes) -> str:
    """Nobody gets in without the secret, and whoever tries is shown out."""

    async def story() -> str:
        member = Member()
        _session, wire, serving, lost = member.accept()
        wire.feed(data)
        await asyncio.sleep(0.1)
        assert serving.peer is None, "nobody knows the proof"
        told = sent_messages(wire)
        outcome = "waits" if not wire.closing else "shown out"
        assert wire.closing == any(type(one) is frames.Refusal for one in told)
        wire.end()
        assert len(lost) == 1
        await demand_served(member)
        assert not member.errors
        return f"{outcome}: {lost[0].message}"

    return run_virtual(story)


def run_serving(data: bytes) -> str:
    """What a member sends is answered or ends its session; nothing of it stays."""

    async def story() -> str:
        member = Member()
        _session, wire, serving, lost = member.accept()
        await prove(wire)
        wire.feed(data)
        await asyncio.sleep(0.1)
        assert member.open_streams <= STREAMS
        kinds = sorted({type(one).__name__ for one in sent_messages(wire)})
        wire.end()
        for future in member.held:
            if not future.done():
                future.set_result(Reply())
        await asyncio.sleep(10_000_000)
        assert member.under_way.count == 0, "every request has ended"
        assert member.open_streams == 0
        assert not member.errors
        await demand_served(member)
        assert serving.peer is not None
        return f"{kinds} {lost[0].message}"

    return run_virtual(story)


def run_caller(data: bytes) -> str:
    """Whatever is answered, every call ends."""

    async def story() -> str:
        caller = Caller(VirtualClock(), LIMITS, epoch_seen=lambda _peer, _epoch: None)
        dialler = Handshake(A, b"1" * NONCE_BYTES, expected=NodeName("b"))
        session = Session(VirtualClock(), caller, dialler, lambda: 1)
        wire = MemoryWire(session)
        acceptor = Handshake(B, b"2" * NONCE_BYTES, expected=None)
        for _ in range(2):
            await asyncio.sleep(0)
            for message in sent_messages(wire):
                answers = acceptor.received(message)
                wire.feed(encode_frame(answers, 0, 1))
        assert caller.up.done()
        clock = asyncio.get_running_loop()
        calls = [caller.call("echo", None, (), clock.time() + 5) for _ in range(2)]
        stream = caller.open("sink", None, clock.time() + 5)
        writing = clock.create_task(_write(stream.write, bytes(3 * MIB)))
        wire.feed(data)
        await asyncio.sleep(10)
        wire.end()
        assert all(call.done() for call in calls)
        assert writing.done()
        kinds = [type(call.exception()).__name__ for call in calls]
        return f"{kinds} {await writing} {(await caller.down).message}"

    return run_virtual(story)


async def _write(write: Callable[[bytes], Any], data: bytes) -> str:
    try:
        await write(data)
    except PinfoldError as error:
        return error.code
    return "written"


def _frames_of(messages: list[Any]) -> st.SearchStrategy[bytes]:
    """Frames of twisted and repeated messages, with a payload that fits or does not."""

    def build(chosen: list[tuple[Any, int]], payload: int) -> bytes:
        data = b""
        for message, count in chosen:
            try:
                encoded = encode_message(message)
            except (OverflowError, TypeError, ValueError):
                continue
            told = _told_length(message)
            length = payload if payload < 400 else told
            length = length if isinstance(length, int) and 0 <= length < 100_000 else 0
            data += encode_frame([encoded] * count, length * count, 7) + bytes(length * count)
        return data

    one = st.one_of(*[st.just(list(message)) for message in messages],
                    *[twisted(list(message)) for message in messages])  # fmt: skip
    chosen = st.lists(st.tuples(one, st.sampled_from([1, 1, 1, 2, 300])), min_size=1, max_size=6)
    return st.builds(build, chosen, st.integers(0, 800))


def _told_length(message: Any) -> Any:
    """What a message says its payload has."""
    for kind, field in ((10, 5), (12, 3), (15, 2)):
        if isinstance(message, list) and len(message) > field and message[0] == kind:
            return message[field]
    return 0


_HELLO = [1, 1, 1, b"c" * 16, "a", 3, b"1" * NONCE_BYTES, 0]
_handshakes = st.one_of(
    _frames_of([_HELLO, [2, b"m" * 32], [3], [4, "because"], [19]]),
    mutated([encode_frame([encode_message(Hello(1, 1, b"c" * 16, "a", 3, b"1" * 32))], 0, 1),
             encode_frame([encode_message(Proof(b"m" * 32)), encode_message(Welcome())], 0, 1)])
    .map(checked),
)  # fmt: skip

TARGETS = (
    Target(
        name="rpc-frames",
        inputs=raw_or(st.one_of(mutated(_FRAMES), mutated(_FRAMES).map(checked))),
        run=run_receiver,
        examples=150,
        memory_bytes=2 * PAYLOAD_BYTES + 4 * MIB,
    ),
    Target(name="rpc-stranger", inputs=raw_or(_handshakes), run=run_stranger),
    Target(
        name="rpc-serving",
        inputs=raw_or(st.one_of(_frames_of(REQUESTS), mutated(_FRAMES).map(checked))),
        run=run_serving,
        memory_bytes=PAYLOAD_BYTES + 8 * MIB,
    ),
    Target(
        name="rpc-caller",
        inputs=raw_or(st.one_of(_frames_of(ANSWERS), mutated(_FRAMES).map(checked))),
        run=run_caller,
        memory_bytes=PAYLOAD_BYTES + 16 * MIB,
    ),
)
