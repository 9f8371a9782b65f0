"""A group without a quorum goes on with the members an operator names, and with nobody else."""

import pytest

from pinfold.cluster.groups.forcing import plan_force
from pinfold.cluster.groups.status import GroupStatus, describe
from pinfold.model.errors import Conflict, Invalid, Unavailable
from tests.cluster.replica_world import GROUP
from tests.cluster.test_replica import commit, elect, serving, settled


def founded(size=3):
    world, primary, others = settled(size)
    commit(world, primary, 5)
    world.heal(2)
    return world, primary, others


@pytest.mark.parametrize("survivors", [1, 2])
def test_survivors_go_on_with_everything_the_best_of_them_holds(survivors):
    world, primary, others = founded(5)
    dead = [primary, *others][survivors:]
    for member in dead:
        member.crash()
    before = dict(world.rows_at[-1])
    alive = [member.device for member in world.up()]
    world.force(*alive)
    for _ in range(4):
        world.settle()
        for member in world.up():
            member.replica.tick()
    (leader,) = serving(world)
    assert leader.replica.state.configuration.members == tuple(alive)
    rows = leader.memory.seen(GROUP).rows
    assert {key: rows[key] for key in before if key[:1] != b"\0"} == {
        key: value for key, value in before.items() if key[:1] != b"\0"
    }
    acknowledged = world.acknowledged
    commit(world, leader, 1)
    assert world.acknowledged == acknowledged + 1


def test_an_old_majority_that_comes_back_does_not_lead_a_second_group():
    """It had committed what the survivor never had: that is given up, on every member."""
    world, primary, others = founded()
    survivor = others[0]
    survivor.crash()
    commit(world, primary, 30)
    for member in (primary, others[1]):
        member.crash()
    survivor.start()
    kept = survivor.memory.state(GROUP).last_op
    world.force(survivor.device)
    world.settle()
    (leader,) = serving(world)
    assert leader is survivor
    commit(world, leader, 3)
    for member in (primary, others[1]):
        member.start()
    elect(world, 20)
    assert serving(world) == [survivor]
    world.heal()
    world.check_agreement()
    assert survivor.replica.state.generation == 1
    assert primary.replica.state.generation == 1, "it kept what it had committed without them"
    assert kept < leader.replica.state.commit_op


def test_a_survivor_that_restarts_right_after_it_was_forced_leads_again():
    world, primary, others = founded()
    for member in (primary, others[0]):
        member.crash()
    survivor = others[1]
    world.force(survivor.device)
    survivor.memory.flush(survivor.memory.pending)
    survivor.crash()
    survivor.start()
    elect(world)
    assert serving(world) == [survivor]
    assert survivor.replica.state.configuration.members == (survivor.device,)
    world.heal()
    world.check_agreement()


def test_a_survivor_in_an_earlier_view_than_the_others_leads_them_all():
    world, primary, others = founded(5)
    for member in (primary, others[0], others[1]):
        member.crash()
    best, ahead = others[2:]
    for _ in range(4):
        ahead.replica.change_view(ahead.replica.view + (1 << 16))
    world.network.clear()
    world.force(best.device, ahead.device)
    for _ in range(6):
        world.settle()
        for member in world.up():
            member.replica.tick()
    (leader,) = serving(world)
    acknowledged = world.acknowledged
    commit(world, leader, 1)
    assert world.acknowledged == acknowledged + 1


def test_a_group_with_a_majority_is_never_forced():
    world, _, others = founded()
    others[0].crash()
    shown = [describe(member.replica) for member in world.up()]
    with pytest.raises(Conflict, match="a majority of the members"):
        plan_force(shown, [one.device for one in shown])


def status(device: int, **told) -> GroupStatus:
    shown = {
        "group": 7,
        "role": "waiting",
        "standing": "member",
        "view": 65537,
        "primary": 1,
        "members": (1, 2, 3),
        "configuration": 4,
        "birth": 10 + device,
        "first_op": 1,
        "last_op": 9,
        "last_view": 65537,
        "commit_op": 8,
        "applied_op": 8,
        "digest": "",
    }
    return GroupStatus(device=device, **{**shown, **told})


def test_the_best_log_among_those_named_becomes_the_groups():
    shown = [
        status(1, last_op=20, members=(1, 2, 3, 4, 5)),
        status(2, last_view=131073, members=(1, 2, 3, 4, 5), commit_op=12),
    ]
    plan = plan_force(shown, [1, 2])
    assert (plan.survivor, plan.kept_op, plan.committed_op) == (2, 9, 12)
    assert plan.configuration.members == (1, 2)
    assert plan.configuration.births == {1: 11, 2: 12}
    assert (plan.configuration.generation, plan.given_up) == (1, (3, 4, 5))
    assert plan_force(shown, [1]).survivor == 1


def test_a_primary_that_waits_for_a_copy_may_be_forced_once_nobody_makes_it():
    """A follower gave its rows up, the third disk is gone, the primary has restarted."""
    alone = [status(1), status(2, standing="copying")]
    assert plan_force(alone, [1]).survivor == 1
    served = [status(1, role="serving"), status(2, standing="copying")]
    with pytest.raises(Conflict, match="being copied"):
        plan_force(served, [1])


@pytest.mark.parametrize(
    ("wanted", "told"),
    [([], Invalid), ([4], Invalid), ([3], Unavailable), ([2], Conflict)],
)
def test_who_cannot_be_a_survivor_is_refused(wanted, told):
    with pytest.raises(told):
        plan_force([status(1), status(2, standing="lost")], wanted)


def test_a_device_that_only_copies_holds_nothing_to_go_on_with():
    with pytest.raises(Unavailable, match="complete copy"):
        plan_force([status(1, standing="copying")], [1])
    with pytest.raises(Unavailable, match="no device"):
        plan_force([], [1])
