"""Who decides, set by set, and what becomes of a configuration whose entry is replaced."""

from pinfold.cluster.groups.configuration import Configuration
from tests.cluster.test_replica import commit, settled

JOINT = Configuration(number=2, members=(1, 2, 3), joining=(3, 4, 5, 6))


def test_a_joint_configuration_needs_a_majority_of_both_sets() -> None:
    assert not JOINT.quorum({3, 4, 5})
    assert not JOINT.quorum({1, 2, 3})
    assert not JOINT.quorum({1, 3, 4})
    assert JOINT.quorum({1, 3, 4, 5})
    assert not Configuration().quorum({1})


def test_what_is_committed_a_majority_of_both_sets_holds() -> None:
    held = {1: 9, 2: 5, 3: 7, 4: 3, 5: 8, 6: 2}
    assert JOINT.reached(held.__getitem__) == 3
    assert Configuration(members=(1, 2, 3)).reached(held.__getitem__) == 7
    assert Configuration(members=(5, 6)).reached(held.__getitem__) == 2


def test_an_entry_that_is_replaced_takes_its_configuration_with_it() -> None:
    world, primary, others = settled()
    commit(world, primary, 3)
    world.heal(2)
    before = primary.replica.state.configuration
    assert before.founded
    for other in others:
        world.cuts |= {(primary.device, other.device), (other.device, primary.device)}
    alone = (primary.device,)
    wrong = Configuration(
        number=before.number + 1, members=before.members, joining=alone, births=before.births
    )
    primary.replica.leadership._change(wrong)
    world.settle()
    assert primary.replica.state.configuration == wrong, "in force as soon as it is appended"
    assert primary.replica.state.commit_op < primary.replica.state.last_op, "one set is not enough"
    world.suspect(others[0], {one.device for one in others}.__contains__)
    world.settle()
    world.heal()
    world.check_agreement()
    assert primary.replica.state.configuration.number == before.number
