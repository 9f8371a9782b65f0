"""Which copies to make, and when rows and devices are compared: the pure decisions."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.care.repairs import Named, missing_copies, placed
from pinfold.care.rounds import Rounds
from pinfold.model.ids import BlobId, DeviceId, GroupId, NodeName

A, B, C = (NodeName(name) for name in "abc")
ONE, TWO = GroupId(1), GroupId(2)


def named(number, *devices):
    blob = BlobId(bytes([*([7] * 15), number]))
    return Named(blob=blob, length=5, devices=tuple(map(DeviceId, devices)), group=ONE, row=b"k")


def devices(*numbers):
    return tuple(map(DeviceId, numbers))


def test_a_blob_with_one_copy_left_ranks_before_one_with_two():
    few, many = named(1, 1, 2), named(2, 1, 2)
    page = [(many, devices(1, 2, 3)), (few, devices(1, 2, 3))]
    repairs = missing_copies(
        page, {DeviceId(3): {few.blob, many.blob}, DeviceId(2): {few.blob}}, ()
    )
    assert [(r.blob, r.target, r.rank) for r in sorted(repairs, key=lambda r: r.rank)] == [
        (few.blob, 2, 1),
        (few.blob, 3, 1),
        (many.blob, 3, 2),
    ]
    assert all(r.named_by == (ONE, b"k") for r in repairs)


def test_handoffs_that_the_row_names_are_sources_and_unknown_ones_come_last():
    one = named(0, 1, 9)
    (repair,) = missing_copies([(one, devices(1, 2, 3))], {DeviceId(3): {one.blob}}, {DeviceId(1)})
    assert repair.sources == devices(2, 9, 1)
    assert repair.copies == 2


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 4), max_size=3)), max_size=12),
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 4))),
)
def test_every_missing_copy_is_made_from_where_it_is_not_missing(blobs, absent):
    page = [(named(n, *d), devices(*sorted({n % 5, (n + 1) % 5, (n + 3) % 5}))) for n, d in blobs]
    lacking = {}
    for number, device in absent:
        lacking.setdefault(DeviceId(device), set()).add(named(number).blob)
    asked = placed(page)
    repairs = missing_copies(page, lacking, ())
    wanted = {
        (one.blob, device)
        for one, primaries in page
        for device in primaries
        if one.blob in lacking.get(device, ())
    }
    assert {repair.key for repair in repairs} == wanted
    for repair in repairs:
        assert repair.blob in asked[repair.target]
        assert repair.target not in repair.sources
        assert all(
            repair.blob not in lacking.get(source, ())
            for source in repair.sources
            if repair.blob in asked.get(source, ())
        )


def rounds():
    return Rounds(settle_s=5.0, round_s=1000.0, again_s=10.0)


def play(state, now, pages=2, failed=()):
    """Do all rounds that are due: [(group, only)], one for each page."""
    seen, left = [], {}
    while (step := state.next(now)) is not None:
        at = left.get(step.group, 0) + 1
        left[step.group] = at
        end = None if at % pages == 0 else b"%d" % at
        seen.append((step.group, step.only))
        state.looked(step.group, end, failed, now)
    return seen


def test_a_group_led_anew_is_compared_with_everybody_and_again_after_a_round_time():
    state = rounds()
    state.lead([ONE, TWO], 0.0)
    assert play(state, 4.9) == []
    assert state.wait_s(4.0) == 1.0
    assert sorted(play(state, 5.0)) == [(ONE, None), (ONE, None), (TWO, None), (TWO, None)]
    assert play(state, 1000.0) == []
    state.lead([TWO], 1000.0)
    state.lead([ONE, TWO], 1001.0)
    assert play(state, 1005.0) == [(TWO, None), (TWO, None)]
    assert play(state, 1006.0) == [(ONE, None), (ONE, None)]


def test_a_node_that_returns_is_asked_about_every_page_after_that():
    state = rounds()
    state.lead([ONE], 0.0)
    assert play(state, 5.0)
    state.returned([A], 10.0)
    assert play(state, 14.9) == []
    step = state.next(15.0)
    assert step.only == {A}
    state.looked(ONE, b"middle", (), 15.0)
    state.returned([B], 15.5)
    assert state.next(16.0).end == b"middle"
    state.looked(ONE, None, (), 16.0)
    assert play(state, 20.4) == []
    assert play(state, 20.5, pages=1) == [(ONE, frozenset({B}))]


def test_who_did_not_answer_is_asked_again_later_and_later():
    state = rounds()
    state.lead([ONE], 0.0)
    play(state, 5.0, pages=1, failed=[C])
    assert play(state, 14.9) == []
    assert play(state, 15.0, pages=1, failed=[C]) == [(ONE, frozenset({C}))]
    assert play(state, 34.9) == []
    assert play(state, 35.0, pages=1) == [(ONE, frozenset({C}))]
    assert state.wait_s(35.0) == 970.0
    state.missed(A, 40.0, ONE)
    assert play(state, 79.9, pages=1) == []
    assert play(state, 80.0, pages=1) == [(ONE, frozenset({A}))]
    state.missed(A, 80.0, TWO)
    assert state.wait_s(80.0) == 925.0
    state.missed(B, 80.0)
    assert state.wait_s(80.0) == 80.0
    assert play(state, 1005.0, pages=1) == [(ONE, None)]
    state.missed(B, 1010.0)
    assert state.wait_s(1010.0) == 10.0, "a full round that all have answered begins anew"


def test_a_node_that_returns_is_not_kept_waiting_by_its_failures_before():
    state = rounds()
    state.lead([ONE], 0.0)
    now = 5.0
    for _ in range(6):
        play(state, now, pages=1, failed=[C])
        now += state.wait_s(now)
    play(state, now, pages=1, failed=[C])
    assert state.wait_s(now) > 300
    state.returned([C], now)
    assert state.wait_s(now) == 5.0
