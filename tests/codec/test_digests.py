"""A digest tells what was applied, whoever applied it and in however many steps."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec.digests import (
    BUCKETS,
    DIGEST_BYTES,
    RowDigest,
    bucket_of,
    chosen,
    covers,
    differing,
)

writes = st.lists(
    st.tuples(st.binary(max_size=6), st.none() | st.binary(max_size=6)),
    max_size=6,
    unique_by=lambda one: one[0],
)


def digest_of(history, seed=7):
    digest = RowDigest(seed)
    for op, one in history:
        digest.add(op, one)
    return digest.to_bytes()


@given(st.lists(writes, max_size=8), st.integers(0, 8))
def test_equal_ops_give_equal_digests_also_across_a_restart(entries, at):
    history = list(enumerate(entries, 1))
    begun = RowDigest(7, digest_of(history[:at]))
    for op, one in history[at:]:
        begun.add(op, reversed(one))
    assert begun.to_bytes() == digest_of(history)


@given(writes, st.binary(max_size=6), st.none() | st.binary(max_size=6), st.integers(1, 1 << 40))
def test_a_write_changes_its_own_bucket_only(before, key, value, op):
    one, other = digest_of([(op, before)]), digest_of([(op, before), (op + 1, [(key, value)])])
    differing = [n for n in range(BUCKETS) if one[8 * n : 8 * n + 8] != other[8 * n : 8 * n + 8]]
    assert differing == [bucket_of(7, key)]


def test_what_differs_is_chosen_and_nothing_else():
    one = digest_of([(1, [(b"a", b"1"), (b"b", b"1")])])
    other = digest_of([(1, [(b"a", b"1"), (b"b", b"1")]), (2, [(b"b", None), (b"c", b"1")])])
    within = chosen(differing(one, other), 7)
    assert [key for key in (b"a", b"b", b"c") if within(key)] == [b"b", b"c"]
    assert differing(one, b"") == differing(b"", one) == b"", "unknown: everything is copied"
    many = digest_of([(1, [(b"%d" % n, b"") for n in range(2000)])])
    assert differing(one, many) == b""
    assert chosen(b"", 7)(b"anything")
    assert not chosen(differing(one, one), 7)(b"a")


def test_buckets_cover_two_digests_when_all_that_differs_is_in_them():
    one = digest_of([(1, [(b"a", b"1")])])
    other = digest_of([(1, [(b"a", b"1")]), (2, [(b"b", b"1"), (b"c", b"1")])])
    most = digest_of([(1, [(b"a", b"1")]), (2, [(b"b", b"1")])])
    assert covers(differing(one, other), one, other)
    assert covers(differing(one, other), one, most)
    assert not covers(differing(one, most), one, other)
    assert covers(b"", one, b""), "all buckets"
    assert not covers(differing(one, other), one, b"")


def test_digests_differ_by_op_value_deletion_and_group():
    told = {
        digest_of([(1, [(b"k", b"v")])]),
        digest_of([(2, [(b"k", b"v")])]),
        digest_of([(1, [(b"k", b"w")])]),
        digest_of([(1, [(b"k", None)])]),
        digest_of([(1, [(b"k", b"")])]),
        digest_of([(1, [(b"l", b"v")])]),
        digest_of([(1, [(b"k", b"v")])], seed=8),
        digest_of([]),
    }
    assert len(told) == 8
    assert {len(one) for one in told} == {DIGEST_BYTES}
