"""Members of which a row has failed its checksum."""

import pytest

from pinfold.cluster.groups.messages import OfferCopy, Standing
from pinfold.model.errors import Busy
from tests.cluster.replica_world import GROUP
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
