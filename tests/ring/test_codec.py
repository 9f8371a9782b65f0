import struct
from functools import cache
from typing import Any

import msgpack
import pytest
import xxhash
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pinfold_ring import BadRingFile, Builder, Ring, RingError, Topology, build
from pinfold_ring.codec import BUILDER_MAGIC, RING_MAGIC, decode, encode
from tests.ring.clusters import regular, topologies


@cache
def _sample() -> bytes:
    first = build("objects", regular(3, 1, 1), 3, 2, salt=b"pepper")
    return first.follow(regular(4, 1, 1)).to_bytes()


@given(topologies(at_least=2), st.integers(0, 5), st.binary(max_size=64), st.text(min_size=1))
def test_a_ring_reads_back_as_it_was(
    topology: Topology, power: int, salt: bytes, name: str
) -> None:
    assume(len(name.encode("utf-8", "replace")) < 255 and name.isprintable())
    ring = build(name, topology.devices, power, 2, salt=salt).follow(topology.with_weight(0, 3))
    loaded = Ring.from_bytes(ring.to_bytes())
    assert loaded.to_bytes() == ring.to_bytes()
    assert loaded.topology == ring.topology
    assert loaded.table.tolist() == ring.table.tolist()
    assert (loaded.name, loaded.epoch, loaded.salt) == (ring.name, ring.epoch, ring.salt)
    assert loaded.previous_checksum == ring.previous_checksum
    assert loaded.checksum == ring.checksum


def test_every_flipped_byte_is_noticed() -> None:
    data = bytearray(_sample())
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            data[position] ^= flip
            with pytest.raises(BadRingFile):
                Ring.from_bytes(data)
            data[position] ^= flip
    Ring.from_bytes(data)


def test_every_truncation_and_any_tail_is_noticed() -> None:
    data = _sample()
    for size in range(len(data)):
        with pytest.raises(BadRingFile) as caught:
            Ring.from_bytes(data[:size])
        assert caught.value.reason == ("magic" if size < 8 else "truncated")
    with pytest.raises(BadRingFile, match="follow the end"):
        Ring.from_bytes(data + b"\0")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_specific_error(junk: bytes) -> None:
    for prefix in (b"", RING_MAGIC, _sample()[:12]):
        with pytest.raises(BadRingFile):
            Ring.from_bytes(prefix + junk)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (1, 2, "version"),
        (1, 0, "version"),
        (2, 1, "size"),
        (3, 1 << 31, "size"),
        (3, 0, "size"),
        (4, 1 << 62, "size"),
        (4, 0, "size"),
        (5, 1 << 62, "truncated"),
        (5, 0, "size"),
    ],
)
def test_absurd_heads_are_refused_even_with_a_right_checksum(
    field: int, value: int, reason: str
) -> None:
    data = _sample()
    head = list(struct.unpack_from("<8sHHIQQ", data))
    head[field] = value
    packed = struct.pack("<8sHHIQQ", *head)
    checksum = xxhash.xxh3_128_digest(packed + data[48:])
    with pytest.raises(BadRingFile) as caught:
        Ring.from_bytes(packed + checksum + data[48:])
    assert caught.value.reason == reason


VALUES: list[Any] = [None, -1, 1 << 40, 1.5, "x", b"x", [], {}, [1], [{}], True, "x" * 300]

LEGAL: list[Any] = [("salt", b"x"), ("name", "x"), ("epoch", 1 << 40)]


@pytest.mark.parametrize("field", sorted(decode(RING_MAGIC, _sample())[0]))
def test_headers_that_contradict_the_ring_are_refused(field: str) -> None:
    header, body, _ = decode(RING_MAGIC, _sample())
    for value in VALUES:
        if (field, value) in LEGAL:
            continue
        with pytest.raises(BadRingFile):
            Ring.from_bytes(encode(RING_MAGIC, header | {field: value}, body))
    with pytest.raises(BadRingFile, match="missing"):
        Ring.from_bytes(encode(RING_MAGIC, {k: header[k] for k in header if k != field}, body))


@pytest.mark.parametrize("packed", [b"\xc1", b"\x81\x01", b"\x05", b"\x81\x01\x02", b"\x91" * 3000])
def test_headers_that_are_no_mapping_are_refused(packed: bytes) -> None:
    offset = -(-(48 + len(packed)) // 64) * 64
    head = struct.pack("<8sHHIQQ", RING_MAGIC, 1, 0, len(packed), offset, 0)
    tail = packed + bytes(offset - 48 - len(packed))
    with pytest.raises(BadRingFile, match="header"):
        Ring.from_bytes(head + xxhash.xxh3_128_digest(head + tail) + tail)


@pytest.mark.parametrize("table", [[9, 1], [1, 1], [0, 65_535]])
def test_tables_that_no_assignment_gives_are_refused(table: list[int]) -> None:
    header, body, _ = decode(RING_MAGIC, _sample())
    wrong = struct.pack("<2H", *table) + bytes(body)[4:]
    with pytest.raises(BadRingFile) as caught:
        Ring.from_bytes(encode(RING_MAGIC, header, wrong))
    assert caught.value.reason == "table"


@given(topologies(at_least=2))
def test_a_builder_reads_back_as_it_was(topology: Topology) -> None:
    builder = Builder(name="b", part_power=3, replicas=2, salt=b"s")
    for state in (
        builder,
        builder.with_topology(topology),
        builder.with_topology(topology).rebalance().with_topology(Topology()),
    ):
        loaded = Builder.from_bytes(state.to_bytes())
        assert loaded.to_bytes() == state.to_bytes()
        assert loaded.topology == state.topology
        assert (loaded.ring is None) == (state.ring is None)


def test_damaged_builders_are_refused() -> None:
    builder = Builder(name="b", part_power=3, replicas=2).with_topology(regular(3, 1, 1))
    data = bytearray(builder.rebalance().to_bytes())
    for position in range(len(data)):
        data[position] ^= 0x10
        with pytest.raises(BadRingFile):
            Builder.from_bytes(data)
        data[position] ^= 0x10
    header, body, _ = decode(BUILDER_MAGIC, data)
    with pytest.raises(BadRingFile, match="another builder"):
        Builder.from_bytes(encode(BUILDER_MAGIC, header | {"salt": b"other"}, body))
    for field in header:
        for value in (None, -1, 1.5, [3]):
            with pytest.raises(BadRingFile):
                Builder.from_bytes(encode(BUILDER_MAGIC, header | {field: value}, body))
    with pytest.raises(BadRingFile, match="not a ring file"):
        Ring.from_bytes(bytes(data))
    assert issubclass(BadRingFile, RingError)
    assert msgpack.unpackb(msgpack.packb(header)) == header
