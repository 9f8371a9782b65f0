"""Directed schedules, named after what they prevent."""

import contextlib

import pytest

from pinfold.cluster.groups.election import following_best
from pinfold.cluster.groups.entries import encode_body
from pinfold.cluster.groups.messages import CopyPage, Prepare, Standing
from pinfold.cluster.groups.replica import Replica
from pinfold.cluster.groups.state import Birth
from pinfold.cluster.groups.views import next_view, owner
from pinfold.device.api import Entry
from pinfold.model.errors import Full, Unavailable
from tests.cluster.replica_world import GROUP, GroupLog, World
from tests.twins.log import MemoryLog


def settled(size=3):
    """A world in which one member serves; (world, primary, the others)."""
    world = World(0, size)
    world.heal(12)
    world.check_agreement()
    (primary,) = [one for one in world.all.values() if one.replica.leadership is not None]
    return world, primary, [one for one in world.all.values() if one is not primary]


def commit(world, primary, count, *, key=b"k"):
    for _ in range(count):
        world.propose(primary, key)
        world.settle()


def elect(world, rounds=12):
    """Whoever is up tries to find a primary among those that are."""
    for _ in range(rounds):
        world.settle()
        for member in world.up():
            member.replica.tick()
        for member in world.up():
            primary = world.all.get(member.replica.primary)
            lost = primary is None or not primary.up
            if lost or member.replica.unsettled_ticks > 4:
                world.suspect(member, lambda device: world.all[device].up)
    world.settle()


def serving(world):
    return [one for one in world.up() if one.replica.leadership is not None]


def test_a_dead_primary_takes_nothing_committed_with_it():
    world, primary, _ = settled()
    commit(world, primary, 5)
    before = dict(world.history)
    primary.crash()
    elect(world)
    (successor,) = serving(world)
    assert successor.replica.state.commit_op > max(before)
    world.heal()
    world.check_agreement()
    assert world.acknowledged == 5


def test_a_minority_neither_commits_nor_serves():
    world, primary, others = settled()
    for other in others:
        other.crash()
    world.propose(primary)
    world.settle()
    assert world.acknowledged == 0
    primary.crash()
    others[0].start()
    elect(world)
    assert not serving(world)


def test_entries_of_a_deposed_primary_are_replaced():
    world, primary, others = settled()
    for other in others:
        world.cuts |= {(primary.device, other.device), (other.device, primary.device)}
    for _ in range(3):
        world.propose(primary)
    world.settle()
    alive = {one.device for one in others}
    world.suspect(others[0], alive.__contains__)
    world.settle()
    (successor,) = [one for one in others if one.replica.leadership is not None]
    commit(world, successor, 2)
    world.heal()
    world.check_agreement()
    assert world.acknowledged == 2


def test_a_restarted_primary_does_not_resume_its_view():
    world, primary, _ = settled()
    view = primary.replica.view
    world.propose(primary)
    primary.crash()
    primary.start()
    assert primary.replica.view > view
    elect(world)
    assert len(serving(world)) == 1


def test_a_member_behind_a_trimmed_log_copies_and_is_counted_again():
    world, primary, (behind, other) = settled()
    behind.crash()
    commit(world, primary, 40)
    assert primary.replica.state.first_op > behind.memory.state(GROUP).last_op + 1
    behind.start()
    world.heal(12)
    world.check_agreement()
    assert world.copies
    other.crash()
    before = world.acknowledged
    commit(world, primary, 1)
    assert world.acknowledged == before + 1


def test_a_member_behind_a_trimmed_log_copies_only_what_differs():
    world, primary, (behind, _) = settled()
    for number in range(60):
        write(world, primary, b"cold-%d" % number, b"x" * 40)
    world.heal(2)
    behind.crash()
    commit(world, primary, 40)  # six rows, over and over
    assert primary.replica.state.first_op > behind.memory.state(GROUP).last_op + 1
    pages = []
    post = world.post

    def look(sender, to, message):
        if isinstance(message, CopyPage):
            pages.append(message)
        post(sender, to, message)

    world.post = look
    behind.start()
    world.heal(12)
    world.check_agreement()
    assert world.copied_parts == world.copies == 1
    copied = {key for page in pages for key, _ in page.rows}
    assert copied.issuperset({b"k", b"row0", b"row1", b"row2", b"row3", b"row4"})
    assert sum(key.startswith(b"cold-") for key in copied) < 10


