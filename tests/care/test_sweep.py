"""A named blob is never found unnamed, however names move while rows are read page by page."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.care.namefilter import BITS_MIN, BITS_PER_BLOB, NameFilter, bits_for
from pinfold.care.names import NamesPage
from pinfold.care.sweep import RESCANS_MAX, Suspects, Sweep
from pinfold.model.errors import Busy
from pinfold.model.ids import BlobId, DeviceId, GroupId

NOW_MS = 1_000_000
GRACE_MS = 1000


def blob(number, age_ms=2 * GRACE_MS):
    return BlobId((NOW_MS - age_ms).to_bytes(6, "big") + number.to_bytes(10, "big"))


def new_sweep(groups=2):
    return Sweep([GroupId(n) for n in range(groups)], NameFilter(BITS_MIN, 1), 0.0, NOW_MS)


class Group:
    """Rows of one blob each, as the ledger keeps them: old names move and are counted."""

    def __init__(self, keys=5):
        self.rows = dict.fromkeys(range(keys))
        self.view = 1
        self.moves = 0

    def page(self, start, only_token):
        key = int.from_bytes(start, "big")
        rows = [] if only_token or self.rows.get(key) is None else [self.rows[key]]
        last = key + 1 >= len(self.rows)
        end = None if last else (key + 1).to_bytes(2, "big")
        return NamesPage((self.view, self.moves), NOW_MS, end, tuple(rows))


def test_what_no_page_names_is_unnamed_once_every_group_has_answered_twice():
    groups = [Group(), Group()]
    groups[1].rows[3] = blob(1)
    sweep = new_sweep()
    asked = 0
    while sweep.question is not None:
        group, start, only_token = sweep.question
        sweep.answered(groups[group].page(start, only_token))
        asked += 1
    assert asked == 2 * 5 + 2
    assert not sweep.unnamed(blob(1), GRACE_MS)
    assert sweep.unnamed(blob(2), GRACE_MS)
    assert not sweep.unnamed(blob(2, GRACE_MS - 1), GRACE_MS), "too young"


def test_no_verdict_before_the_last_answer():
    sweep = new_sweep()
    with pytest.raises(AssertionError):
        sweep.unnamed(blob(1), GRACE_MS)


def test_the_clock_that_is_farthest_behind_decides_what_is_old():
    sweep = new_sweep(1)
    sweep.answered(NamesPage((1, 0), NOW_MS - 5000, None))
    sweep.answered(NamesPage((1, 0), NOW_MS + 5000, None))
    assert not sweep.unnamed(blob(1, 5999), GRACE_MS)
    assert sweep.unnamed(blob(1, 6001), GRACE_MS)


def test_names_that_keep_moving_end_the_sweep():
    sweep = new_sweep(1)
    first = NamesPage((1, 0), NOW_MS, b"x")
    for moves in range(1, RESCANS_MAX + 1):
        sweep.answered(first)
        sweep.answered(NamesPage((1, moves), NOW_MS, b"x"))
        assert sweep.question == (0, b"", False), "from the start"
    sweep.answered(first)
    with pytest.raises(Busy):
        sweep.answered(NamesPage((1, 1), NOW_MS, b"x"))


@settings(max_examples=400, deadline=None)
@given(st.data(), st.integers(0, 1 << 32))
def test_a_blob_that_is_named_all_the_time_is_never_unnamed(data, seed):
    """Blobs move between rows and groups between any two pages; orphans are found all the same."""
    rng = random.Random(seed)
    groups = [Group(), Group(), Group()]
    places = {}
    for number in range(4):
        group = groups[rng.randrange(3)]
        key = rng.choice([key for key, there in group.rows.items() if there is None])
        group.rows[key] = blob(number)
        places[number] = (group, key)
    sweep = new_sweep(3)
    busy = data.draw(st.floats(0, 0.4))
    while sweep.question is not None:
        group, start, only_token = sweep.question
        sweep.answered(groups[group].page(start, only_token))
        if rng.random() < busy and sweep._rescans < 50:
            move(rng, groups, places)
    for number in range(4):
        assert not sweep.unnamed(blob(number), GRACE_MS)
    assert sweep.unnamed(blob(9), GRACE_MS)


def move(rng, groups, places):
    """One blob to another row: in its group, or carried to another that names it before."""
    number = rng.randrange(len(places))
    old, key = places[number]
    new = rng.choice(groups)
    free = [one for one, there in new.rows.items() if there is None]
    if rng.random() < 0.2:
        old.view, old.moves = old.view + 1, 0
    elif free:
        new.rows[target := rng.choice(free)] = blob(number)
        new.moves += 1
        old.rows[key] = None
        places[number] = (new, target)


def test_suspects_are_convicted_by_two_sweeps_that_far_apart():
    suspects = Suspects(recheck_s=100.0)
    one, two = (DeviceId(1), blob(1)), (DeviceId(1), blob(2))
    assert suspects.judge(0.0, [one, two]) == []
    assert suspects.next_sweep_s(0.0) == 100.0
    assert suspects.judge(99.0, [one, two]) == []
    assert suspects.next_sweep_s(99.0) == 1.0
    assert suspects.judge(100.0, [one]) == [one]
    assert suspects.judge(101.0, [one, two]) == [one], "the other was named meanwhile"
    assert suspects.judge(102.0, []) == []
    assert suspects.next_sweep_s(102.0) is None


@settings(max_examples=50, deadline=None)
@given(st.sets(st.binary(min_size=16, max_size=16), max_size=300), st.integers(0, 1 << 63))
def test_a_filter_never_denies_what_was_added(blobs, seed):
    names = NameFilter(BITS_MIN, seed)
    names.add(blobs)
    assert all(one in names for one in blobs)
    assert names.count == len(blobs)


def test_a_filter_of_its_size_seldom_takes_others_for_named():
    rng = random.Random(5)
    count = 20_000
    names = NameFilter(bits_for(count), 7)
    names.add(rng.randbytes(16) for _ in range(count))
    assert names.bits == BITS_PER_BLOB * count
    wrong = sum(rng.randbytes(16) in names for _ in range(10_000))
    assert wrong < 250


def test_a_sweep_of_no_groups_convicts_nobody():
    with pytest.raises(AssertionError):
        Sweep([], NameFilter(BITS_MIN, 1), 0.0, NOW_MS)
