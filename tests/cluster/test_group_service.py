"""Row groups on nodes that die, hang and are cut off, through the client everybody uses."""

import asyncio

import msgspec
import pytest

from pinfold.cluster.api import BlobRef, Change, Check, Collapse, Counter, Row
from pinfold.cluster.groups.entries import decode_row
from pinfold.cluster.groups.frees import FreesWorker
from pinfold.cluster.groups.service import TICK_S
from pinfold.cluster.groups.state import Limits
from pinfold.model.errors import Conflict, Full, Invalid, Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName, OpId
from pinfold.model.settings import BlobSettings
from tests.cluster.group_cluster import Cluster, env_for
from tests.twins.virtual import VirtualClock, run_virtual

PLACE = b"p"


def op_id(number: int) -> OpId:
    return OpId(number.to_bytes(16, "big"))


def put(number: int, key: bytes, body: bytes, **more) -> Change:
    return Change(op_id(number), puts=((key, Row(body)),), **more)


def scenario(**settings):
    """Run `test(cluster)` on a started cluster in virtual time."""

    def wrap(test):
        def wrapped():
            async def work():
                cluster = await Cluster(**settings).start()
                await test(cluster)
                await cluster.close()

            run_virtual(work)

        wrapped.__name__ = test.__name__
        wrapped.__doc__ = test.__doc__
        return wrapped

    return wrap


@scenario()
async def test_a_row_is_read_as_it_was_put(cluster):
    changed = await cluster.client.change(PLACE, put(1, b"k", b"one"))
    row = await cluster.client.get(PLACE, b"k")
    assert (row.body, row.version, row.stamp_ms) == (b"one", changed.version, changed.stamp_ms)
    assert await cluster.client.get(PLACE, b"other") is None


@scenario()
async def test_a_failed_check_changes_nothing_and_shows_the_row(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"one"))
    with pytest.raises(Conflict) as raised:
        await cluster.client.change(
            PLACE, put(2, b"k", b"two", checks=(Check("present", b"k"), Check("absent", b"k")))
        )
    index, row = raised.value.detail
    assert (index, row.body) == (1, b"one")
    assert (await cluster.client.get(PLACE, b"k")).body == b"one"


@scenario()
async def test_reads_whose_check_fails_show_the_checks_row_instead(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"one"))
    bound = Change(op_id(2), puts=((b"x", Row(b"moved", b"m")),))
    await cluster.client.change(PLACE, bound)

    def reads(tag):
        checks = (Check("present", b"k"), Check("tag-not-below", b"x", tags=(tag,)))
        return (
            cluster.client.get(PLACE, b"k", checks=checks),
            cluster.client.scan(PLACE, b"a", b"l", 5, checks=checks),
        )

    got, scanned = [await read for read in reads(b"m")]
    assert got.body == b"one"
    assert [key for key, _ in scanned.items] == [b"k"]
    for read in reads(b"ma"):
        with pytest.raises(Conflict) as raised:
            await read
        index, row = raised.value.detail
        assert (index, row.body, row.tag) == (1, b"moved", b"m")
    with pytest.raises(Invalid):
        await cluster.client.get(PLACE, b"k", checks=(Check("empty", b"a", end=b"b"),))


@scenario()
async def test_pages_backwards_go_on_where_they_ended(cluster):
    for number, key in enumerate((b"a", b"b", b"c"), start=1):
        await cluster.client.change(PLACE, put(number, key, b""))
    page = await cluster.client.scan(PLACE, b"a", b"z", 2, reverse=True)
    assert [key for key, _ in page.items] == [b"c", b"b"]
    page = await cluster.client.scan(PLACE, b"a", page.next_start, 2, reverse=True)
    assert [key for key, _ in page.items] == [b"a"]
    assert page.next_start is None


@scenario()
async def test_of_many_conditional_writers_exactly_one_wins(cluster):
    async def attempt(number):
        try:
            await cluster.client.change(
                PLACE, put(number, b"k", b"%d" % number, checks=(Check("absent", b"k"),))
            )
        except Conflict:
            return 0
        return number

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(number)) for number in range(1, 33)]
    (winner,) = [task.result() for task in tasks if task.result()]
    assert (await cluster.client.get(PLACE, b"k")).body == b"%d" % winner


