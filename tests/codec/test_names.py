"""Encoded names sort as the names do, whatever follows them, and decode to themselves."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec import names

name = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode())


@given(name, name, st.binary(max_size=5), st.binary(max_size=5))
def test_order_is_that_of_the_names_then_of_what_follows(a, b, x, y):
    encoded = names.encode(a) + x < names.encode(b) + y
    assert encoded == ((a, x) < (b, y))


@given(name, st.binary(max_size=5))
def test_decode_finds_the_end(a, rest):
    key = b"pre" + names.encode(a) + rest
    assert names.decode(key, 3) == (a, len(key) - len(rest))


@given(name, name)
def test_escape_is_a_prefix_exactly_of_longer_names(a, b):
    assert names.encode(b).startswith(names.escape(a)) == b.startswith(a)


@given(st.binary(min_size=1, max_size=6), st.binary(max_size=6))
def test_successor_is_just_above_the_prefix(prefix, rest):
    bound = names.successor(prefix)
    assert bound is None or prefix + rest < bound
    if bound is not None:
        assert not bound[:-1].startswith(prefix)
        assert bound > prefix
