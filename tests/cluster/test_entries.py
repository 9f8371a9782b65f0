"""What groups store and send decodes to itself, and nothing else decodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.cluster.api import BlobRef, Row
from pinfold.cluster.groups import entries, wire
from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.messages import (
    Ack,
    CopyAck,
    CopyPage,
    Fetch,
    Fetched,
    Join,
    NeedCopy,
    OfferCopy,
    Outside,
    Prepare,
    Refuse,
    Standing,
    Vote,
    Voted,
    decode_voted,
    encode_voted,
)
from pinfold.device.api import Entry
from pinfold.model.errors import Corrupt, Invalid

key = st.binary(min_size=1, max_size=12) | st.sampled_from([b"name/%05d" % n for n in range(50)])


@given(st.dictionaries(key, st.none() | st.binary(max_size=10)))
def test_a_body_says_what_was_written(writes):
    body = entries.encode_body(writes.items())
    assert dict(entries.decode_body(body)) == writes
    assert len(entries.decode_body(body)) == len(writes)


def test_deleting_many_parts_of_a_long_name_stays_small():
    parts = [(b"n" * 1000 + b"%05d" % number, None) for number in range(10_000)]
    assert len(entries.encode_body(parts)) < 100_000


@pytest.mark.parametrize("broken", [b"", b"\x00", b"\x93\x03\x90\x90", b"\x93\x01\x90"])
def test_a_body_of_another_format_is_refused(broken):
    with pytest.raises(Corrupt):
        entries.decode_body(broken)


def test_rows_carry_their_format():
    row = Row(b"body", b"tag", 7, (BlobRef(b"i" * 16, 3, (1, 2)),), 5, 6)
    assert entries.decode_row(entries.encode_row(row)) == row
    for broken in (b"", b"\x02" + entries.encode_row(row)[1:], b"\x01\x00", b"\x02\x00"):
        with pytest.raises(Corrupt):
            entries.decode_row(broken)


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_a_payload_can_be_left_out_of_its_row_and_is_then_known_to_be(body, payload):
    value = entries.encode_row(Row(body, b"tag", 7, version=5, stamp_ms=6, payload=payload))
    assert entries.decode_row(value) == Row(body, b"tag", 7, (), 5, 6, payload)
    head = entries.without_payload(value)
    assert len(value) == len(head) + len(payload)
    assert entries.decode_row(head) == Row(body, b"tag", 7, (), 5, 6, None)
    for cut in (head[:-1], head[:4]):
        with pytest.raises(Corrupt):
            entries.decode_row(cut)


def test_rows_without_a_payload_are_stored_as_they_always_were():
    value = bytes.fromhex("0196c404626f6479c40374616707900506")
    assert entries.decode_row(value) == Row(b"body", b"tag", 7, (), 5, 6)
    assert entries.encode_row(Row(b"body", b"tag", 7, (), 5, 6)) == value


@given(
    st.integers(0, 1 << 60),
    st.lists(st.binary(min_size=16, max_size=16), max_size=5, unique=True),
    st.dictionaries(st.binary(min_size=16, max_size=16), st.integers(0, 1000), max_size=5),
)
def test_results_remember_op_ids_in_order(stamp, ids, refused):
    results = entries.StoredResults(stamp, b"".join(ids), refused)
    assert entries.decode_results(entries.encode_results(results)) == results
    assert list(results.op_ids()) == [*ids, *refused]
    assert [results.place(one) for one in ids] == list(range(len(ids)))


def test_an_op_id_that_begins_within_another_is_not_taken_for_it():
    ids = [b"a" + b"b" * 15, b"b" + b"c" * 15, b"b" * 16]
    results = entries.StoredResults(0, b"".join(ids), {})
    assert [results.place(one) for one in ids] == [0, 1, 2]


CONFIGURATION = Configuration(
    number=7, members=(1, 2, 3), joining=(2, 3, 4), births={1: 11, 2: 12, 3: 1 << 62, 4: 14}
)


def test_what_a_member_stores_with_its_view_is_read_back():
    assert decode_voted(b"") == Voted(Standing.NEW, 0, 0, None)
    for standing in Standing:
        for configuration in (None, Configuration(members=(1, 2)), CONFIGURATION):
            voted = Voted(standing, 1 << 62, 3, configuration)
            assert decode_voted(encode_voted(voted)) == voted


def test_what_earlier_versions_stored_with_a_view_is_read():
    assert decode_voted(b"\x01\x02") == Voted(Standing.COPYING, 0, 0, None)


@pytest.mark.parametrize(
    "broken", [b"\x01\x09", b"\x03", b"\x02", b"\x02\x94\x01\x02\x03\xc4\x01\x07", b"\x01"]
)
def test_a_vote_of_another_format_is_refused(broken):
    with pytest.raises(Corrupt):
        decode_voted(broken)


def test_an_entry_names_the_members_it_puts_in_force():
    body = entries.configuration_body(CONFIGURATION)
    assert entries.configuration_in(body) == CONFIGURATION
    assert entries.decode_body(body) == [(entries.MEMBERS_KEY, CONFIGURATION.encode())]
    assert entries.configuration_in(entries.encode_body([(b"k", b"v")])) is None
    assert entries.configuration_in(entries.EMPTY_BODY) is None
    with pytest.raises(Corrupt):
        entries.configuration_in(b"\x93\x02\x90\x90")


EXAMPLES = [
    Prepare(3, 7, 2, 6, 1, 4, [Entry(8, 3, b"eight"), Entry(9, 3, b"")]),
    Prepare(3, 7, -1, 6, 1, 4, []),
    Ack(3, 7, 6, True, 99),
    Refuse(3, 7, 5),
    NeedCopy(3, 9, b""),
    Join(3, 4),
    Vote(3, Standing.MEMBER, 2, 7, 4, 99),
    Fetch(3, 7, 2, 5),
    Fetched(3, 5, False, [Entry(6, 1, b"six")]),
    CopyPage(
        3, 9, 0, 5, 1, 6, 4, b"d", b"s", b"e", b"b" * 32, True, True, [(b"k", b"v"), (b"l", None)]
    ),
    CopyAck(3, 9, 0),
    Outside(3, 4),
    OfferCopy(3, 9, 4),
]


def test_messages_of_one_frame_arrive_as_they_were_sent():
    heads, payload = [], []
    for message in EXAMPLES:
        head, buffers = wire.encode(7, 1, 2, message)
        heads.append(head)
        payload += buffers
    arrived = list(wire.decode(heads, memoryview(b"".join(payload))))
    assert [one[:3] for one in arrived] == [(7, 1, 2)] * len(EXAMPLES)
    assert [one[3] for one in arrived] == EXAMPLES


@pytest.mark.parametrize(
    "head", [[], [99, 1, 2, 3], [1, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, [1, 9]]]
)
def test_heads_no_member_sends_are_refused(head):
    with pytest.raises(Invalid):
        list(wire.decode([head], memoryview(b"short")))