@scenario()
async def test_a_scan_shows_every_acknowledged_change(cluster):
    for number in range(10):
        await cluster.client.change(PLACE, put(number, b"a/%d" % number, b"x"))
    page = await cluster.client.scan(PLACE, b"a", b"b", 4)
    assert [key for key, _ in page.items] == [b"a/0", b"a/1", b"a/2", b"a/3"]
    rest = await cluster.client.scan(PLACE, page.next_start, b"b", 100)
    assert len(rest.items) == 6
    assert rest.next_start is None
    rolled = await cluster.client.scan(PLACE, b"a", b"b", 4, collapse=Collapse(0, b"/"))
    assert rolled.items == ((b"a/", None),)
    backwards = await cluster.client.scan(PLACE, b"a", b"b", 4, reverse=True)
    assert [key for key, _ in backwards.items] == [b"a/9", b"a/8", b"a/7", b"a/6"]


@scenario()
async def test_a_dead_primary_is_replaced_within_two_seconds_and_nothing_is_lost(cluster):
    loop = asyncio.get_running_loop()
    for number in range(20):
        await cluster.client.change(b"%d" % number, put(number, b"k%d" % number, b"x"))
    await cluster.kill(cluster.primary(cluster.group_of(b"3")))
    began = loop.time()
    assert (await cluster.client.get(b"3", b"k3")).body == b"x"
    assert loop.time() - began < 2.0
    for number in range(20):
        assert (await cluster.client.get(b"%d" % number, b"k%d" % number)).body == b"x"
    await cluster.client.change(b"3", put(99, b"new", b"y"))


@scenario()
async def test_a_hanging_primary_is_replaced_within_two_seconds(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"x"))
    primary = cluster.primary(cluster.group_of(PLACE))
    cluster.network.silenced.add(NodeName(f"n{primary}"))
    await asyncio.sleep(2.0)
    others = {n: one for n, one in cluster.services.items() if n != primary}
    group = cluster.group_of(PLACE)
    assert any(bound.group == group for one in others.values() for bound in one.led())


@scenario()
async def test_a_replaced_primary_that_does_not_know_must_not_answer_reads(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"old"))
    group = cluster.group_of(PLACE)
    old = cluster.primary(group)
    others = [n for n in cluster.services if n != old]
    for n in others:
        cluster.network.cut(NodeName(f"n{old}"), NodeName(f"n{n}"))
    far = cluster.new_client("far")
    for n in others:
        cluster.network.cut(NodeName("far"), NodeName(f"n{n}"))
    cluster.network.cut(NodeName("c1"), NodeName(f"n{old}"))
    await cluster.client.change(PLACE, put(2, b"k", b"new"))
    assert cluster.services[old].led(), "the old primary still believes in itself"
    with pytest.raises(Unavailable):
        await far.get(PLACE, b"k")
    with pytest.raises(Unavailable):  # nor may it refuse by what it believes
        await far.change(PLACE, put(3, b"k", b"x", checks=(Check("absent", b"k"),)))
    cluster.network.heal()
    assert (await far.get(PLACE, b"k")).body == b"new"


@scenario()
async def test_a_retry_after_failover_gets_the_first_result(cluster):
    change = put(7, b"k", b"one", checks=(Check("absent", b"k"),))
    first = await cluster.client.change(PLACE, change)
    await cluster.client.change(PLACE, put(8, b"k", b"two"))
    await cluster.kill(cluster.primary(cluster.group_of(PLACE)))
    assert await cluster.client.change(PLACE, change) == first
    assert (await cluster.client.get(PLACE, b"k")).body == b"two"


@scenario()
async def test_a_power_cut_of_everything_loses_nothing_acknowledged(cluster):
    for number in range(30):
        await cluster.client.change(PLACE, put(number, b"k%d" % number, b"x"))
    for n in list(cluster.services):
        await cluster.kill(n)
    await asyncio.sleep(1)
    for n in cluster.stores:
        await cluster.start_node(n)
    page = await cluster.client.scan(PLACE, b"k", None, 100)
    assert len(page.items) == 30


