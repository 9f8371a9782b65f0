"""What a member gives up for a copy of the rows, and what is said of it meanwhile."""

from pinfold.cluster.groups.messages import Ack, CopyPage, Prepare
from pinfold.cluster.groups.state import Limits
from tests.cluster.replica_world import GROUP, World
from tests.cluster.test_replica import commit, elect, serving

SHORT = Limits(batch_bytes=300, window_entries=64, retained_bytes=1, trim_entries=1)
"""A log that is trimmed although much of it is still on its way."""


def test_a_late_acknowledgement_counts_for_nothing_that_was_given_up_since():
    """Its sender has restarted, and all it can prove of its log is that it is of this view."""
    world = World(0, limits=SHORT)
    world.heal(12)
    (primary,) = serving(world)
    late, other = (one for one in world.all.values() if one is not primary)
    commit(world, primary, 2)
    held = []

    def hold(sender, to, message):
        if sender == late.device and isinstance(message, Ack):
            held.append(message)
        else:
            World.post(world, sender, to, message)

    world.post = hold
    late.memory.index = lambda: None  # what it applies from here on it will have forgotten
    commit(world, primary, 4)
    world.cuts.add((primary.device, other.device))
    commit(world, primary, 2)
    state = primary.replica.state
    assert state.commit_op < held[-1].op == state.last_op
    late.crash()
    del world.post, late.memory.index
    late.start()
    assert late.replica.state.applied_op + 1 < state.first_op
    pages = 0
    while late.memory.pending or world.network:
        if not world.network:
            late.memory.flush()
        elif pages and isinstance(world.network[0][2], Prepare):
            del world.network[0]  # what follows the copy is slow
        else:
            pages += isinstance(world.network[0][2], CopyPage)
            world.deliver()
    primary.replica.handle(late.device, held[-1])
    primary.crash()
    world.network.clear()
    assert pages
    assert state.commit_op == held[-1].op
    elect(world)
    world.heal()
    world.check_agreement()


def test_a_copy_by_a_primary_that_does_not_know_yet_what_is_committed_is_not_exact():
    """It is of what that primary had applied: what its follower gave up may be more."""
    world = World(0, limits=SHORT)
    world.heal(12)
    (primary,) = serving(world)
    copying, behind = (one for one in world.all.values() if one is not primary)
    commit(world, primary, 2)
    copying.memory.index = lambda: None  # what it applies from here on is forgotten
    world.cuts.add((primary.device, behind.device))
    commit(world, primary, 3)
    primary.memory.index = lambda: None
    commit(world, primary, 3)
    committed = primary.replica.state.commit_op
    world.cuts.add((primary.device, copying.device))
    commit(world, primary, 2)
    primary.crash()
    world.cuts.clear()
    begin(world, copying, behind)
    copying.crash()
    del primary.memory.index, copying.memory.index
    primary.start()
    begin(world, primary, behind)
    world.cuts.add((primary.device, behind.device))
    assert primary.replica.state.applied_op < committed
    copying.start()
    assert copying.memory.state(GROUP).last_op > committed
    while world.copies == 0 or world.network or copying.memory.pending:
        if not world.network:
            primary.replica.tick()
            copying.memory.flush()
        elif world.copies and isinstance(world.network[0][2], Prepare):
            del world.network[0]  # what follows the copy is lost, and so is who sent it
        else:
            world.deliver()
    primary.crash()
    elect(world)
    world.heal()
    world.check_agreement()


def begin(world, leader, voter):
    """Have a member elected by another one, and nothing of what it then sends arrive."""
    world.network.clear()
    if leader.replica.role != "electing":
        world.suspect(leader, {leader.device, voter.device}.__contains__)
    while leader.replica.role != "starting":
        if world.network:
            world.deliver()
        else:
            leader.replica.tick()
        leader.memory.flush(leader.memory.pending)
        voter.memory.flush()
    leader.memory.flush(leader.memory.pending)
    world.network.clear()
