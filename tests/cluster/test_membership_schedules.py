"""Random schedules in which members come and go while everything else goes wrong too."""

import pytest

from tests.cluster.replica_world import GROUP, World


def run(seed: int, size: int, spare: int, steps: int, loss: float) -> World:
    world = World(seed, size, spare=spare)
    world.settle()
    world.heal(12)
    world.loss, world.changing = loss, 0.02
    for _ in range(steps):
        world.step()
    world.changing = 0.0
    world.heal(150)
    world.check_agreement()
    return world


@pytest.mark.parametrize("block", range(10))
def test_nothing_committed_is_lost_while_members_change(block):
    worlds = [run(block * 1000 + n, 3, 3, 900, 0.05 * (n % 3)) for n in range(12)]
    assert sum(world.acknowledged for world in worlds) > 40
    assert sum(world.answered for world in worlds) > 5
    numbers = [world.committed_configuration().number for world in worlds]
    assert sum(numbers) > 4 * len(worlds), "members changed too rarely"
    assert sum(world.swaps for world in worlds) > 3
    assert sum(world.copies for world in worlds) > 3


@pytest.mark.parametrize("block", range(3))
def test_groups_of_five_change_their_members_too(block):
    worlds = [run(70_000 + block * 1000 + n, 5, 2, 1200, 0.05 * (n % 3)) for n in range(6)]
    assert sum(world.acknowledged for world in worlds) > 20


def test_members_are_replaced_altogether_and_back():
    world = World(1, 3, spare=3)
    world.heal(12)
    world.founding = False
    for wish in ((4, 5, 6), (1, 2, 3), (4,), (1, 2, 3, 4, 5)):
        world.wish = wish
        world.heal(40)
        world.check_agreement()
        (primary,) = [one for one in world.all.values() if one.replica.leadership is not None]
        before = world.acknowledged
        world.propose(primary)
        world.settle()
        assert world.acknowledged == before + 1
    world.heal(1)
    assert world.all[1].memory.seen(GROUP).rows == world.rows_at[-1]
