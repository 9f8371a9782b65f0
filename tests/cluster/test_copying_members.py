"""What a member gives up for a copy of the rows, and what is said of it meanwhile."""

import pytest

from pinfold.cluster.groups.configuration import GENERATION_SHIFT
from pinfold.cluster.groups.entries import EMPTY_BODY
from pinfold.cluster.groups.messages import (
    Ack,
    CopyPage,
    OfferCopy,
    Prepare,
    Standing,
    encode_voted,
)
from pinfold.cluster.groups.state import Limits
from pinfold.cluster.groups.views import next_view
from pinfold.codec.digests import BITMAP_BYTES
from pinfold.device.api import Entry
from tests.cluster.replica_world import GROUP, World
from tests.cluster.test_replica import commit, elect, serving, settled

SHORT = Limits(batch_bytes=300, window_entries=64, retained_bytes=1, trim_entries=1, page_bytes=64)
"""A log that is trimmed although much of it is still on its way."""

NARROW = (
    SHORT,
    Limits(batch_bytes=100, window_entries=2, retained_bytes=100, trim_entries=1, page_bytes=30),
    Limits(batch_bytes=300, window_entries=8, retained_bytes=200, trim_entries=1, page_bytes=1000),
)
"""The same with pages of a row or two, and with pages that hold them all."""


def copying(world, primary, member):
    """Let a member that is behind give up its rows, and no page of the copy be complete."""
    for _ in range(500):
        if member.memory.durable(GROUP).incomplete:
            break
        if world.network:
            world.deliver()
        else:
            primary.replica.tick()
            member.memory.flush(1)
    assert member.replica.state.standing.copying
    world.network.clear()


def test_a_member_that_is_copying_does_not_keep_a_whole_one_from_leading():
    """What it gave up was committed without it, all of it: one more loss is no loss of quorum."""
    world, primary, (behind, other) = settled()
    behind.crash()
    commit(world, primary, 40)
    committed = world.acknowledged
    behind.start()
    copying(world, primary, behind)
    primary.crash()
    elect(world)
    assert serving(world) == [other]
    assert other.replica.state.commit_op > committed
    primary.swap()
    primary.start()
    world.heal()
    world.check_agreement()
    assert world.acknowledged == committed


def test_a_member_that_is_copying_and_knew_more_leads_nobody_and_proves_nothing():
    """Its log had the entry that the copy begins with: it may be who committed what came behind."""
    world, primary, (late, _) = settled()
    commit(world, primary, 3)
    state = primary.replica.state
    page = CopyPage(
        state.view, 7, 0, state.applied_op, state.last_view, state.applied_op,
        1 << GENERATION_SHIFT, b"", b"", b"x", b"", False, False, (),
    )  # fmt: skip
    late.replica.handle(primary.device, page)
    late.memory.flush()
    assert late.replica.state.standing is Standing.COPYING
    primary.crash()
    world.network.clear()
    elect(world)
    assert not serving(world)


def test_a_copying_elect_leaves_the_lead_to_each_voter_in_turn():
    """The best log may be of one that was taken out, as only those know that have more of it."""
    _, primary, (copier, other) = settled()
    state, heirs = copier.replica.state, set()
    state.set_view(state.view, Standing.NEW_COPYING)
    copier.memory.flush()
    for _ in range(4):
        copier.replica.change_view(next_view(state.view, copier.device))
        view = state.view
        copier.memory.flush()
        for one in (primary, other):
            vote = one.replica.state.vote()
            copier.replica.handle(one.device, vote._replace(view=view))
        heirs.add(copier.replica.primary)
    assert heirs == {primary.device, other.device}


def test_what_a_copying_member_has_of_a_log_is_not_waited_for():
    """It acknowledged nothing of that, and can neither lead nor tell how it goes on."""
    world, primary, (elect_next, copier) = settled()
    primary.crash()
    copier.crash()
    world.network.clear()
    elect_next.replica.change_view(next_view(primary.replica.view, elect_next.device))
    world.settle()
    state = elect_next.replica.state
    mine, birth = state.vote(), copier.replica.state.durable_birth
    more = mine._replace(standing=Standing.NEW_COPYING, last_op=mine.last_op + 9, birth=birth)
    elect_next.replica.handle(copier.device, more)
    assert elect_next.replica.role == "starting"


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


def uninformed(world):
    """A primary that has forgotten what was committed, whose log goes on otherwise than another's.

    Both have all of it in their logs, and a third member lacks it; (primary, the other, committed).
    """
    world.heal(12)
    (primary,) = serving(world)
    other, behind = (one for one in world.all.values() if one is not primary)
    commit(world, primary, 2)
    other.memory.index = lambda: None  # what it applies from here on is forgotten
    world.cuts.add((primary.device, behind.device))
    commit(world, primary, 3)
    primary.memory.index = lambda: None
    commit(world, primary, 3)
    committed = primary.replica.state.commit_op
    world.cuts.add((primary.device, other.device))
    commit(world, primary, 2)
    primary.crash()
    world.cuts.clear()
    begin(world, other, behind)
    other.crash()
    del primary.memory.index, other.memory.index
    primary.start()
    begin(world, primary, behind)
    world.cuts.add((primary.device, behind.device))
    assert primary.replica.state.applied_op < committed
    assert other.memory.state(GROUP).last_op > committed
    return primary, other, committed


