"""Requests and replies of the transmission phase, byte for byte."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.env.api import Buffer
from pinfold.model.errors import (
    Corrupt,
    Fenced,
    Full,
    Invalid,
    PinfoldError,
    Unavailable,
)
from pinfold.nbd import protocol as nbd
from pinfold.nbd.transmission import ProtocolViolation, Transmission, errno_of
from pinfold.volumes.io import CACHE, FLUSH, READ, STATUS, TRIM, WRITE, ZERO, Io

SIZE = 1 << 20


class Nobody:
    def finished(self, ios: list[Io]) -> None:
        raise AssertionError


def request(
    command: int,
    offset: int = 0,
    length: int = 0,
    *,
    flags: int = 0,
    cookie: int = 7,
    payload: bytes = b"",
) -> bytes:
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, command, cookie, offset, length) + payload


def transmission(*, structured: bool = True, read_only: bool = False) -> Transmission:
    return Transmission(Nobody(), SIZE, structured=structured, read_only=read_only)


def parse(
    data: bytes, *, room: int = 1 << 30, to: Transmission | None = None
) -> tuple[list[Io], bytes, int, int]:
    ios: list[Io] = []
    out: list[Buffer] = []
    view = memoryview(bytearray(data))
    reached, needed = (to or transmission()).parse(view, 0, len(data), room, ios, out)
    return ios, b"".join(out), reached, needed


def refusal(data: bytes, *, read_only: bool = False) -> int:
    """The error number that a request is refused with."""
    ios, out, reached, _needed = parse(data, to=transmission(structured=False, read_only=read_only))
    assert not ios
    assert reached == len(data)
    magic, error, cookie = nbd.SIMPLE_REPLY.unpack(out)
    assert magic == nbd.SIMPLE_REPLY_MAGIC
    assert cookie == 7
    return int(error)


def test_every_command_reaches_the_volume_as_what_it_is() -> None:
    data = (
        request(nbd.CMD_READ, 512, 4096)
        + request(nbd.CMD_WRITE, 1, 3, payload=b"abc", flags=nbd.CMD_FLAG_FUA)
        + request(nbd.CMD_FLUSH)
        + request(nbd.CMD_TRIM, 0, SIZE)
        + request(nbd.CMD_WRITE_ZEROES, 0, 8192)
        + request(nbd.CMD_WRITE_ZEROES, 0, 8192, flags=nbd.CMD_FLAG_NO_HOLE)
    )
    ios, out, reached, _needed = parse(data)
    assert not out
    assert reached == len(data)
    assert [io.kind for io in ios] == [READ, WRITE, FLUSH, TRIM, TRIM, ZERO]
    assert [io.fua for io in ios] == [False, True, False, False, False, False]
    assert bytes(ios[1].payload) == b"abc"
    assert (ios[0].offset, ios[0].length, ios[0].cookie) == (512, 4096, 7)


def test_fua_is_accepted_on_every_command() -> None:
    for command in (nbd.CMD_READ, nbd.CMD_FLUSH, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES):
        ios, out, _reached, _needed = parse(request(command, 0, 512, flags=nbd.CMD_FLAG_FUA))
        assert len(ios) == 1
        assert not out


def test_requests_past_the_end_are_refused() -> None:
    end = SIZE - 512
    assert refusal(request(nbd.CMD_READ, end, 1024)) == nbd.EINVAL
    assert refusal(request(nbd.CMD_WRITE, end, 1024, payload=bytes(1024))) == nbd.ENOSPC
    assert refusal(request(nbd.CMD_WRITE_ZEROES, end, 1024)) == nbd.ENOSPC
    assert refusal(request(nbd.CMD_TRIM, end, 1024)) == nbd.EINVAL
    assert refusal(request(nbd.CMD_READ, (1 << 64) - 1, 512)) == nbd.EINVAL


def test_flags_and_commands_nobody_offered_are_refused() -> None:
    assert refusal(request(nbd.CMD_FLUSH, flags=nbd.CMD_FLAG_DF)) == nbd.EINVAL
    assert refusal(request(nbd.CMD_READ, 0, 512, flags=nbd.CMD_FLAG_DF)) == nbd.EINVAL
    assert refusal(request(nbd.CMD_READ, 0, 512, flags=1 << 9)) == nbd.EINVAL
    assert refusal(request(nbd.CMD_TRIM, 0, 512, flags=nbd.CMD_FLAG_NO_HOLE)) == nbd.EINVAL
    assert refusal(request(77, 0, 512)) == nbd.EINVAL


def test_a_read_only_export_takes_no_changes() -> None:
    for command in (nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES):
        assert refusal(request(command, 0, 512), read_only=True) == nbd.EPERM
    write = request(nbd.CMD_WRITE, 0, 4, payload=b"abcd")
    assert refusal(write, read_only=True) == nbd.EPERM


def test_a_read_beyond_the_limit_does_not_fit() -> None:
    big = Transmission(Nobody(), 1 << 40, structured=True, read_only=False)
    ios, out, _reached, _needed = parse(
        request(nbd.CMD_READ, 0, (32 << 20) + 1, flags=nbd.CMD_FLAG_DF), to=big
    )
    assert not ios
    assert nbd.ERROR_CHUNK.unpack(out)[5] == nbd.EOVERFLOW


def test_nothing_asked_is_answered_with_nothing() -> None:
    for command in (nbd.CMD_READ, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES, nbd.CMD_WRITE):
        ios, out, _reached, _needed = parse(request(command, 0, 0))
        assert not ios
        assert out == nbd.CHUNK.pack(nbd.CHUNK_MAGIC, nbd.CHUNK_DONE, nbd.CHUNK_NONE, 7, 0)


def test_nothing_after_a_disconnect_is_looked_at() -> None:
    to = transmission()
    ios, out, _reached, _needed = parse(
        request(nbd.CMD_READ, 0, 512) + request(nbd.CMD_DISC) + b"garbage" * 10, to=to
    )
    assert len(ios) == 1
    assert not out
    assert to.disconnected


def test_garbage_and_huge_payloads_end_the_session() -> None:
    with pytest.raises(ProtocolViolation):
        parse(bytes(28))
    with pytest.raises(ProtocolViolation):
        parse(request(nbd.CMD_WRITE, 0, (32 << 20) + 1))


def test_the_room_bounds_what_is_taken_on() -> None:
    data = request(nbd.CMD_READ, 0, 65536) * 100
    ios, _out, reached, _needed = parse(data, room=200_000)
    assert 3 <= len(ios) <= 5
    assert reached == len(ios) * 28


def test_block_status_needs_its_context_and_tells_runs() -> None:
    assert refusal(request(nbd.CMD_BLOCK_STATUS, 0, 512)) == nbd.EINVAL
    to = Transmission(Nobody(), SIZE, structured=True, read_only=False, allocation=True)
    (io,), _out, _reached, _needed = parse(
        request(nbd.CMD_BLOCK_STATUS, 0, 8192, flags=nbd.CMD_FLAG_REQ_ONE), to=to
    )
    assert io.kind == STATUS
    assert io.first_only
    io.runs = [(4096, True), (4096, False)]
    out: list[Buffer] = []
    to.reply(io, out)
    expected = struct.pack(">IHHQI", 0x668E33EF, 1, 5, 7, 20) + struct.pack(
        ">IIIII", 1, 4096, 0, 4096, 3
    )
    assert b"".join(out) == expected


def test_cache_is_a_read_without_an_answer() -> None:
    big = Transmission(Nobody(), 1 << 40, structured=True, read_only=False)
    (io,), _out, _reached, _needed = parse(request(nbd.CMD_CACHE, 0, 1 << 30), to=big)
    assert (io.kind, io.length) == (CACHE, 32 << 20)
    out: list[Buffer] = []
    big.reply(io, out)
    assert out == [big.success(7)]


def test_replies_carry_data_errors_and_cookies() -> None:
    io = Io(READ, 4096, 6, Nobody(), 99)
    io.parts = [b"abc", memoryview(b"def")]
    out: list[Buffer] = []
    transmission().reply(io, out)
    assert b"".join(out) == struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 99, 14, 4096) + b"abcdef"
    out = []
    transmission(structured=False).reply(io, out)
    assert b"".join(out) == struct.pack(">IIQ", 0x67446698, 0, 99) + b"abcdef"
    io.error = Corrupt("bits")
    out = []
    transmission().reply(io, out)
    assert b"".join(out) == struct.pack(">IHHQIIH", 0x668E33EF, 1, 0x8001, 99, 6, 5, 0)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Full(""), nbd.ENOSPC),
        (Fenced(""), nbd.ESHUTDOWN),
        (Unavailable(""), nbd.ESHUTDOWN),
        (Invalid(""), nbd.EINVAL),
        (Corrupt(""), nbd.EIO),
    ],
)
def test_errors_have_their_numbers(error: PinfoldError, number: int) -> None:
    assert errno_of(error) == number


one_request = st.one_of(
    st.builds(
        lambda c, o, n, f: request(c, o, n, flags=f),
        st.sampled_from([0, 3, 4, 6, 5, 7, 9]),
        st.integers(0, SIZE + 10),
        st.integers(0, 70_000),
        st.sampled_from([0, 0, 1, 2, 4, 16]),
    ),
    st.builds(
        lambda o, p: request(nbd.CMD_WRITE, o, len(p), payload=p),
        st.integers(0, SIZE),
        st.binary(max_size=300),
    ),
)


@given(st.lists(one_request, max_size=12), st.lists(st.integers(1, 400), max_size=20))
def test_any_cutting_of_the_bytes_gives_the_same_requests(
    requests: list[bytes], steps: list[int]
) -> None:
    stream = b"".join(requests)
    whole, out, reached, _needed = parse(stream)
    assert reached == len(stream)
    machine = transmission()
    view = memoryview(bytearray(stream))
    ios: list[Io] = []
    replies: list[Buffer] = []
    start = end = 0
    for step in [*steps, len(stream)]:
        end = min(len(stream), end + step)
        start, needed = machine.parse(view, start, end, 1 << 30, ios, replies)
        assert start <= end
        assert start + needed > end or start == end
    assert b"".join(replies) == out
    assert [_shape(io) for io in ios] == [_shape(io) for io in whole]


def _shape(io: Io) -> tuple[int, int, int, bool, bytes]:
    return io.kind, io.offset, io.length, io.fua, bytes(io.payload)