def test_a_member_that_restarts_after_it_told_its_digest_tells_it_again():
    """What it had applied may be less now: buckets that were equal need not be any more."""
    world, primary, (behind, _) = settled()
    for number in range(30):
        write(world, primary, b"cold-%d" % number, b"x" * 40)
    world.heal(2)
    behind.crash()
    commit(world, primary, 40)
    behind.start()
    for _ in range(300):
        if any(isinstance(message, CopyPage) for _, _, message in world.network):
            break
        if world.network:
            world.deliver()
        else:
            primary.replica.tick()
            primary.memory.flush()
            behind.memory.flush()
    (page,) = [message for _, _, message in world.network if isinstance(message, CopyPage)]
    assert page.buckets
    behind.crash()
    behind.start()
    behind.replica.handle(primary.device, page)
    behind.memory.flush()
    assert behind.replica.state.standing is Standing.MEMBER, "it gave up rows for a stale page"
    world.heal()
    world.check_agreement()


def test_a_copy_made_while_rows_changed_counts_only_once_it_is_exact():
    world, primary, (copying, other) = settled()
    copying.crash()
    commit(world, primary, 40)
    copying.start()

    def go_on(*flushing):
        if world.network:
            world.deliver()
        elif primary.turn_due:
            primary.take_turn()
        else:
            primary.replica.tick()
            for member in flushing:
                member.memory.flush(1)

    while not copying.replica.state.standing.copying:
        go_on(primary, copying, other)
    for _ in range(30):  # the first page is there, the next ones will be of later instants
        world.propose(primary)
    while primary.replica.state.commit_op < primary.replica.state.last_op:
        go_on(primary, other)
    assert not copying.replica.state.proved
    while not copying.replica.state.proved:
        go_on(primary, copying, other)  # the world checks the rows behind everything counted
    world.heal()
    world.check_agreement()


def test_a_repeated_page_of_a_copy_ends_where_it_ended_before():
    """Else rows between the two ends are on no page: lost there, and nobody knows."""
    world, primary, (copying, _) = settled()
    copying.crash()
    commit(world, primary, 40)
    for number in range(8):
        write(world, primary, b"a-%d" % number, b"x" * 40)
    copying.start()
    while not copying.memory.pending or not copying.replica.state.standing.copying:
        if world.network:
            world.deliver()
        else:
            primary.replica.tick()
            primary.memory.flush()
            copying.memory.flush(1)
    for number in range(8):  # while the first page is being written there, its rows shrink
        write(world, primary, b"a-%d" % number, b"", besides=copying)
    for _ in range(3):
        primary.replica.tick()
    world.heal()
    world.check_agreement()


def write(world, primary, key, value, *, besides=None):
    """Commit one row; nothing gets durable on `besides`."""
    writes = [(key, value)]
    primary.replica.propose(encode_body(writes), writes)
    for _ in range(40):
        for member in world.up():
            if member is not besides:
                member.memory.flush()
        for index, (_, to, _) in reversed(list(enumerate(world.network))):
            if besides is None or to != besides.device:
                world.deliver(index)


def test_new_members_alone_do_not_begin_a_group_that_may_exist_elsewhere():
    world = World(0)
    world.all[world.members[2]].crash()
    world.network.clear()
    elect(world)
    assert not serving(world), "the third may know of commits"
    world.heal()
    world.check_agreement()


def test_a_single_member_serves_alone():
    world, primary, _ = settled(1)
    commit(world, primary, 3)
    assert world.acknowledged == 3
    primary.crash()
    primary.start()
    world.heal(3)
    world.check_agreement()


def test_a_member_that_forgot_what_it_had_applied_needs_no_copy():
    """Its log is whole, and what it gave up for a copy would be a proof less for as long."""
    world, primary, (late, prompt) = settled()

    def flush_journal(*members):
        for member in members:
            member.memory.flush(member.memory.pending)
            while world.network:
                world.deliver()

    for _ in range(3):  # entries commit without it, so that it applies each at its own flush
        world.propose(primary)
        flush_journal(primary, prompt)
        world.tell_commits()
        flush_journal(late)
    late.crash()
    for _ in range(3):
        world.propose(primary)
        flush_journal(primary, prompt, primary)
    primary.replica.tick()
    held = late.memory.state(GROUP)
    assert held.applied_op < held.last_op == primary.replica.state.first_op - 1
    late.start()
    world.heal()
    world.check_agreement()
    assert not world.copies


class NoRoom:
    """A member's log on a full device."""

    def __init__(self, log):
        self._log = log

    def __getattr__(self, name):
        return getattr(self._log, name)

    def append(self, entries):
        raise Full("no room")


class Stopped(NoRoom):
    """A member's log on a device that has stopped."""

    def set_view(self, view, voted):
        raise Unavailable("stopped")


