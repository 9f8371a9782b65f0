"""A member that has proved the secret and is broken: its session ends, memory stays bounded."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pinfold.model.errors import Invalid, PinfoldError
from pinfold.rpc.frames import Failed, encode_frame, encode_message
from pinfold.rpc.limits import BATCH_HEAD_BYTES, BATCH_PAYLOAD_BYTES, STREAMS
from pinfold.rpc.streams import CreditedOutStream, InStream
from tests.fuzz.rpc_targets import LIMITS, Member, prove, sent_messages
from tests.twins.virtual import run_virtual

OPENED, CHUNK, FINISHED, ASKED = 14, 15, 16, 10


class Peer:
    """The session of a member that sends what it likes."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.session, self.wire, self.serving, self.lost = member.accept()

    def send(self, *messages: Any, payload: bytes = b"") -> None:
        data = encode_frame([encode_message(one) for one in messages], len(payload), 1)
        self.wire.feed(data + payload)

    @property
    def ended(self) -> bool:
        return self.wire.closing

    def reason(self) -> PinfoldError:
        self.wire.end()
        return self.lost[0]


def stage(story: Callable[[Peer], Awaitable[None]]) -> None:
    async def run() -> None:
        peer = Peer(Member())
        await prove(peer.wire)
        await story(peer)
        await asyncio.sleep(0)
        peer.wire.end()
        for future in peer.member.held:
            future.cancel()
        await peer.member.scope.close()

    run_virtual(run)


def test_a_stream_number_used_twice_does_not_lose_the_first_stream() -> None:
    async def story(peer: Peer) -> None:
        peer.send((OPENED, 1, "sink", 1000, None))
        peer.send((OPENED, 1, "sink", 1000, None))
        assert peer.ended
        assert isinstance(peer.reason(), Invalid)

    stage(story)


def test_finished_streams_count_until_they_are_answered() -> None:
    """Each may hold its whole window: the limit is on memory, not on what is still being sent."""

    async def story(peer: Peer) -> None:
        async def never(_request: Any, _chunks: Any) -> Any:
            await asyncio.get_running_loop().create_future()

        peer.member.operations.bind_stream("never", never)
        for number in range(STREAMS + 1):
            peer.send((OPENED, number, "never", 1000, None), (FINISHED, number))
            peer.session.hold(reading=True)  # the limit on requests comes first here
        await asyncio.sleep(0)
        [refused] = [one for one in sent_messages(peer.wire) if isinstance(one, Failed)]
        assert (refused.id, refused.code) == (STREAMS, "busy")
        assert not peer.ended

    stage(story)


def test_bodies_of_unanswered_requests_count_against_the_limit() -> None:
    async def story(peer: Peer) -> None:
        for number in range(4):
            peer.send((ASKED, number, "hold", 1000, b"b" * (LIMITS.held_bytes // 3), 0))
        assert len(peer.member.held) == 3
        assert not peer.wire.reading

    stage(story)


def test_a_long_head_of_many_messages_is_refused_undecoded() -> None:
    async def story(peer: Peer) -> None:
        beats = [encode_message((19,))] * (BATCH_HEAD_BYTES // 2 + 1)
        peer.wire.feed(encode_frame(beats, 0, 1))
        assert "more than one message" in peer.reason().message

    stage(story)


@pytest.mark.parametrize("size", [BATCH_PAYLOAD_BYTES, BATCH_PAYLOAD_BYTES + 1])
def test_a_small_part_does_not_keep_a_large_payload_alive(size: int) -> None:
    async def story(peer: Peer) -> None:
        first, second = (ASKED, 1, "hold", 1000, None, 1), (ASKED, 2, "echo", 1000, None, size - 1)
        peer.send(first, second, payload=bytes(size))
        assert peer.ended == (size > BATCH_PAYLOAD_BYTES)

    stage(story)


@pytest.mark.parametrize(("count", "size"), [(100_000, 0), (100_000, 1)])
def test_tiny_chunks_cost_what_they_carry(count: int, size: int) -> None:
    async def story() -> None:
        stream = InStream(lambda _count: None, 1000.0)
        chunk = memoryview(b"x" * size)
        tracemalloc.start()
        for _ in range(count):
            stream.feed(chunk[:])
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert held < 4 * (count * size) + 10_000
        stream.end()
        assert sum([len(piece) async for piece in stream]) == count * size

    run_virtual(story)


def test_credit_beyond_the_window_is_refused() -> None:
    """It would let a sender queue all it has: the window bounds what waits to be sent."""

    async def story() -> None:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        stream = CreditedOutStream(Nowhere(), answer)
        await stream.write(bytes(10))
        stream.grant(10)
        with pytest.raises(Invalid):
            stream.grant(1)
        answer.cancel()

    run_virtual(story)


class Nowhere:
    def chunk(self, _view: memoryview) -> None:
        return

    def finish(self) -> None:
        return

    def abort(self) -> None:
        return


def test_a_stranger_that_is_refused_is_read_no_more() -> None:
    """Its bytes have no place: uvloop reads again before the connection is closed."""

    async def story() -> None:
        _session, wire, _serving, _lost = Member().accept()
        left = wire.feed(b"\0" * 200_000)
        assert not wire.reading
        assert len(left) > 100_000
        await asyncio.sleep(0)
        assert wire.closing

    run_virtual(story)


def test_a_head_that_does_not_come_to_its_end_is_not_waited_for() -> None:
    """A length that was changed on the way: what comes then only seems to be more of it."""

    async def story(peer: Peer) -> None:
        beats = encode_frame([encode_message((19,))], 0, 1)
        longer = bytearray(beats)
        longer[9] ^= 1  # 64 KiB more
        peer.wire.feed(bytes(longer))
        for second in range(1, 4):
            peer.wire.feed(beats)
            peer.session.tick(second, 0.0)
            await asyncio.sleep(1)
        assert not peer.ended
        for _ in range(3):
            peer.wire.feed(beats)
            await asyncio.sleep(1)
        peer.session.tick(asyncio.get_running_loop().time(), 0.0)
        assert "a head that does not end" in str(peer.reason())

    stage(story)
