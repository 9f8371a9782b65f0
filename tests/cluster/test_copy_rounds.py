"""How a copy of the rows gets done while they change: in rounds, within bounds."""

from contextlib import suppress

from pinfold.cluster.groups.entries import encode_body
from pinfold.cluster.groups.messages import Ack, CopyPage, NeedCopy
from pinfold.cluster.groups.state import Limits
from pinfold.model.errors import Busy
from tests.cluster.replica_world import GROUP, World
from tests.cluster.test_copying_members import copying
from tests.cluster.test_replica import serving


def test_a_copy_catches_up_with_whoever_writes_all_the_time_and_keeps_no_log_for_that():
    """Each round brings what was written during the one before, and takes less time."""
    world, primary, behind, _ = one_behind(
        batch_bytes=600, retained_bytes=2000, page_bytes=400, copy_pages=4
    )
    values = iter(range(10**6))

    def write(rows):
        writes = [(b"row%04d" % world.rng.randrange(400), b"%040d" % next(values)) for _ in rows]
        writes = list(dict(writes).items())
        primary.replica.propose(encode_body(writes), writes)

    for _ in range(400):
        write(range(2))
        world.settle()
    behind.start()
    state, kept, pages = primary.replica.state, [], []
    post = world.post

    def look(sender, to, message):
        if isinstance(message, CopyPage):
            pages.append(message)
        post(sender, to, message)

    world.post = look
    for _ in range(400):
        primary.replica.tick()
        for _ in range(8):
            write(range(2))  # an eighth of what pages move
            for _ in range(12):
                if world.network:
                    world.deliver()
                elif primary.turn_due:
                    primary.take_turn()
            for one in world.up():
                one.memory.flush()
        kept.append(state._retained_bytes)
        if behind.replica.state.proved and behind.replica.state.last_op > state.last_op - 20:
            break
    else:
        raise AssertionError("it never catches up")
    assert world.copies == 1
    assert {page.named for page in pages} == {False, True}
    assert len({page.base_op for page in pages}) > 1, "rounds"
    assert max(kept) < 4000, "the bound, and what is on its way"
    world.heal()
    world.check_agreement()


def test_a_copy_that_may_not_remember_all_changes_begins_anew():
    world, primary, behind, _ = one_behind(
        batch_bytes=600, retained_bytes=1, page_bytes=64, copy_pages=1, copy_keys=8
    )
    write_and_settle(world, primary, 40)
    behind.start()
    copying(world, primary, behind)
    first = primary.replica.leadership.followers[behind.device].copy
    assert first is not None
    for number in range(9):
        writes = [(b"new%04d" % number, b"x")]
        primary.replica.propose(encode_body(writes), writes)
        for _ in range(50):
            if world.network:
                world.deliver()
            for one in world.up():
                if one is not behind:
                    one.memory.flush()
    assert primary.replica.leadership.followers[behind.device].copy is not first
    world.heal()
    world.check_agreement()


def test_copies_of_one_node_share_the_pages_that_may_be_on_their_way():
    world, primary, *others = serving_group(
        size=5, batch_bytes=300, retained_bytes=1, page_bytes=64, copy_pages=9, copy_pages_here=3
    )
    behind = others[:2]
    for one in behind:
        one.crash()
    write_and_settle(world, primary, 60)
    for one in behind:
        one.start()
    most = 0
    for _ in range(3000):
        if world.network:
            world.deliver()
        elif primary.turn_due:
            primary.take_turn()
        else:
            primary.replica.tick()
            for one in world.up():
                one.memory.flush()
        most = max(most, primary.replica.pages_out)
        if world.copies == 2 and all(one.replica.state.proved for one in behind):
            break
    assert world.copies == 2
    assert most in (3, 4), "one more than the bound, when both copies begin"


def test_nothing_is_kept_for_a_member_that_is_away():
    """Neither entries nor keys: it is offered a copy, which begins when it answers."""
    world, primary, behind, _ = one_behind(
        batch_bytes=300, retained_bytes=100, page_bytes=64, copy_keys=8
    )
    write_and_settle(world, primary, 60, ticking=True)
    copy = primary.replica.leadership.followers[behind.device].copy
    assert copy.offered
    write_and_settle(world, primary, 20, name=b"new", ticking=True)
    assert primary.replica.leadership.followers[behind.device].copy is copy
    state = primary.replica.state
    assert state.first_op > state.last_op - 4
    behind.start()
    copying(world, primary, behind)
    behind.crash()
    write_and_settle(world, primary, 20, name=b"end")
    for _ in range(30):
        primary.replica.tick()
        world.settle()
    copy = primary.replica.leadership.followers[behind.device].copy
    assert copy is None or copy.offered, "it has been silent for too long"
    world.heal()
    world.check_agreement()


