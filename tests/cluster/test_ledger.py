"""Evaluation in log order, against the twin that applies every change at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sortedcontainers import SortedDict

from pinfold.cluster.api import BlobRef, Change, Check, Row
from pinfold.cluster.groups import results as results_module
from pinfold.cluster.groups.entries import (
    FREES_RANGE,
    RESULTS_RANGE,
    decode_body,
    decode_free,
    decode_row,
)
from pinfold.cluster.groups.ledger import Ledger
from pinfold.model.errors import Conflict, Invalid
from pinfold.model.ids import OpId
from tests.cluster.group_cluster import env_for
from tests.twins.cluster import MemoryRows
from tests.twins.virtual import run_virtual

DAY_MS = 86_400_000


class Store:
    """Applied rows and the entries in flight behind them."""

    def __init__(self):
        self.rows = SortedDict()
        self.in_flight = []
        self.ledger = self.new_ledger()
        self.op = 1

    def new_ledger(self, now_s=0.0, **limits):
        ledger = Ledger(self.rows.get, self.scan, DAY_MS, **limits)
        while not ledger.results.loaded:
            ledger.results.load(lambda _op: now_s)
        return ledger

    def scan(self, start, end):
        for key in list(self.rows.irange(start, end, (True, False))):
            yield key, self.rows[key]

    def entry(self, changes, now_ms=1000, now_s=0.0):
        """Evaluate changes into the next entry; returns their results."""
        batch = self.ledger.begin(self.op, now_ms, now_s)
        results = []
        for change in changes:
            known = batch.known(change.op_id)
            if known is not None:
                results.append(known)
                continue
            try:
                results.append(batch.add(change))
            except (Conflict, Invalid) as error:
                results.append(error)
        if not batch.empty:
            body, writes = batch.finish()
            assert dict(decode_body(body)) == dict(writes)
            self.in_flight.append((self.op, writes))
            self.op += 1
        return results

    def apply(self, count=1):
        for op, writes in self.in_flight[:count]:
            for key, value in writes:
                if value is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = value
            self.ledger.on_applied(op)
        del self.in_flight[:count]

    def users(self):
        """The rows that users see, without versions."""
        self.apply(len(self.in_flight))
        rows = {key: decode_row(value) for key, value in self.rows.items() if key[:1] != b"\x00"}
        return {key: (row.body, row.tag, row.size, row.blobs) for key, row in rows.items()}

    def freed(self):
        return [blob for _, value in self.scan(*FREES_RANGE) for blob in decode_free(value)]


def op_id(number):
    return OpId(number.to_bytes(16, "big"))


def put(number, key, body=b"", **more):
    return Change(op_id(number), puts=((key, Row(body, **more)),))


def test_changes_of_one_entry_see_each_other():
    store = Store()
    absent = (Check("absent", b"k"),)
    first, second = store.entry(
        [
            Change(op_id(1), absent, ((b"k", Row(b"1")),)),
            Change(op_id(2), absent, ((b"k", Row(b"2")),)),
        ]
    )
    assert first.version == 1 << 16
    assert isinstance(second, Conflict)
    index, value = second.detail
    assert (index, decode_row(value).body) == (0, b"1")


def test_a_change_sees_entries_still_in_flight():
    store = Store()
    store.entry([put(1, b"k", b"1")])
    (result,) = store.entry([Change(op_id(2), (Check("absent", b"k"),), ((b"k", Row(b"2")),))])
    assert isinstance(result, Conflict)
    store.entry([Change(op_id(3), deletes=(b"k",))])
    store.apply(1)
    (result,) = store.entry([Change(op_id(4), (Check("absent", b"k"),), ((b"k", Row(b"4")),))])
    assert not isinstance(result, Conflict), "an older entry's application uncovered its row"


def test_an_op_id_takes_effect_once_also_after_a_new_primary_took_over():
    store = Store()
    (first,) = store.entry([put(1, b"k", b"1")])
    again, other = store.entry([put(1, b"k", b"x"), put(2, b"k", b"2")])
    assert again == first
    assert other.version > first.version
    store.apply(2)
    store.ledger = store.new_ledger()
    (late,) = store.entry([put(1, b"k", b"x")])
    assert late == first
    assert store.users()[b"k"][0] == b"2"


def test_results_are_forgotten_after_their_time_and_their_rows_with_them():
    store = Store()
    for number in range(20):
        store.entry([put(number, b"k")], now_s=number)
    store.apply(20)
    late = 20 + results_module.KEPT_S
    for number in range(20, 30):
        store.entry([put(number, b"k")], now_s=late)
    store.apply(10)
    assert len(list(store.scan(*RESULTS_RANGE))) == 10
    assert store.ledger.results.known(op_id(3)) is None
    assert store.ledger.results.known(op_id(25)) is not None


def test_results_within_their_time_are_kept_whatever_their_number_and_the_ledger_says_so():
    store = Store()
    store.ledger = store.new_ledger(results_max=10)
    for number in range(10):
        store.entry([put(number, b"k")], now_s=number)
    assert store.ledger.results.room(9.0) == 0
    assert all(store.ledger.results.known(op_id(number)) for number in range(10))
    assert store.ledger.results.room(3.5 + results_module.KEPT_S) == 4
    assert store.ledger.results.known(op_id(3)) is None


def test_results_of_earlier_views_are_loaded_slice_by_slice():
    store = Store()
    for number in range(0, 3 * results_module.LOAD_RESULTS, 64):
        store.entry([put(number + one, b"k") for one in range(64)])
    store.apply(len(store.in_flight))
    results = Ledger(store.rows.get, store.scan, DAY_MS).results
    steps = 0
    while not results.loaded:
        results.load(lambda _op: 0.0)
        steps += 1
    assert steps in (3, 4)
    assert all(results.known(op_id(number)) for number in range(3 * results_module.LOAD_RESULTS))


def refused_for_good(store, change, now_s=0.0):
    """Judge a change that was sent before."""
    batch = store.ledger.begin(store.op, 1000, now_s)
    with pytest.raises(Conflict) as refusal:
        batch.add(change)
    batch.refuse(change, refusal.value.detail[0])
    _, writes = batch.finish()
    store.in_flight.append((store.op, writes))
    store.op += 1


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_refusal_for_good_is_a_result(taken_over):
    store = Store()
    store.entry([put(1, b"k", b"other")])
    mine = Change(op_id(2), (Check("present", b"k"), Check("absent", b"k")), ((b"k", Row(b"")),))
    refused_for_good(store, mine)
    store.entry([Change(op_id(3), deletes=(b"k",))])
    store.apply(3)
    if taken_over:
        store.ledger = store.new_ledger()
    assert store.ledger.results.known(op_id(2)) == results_module.Refused(1)
    batch = store.ledger.begin(store.op, 1000, 0.0)
    assert batch.refusal(mine, results_module.Refused(1)).detail == (1, None)


def test_a_wall_clock_that_is_hours_ahead_makes_nobody_forget_results():
    store = Store()
    (first,) = store.entry([put(1, b"k")], now_s=7e6)
    hours_ms = 10 * 3600 * 1000
    store.entry([put(2, b"k")], now_ms=hours_ms, now_s=7e6 + 1)
    store.apply(2)
    store.ledger = store.new_ledger(now_s=3.0)  # a monotonic clock of its own
    store.entry([put(3, b"k")], now_ms=2 * hours_ms, now_s=4.0)
    assert store.entry([put(1, b"k")], now_s=5.0) == [first]
    store.entry([put(4, b"k")], now_s=3.0 + results_module.KEPT_S + 1)
    assert store.ledger.results.known(op_id(1)) is None


def test_stamps_never_decrease_even_with_a_new_primary_whose_clock_is_behind():
    store = Store()
    (first,) = store.entry([put(1, b"k")], now_ms=5000)
    store.apply()
    store.ledger = store.new_ledger()
    (second,) = store.entry([put(2, b"k")], now_ms=4000)
    assert second.stamp_ms == first.stamp_ms == 5000


def aged(days, number=0, now_ms=10 * DAY_MS):
    """A blob whose id was made so many days before `now_ms`."""
    stamp = int(now_ms - days * DAY_MS).to_bytes(6, "big")
    return BlobRef(stamp + number.to_bytes(10, "big"), 10, (1,))


def naming(number, *blobs, key=b"k", **options):
    return Change(op_id(number), puts=((key, Row(b"", blobs=blobs)),), **options)


def test_a_blob_is_freed_unless_the_same_change_names_it_again():
    store = Store()
    a, b = aged(0, 1, now_ms=1000), aged(0, 2, now_ms=1000)
    store.entry([put(1, b"part", blobs=(a, b))])
    moved = Change(op_id(2), puts=((b"object", Row(b"", blobs=(a,))),), deletes=(b"part",))
    store.entry([moved])
    store.apply(2)
    assert store.freed() == [b]


def test_a_blob_older_than_a_day_is_not_named_for_the_first_time():
    store = Store()
    (fresh,) = store.entry([naming(1, aged(0.99))], now_ms=10 * DAY_MS)
    (late,) = store.entry([naming(2, aged(1.01, 2), key=b"other")], now_ms=10 * DAY_MS)
    (mixed,) = store.entry([naming(3, aged(0), aged(3, 3), key=b"other")], now_ms=10 * DAY_MS)
    assert not isinstance(fresh, Exception)
    assert isinstance(late, Invalid)
    assert isinstance(mixed, Invalid)
    assert set(store.users()) == {b"k"}
    assert store.freed() == []


def test_a_clock_set_back_by_less_than_an_hour_makes_no_blob_younger():
    store = Store()
    store.entry([put(1, b"a", b"")], now_ms=10 * DAY_MS)
    (late,) = store.entry([naming(2, aged(1.01))], now_ms=10 * DAY_MS - 1_800_000)
    assert isinstance(late, Invalid)


def test_a_clock_that_was_a_month_ahead_is_forgotten_by_the_group():
    """By the same primary and by the next one, which reads the stamps of earlier results."""
    store = Store()
    now_ms = 100 * DAY_MS
    store.entry([put(1, b"a")], now_ms=now_ms)
    (ahead,) = store.entry([put(2, b"a")], now_ms=now_ms + 30 * DAY_MS)
    assert ahead.stamp_ms == now_ms + 30 * DAY_MS
    (same,) = store.entry([naming(3, aged(0.5, 3, now_ms))], now_ms=now_ms + 1)
    assert same.stamp_ms == now_ms + 1
    store.entry([put(4, b"a")], now_ms=now_ms + 30 * DAY_MS)
    store.apply(4)
    store.ledger = store.new_ledger()
    (after,) = store.entry([naming(5, aged(0.5, 5, now_ms))], now_ms=now_ms + 2)
    assert after.stamp_ms == now_ms + 2


def test_a_blob_from_the_future_is_not_named_for_the_first_time():
    """Its age would be told wrong for as long as it is ahead."""
    store = Store()
    near, far = aged(-0.4, 1), aged(-0.6, 2)
    (refused,) = store.entry([naming(1, far)], now_ms=10 * DAY_MS)
    (taken,) = store.entry([naming(2, near)], now_ms=10 * DAY_MS)
    (carried,) = store.entry([naming(3, far, key=b"c", carried=True)], now_ms=10 * DAY_MS)
    assert isinstance(refused, Invalid)
    assert not isinstance(taken, Exception)
    assert not isinstance(carried, Exception)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("carried", [False, True])
def test_a_blob_that_waits_to_be_given_back_is_never_named_again(applied, carried):
    store = Store()
    one, two = aged(0, 1), aged(0, 2)
    store.entry([naming(1, one)], now_ms=10 * DAY_MS)
    store.entry([naming(2, two)], now_ms=10 * DAY_MS)
    if applied:
        store.apply(2)
        store.ledger = store.new_ledger()
    again = naming(3, one, key=b"elsewhere", carried=carried)
    (refused,) = store.entry([again], now_ms=10 * DAY_MS)
    assert isinstance(refused, Invalid)
    store.apply(len(store.in_flight))
    assert store.freed() == [one]
    assert decode_row(store.rows[b"k"]).blobs == (two,)


def test_a_drop_that_could_not_be_appended_leaves_the_blob_its_name():
    store = Store()
    one = aged(0, 1)
    store.entry([naming(1, one)], now_ms=10 * DAY_MS)
    batch = store.ledger.begin(store.op, 10 * DAY_MS, 0.0)
    batch.add(Change(op_id(2), deletes=(b"k",)))
    batch.finish()
    batch.undo()
    assert not store.ledger.dropped(one.id)


def test_an_old_blob_may_stay_or_move_within_a_change_and_moves_are_counted():
    store = Store()
    old, young = aged(0), aged(-4.5, 1)
    now_ms = 15 * DAY_MS
    store.entry([naming(1, old, key=b"part")], now_ms=10 * DAY_MS)
    store.entry([naming(9, old, young, key=b"part")], now_ms=now_ms)
    (rewritten,) = store.entry([naming(2, old, young, key=b"part")], now_ms=now_ms)
    assert not isinstance(rewritten, Exception)
    assert store.ledger.moves == 0, "a row rewritten in place"
    (moved,) = store.entry([naming(3, old, young, key=b"object", deletes=(b"part",))], now_ms)
    assert not isinstance(moved, Exception)
    assert store.ledger.moves == 1, "the old one only: the young one cannot be taken for an orphan"
    (again,) = store.entry([naming(4, old, key=b"third")], now_ms=now_ms)
    assert isinstance(again, Invalid), "a row that the change leaves alone lends nothing"


def test_rows_carried_from_another_group_name_old_blobs_and_count_as_moves():
    store = Store()
    (carried,) = store.entry([naming(1, aged(5), carried=True)], now_ms=10 * DAY_MS)
    assert not isinstance(carried, Exception)
    assert store.ledger.moves == 1


def test_blobs_of_entries_in_flight_are_told():
    store = Store()
    store.entry([naming(1, aged(0))], now_ms=10 * DAY_MS)
    assert list(store.ledger.blobs_in_flight()) == [aged(0).id]
    store.apply()
    assert list(store.ledger.blobs_in_flight()) == []


def test_blobs_that_rows_of_another_group_took_over_are_not_freed():
    store = Store()
    blob = aged(0, now_ms=1000)
    store.entry([put(1, b"moved", blobs=(blob,), size=7)])
    store.entry([Change(op_id(2), delete_ranges=((b"m", b"n"),), keep_blobs=True)])
    store.apply(2)
    assert store.freed() == []
    assert store.users() == {}


def test_an_entry_that_could_not_be_appended_leaves_no_trace():
    store = Store()
    store.entry([put(1, b"k", b"1")])
    batch = store.ledger.begin(store.op, 1000, 0.0)
    batch.add(put(2, b"k", b"2"))
    batch.add(put(3, b"l", b"3"))
    batch.finish()
    batch.undo()
    kept, fresh = store.entry(
        [
            Change(op_id(2), (Check("version", b"k", number=1 << 16),), ((b"k", Row(b"4")),)),
            Change(op_id(3), (Check("absent", b"l"),), ((b"m", Row(b"5")),)),
        ]
    )
    assert not isinstance(kept, Conflict)
    assert not isinstance(fresh, Conflict)
    assert {key: row[0] for key, row in store.users().items()} == {b"k": b"4", b"m": b"5"}


@pytest.mark.parametrize(
    "change",
    [
        Change(OpId(b"short")),
        Change(op_id(1), deletes=(b"\x00r",)),
        Change(op_id(1), puts=((b"", Row(b"")),)),
        Change(op_id(1), puts=((b"k" * 5000, Row(b"")),)),
        Change(op_id(1), puts=((b"k", Row(bytes(1 << 20))),)),
        Change(op_id(1), puts=tuple((b"k%d" % n, Row(bytes(1000_000))) for n in range(5))),
    ],
)
def test_what_exceeds_a_limit_is_refused_and_changes_nothing(change):
    store = Store()
    (result,) = store.entry([change])
    assert isinstance(result, Invalid)
    assert store.users() == {}


key = st.sampled_from([b"a", b"b", b"c", b"d"])
row = st.builds(
    Row,
    st.sampled_from([b"x", b"y"]),
    tag=st.sampled_from([b"t", b"u"]),
    size=st.integers(-1, 3),
)
check = st.one_of(
    st.builds(Check, st.sampled_from(["absent", "present"]), key),
    st.builds(
        Check,
        st.sampled_from(["tag-in", "tag-not-in", "tag-not-below"]),
        key,
        tags=st.sampled_from([(), (b"t",), (b"t", b"u")]),
    ),
    st.builds(
        Check,
        st.sampled_from(["unmodified-since", "modified-since"]),
        key,
        st.sampled_from([0, 10**15]),
    ),
    st.builds(Check, st.just("empty"), key, end=key),
)
change = st.builds(
    lambda checks, puts, deletes, ranges, counted: (checks, puts, deletes, ranges, counted),
    st.lists(check, max_size=2),
    st.dictionaries(key, row, max_size=2),
    st.sets(key, max_size=2),
    st.lists(st.tuples(key, key), max_size=1),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(change, min_size=1, max_size=4), max_size=6), st.data())
def test_entries_in_flight_mean_what_changes_applied_at_once_mean(plan, data):
    async def work():
        store, number = Store(), 0
        twin = MemoryRows(env_for(1).clock, lambda blobs: None)
        for batch in plan:
            changes = []
            for checks, puts, deletes, ranges, counted in batch:
                number += 1
                changes.append(
                    Change(
                        op_id(number),
                        tuple(checks),
                        tuple(puts.items()),
                        tuple(sorted(deletes)),
                        tuple(ranges),
                        b"total" if counted else b"",
                    )
                )
            for one, result in zip(changes, store.entry(changes), strict=True):
                try:
                    await twin.change(b"p", one)
                    failed = -1
                except Conflict as conflict:
                    failed = conflict.detail[0]
                assert failed == (result.detail[0] if isinstance(result, Conflict) else -1)
            store.apply(data.draw(st.integers(0, len(store.in_flight))))
        page = await twin.scan(b"p", b"", None, 1000)
        rows = {key: (row.body, row.tag, row.size, row.blobs) for key, row in page.items}
        mine = store.users()
        rows.setdefault(b"total", None)
        mine.setdefault(b"total", None)
        if rows[b"total"] != mine[b"total"]:  # the twin writes a counter of nothing, the ledger not
            assert mine[b"total"] is None
            assert rows[b"total"][0] == b"\x92\x00\x00"
            mine[b"total"] = rows[b"total"]
        assert mine == rows

    run_virtual(work)


def test_a_refusal_names_any_check_and_is_told_to_any_change_of_its_op_id():
    """However many checks a member sends, and whatever it sends the next time."""
    store = Store()
    many = (Check("absent", b"k"),) * 70_000 + (Check("present", b"k"),)
    refused_for_good(store, Change(op_id(2), many, ((b"k", Row(b"")),)))
    store.apply(1)
    known = store.ledger.results.known(op_id(2))
    batch = store.ledger.begin(store.op, 1000, 0.0)
    assert batch.refusal(put(2, b"k"), known).detail == (0xFFFF, None)
    assert batch.refusal(Change(op_id(2), many), known).detail == (0xFFFF, None)