@scenario()
async def test_a_restarted_node_catches_up_and_can_lead(cluster):
    await cluster.client.change(PLACE, put(1000, b"first", b"x"))
    await asyncio.sleep(1)
    await cluster.kill(2)
    for number in range(50):
        await cluster.client.change(PLACE, put(number, b"k%d" % number, b"x"))
    await cluster.start_node(2)
    await asyncio.sleep(1)
    await cluster.kill(3)
    page = await cluster.client.scan(PLACE, b"k", None, 100)
    assert len(page.items) == 50
    await cluster.start_node(3)
    await asyncio.sleep(1)
    await cluster.kill(1)
    page = await cluster.client.scan(PLACE, b"k", None, 100)
    assert len(page.items) == 50


@scenario()
async def test_a_failed_device_hands_its_groups_to_others(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"x"))
    primary = cluster.primary(cluster.group_of(PLACE))
    cluster.logs[primary].stopped = True
    await cluster.client.change(PLACE, put(2, b"k", b"y"))
    assert cluster.primary(cluster.group_of(PLACE)) != primary
    assert (await cluster.client.get(PLACE, b"k")).body == b"y"


def fresh(number):
    """A blob as a gateway names it: by the time of day."""
    stamp_ms = int(VirtualClock().wall() * 1000)
    return BlobRef(stamp_ms.to_bytes(6, "big") + number.to_bytes(10, "big"), 5, (1, 2, 3))


@scenario()
async def test_counters_are_exact_and_replaced_blobs_are_given_back(cluster):
    dropped, kept = fresh(1), fresh(2)
    first = Row(b"", size=5, blobs=(dropped, kept))
    second = Row(b"", size=7, blobs=(kept,))
    await cluster.client.change(PLACE, Change(op_id(1), puts=((b"k", first),), counter=b"n"))
    await cluster.client.change(PLACE, Change(op_id(2), puts=((b"k", second),), counter=b"n"))
    others = (fresh(3), fresh(4))
    third = Row(b"", size=5, blobs=others)
    await cluster.client.change(PLACE, Change(op_id(3), puts=((b"l", third),), counter=b"n"))
    await cluster.client.change(PLACE, Change(op_id(4), deletes=(b"l", b"none"), counter=b"n"))
    row = await cluster.client.get(PLACE, b"n")
    assert msgspec.msgpack.decode(row.body, type=Counter) == Counter(1, 7)
    given = []

    async def discard(blobs):
        given.extend(blobs)

    workers = [
        FreesWorker(env_for(n), service, discard, lambda: 60.0)
        for n, service in cluster.services.items()
    ]
    for _ in range(16):
        assert [await worker.pass_once() for worker in workers] == [0, 0, 0]
        await asyncio.sleep(3.9)
    again = Change(op_id(5), puts=((b"m", Row(b"", blobs=(dropped,))),))
    with pytest.raises(Invalid):
        await cluster.client.change(PLACE, again)
    assert not given, "62 s are one step of the time for which they are kept"
    await asyncio.sleep(2)
    assert sorted([await worker.pass_once() for worker in workers]) == [0, 0, 3]
    assert [await worker.pass_once() for worker in workers] == [0, 0, 0]
    assert sorted(one.id for one in given) == sorted(one.id for one in (dropped, *others))
    group = GroupId(sum(PLACE) % 4)
    rest = [key for key, _ in cluster.logs[cluster.primary(group)].scan(group, b"\x00", b"\x01")]
    assert all(key[:2] in (b"\x00r", b"\x00m") for key in rest), "nothing tells of them any more"


@scenario(groups=1)
async def test_no_wall_clock_says_when_a_dropped_blob_is_given_back(cluster):
    """Readers have the time they are promised, also while somebody sets a clock."""
    await cluster.client.change(PLACE, put_row(1, Row(b"", blobs=(fresh(1),))))
    await cluster.client.change(PLACE, Change(op_id(2), deletes=(b"r0001",)))
    primary = cluster.primary(GroupId(0))
    given = []

    async def discard(blobs):
        given.extend(blobs)

    class Jumping(VirtualClock):
        def wall(self):
            return super().wall() + (30 * 86_400 if asyncio.get_running_loop().time() > 300 else 0)

    env = env_for(primary, Jumping())
    worker = FreesWorker(env, cluster.services[primary], discard, lambda: 900.0)
    began = asyncio.get_running_loop().time()
    while not given:
        await worker.pass_once()
        await asyncio.sleep(5)
    assert 900 <= asyncio.get_running_loop().time() - began <= 900 * 17 / 16 + 10


