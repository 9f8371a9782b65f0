"""Slots are handed out once, forgotten never, whatever a crash takes back."""

import random

import pytest

from pinfold.device.index import Index
from pinfold.device.slots import (
    CHUNK_SLOTS,
    OPEN_SLOTS,
    PIECE_CHUNKS,
    Slots,
    neighbours,
    runs_of,
)
from tests.device.engine import MemoryEngine


class Twin:
    """The slots that somebody names: now, and as of the last commit."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.engine = MemoryEngine()
        self.index = Index(self.engine)
        self.slots = Slots(self.index)
        self.named: set[int] = set()
        self.committed: set[int] = set()
        self.untouchable: set[int] = set()
        """Freed, and not given back since."""
        self.dirty: set[int] = set()
        """Written since they were last given back: such a slot takes space."""

    def take(self) -> None:
        slot = self.slots.take()
        assert not any(slot in known for known in (self.named, self.committed, self.untouchable))
        assert slot not in self.dirty, "what is handed out holds nothing"
        self.named.add(slot)
        self.dirty.add(slot)

    def free(self) -> None:
        gone = self.rng.sample(sorted(self.named), self.rng.randint(1, min(40, len(self.named))))
        self.slots.free(gone)
        self.named.difference_update(gone)
        self.untouchable.update(gone)

    def commit(self) -> None:
        self.slots.settle()
        self.engine.commit_index(self.index)
        self.slots.committed()
        self.committed = set(self.named)

    def give_back(self) -> None:
        runs = self.slots.piece()
        given = {slot for first, count in runs for slot in range(first, first + count)}
        assert not given & (self.named | self.committed)
        self.slots.given_back(runs)
        self.slots.flushed(self.slots.to_flush())
        self.untouchable -= given
        self.dirty -= given

    def crash(self) -> None:
        self.index = Index(self.engine)
        self.slots = Slots(self.index)
        self.named = set(self.committed)
        self.untouchable = set()
        end = self.slots.chunks * CHUNK_SLOTS
        self.dirty = {slot for slot in self.dirty if slot < end}  # the file was cut there
        assert self.slots.used == len(self.named)

    def check(self) -> None:
        for number in range(self.slots.chunks):
            base = number * CHUNK_SLOTS
            free = self.slots.free_in(number)
            found = {
                slot for first, count in runs_of(free, base) for slot in range(first, first + count)
            }
            assert found == set(range(base, base + CHUNK_SLOTS)) - self.named


@pytest.mark.parametrize("seed", range(20))
def test_no_slot_is_lost_or_handed_out_twice(seed: int) -> None:
    rng = random.Random(seed)
    twin = Twin(rng)
    for _ in range(200):
        choice = rng.random()
        if choice < 0.4:
            for _ in range(rng.choice((1, 30, 400))):
                twin.take()
        elif choice < 0.6 and twin.named:
            twin.free()
        elif choice < 0.8:
            twin.commit()
        elif choice < 0.95:
            twin.give_back()
        else:
            twin.crash()
    twin.slots.settle()
    twin.check()
    twin.commit()
    twin.crash()
    twin.check()
    # Everything that takes space and has no name is given back in the end.
    for _ in range(50):
        twin.give_back()
        twin.commit()
    assert twin.dirty <= twin.named
    assert twin.slots.held == 0


def test_freed_slots_wait_for_the_commit_and_for_the_flush_behind_the_punch() -> None:
    twin = Twin(random.Random(1))
    slots = twin.slots
    taken = [slots.take() for _ in range(8)]
    twin.commit()
    slots.free(taken)
    slots.settle()
    assert slots.piece() == []  # a crash would bring their names back
    twin.commit()
    assert slots.piece() == [(0, 8)]
    slots.given_back([(0, 8)])
    assert slots.piece() == []  # not twice
    assert slots.take() == 8  # the hole may not be durable
    slots.flushed(slots.to_flush())
    assert slots.take() == 0


def test_slots_are_not_given_back_again_while_a_flush_makes_their_holes_durable() -> None:
    twin = Twin(random.Random(1))
    slots = twin.slots
    taken = [slots.take() for _ in range((PIECE_CHUNKS + 1) * CHUNK_SLOTS)]
    twin.commit()
    slots.free(taken)
    twin.commit()
    first = slots.piece()
    slots.given_back(first)
    second = slots.piece()
    flushing = slots.to_flush()
    slots.given_back(second)  # behind the flush's beginning, which may not have seen these holes
    # A piece from here on would be punched when its slots have been handed out again.
    assert slots.piece() == []
    slots.flushed(flushing)
    assert slots.held == CHUNK_SLOTS
    assert slots.piece() == []
    slots.flushed(slots.to_flush())
    assert slots.held == 0
    assert slots.to_flush() == {}


def test_old_chunks_are_used_again_before_new_ones() -> None:
    twin = Twin(random.Random(1))
    slots = twin.slots
    taken = [slots.take() for _ in range(4 * CHUNK_SLOTS)]
    twin.commit()
    slots.free(taken[: 2 * CHUNK_SLOTS])
    twin.commit()
    while runs := slots.piece():
        slots.given_back(runs)
    slots.flushed(slots.to_flush())
    twin.commit()
    again = {slots.take() for _ in range(min(OPEN_SLOTS, 2 * CHUNK_SLOTS))}
    assert again == set(taken[: 2 * CHUNK_SLOTS])
    assert slots.chunks == 4


def test_runs_and_neighbours() -> None:
    assert list(runs_of(0b1011, 100)) == [(100, 2), (103, 1)]
    assert list(runs_of(0, 7)) == []
    assert list(neighbours([1, 2, 3, 7, 9, 10])) == [(1, 3), (7, 1), (9, 2)]
    assert list(neighbours([])) == []