def copy_alone(world, primary, member):
    """Let a copy reach a member, and no entry behind it."""
    pages = 0
    while not pages or world.network or member.memory.pending:
        if not world.network:
            primary.replica.tick()
            member.memory.flush()
            continue
        message = world.network[0][2]
        pages += isinstance(message, CopyPage)
        if pages and isinstance(message, Prepare):
            del world.network[0]
        else:
            world.deliver()


def test_a_member_does_not_give_up_what_it_has_for_a_copy_of_less():
    """Committed entries would then be on the primary alone, and there may be no second copy."""
    world = World(0, limits=SHORT)
    primary, member, committed = uninformed(world)
    member.start()
    copy_alone(world, primary, member)
    assert member.memory.state(GROUP).last_op > committed
    primary.crash()
    elect(world)
    assert serving(world)
    world.heal()
    world.check_agreement()


def test_a_copy_by_a_primary_that_does_not_know_yet_what_is_committed_is_not_exact():
    """It is of what that primary had applied: what its follower once gave up may be more."""
    world = World(0, limits=SHORT)
    primary, member, committed = uninformed(world)
    voted = world.stored(member)._replace(standing=Standing.COPYING)
    member.memory.write(GROUP, "set_view", member.memory.state(GROUP).view, encode_voted(voted))
    member.memory.flush()
    member.start()
    copy_alone(world, primary, member)
    assert world.copies
    assert primary.replica.state.applied_op == member.replica.state.applied_op < committed
    primary.crash()
    elect(world)
    assert not serving(world)
    world.heal()
    world.check_agreement()


def test_what_was_committed_before_members_were_forced_is_not_committed_after_it():
    """A copy of their past was being replayed; the forced group's log goes on from less."""
    world, primary, (member, _) = settled()
    world.check_said = world.check_applied = lambda *_: None
    state = member.replica.state

    def take(message):
        member.replica.handle(primary.device, message)
        member.memory.flush()

    def page(view, base_op, through_op, number):
        base = (base_op, 1, through_op, number, b"", b"", b"", b"", True, False, ())
        return CopyPage(view, base_op, 0, *base)

    def prepare(view, number, *entries):
        return Prepare(view, 5, 1, 5, 0, number, entries)

    take(page(state.view, 40, 50, state.configuration.number))
    assert (state.last_op, state.catch_up_op) == (40, 50)
    view, number = next_view(state.view, primary.device), 1 << GENERATION_SHIFT
    take(prepare(view, number))
    take(page(view, 5, 5, number))
    take(prepare(view, number, Entry(6, view, EMPTY_BODY)))
    assert (state.durable_op, state.commit_op) == (6, 5)


def offered(world, primary, member):
    """Let a member tell of its rows; (the offer it answered, the first page of a copy of some)."""
    said = []
    while not (said and isinstance(said[-1], CopyPage)):
        if not world.network:
            primary.replica.tick()
            member.memory.flush(member.memory.pending)
        elif isinstance(world.network[0][2], OfferCopy | CopyPage):
            said.append(world.network[0][2])
            world.deliver() if isinstance(said[-1], OfferCopy) else world.network.clear()
        else:
            world.deliver()
    *_, offer, page = said
    assert page.buckets
    assert not page.is_last
    return offer, page


def behind_a_log():
    """(world, primary, a member that forgets what it applied of late and lacks what came then)."""
    world = World(0, limits=SHORT)
    world.heal(12)
    (primary,) = serving(world)
    member, _ = (one for one in world.all.values() if one is not primary)
    commit(world, primary, 6)
    member.memory.index = lambda: None
    commit(world, primary, 1, key=b"written once")
    commit(world, primary, 2)
    world.cuts.add((primary.device, member.device))
    commit(world, primary, 9)
    world.cuts.clear()
    return world, primary, member


@pytest.mark.parametrize("offered_again", [False, True])
def test_a_page_repeated_to_a_member_that_has_restarted_does_not_rely_on_what_it_had(offered_again):
    """The rows that it told of went with the copy that the crash cut short."""
    world, primary, member = behind_a_log()
    offer, page = offered(world, primary, member)
    member.replica.handle(primary.device, page)
    del member.memory.index
    member.memory.flush()
    member.crash()
    member.start()
    assert not member.memory.seen(GROUP).rows
    member.replica.handle(primary.device, offer if offered_again else page)
    world.network.clear()
    member.replica.handle(primary.device, page)
    world.heal()
    world.check_agreement()


