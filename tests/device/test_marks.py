"""Marks of extents that are dirty, beside a twin that walks all of them."""

import random

import pytest

from pinfold.device.index import Index
from pinfold.device.marks import Dirty, Marks, mark_of_key, stored_marks
from tests.device.engine import MemoryEngine


class Counting(dict[int, int]):
    """A dictionary that counts how many of its items were looked at."""

    looked_at = 0

    def items(self):  # type: ignore[no-untyped-def,override]
        for item in super().items():
            Counting.looked_at += 1
            yield item


@pytest.mark.parametrize("seed", range(20))
def test_a_declaration_clears_exactly_what_was_written_up_to_it(seed: int) -> None:
    rng = random.Random(seed)
    index = Index(MemoryEngine())
    marks = Marks(7)
    twin: dict[int, tuple[int, int, int]] = {}
    token, sequence = 1, 0
    for _ in range(400):
        choice = rng.random()
        if choice < 0.6:
            extent, epoch = rng.randrange(30), rng.randrange(5)
            sequence += 1
            marks.mark(extent, token, epoch, sequence)
            before = twin.get(extent, (0, 0, 0))
            twin[extent] = (token, sequence, max(epoch, before[2]))
        elif choice < 0.8:
            by, up_to = rng.randint(1, token), rng.randint(0, sequence)
            marks.stable(by, up_to)
            twin = {
                extent: mark for extent, mark in twin.items() if mark[0] != by or mark[1] > up_to
            }
        elif choice < 0.9:
            marks.settle(index)
            stored = [(extent, mark) for life, extent, mark in stored_marks(index) if life == 7]
            assert stored == sorted(twin.items())
            marks = Marks(7)
            marks.restore(stored)
        elif choice < 0.93:
            token += 1
        after, limit = rng.randrange(-1, 30), rng.randint(1, 8)
        expected = sorted(extent for extent in twin if extent > after)[:limit]
        assert [extent for extent, _ in marks.page(after, limit)] == expected
        assert {extent: tuple(marks.get(extent) or ()) for extent in twin} == twin
        assert len(marks) == len(twin)


def test_a_late_write_counts_as_the_newest() -> None:
    """It stays dirty too long rather than not long enough."""
    marks = Marks(1)
    marks.mark(1, 5, 0, 10)
    marks.mark(2, 5, 0, 4)
    assert marks.get(2) == Dirty(5, 4, 0), "but it says what it was"
    marks.stable(5, 9)
    assert len(marks) == 2
    marks.stable(5, 10)
    assert not len(marks)


def test_a_declaration_costs_what_it_makes_stable() -> None:
    marks = Marks(1)
    for extent in range(20_000):
        marks.mark(extent, 5, 0, extent)
    marks._written[5] = Counting(marks._written[5])
    for sequence in (0, 9, 9, 9, 20):
        marks.stable(5, sequence)
    assert Counting.looked_at <= 21 + 5
    assert len(marks) == 20_000 - 21


def test_keys_are_told_apart() -> None:
    index = Index(MemoryEngine())
    for life in (1, 2):
        marks = Marks(life)
        marks.mark(9, 1, 2, 3)
        marks.settle(index)
    assert [mark_of_key(key) for key, _ in index.scan(b"d", b"e")] == [(1, 9), (2, 9)]