@scenario(groups=1)
async def test_blobs_of_an_absent_device_do_not_keep_the_others(cluster):
    for n in range(600):
        row = Row(b"", blobs=(fresh(n),))
        await cluster.client.change(PLACE, put_row(n, row))
        await cluster.client.change(PLACE, Change(op_id(9000 + n), deletes=(b"r%04d" % n,)))
    given, away = [], True

    async def discard(blobs):
        given.extend(one.id for one in blobs)
        if away:
            raise Unavailable("a device is away")

    await asyncio.sleep(30)  # leadership has settled
    primary = cluster.primary(GroupId(0))
    worker = FreesWorker(env_for(primary), cluster.services[primary], discard, lambda: 0.0)
    while await worker.pass_once():
        pass
    assert len(set(given)) == len(given) == 600
    away = False
    await asyncio.sleep(BlobSettings().free_retry_s)
    given.clear()
    assert await worker.pass_once() == 0  # from now on from the start
    while await worker.pass_once():
        pass
    assert len(given) == 600
    await asyncio.sleep(BlobSettings().free_retry_s)
    assert not await worker.pass_once()


def put_row(number, row):
    return Change(op_id(number), puts=((b"r%04d" % number, row),))


@scenario(groups=1)
async def test_members_agree_when_everything_has_settled(cluster):
    for number in range(100):
        await cluster.client.change(PLACE, put(number, b"k%d" % (number % 7), b"%d" % number))
    await asyncio.sleep(1)
    first = cluster.stores[1].seen(GroupId(0)).rows
    assert len(first) > 7
    for store in cluster.stores.values():
        assert store.seen(GroupId(0)).rows == first
    assert decode_row(first[b"k1"]).body == b"99"


@scenario(groups=1)
async def test_a_full_primary_refuses_and_serves_again_when_there_is_room(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"one"))
    log = cluster.logs[cluster.primary(GroupId(0))]
    log.refusal = Full("no room")
    with pytest.raises(Full):
        await cluster.client.change(PLACE, put(2, b"k", b"two"))
    assert (await cluster.client.get(PLACE, b"k")).body == b"one"
    log.refusal = None
    check = (Check("absent", b"l"),)
    await cluster.client.change(PLACE, put(2, b"l", b"two", checks=check))
    assert (await cluster.client.get(PLACE, b"l")).body == b"two"


@scenario(groups=1)
async def test_a_full_follower_catches_up_when_there_is_room(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"one"))
    primary = cluster.primary(GroupId(0))
    follower = next(n for n in cluster.logs if n != primary)
    cluster.logs[follower].refusal = Full("no room")
    for number in range(2, 30):
        await cluster.client.change(PLACE, put(number, b"k%d" % number, b"x"))
    cluster.logs[follower].refusal = None
    await asyncio.sleep(2)
    rows = [store.seen(GroupId(0)).rows for store in cluster.stores.values()]
    assert rows[0] == rows[1] == rows[2]


@scenario(groups=1, limits=Limits(retained_bytes=2000, trim_entries=2, page_bytes=300))
async def test_a_copy_waits_while_there_is_no_room_for_it(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"one"))
    primary = cluster.primary(GroupId(0))
    follower = next(n for n in cluster.logs if n != primary)
    cluster.logs[follower].refusal = Full("no room")
    for number in range(2, 60):
        await cluster.client.change(PLACE, put(number, b"k%d" % number, b"x" * 50))
    group = GroupId(0)
    lacking = cluster.stores[follower].state(group).last_op + 1
    assert lacking < cluster.stores[primary].state(group).first_op
    await asyncio.sleep(1)
    cluster.logs[follower].refusal = None
    await asyncio.sleep(2)
    rows = [store.seen(group).rows for store in cluster.stores.values()]
    assert rows[0] == rows[1] == rows[2]


