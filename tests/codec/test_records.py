import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec.records import (
    HEADER_BYTES,
    PAGE_BYTES,
    Scan,
    SegmentHeader,
    checksum,
    decode_segment_header,
    encode_header,
    encode_segment_header,
    page_end,
    record_seed,
)
from pinfold.model.errors import Corrupt

SIZE = 16 * PAGE_BYTES
SALT = b"saltsalt"
SEED = record_seed(SALT, 3)

BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=3000)), min_size=1, max_size=4),
    max_size=4,
)


def segment(batches: list[list[tuple[int, bytes]]], *, first: int = 5, boot: int = 2) -> bytearray:
    """A segment with these batches; the journal was flushed up to each batch's beginning."""
    image = bytearray(SIZE)
    offset, sequence = PAGE_BYTES, first
    for batch in batches:
        flushed = sequence - 1
        for kind, payload in batch:
            check = checksum([payload], SEED)
            header = encode_header(kind, len(payload), sequence, flushed, boot, check, SEED)
            record = header + payload
            image[offset : offset + len(record)] = record
            offset += len(record)
            sequence += 1
        offset = page_end(offset)
    return image


@given(BATCHES)
def test_a_scan_finds_every_record_in_order(batches: list[list[tuple[int, bytes]]]) -> None:
    scan = Scan(memoryview(segment(batches)), 5, 0, SEED)
    found = [(record.kind, bytes(record.payload)) for record in scan]
    assert found == [record for batch in batches for record in batch]
    assert scan.sequence == 5 + len(found)
    assert scan.claimed_flushed() == 0


@given(BATCHES.filter(bool), st.data())
def test_a_damaged_byte_ends_the_scan_before_its_record(
    batches: list[list[tuple[int, bytes]]], data: st.DataObject
) -> None:
    image = segment(batches)
    whole = Scan(memoryview(image), 5, 0, SEED)
    assert list(whole)
    image[data.draw(st.integers(PAGE_BYTES, whole.end - 1))] ^= 0x40
    expected = [record for batch in batches for record in batch]
    found = [(record.kind, bytes(record.payload)) for record in Scan(memoryview(image), 5, 0, SEED)]
    assert found == expected[: len(found)]


def test_a_lost_batch_is_noticed_when_a_later_one_called_it_flushed() -> None:
    image = segment([[(1, b"one")], [(1, b"two")], [(1, b"three")]])
    image[2 * PAGE_BYTES : 3 * PAGE_BYTES] = bytes(PAGE_BYTES)
    scan = Scan(memoryview(image), 5, 0, SEED)
    assert len(list(scan)) == 1
    assert scan.claimed_flushed() == 6


def test_a_torn_last_batch_is_no_loss() -> None:
    image = segment([[(1, b"one")], [(1, b"x" * 5000)]])
    image[3 * PAGE_BYTES : 4 * PAGE_BYTES] = bytes(PAGE_BYTES)
    scan = Scan(memoryview(image), 5, 0, SEED)
    assert len(list(scan)) == 1
    assert scan.claimed_flushed() < scan.sequence


def test_what_an_earlier_boot_left_behind_is_not_appended_again() -> None:
    image = segment([[(1, b"old")], [(1, b"older tail")]], boot=3)
    image[PAGE_BYTES : 2 * PAGE_BYTES] = segment([[(1, b"new")]], boot=4)[
        PAGE_BYTES : 2 * PAGE_BYTES
    ]
    assert [bytes(record.payload) for record in Scan(memoryview(image), 5, 3, SEED)] == [b"new"]


def test_a_record_of_another_life_of_the_segment_or_of_another_device_is_none() -> None:
    image = memoryview(segment([[(1, b"one")]]))
    for seed in (record_seed(SALT, 2), record_seed(SALT, 4), record_seed(b"otherone", 3), 0):
        scan = Scan(image, 5, 0, seed)
        assert not list(scan)
        assert scan.claimed_flushed() == 0
    assert len(list(Scan(image, 5, 0, SEED))) == 1


def test_a_header_says_nothing_before_it_verifies() -> None:
    """Whatever version or key it shows: any client can write that."""
    image = segment([[(1, b"one")]])
    for place in (4, 6):
        forged = bytearray(image)
        forged[PAGE_BYTES + place] ^= 0xFF
        assert not list(Scan(memoryview(forged), 5, 0, SEED))


@pytest.mark.parametrize(("place", "said"), [(4, "newer program"), (6, "needs key")])
def test_a_header_of_ours_that_we_do_not_know_is_refused(place: int, said: str) -> None:
    image = segment([[(1, b"one")]])
    header = image[PAGE_BYTES : PAGE_BYTES + HEADER_BYTES - 8]
    header[place] = 99
    header += xxhash.xxh3_64(header, seed=SEED).digest()
    image[PAGE_BYTES : PAGE_BYTES + HEADER_BYTES] = header
    with pytest.raises(Corrupt, match=said):
        list(Scan(memoryview(image), 5, 0, SEED))


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_segment_headers_round_trip_and_refuse_damage(number: int, first: int) -> None:
    header = SegmentHeader(number, first, 7)
    page = bytearray(encode_segment_header(header, SALT))
    assert len(page) == PAGE_BYTES
    assert decode_segment_header(page, SALT) == header
    assert decode_segment_header(page, b"otherone") is None
    page[20] ^= 1
    assert decode_segment_header(page, SALT) is None
    assert decode_segment_header(b"short", SALT) is None
