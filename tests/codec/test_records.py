from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec.records import (
    PAGE_BYTES,
    Scan,
    SegmentHeader,
    checksum,
    decode_segment_header,
    encode_header,
    encode_segment_header,
    page_end,
)

SIZE = 16 * PAGE_BYTES

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
            check = checksum([payload])
            record = encode_header(kind, len(payload), sequence, flushed, boot, check) + payload
            image[offset : offset + len(record)] = record
            offset += len(record)
            sequence += 1
        offset = page_end(offset)
    return image


@given(BATCHES)
def test_a_scan_finds_every_record_in_order(batches: list[list[tuple[int, bytes]]]) -> None:
    scan = Scan(memoryview(segment(batches)), 5, 0)
    found = [(record.kind, bytes(record.payload)) for record in scan]
    assert found == [record for batch in batches for record in batch]
    assert scan.sequence == 5 + len(found)
    assert scan.claimed_flushed() == 0


@given(BATCHES.filter(bool), st.data())
def test_a_damaged_byte_ends_the_scan_before_its_record(
    batches: list[list[tuple[int, bytes]]], data: st.DataObject
) -> None:
    image = segment(batches)
    whole = Scan(memoryview(image), 5, 0)
    assert list(whole)
    image[data.draw(st.integers(PAGE_BYTES, whole.end - 1))] ^= 0x40
    expected = [record for batch in batches for record in batch]
    found = [(record.kind, bytes(record.payload)) for record in Scan(memoryview(image), 5, 0)]
    assert found == expected[: len(found)]


def test_a_lost_batch_is_noticed_when_a_later_one_called_it_flushed() -> None:
    image = segment([[(1, b"one")], [(1, b"two")], [(1, b"three")]])
    image[2 * PAGE_BYTES : 3 * PAGE_BYTES] = bytes(PAGE_BYTES)
    scan = Scan(memoryview(image), 5, 0)
    assert len(list(scan)) == 1
    assert scan.claimed_flushed() == 6


def test_a_torn_last_batch_is_no_loss() -> None:
    image = segment([[(1, b"one")], [(1, b"x" * 5000)]])
    image[3 * PAGE_BYTES : 4 * PAGE_BYTES] = bytes(PAGE_BYTES)
    scan = Scan(memoryview(image), 5, 0)
    assert len(list(scan)) == 1
    assert scan.claimed_flushed() < scan.sequence


def test_what_an_earlier_boot_left_behind_is_not_appended_again() -> None:
    image = segment([[(1, b"old")], [(1, b"older tail")]], boot=3)
    image[PAGE_BYTES : 2 * PAGE_BYTES] = segment([[(1, b"new")]], boot=4)[
        PAGE_BYTES : 2 * PAGE_BYTES
    ]
    assert [bytes(record.payload) for record in Scan(memoryview(image), 5, 3)] == [b"new"]


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**63), st.integers(0, 2**63))
def test_segment_headers_round_trip_and_refuse_damage(uuid: bytes, number: int, first: int) -> None:
    header = SegmentHeader(uuid, number, first, 7)
    page = bytearray(encode_segment_header(header))
    assert len(page) == PAGE_BYTES
    assert decode_segment_header(page) == header
    page[20] ^= 1
    assert decode_segment_header(page) is None
    assert decode_segment_header(b"short") is None
