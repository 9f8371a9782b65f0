"""Members of which a row has failed its checksum."""

import pytest

from pinfold.cluster.groups.messages import OfferCopy, Standing
from pinfold.model.errors import Busy
from tests.cluster.replica_world import GROUP, World
from tests.cluster.test_replica import commit, elect, serving, settled


def test_a_member_with_a_rotten_row_counts_until_it_gives_its_rows_up_for_all_of_them():
    world, primary, (rotten, other) = settled()
    commit(world, primary, 3)
    rotten.memory.seen(GROUP).rotten = True
    copies, parts = world.copies, world.copied_parts
    primary.crash()
    elect(world)  # with its vote: its log has all that it ever acknowledged
    (heir,) = serving(world)
    if heir is rotten:
        rotten.replica.hand_over(other.device)
        elect(world)
    assert serving(world) == [other]
    commit(world, other, 3)
    world.heal()
    assert not rotten.memory.rotten(GROUP)
    assert rotten.replica.state.standing is Standing.MEMBER
    assert world.copies > copies
    assert world.copied_parts == parts  # whole: which key failed is not known
    world.check_agreement()


def test_a_member_with_a_rotten_row_is_copied_though_nobody_writes():
    world, primary, (rotten, _) = settled()
    commit(world, primary, 3)
    world.heal(12)
    last_op = primary.replica.state.last_op
    rotten.memory.seen(GROUP).rotten = True
    world.heal(12)
    assert not rotten.memory.rotten(GROUP)
    assert rotten.replica.state.standing is Standing.MEMBER
    assert primary.replica.state.last_op == last_op
    world.check_agreement()


def test_a_copy_whose_offer_was_lost_is_offered_again_to_a_member_that_keeps_asking():
    world, primary, (rotten, _) = settled()
    commit(world, primary, 3)
    world.heal(12)
    rotten.memory.seen(GROUP).rotten = True
    world.tell_commits()
    world.deliver()  # it asks
    (offer,) = [one for one in world.network if isinstance(one[2], OfferCopy)]
    world.network.remove(offer)
    for _ in range(12):  # it asks in every tick, and is in a group that commits something in each
        world.settle()
        world.tell_commits()
        world.settle()
        primary.replica.tick()
    world.settle()
    assert not rotten.memory.rotten(GROUP)


def test_of_two_members_with_rotten_rows_one_waits_for_the_copy_of_the_other():
    """A member that copies vouches for nothing: with two of them the primary's restart is final."""
    world, primary, others = settled()
    commit(world, primary, 3)
    world.heal(12)
    for one in others:
        one.memory.seen(GROUP).rotten = True
    for _ in range(12):  # copies begin, and none of their pages becomes durable
        world.tell_commits()
        primary.replica.tick()
        while world.network:
            world.deliver()
    gave_up = [one for one in others if one.replica.state.standing.copying]
    assert len(gave_up) == 1
    for one in others:
        one.memory.flush(1)  # the standing, stored before the first page
    primary.crash()
    world.network.clear()
    primary.start()
    elect(world)
    assert len(serving(world)) == 1
    world.heal()
    world.check_agreement()
    assert not any(one.memory.rotten(GROUP) for one in others)


def test_a_member_that_waits_for_a_copy_goes_on_and_is_nobodys_heir():
    world, primary, (rotten, away) = settled()
    commit(world, primary, 3)
    away.crash()
    rotten.memory.seen(GROUP).rotten = True
    for _ in range(8):
        world.tell_commits()
        world.settle()
        primary.replica.tick()
        commit(world, primary, 1)
    assert world.acknowledged == 11
    assert rotten.memory.rotten(GROUP)
    assert primary.replica.heirs() == []
    world.heal()
    world.check_agreement()
    assert not rotten.memory.rotten(GROUP)


@pytest.mark.parametrize("lacking", [0, 3])
def test_where_all_members_have_rotten_rows_none_gives_up_those_that_verify(lacking):
    """The copy would end at its source's own rotten row, and the member's may be the only one."""
    world, primary, others = settled()
    commit(world, primary, 8)
    world.heal(12)
    for one in (primary, *others):
        one.memory.seen(GROUP).rotten = True
    others[0].crash()
    commit(world, primary, lacking)
    others[0].start()
    others[0].memory.seen(GROUP).rotten = True
    for _ in range(12):
        world.tell_commits()
        world.settle()
        primary.replica.tick()
    assert all(one.replica.state.standing is Standing.MEMBER for one in others)
    assert primary.replica.heirs() == []
    commit(world, primary, 3)
    assert world.acknowledged == 11 + lacking
    primary.memory.seen(GROUP).rotten = False  # an operator has mended the index
    world.heal()
    assert not any(one.memory.rotten(GROUP) for one in others)
    world.check_agreement()


def test_a_member_with_a_rotten_row_that_is_behind_the_log_need_not_wait():
    """What it gives up was committed without it, and nothing is committed before it has a copy."""
    world, primary, (rotten, away) = settled()
    rotten.crash()
    commit(world, primary, 60)
    away.crash()
    rotten.start()
    rotten.memory.seen(GROUP).rotten = True
    for _ in range(12):
        world.settle()
        world.tell_commits()
        world.settle()
        primary.replica.tick()
    commit(world, primary, 3)
    assert world.acknowledged == 63
    assert not rotten.memory.rotten(GROUP)


def test_one_of_two_members_keeps_its_rotten_rows_until_a_third_vouches():
    """A copy cut short by the other's restart would be the end of the group."""
    world = World(0, 2, spare=1)
    world.heal(12)
    (primary,) = serving(world)
    rotten = next(one for one in world.up() if one is not primary and one.device in world.wish)
    rotten.memory.seen(GROUP).rotten = True
    world.heal()
    commit(world, primary, 3)
    assert rotten.memory.rotten(GROUP)
    assert world.acknowledged == 3
    world.wish = world.members
    world.heal()
    assert not rotten.memory.rotten(GROUP)
    world.check_agreement()


@pytest.mark.parametrize("before", [Standing.MEMBER, Standing.NEW])
def test_a_member_whose_rows_do_not_tell_its_members_proves_nothing(before):
    world, primary, (rotten, _) = settled()
    commit(world, primary, 3)
    state = rotten.replica.state
    state.set_view(state.view, before)
    rotten.memory.flush()
    rotten.crash()
    rows, rotten.memory.scan = rotten.memory.scan, refuse
    rotten.start()
    assert rotten.replica.state.standing.copying
    assert rotten.replica.state.standing.new is before.new
    assert rotten.replica.state.vote().standing.copying
    rotten.memory.scan = rows
    world.heal()
    assert rotten.replica.state.standing is Standing.MEMBER
    world.check_agreement()


def refuse(*_arguments):
    raise Busy("a row fails its checksum")
