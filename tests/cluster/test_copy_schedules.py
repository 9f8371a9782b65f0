"""Random schedules of copies, lost memory, elections and changes of members in groups cut in two.

A log is trimmed at once here, so that whoever was on the other side of a cut has to copy. What is
checked at every step is in `replica_world`: above all that all members agree on what is committed,
op by op, and that the group begins again once everything works.
"""

from typing import Final

import pytest

from pinfold.cluster.groups.messages import Standing
from pinfold.cluster.groups.state import Limits
from pinfold.model.ids import DeviceId
from tests.cluster.replica_world import Member, World

SHORT = Limits(batch_bytes=300, window_entries=64, retained_bytes=1, trim_entries=1, page_bytes=64)

_CUTS: Final = 8
"""Times that a group is cut in two in a schedule."""


def cut_in_two(world: World) -> None:
    side = [device for device in world.members if world.rng.random() < 0.5]
    others = [device for device in world.members if device not in side]
    world.cuts = {pair for a in side for b in others for pair in ((a, b), (b, a))}


def act(world: World, member: Member) -> None:
    """What a member does by itself: repeat, give up a primary, serve."""

    def alive(device: DeviceId) -> bool:
        return world.all[device].up and (member.device, device) not in world.cuts

    member.replica.tick()
    member.replica.pursue(world.wish)
    known = world.all.get(member.replica.primary)
    if known is None or not alive(known.device) or member.replica.unsettled_ticks > 3:
        world.suspect(member, alive)
    world.propose(member)


def maybe_lose(world: World) -> None:
    """Somebody's memory, while somebody else is copying."""
    copying = [
        one for one in world.all.values() if world.stored(one).standing is Standing.NEW_COPYING
    ]
    if copying and world.rng.random() < 0.3:
        lost = world.rng.choice([one for one in world.all.values() if one not in copying])
        world.swap(lost)
        if not lost.up:
            lost.start()


def run(seed: int, size: int, spare: int) -> World:
    world = World(seed, size, limits=SHORT, spare=spare)
    world.heal(12)
    rng = world.rng
    for _ in range(_CUTS):
        cut_in_two(world)
        if spare and rng.random() < 0.5:
            world.change_wish()
        for _ in range(rng.randrange(8)):
            for member in world.up():
                act(world, member)
            for _ in range(rng.randrange(60)):
                world.step()
            maybe_lose(world)
    world.heal(150)
    world.check_agreement()
    return world


@pytest.mark.parametrize(("size", "spare", "schedules"), [(3, 0, 150), (3, 2, 200), (5, 2, 60)])
def test_a_group_cut_in_two_agrees_whoever_copies_and_is_lost(size, spare, schedules):
    worlds = [run(seed, size, spare) for seed in range(schedules)]
    assert sum(world.acknowledged for world in worlds) > 4 * schedules
    assert sum(world.copies for world in worlds) > 2 * schedules
    assert sum(world.swaps_in_copies for world in worlds) > schedules // 3