@scenario(
    groups=1,
    limits=Limits(retained_bytes=2000, trim_entries=2, page_bytes=300, copy_pages_here=1),
)
async def test_copies_that_ended_with_their_device_take_up_no_room(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"one"))
    primary = cluster.primary(GroupId(0))
    service = cluster.services[primary]
    follower = next(n for n in cluster.logs if n != primary)
    cluster.logs[follower].refusal = Full("no room")
    for number in range(2, 60):
        await cluster.client.change(PLACE, put(number, b"k%d" % number, b"x" * 50))
    await asyncio.sleep(2)
    assert not service.copy_room()
    service.device_failed(DeviceId(primary), Unavailable("the device has stopped"))
    assert service.copy_room()


@scenario(groups=6)
async def test_leadership_returns_to_its_first_members_when_a_node_is_back(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"x"))
    await asyncio.sleep(1)
    await cluster.kill(1)
    await asyncio.sleep(3)
    await cluster.start_node(1)
    await asyncio.sleep(40)
    leaders = [cluster.primary(group) for group in cluster.groups]
    assert leaders == [cluster.membership.members(group)[0] for group in cluster.groups]
    assert (await cluster.client.get(PLACE, b"k")).body == b"x"


@scenario(groups=2)
async def test_operators_see_who_leads_and_who_lags(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"x"))
    group = cluster.group_of(PLACE)
    primary = cluster.primary(group)
    dead = next(n for n in cluster.services if n != primary)
    await asyncio.sleep(1)
    await cluster.kill(dead)
    await cluster.client.change(PLACE, put(2, b"k", b"y"))
    await asyncio.sleep(1)
    (status,) = [one for one in cluster.services[primary].status() if one.group == group]
    assert (status.role, status.standing, status.primary) == ("serving", "member", primary)
    assert status.commit_op == status.applied_op == status.last_op
    assert [one.device for one in status.followers if one.lagging] == [dead]


@scenario(groups=1)
async def test_a_follower_that_hangs_delays_no_read_by_much(cluster):
    loop = asyncio.get_running_loop()
    await cluster.client.change(PLACE, put(1, b"k", b"x"))
    primary = cluster.primary(GroupId(0))
    for n in [n for n in cluster.services if n != primary]:
        cluster.network.silenced.add(NodeName(f"n{n}"))
        began = loop.time()
        for _ in range(3):
            assert (await cluster.client.get(PLACE, b"k")).body == b"x"
        assert loop.time() - began < 0.05
        cluster.network.silenced.clear()


@scenario(groups=1)
async def test_a_node_that_is_still_starting_is_passed_over(cluster):
    await cluster.client.change(PLACE, put(1, b"k", b"x"))
    await asyncio.sleep(1)
    primary = cluster.primary(GroupId(0))
    await cluster.kill(primary)
    cluster.network.join(NodeName(f"n{primary}"), 99)
    assert (await cluster.client.get(PLACE, b"k")).body == b"x"


@scenario(groups=1)
async def test_a_clock_a_month_ahead_on_the_primary_stamps_nothing(cluster):
    """Nor does it make the group refuse the blobs of everybody else."""
    await cluster.client.change(PLACE, put(1, b"k", b""))
    primary = cluster.primary(GroupId(0))
    await asyncio.sleep(1)
    service, clock = cluster.services[primary], VirtualClock(30 * 86_400)
    service.time._clock = clock
    for bound in service.led():
        bound.serving._clock = clock
    changed = await cluster.client.change(PLACE, put_row(2, Row(b"", blobs=(fresh(2),))))
    assert abs(changed.stamp_ms - VirtualClock().wall() * 1000) < 1000


@scenario(groups=1)
async def test_a_primary_has_heard_another_clock_before_it_leads(cluster):
    """All are started at once: a group has a primary again long before a ping is due."""
    await cluster.client.change(PLACE, put(1, b"k", b""))
    for n in (1, 2, 3):
        await cluster.kill(n)
    for n in (1, 2, 3):
        await cluster.start_node(n)
    await asyncio.sleep(TICK_S / 2)
    (primary,) = [service for service in cluster.services.values() if service.led()]
    primary.time._clock = VirtualClock(30 * 86_400)
    changed = await cluster.client.change(PLACE, put(2, b"k", b""))
    assert abs(changed.stamp_ms - VirtualClock().wall() * 1000) < 1000