def test_a_page_for_rows_that_a_restart_has_lost_is_no_page_for_those_it_kept():
    """An offer that was repeated had it tell of these; the page was made for the others."""
    world, primary, member = behind_a_log()
    offer, page = offered(world, primary, member)
    member.crash()
    del member.memory.index
    member.start()
    assert member.memory.seen(GROUP).rows
    assert b"written once" not in member.memory.seen(GROUP).rows
    member.replica.handle(primary.device, offer)
    world.network.clear()
    member.replica.handle(primary.device, page)
    world.heal()
    world.check_agreement()


def left_behind():
    """A group that has moved on to other members; (world, primary, one never told, one asked back).

    The first knows none of the change, the other helped to begin it and was then taken out.
    """
    world = World(0, 3, spare=2)
    world.heal(12)
    primary, untold, former = (world.all[n] for n in (1, 2, 3))
    assert primary.replica.leadership
    untold.crash()
    world.founding, world.wish = False, (1, 4, 5)
    for _ in range(40):
        if former.replica.state.configuration.joint:
            break
        primary.replica.tick()
        world.settle()
        primary.replica.pursue(world.wish)
        world.settle()
    assert primary.replica.state.configuration.joint
    former.crash()
    for _ in range(8):
        primary.replica.tick()
        primary.replica.pursue(world.wish)
        world.settle()
    assert world.committed_configuration().members == (1, 4, 5)
    commit(world, primary, 40)
    world.wish = (1, 3, 4)
    former.start()
    return world, primary, untold, former


def test_a_former_member_that_is_copying_proves_nothing_to_those_who_missed_the_change():
    """What its copy begins with was committed without it, but by others than they know of."""
    world, primary, untold, former = left_behind()
    primary.replica.pursue(world.wish)
    copying(world, primary, former)
    for one in (untold, former):
        for other in (1, 4, 5):
            world.cuts |= {(one.device, other), (other, one.device)}
    untold.start()
    former.memory.flush(former.memory.pending)
    elect(world)
    assert serving(world) == [primary]
    commit(world, primary, 3)
    world.heal(150)
    world.check_agreement()


def test_a_part_of_the_rows_that_was_chosen_for_another_life_of_a_log_is_no_copy():
    """Its answer came late, behind a restart and a second offer of the same copy."""
    world, primary, (member, _) = settled()
    commit(world, primary, 2)
    world.cuts |= {(primary.device, member.device), (member.device, primary.device)}
    commit(world, primary, 40)
    state, number = primary.replica.state, primary.replica.state.configuration.number
    base = (state.applied_op, state.last_view, state.applied_op)
    few = (1).to_bytes(BITMAP_BYTES, "big")
    page = CopyPage(
        state.view,
        7,
        0,
        *base,
        number,
        primary.memory.digest(GROUP),
        b"",
        b"",
        few,
        True,
        False,
        (),
    )
    member.replica.handle(primary.device, OfferCopy(state.view, 7, number))
    member.replica.handle(primary.device, page)
    member.memory.flush()
    assert not member.replica.state.standing.copying, "it gives up nothing for what it cannot use"
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


def lose_while_copying(seed, size):
    """One member after the other falls behind, and another is lost when it begins to copy."""
    world = World(seed, size, limits=SHORT)
    world.heal(12)
    rng, everybody = world.rng, list(world.all.values())
    for _ in range(5):
        behind = rng.choice(everybody)
        for other in everybody:
            world.cuts |= {(behind.device, other.device), (other.device, behind.device)}
        for _ in range(rng.randrange(200)):
            world.step()
        world.cuts.clear()
        for _ in range(200):
            world.step()
            if world.stored(behind).standing is Standing.NEW_COPYING and rng.random() < 0.2:
                world.swap(rng.choice([one for one in everybody if one is not behind]))
                break
        world.heal(20 * rng.randrange(2))
    world.heal(150)
    world.check_agreement()
    return world


@pytest.mark.parametrize("size", [3, 5])
def test_one_is_lost_while_another_is_copying_and_nothing_else_is(size):
    worlds = [lose_while_copying(seed, size) for seed in range(40)]
    assert sum(world.swaps_in_copies for world in worlds) > 20
    assert sum(world.acknowledged for world in worlds) > 400


def always_copying(seed):
    """Members of up to five come and go, crash and are swapped, with next to no log."""
    world = World(seed, (3, 3, 5)[seed % 3], limits=NARROW[seed // 3 % 3], spare=seed // 9 % 3)
    world.heal(12)
    world.loss, world.changing = 0.05 * (seed // 27 % 3), 0.01 * (seed % 2)
    for _ in range(900):
        world.step()
    world.changing = 0.0
    world.heal(150)
    world.check_agreement()
    return world


@pytest.mark.parametrize("block", range(3))
def test_members_that_copy_all_the_time_agree(block):
    worlds = [always_copying(block * 1000 + n) for n in range(81)]
    assert sum(world.copies for world in worlds) > 80
    assert sum(world.acknowledged for world in worlds) > 500
