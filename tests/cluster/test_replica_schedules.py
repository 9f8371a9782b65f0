"""Thousands of random schedules of loss, repetition, overtaking, crashes and restarts."""

import pytest

from tests.cluster.replica_world import GROUP, World


def run(seed: int, size: int, steps: int, loss: float, rot: float = 0.0) -> World:
    world = World(seed, size)
    world.settle()
    world.heal(12)
    world.loss, world.rot = loss, rot
    for _ in range(steps):
        world.step()
    if all(one.memory.rotten(GROUP) for one in world.all.values()):
        mended = world.all[world.members[0]]  # as by an operator: while it does not run
        mended.crash()
        mended.memory.seen(GROUP).rotten = False
    world.heal()
    world.check_agreement()
    assert world.history, "nothing was ever committed"
    return world


@pytest.mark.parametrize("block", range(8))
def test_three_members_agree_whatever_happens(block):
    worlds = [run(block * 1000 + n, 3, 600, 0.05 * (n % 3)) for n in range(20)]
    assert sum(world.acknowledged for world in worlds) > 100
    assert sum(world.answered for world in worlds) > 20


@pytest.mark.parametrize("size", [3, 5])
def test_rows_that_rot_on_any_members_cost_no_group_its_quorum(size):
    worlds = [run(70_000 + size * 1000 + n, size, 600, 0.05 * (n % 3), 0.01) for n in range(44)]
    assert sum(world.copies for world in worlds) > 100
    for world in worlds:
        assert not any(one.memory.rotten(GROUP) for one in world.all.values())


@pytest.mark.parametrize("block", range(4))
def test_five_members_agree_whatever_happens(block):
    worlds = [run(50_000 + block * 1000 + n, 5, 900, 0.05 * (n % 3)) for n in range(12)]
    assert sum(world.acknowledged for world in worlds) > 60
    assert sum(world.answered for world in worlds) > 10


@pytest.mark.parametrize("size", [1, 2, 4])
def test_unusual_sizes_agree_whatever_happens(size):
    """Groups pass through them while their members change."""
    worlds = [run(60_000 + size * 1000 + n, size, 600, 0.05 * (n % 3)) for n in range(12)]
    assert sum(world.acknowledged for world in worlds) > 40


@pytest.mark.parametrize("size", [3, 5])
def test_a_young_group_that_loses_all_its_processes_begins_again(size):
    """Any mix of new members and full ones finds a primary, once all of them are there."""
    for seed in range(300):
        world = World(seed, size)
        for _ in range(world.rng.randint(1, 4)):
            for _ in range(world.rng.randint(0, 60)):
                world.step()
            for member in world.up():
                member.crash()
            world.network.clear()
            world.cuts.clear()
            for member in world.all.values():
                member.start()
        world.heal(40)
        world.check_agreement()
