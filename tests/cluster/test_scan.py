"""Pages of rows against a naive listing, and their bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sortedcontainers import SortedDict

from pinfold.cluster.api import Collapse, Row
from pinfold.cluster.groups.entries import decode_row, encode_row
from pinfold.cluster.groups.scan import scan_page
from pinfold.codec import names

PREFIX = b"o\x00\x01s"
"""Not a name: what a terminator inside it means must not matter."""

name = st.text("ab/\x00", max_size=6).map(str.encode)
kind = st.one_of(
    st.sampled_from([b"\x10", b"\x30", b"\x40"]),
    st.builds(
        lambda kind, number: kind + b"%02d" % number,
        st.sampled_from([b"\x30", b"\x40"]),
        st.integers(0, 30),
    ),
)


class Source:
    def __init__(self, keys):
        self.rows = SortedDict((key, b"v" + key) for key in keys)
        self.looked_at = 0

    def __call__(self, start, end, reverse):
        for key in self.rows.irange(start, end, (True, False), reverse=reverse):
            self.looked_at += 1
            yield key, self.rows[key]


def naive(source, collapse, reverse):
    """What all the pages together must show."""
    items = {}
    for key in reversed(source.rows) if reverse else source.rows:
        end = key.find(names.TERMINATOR, len(PREFIX))
        found = key.find(collapse.delimiter, len(PREFIX), end) if collapse.delimiter else -1
        if found < 0:
            items[key] = source.rows[key]
        else:
            items[key[: found + len(collapse.delimiter)]] = None
    return list(items.items())


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.tuples(name, kind)),
    st.sampled_from([b"/", b"a", b""]),
    st.integers(1, 4),
    st.booleans(),
)
def test_pages_together_show_each_item_once_in_order(rows, delimiter, limit, reverse):
    source = Source(PREFIX + names.encode(one) + tail for one, tail in rows)
    collapse = Collapse(len(PREFIX), delimiter)
    start, end, shown = PREFIX, names.successor(PREFIX), []
    while True:
        items, following = scan_page(
            source,
            start,
            end,
            limit,
            collapse=collapse,
            reverse=reverse,
        )
        assert len(items) <= limit
        shown += items
        if following is None:
            break
        if reverse:
            end = following
        else:
            start = following
    assert shown == naive(source, collapse, reverse)


def test_a_page_looks_at_a_bounded_number_of_rows():
    source = Source(names.encode(b"%06d" % n) + b"\x40" for n in range(1000))
    items, following = scan_page(source, b"", None, 10)
    assert len(items) == 10
    assert following is not None
    assert source.looked_at == 11


def test_a_page_carries_payloads_only_when_asked():
    row = Row(b"body", payload=b"p" * 4096)
    rows = {b"k": encode_row(row)}
    for payloads, shown in ((True, row), (False, Row(b"body", payload=None))):
        items, _ = scan_page(lambda *_: iter(rows.items()), b"", None, 10, payloads=payloads)
        assert [decode_row(value) for _, value in items] == [shown]


def test_a_page_steps_over_what_it_has_rolled_up():
    source = Source(names.encode(b"dir/%06d" % n) + b"\x10" for n in range(1000))
    items, following = scan_page(source, b"", None, 10, collapse=Collapse(0, b"/"))
    assert (items, following) == ([(b"dir/", None)], None)
    assert source.looked_at == 1


def test_a_page_that_is_late_ends_early_and_the_next_goes_on():
    source = Source(PREFIX + names.encode(b"%03d" % one) + b"\x10" for one in range(100))
    shown, start, pages = [], PREFIX, 0
    while start is not None:
        items, start = scan_page(
            source, start, names.successor(PREFIX), 1000, late=lambda: source.looked_at > 0
        )
        shown += [key for key, _ in items]
        pages += 1
    assert shown == list(source.rows)
    assert 5 < pages < 8
