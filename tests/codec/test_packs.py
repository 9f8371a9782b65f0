import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec.packs import (
    Location,
    checks_of,
    decode_head,
    decode_location,
    decode_pack_header,
    encode_head,
    encode_location,
    encode_pack_header,
    head_bytes,
    pack_seed,
    record_bytes,
)
from pinfold.codec.records import PAGE_BYTES
from pinfold.model.errors import Corrupt
from pinfold.model.limits import BLOB_CHECK_BYTES

SEED = pack_seed(b"saltsalt", 3)
CHECKS = st.lists(st.integers(0, 2**64 - 1), max_size=300).map(tuple)


@given(st.integers(0, 2**32 - 1), st.integers(PAGE_BYTES, 2**40), st.integers(0, 2**24))
def test_locations_round_trip(pack: int, start: int, length: int) -> None:
    checks = tuple(range(-(-length // BLOB_CHECK_BYTES)))
    location = Location(pack, start + head_bytes(len(checks)), length, 99, checks)
    assert decode_location(encode_location(location)) == location
    assert location.start == start
    assert location.record_bytes % PAGE_BYTES == 0


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**24), CHECKS)
def test_heads_round_trip(blob: bytes, length: int, checks: tuple[int, ...]) -> None:
    head = encode_head(blob, length, checks, SEED)
    assert len(head) == head_bytes(len(checks))
    assert record_bytes(length, len(checks)) >= len(head) + length
    assert decode_head(head + b"payload", SEED) == (blob, length, checks)


@given(st.integers(0, 47), st.integers(0, 7))
def test_a_damaged_head_is_corrupt(place: int, bit: int) -> None:
    head = bytearray(encode_head(b"b" * 16, 5000, (1, 2), SEED))
    head[place % len(head)] ^= 1 << bit
    with pytest.raises(Corrupt):
        decode_head(head, SEED)


def test_a_head_of_another_device_or_pack_is_none() -> None:
    head = encode_head(b"b" * 16, 5000, (1,), SEED)
    for seed in (pack_seed(b"saltsalt", 4), pack_seed(b"anothers", 3), 0):
        with pytest.raises(Corrupt):
            decode_head(head, seed)
    assert decode_pack_header(encode_pack_header(3, b"saltsalt"), b"saltsalt") == 3
    with pytest.raises(Corrupt):
        decode_pack_header(encode_pack_header(3, b"saltsalt"), b"anothers")


def test_a_check_covers_each_started_64_kib() -> None:
    assert checks_of(b"") == ()
    assert len(checks_of(bytes(65_536))) == 1
    assert len(checks_of(bytes(65_537))) == 2
    assert len(encode_pack_header(3, b"saltsalt")) == PAGE_BYTES
