"""Frames: what goes in comes out, however the bytes are cut; what is wrong is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.env.api import Buffer
from pinfold.model.errors import Invalid
from pinfold.rpc.frames import (
    HEADER,
    Answered,
    Asked,
    Beat,
    Hello,
    Message,
    as_received,
    encode_frame,
    encode_message,
)
from pinfold.rpc.limits import (
    BATCH_PAYLOAD_BYTES,
    HANDSHAKE_BYTES,
    HEAD_BYTES,
    JOIN_BYTES,
    PAYLOAD_BYTES,
    RECEIVE_BUFFER_BYTES,
)
from pinfold.rpc.outbox import Outbox
from pinfold.rpc.receiver import Frame, FrameReceiver

bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
payloads = st.lists(
    st.binary(max_size=50) | st.integers(0, 3 * JOIN_BYTES).map(lambda n: b"\xa5" * n), max_size=4
)
sent = st.lists(st.tuples(bodies, payloads), min_size=1, max_size=12)


def feed(receiver: FrameReceiver, data: bytes, cuts: list[int]) -> list[Frame]:
    """Deliver bytes in reads of the sizes given, then in as large reads as are allowed."""
    frames = []
    position = 0
    sizes = iter(cuts)
    while position < len(data):
        target = receiver.buffer()
        assert len(target) > 0
        size = min(next(sizes, 1 << 30), len(target), len(data) - position)
        target[:size] = data[position : position + size]
        frames += receiver.received(size)
        position += size
    return frames


def trusted() -> FrameReceiver:
    receiver = FrameReceiver()
    receiver.trust()
    return receiver


def flush(outbox: Outbox) -> list[Buffer]:
    buffers: list[Buffer] = []
    while outbox:
        buffers += outbox.take_frame(7)
    assert outbox.size == 0
    return buffers


def contents(frames: list[Frame]) -> list[tuple[Any, bytes]]:
    found = []
    for messages, payload, epoch, _head in frames:
        assert epoch == 7
        position = 0
        for message in messages:
            assert isinstance(message, Asked)
            end = position + message.payload_length
            found.append((message.body, bytes(payload[position:end])))
            position = end
        assert position == len(payload)
    return found


@given(sent, st.lists(st.integers(1, 200), max_size=30))
def test_any_cut_of_the_bytes_gives_the_same_messages(
    messages: list[tuple[Any, list[bytes]]], cuts: list[int]
) -> None:
    outbox = Outbox()
    for number, (body, payload) in enumerate(messages):
        length = sum(map(len, payload))
        outbox.put(encode_message((10, number, "op", 5, body, length)), payload, length)
    data = b"".join(flush(outbox))
    expected = [(body, b"".join(payload)) for body, payload in messages]
    assert contents(feed(trusted(), data, cuts)) == expected


def test_heads_and_payloads_larger_than_the_buffer_arrive() -> None:
    outbox = Outbox()
    body = b"h" * (3 * RECEIVE_BUFFER_BYTES)
    for payload in ([], [b"p" * (2 * RECEIVE_BUFFER_BYTES)]):
        length = sum(map(len, payload))
        outbox.put(encode_message(Asked(1, "op", 5, body, length)), payload, length)
        outbox.put(encode_message(Asked(2, "op", 5, None, 0)), [], 0)
    frames = feed(trusted(), b"".join(flush(outbox)), [31, 1, 70_000, 5])
    assert [len(body or b"") for body, _ in contents(frames)] == [len(body), 0, len(body), 0]


def test_payloads_are_views_of_their_own() -> None:
    frame = encode_frame([encode_message(Asked(1, "op", 5, None, 4))], 4, 7)
    receiver = trusted()
    [(_, first, _, _)] = feed(receiver, frame + b"1111", [])
    [(_, second, _, _)] = feed(receiver, frame + b"2222", [])
    assert (bytes(first), bytes(second)) == (b"1111", b"2222")


def test_a_frame_is_cut_before_its_payload_grows_large() -> None:
    outbox = Outbox()
    payload = [b"x" * (BATCH_PAYLOAD_BYTES // 2 + 1)]
    for _ in range(3):
        outbox.put(
            encode_message(Asked(1, "op", 5, None, len(payload[0]))), payload, len(payload[0])
        )
    frames = feed(trusted(), b"".join(flush(outbox)), [])
    assert [len(messages) for messages, _, _, _ in frames] == [1, 1, 1]


def test_large_buffers_pass_through_and_small_ones_are_joined() -> None:
    outbox = Outbox()
    large = b"L" * JOIN_BYTES
    outbox.put(encode_message(Asked(1, "op", 5, None, 10)), [b"abc", b"de", large, b"f", b"g"], 10)
    buffers = outbox.take_frame(7)
    assert len(buffers) == 3
    assert buffers[1] is large
    assert bytes(buffers[0]).endswith(b"abcde")
    assert buffers[2] == b"fg"


@given(st.data())
def test_no_flipped_bit_of_header_or_head_goes_unseen(data: st.DataObject) -> None:
    frame = bytearray(encode_frame([encode_message(Asked(1, "op", 5, b"body", 0))], 0, 7))
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    try:
        frames = feed(trusted(), bytes(frame), [])
    except Invalid:
        return
    assert frames == []  # a longer head is waited for, and fails when it comes


@given(st.data(), st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=4))
def test_no_flipped_bit_of_a_payload_goes_unseen_either(
    data: st.DataObject, payload: list[bytes]
) -> None:
    outbox, length = Outbox(), sum(map(len, payload))
    outbox.put(encode_message(Asked(1, "op", 5, None, length)), payload, length)
    frame = bytearray(b"".join(outbox.take_frame(7, summed=True)))
    cuts = data.draw(st.lists(st.integers(1, 3000)))
    [(_, found, _, _)] = feed(trusted(), bytes(frame), cuts)
    assert found == b"".join(payload)
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    try:
        frames = feed(trusted(), bytes(frame), cuts)
    except Invalid:
        return
    assert frames == []


def test_a_checksum_of_no_payload_is_refused() -> None:
    with pytest.raises(Invalid, match="flags"):
        feed(trusted(), encode_frame([], 0, 0, summed=True), [])


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waited_for(garbage: bytes) -> None:
    try:
        frames = feed(trusted(), garbage, [])
    except Invalid:
        return
    assert frames == []


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc0",
        b"\x91\x93\x0a\x01\x02",  # too few fields
        b"\x91\x92\x63\x01",  # unknown kind
        b"\x91\x96\x0a\x01\xa1o\xff\xc0\x00",  # negative time
        b"\x91\x96\x0a\x01\xa1\xff\x05\xc0\x00",  # not UTF-8
        b"\x91" * 60_000,  # nested for ever
        b"\xdd\0\0\0\1" + b"\x91" * 100_000,
    ],
)
def test_a_head_that_is_no_list_of_messages_is_refused(head: bytes) -> None:
    empty = encode_frame([], 0, 0)
    assert feed(trusted(), empty, []) == [([], memoryview(b""), 0, 5)]
    with pytest.raises(Invalid):
        feed(trusted(), _with_head(head), [])


def _with_head(head: bytes) -> bytes:
    from xxhash import xxh3_64_intdigest

    prefix = HEADER.pack(b"PFrm", 1, 0, 0, len(head), 0, 0, 0)[:-8]
    check = xxh3_64_intdigest(head, xxh3_64_intdigest(prefix))
    return prefix + check.to_bytes(8, "big") + head


@pytest.mark.parametrize(
    ("lengths", "trust"),
    [
        ((HEAD_BYTES + 1, 0), True),
        ((10, PAYLOAD_BYTES + 1), True),
        ((HANDSHAKE_BYTES + 1, 0), False),
        ((10, 1), False),
    ],
)
def test_a_frame_over_a_limit_is_refused_before_memory_is_taken(
    lengths: tuple[int, int], trust: bool
) -> None:
    receiver = trusted() if trust else FrameReceiver()
    header = HEADER.pack(b"PFrm", 1, 0, 0, *lengths, 0, 0)
    with pytest.raises(Invalid, match="limit"):
        feed(receiver, header, [])


def test_messages_keep_their_wire_form() -> None:
    # The bytes of protocol 1: an old peer must understand what a new one says.
    assert encode_message(Asked(1, "op", 5, [b"x"], 3)) == bytes.fromhex("960a01a26f700591c4017803")
    assert encode_message(Answered(1, None, 0)) == bytes.fromhex("940c01c000")
    assert encode_message(Beat()) == bytes.fromhex("9113")
    hello: Message = Hello(1, 1, b"c", "n", 2, b"z")
    assert encode_message(hello) == bytes.fromhex("98010101c40163a16e02c4017a00")
    assert encode_frame([], 0, 0)[:8] == b"PFrm\x01\x00\x00\x00"


def test_a_body_within_the_process_looks_as_from_another() -> None:
    assert as_received((1, bytearray(b"x"), (None,))) == [1, b"x", [None]]
    with pytest.raises(TypeError):
        as_received(object())