def test_pages_on_their_way_grow_with_those_that_arrive_and_halve_in_a_silence():
    world, primary, behind, _ = one_behind(
        batch_bytes=300, retained_bytes=1, page_bytes=64, copy_pages=8
    )
    write_and_settle(world, primary, 200)
    behind.start()
    copying(world, primary, behind)
    copy = primary.replica.leadership.followers[behind.device].copy
    seen = []

    def turn(*flushing):
        for _ in range(40):
            if world.network:
                world.deliver()
            elif primary.turn_due:
                primary.take_turn()
        for one in flushing:
            one.memory.flush()
        seen.append(copy.pages_out)

    for _ in range(12):
        turn(*world.up())
        primary.replica.tick()
    assert 1 in seen and 2 in seen and max(seen) == 8
    for _ in range(20):
        primary.replica.tick()
        turn(primary)
    assert copy._window < 4
    world.heal()
    world.check_agreement()


def test_a_row_that_cannot_be_read_holds_a_copy_up_and_leaves_no_key_out():
    """The keys of a page are still to come when one of them fails, and nothing need arrive for
    the copy to go on.
    """
    world, primary, behind, _ = one_behind(
        batch_bytes=600, retained_bytes=400, page_bytes=2000, copy_pages=1
    )
    write(world, primary, 80)
    behind.start()
    copying(world, primary, behind)
    write(world, primary, 20, to=behind)
    copy = primary.replica.leadership.followers[behind.device].copy
    read, failed = primary.memory.get, []

    def get(group, key):
        if key == b"row0010" and len(failed) < 3:
            failed.append(key)
            raise Busy("the row fails its checksum")
        return read(group, key)

    primary.memory.get = get
    for _ in range(200):
        with suppress(Busy):
            primary.replica.tick()
            world.settle()
    assert copy.done
    world.heal()
    world.check_agreement()
    assert len(failed) == 3


def test_the_pages_of_an_abandoned_copy_are_not_taken_for_those_of_a_much_later_one():
    """A member comes back with pages of a copy, hundreds of copies of others later."""
    world, primary, behind, other = one_behind(
        batch_bytes=600, retained_bytes=400, page_bytes=200, copy_pages=4
    )
    write(world, primary, 80)
    behind.start()
    copying(world, primary, behind)
    leadership = primary.replica.leadership
    follower = leadership.followers[behind.device]
    world.cuts = {(primary.device, behind.device)}
    write(world, primary, 80)
    for _ in range(40):
        primary.replica.tick()
        world.settle()
        if follower.copy is None:
            break
    assert behind.memory.durable(GROUP).incomplete
    state, birth = primary.replica.state, other.replica.state.durable_birth
    for _ in range(255):
        primary.replica.handle(other.device, NeedCopy(state.view, 0, b""))
        enough = Ack(state.view, state.last_op, state.applied_op, True, birth)
        primary.replica.handle(other.device, enough)
    world.network.clear()
    world.heal()
    world.check_agreement()


def serving_group(size=3, **limits):
    """A group that serves, its primary first, then the other members."""
    world = World(0, size=size, limits=Limits(window_entries=64, trim_entries=1, **limits))
    world.heal(12)
    (primary,) = serving(world)
    return world, primary, *(one for one in world.all.values() if one is not primary)


def one_behind(**limits):
    """Three members that serve, of which one is down from now on."""
    world, primary, behind, other = serving_group(**limits)
    behind.crash()
    return world, primary, behind, other


def write_and_settle(world, primary, count, *, name=b"row", ticking=False):
    """Write so many rows, each until nothing moves any more."""
    for number in range(count):
        writes = [(b"%s%04d" % (name, number), b"x" * 40)]
        primary.replica.propose(encode_body(writes), writes)
        world.settle()
        if ticking:
            primary.replica.tick()


def write(world, primary, count, to=None):
    """Write so many rows; without a word `to` a member."""
    for number in range(count):
        writes = [(b"row%04d" % number, b"%040d" % world.rng.randrange(10**6))]
        primary.replica.propose(encode_body(writes), writes)
        for _ in range(50):
            if world.network:
                world.deliver()
            for one in world.up():
                if one is not to:
                    one.memory.flush()