def test_a_member_whose_device_stops_at_its_very_start_leads_nobody_and_harms_nobody():
    world = World(0)
    member = next(iter(world.all.values()))
    member.memory = MemoryLog()
    member.memory.write(GROUP, "create")
    member.memory.flush()
    birth = Birth(number=1, founders=(), wish=world.wish)
    replica = Replica(GROUP, birth, member.device, Stopped(GroupLog(member)), member)
    with pytest.raises(Unavailable):
        replica.start()
    assert replica.leadership is None
    assert list(replica.audience) == []


def test_entries_that_find_no_room_do_not_keep_committed_ones_from_being_applied():
    world, primary, (other, _) = settled()
    commit(world, primary, 3)
    mine = other.replica.state
    assert mine.applied_op < mine.last_op, "the primary's next word would tell of the last commit"
    mine.log = NoRoom(mine.log)
    state = primary.replica.state
    entry = Entry(state.last_op + 1, state.view, encode_body([]))
    news = Prepare(
        state.view,
        state.last_op,
        state.last_view,
        state.commit_op,
        0,
        state.configuration.number,
        [entry],
    )
    with pytest.raises(Full):
        other.replica.handle(primary.device, news)
    assert mine.applied_op == state.commit_op


def test_a_copying_elect_gives_the_lead_to_the_next_of_equals_so_that_each_has_a_turn():
    world, primary, (one, other) = settled()
    commit(world, primary, 3)
    for elect_next in (one, other, primary):
        voters = primary.replica.state.voters
        behind = voters[(voters.index(elect_next.device) + 1) % 3]
        votes = {member.device: member.replica.state.vote() for member in world.all.values()}
        assert following_best(elect_next.replica.state, votes) in (elect_next.device, behind)
        del votes[elect_next.device]
        assert following_best(elect_next.replica.state, votes) == behind


def test_each_voter_has_its_turn_to_lead_behind_a_primary_that_is_none():
    """One that missed a change of members gives the lead to former ones, who cannot take it."""
    world, _, (member, _) = settled()
    stranger, heirs = world.members[-1] + 1, set()
    for _ in range(3):
        member.replica.change_view(next_view(member.replica.view, stranger))
        heirs.add(owner(member.replica.next_view(lambda _: True)))
    assert heirs == set(world.members)


class LossyWorld(World):
    """A message that a device has no room for counts as lost, as on a node."""

    def deliver(self, index=0):
        with contextlib.suppress(Full):
            super().deliver(index)


def test_a_full_member_that_cannot_take_the_best_log_does_not_keep_others_from_leading():
    world = LossyWorld(0)
    world.heal(12)
    (primary,) = serving(world)
    heir = next(one for one in world.up() if one is not primary)
    world.cuts.add((primary.device, heir.device))
    commit(world, primary, 3)
    world.cuts.clear()
    heir.replica.state.log = NoRoom(heir.replica.state.log)
    heir.replica.change_view(next_view(primary.replica.view, heir.device))
    elect(world, rounds=30)
    (successor,) = serving(world)
    assert successor is not heir
    assert successor.replica.state.last_op >= 3


def test_a_restarted_member_that_hears_only_of_the_commit_point_asks_what_its_log_is_worth():
    world, primary, (member, _) = settled()
    world.propose(primary, b"k")
    world.settle()  # acknowledged and committed; nobody has told the members so far
    member.crash()
    member.start()
    state, leader = member.replica.state, primary.replica.state
    assert state.applied_op < state.last_op == leader.commit_op
    world.network.clear()  # the vote it began with is lost, news of the commit point comes first
    member.replica.on_commit_news(leader.view, leader.commit_op, leader.configuration.number)
    member.replica.tick()
    world.settle()
    assert state.applied_op == leader.commit_op


def test_a_member_whose_copy_is_exact_proves_it_before_its_primary_says_another_word():
    world, primary, (copier, _) = settled()
    cut = {(primary.device, copier.device), (copier.device, primary.device)}
    world.cuts |= cut
    commit(world, primary, 30)
    for _ in range(4):
        primary.replica.tick()
        world.settle()
    world.cuts.clear()
    copied = world.copies
    for _ in range(2000):
        if world.copies > copied:
            break
        primary.replica.tick()
        for _ in range(20):
            if world.network and world.copies == copied:
                world.deliver()
        for one in world.up():
            one.memory.flush()
    assert world.copies > copied
    world.cuts |= cut
    for _ in range(4):
        copier.memory.flush()
    copier.crash()
    copier.start()
    assert copier.replica.state.standing is Standing.MEMBER
