"""Members change while clients are served: through real services and the client everybody uses."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Check, Row
from pinfold.cluster.groups.state import Limits
from pinfold.model.errors import Unavailable
from pinfold.model.ids import GroupId, NodeName, OpId
from tests.cluster.group_cluster import Cluster
from tests.cluster.history import History, client_work
from tests.cluster.test_group_histories import TIGHT
from tests.twins.virtual import run_virtual

PLACE = b"p"
GROUP = GroupId(0)


def put(number: int, key: bytes, body: bytes, **more) -> Change:
    return Change(OpId(number.to_bytes(16, "big")), puts=((key, Row(body)),), **more)


def scenario(test, **settings):
    def wrapped():
        async def work():
            cluster = await Cluster(groups=1, **settings).start()
            await cluster.client.change(PLACE, put(1, b"first", b"x"))
            await test(cluster)
            await cluster.close()

        run_virtual(work)

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


def with_spare(test):
    return scenario(test, spare=3)


async def members_are(cluster, *devices):
    """Wait until the log says so, on every one of them."""
    async with asyncio.timeout(30):
        while True:
            shown = [
                cluster.status(n, GROUP)
                for n in devices
                if n in cluster.services and cluster.services[n].status()
            ]
            if len(shown) == len(devices) and all(
                one.members == devices and not one.joining and one.standing == "member"
                for one in shown
            ):
                return
            await asyncio.sleep(0.1)


@with_spare
async def test_a_member_is_replaced_while_clients_are_served(cluster):
    history, loop = History(), asyncio.get_running_loop()
    until = loop.time() + 12
    async with asyncio.TaskGroup() as group:
        for name in ("c2", "c3"):
            rows = cluster.new_client(name)
            work = client_work(rows, history, name, cluster.rng, lambda: loop.time() < until)
            group.create_task(work)
        await asyncio.sleep(1)
        cluster.membership.change(2, 3, 4)
        await cluster.start_node(4)
        await members_are(cluster, 2, 3, 4)
    assert history.writes > 50
    assert (await cluster.client.get(PLACE, b"first")).body == b"x"
    assert cluster.status(1, GROUP).standing == "outside"


@with_spare
async def test_a_gateway_with_an_old_ring_is_redirected(cluster):
    """Not one of the members it knows serves any more."""
    old = cluster.new_client("old", cluster.membership.copy())
    assert (await old.get(PLACE, b"first")).body == b"x"
    cluster.membership.change(4, 5, 6)
    for n in (4, 5, 6):
        await cluster.start_node(n)
    await members_are(cluster, 4, 5, 6)
    assert (await old.get(PLACE, b"first")).body == b"x"
    await old.change(PLACE, put(2, b"k", b"y"))
    fresh = cluster.new_client("fresh", cluster.membership.copy(1, 2, 3))
    assert (await fresh.get(PLACE, b"k")).body == b"y"


@with_spare
async def test_a_primary_that_is_no_member_any_more_hands_over(cluster):
    primary = cluster.primary(GROUP)
    others = [n for n in (1, 2, 3) if n != primary]
    cluster.membership.change(*others, 4)
    await cluster.start_node(4)
    await members_are(cluster, *others, 4)
    await asyncio.sleep(1)
    assert cluster.primary(GROUP) in {*others, 4}
    await cluster.kill(primary)
    await cluster.client.change(PLACE, put(2, b"k", b"y"))


@with_spare
async def test_a_removed_member_with_an_old_log_disturbs_nobody(cluster):
    """It was down all the while, comes back and finds no primary it knows."""
    gone = next(n for n in (1, 2, 3) if n != cluster.primary(GROUP))
    await cluster.kill(gone)
    rest = [n for n in (1, 2, 3) if n != gone]
    cluster.membership.change(*rest, 4)
    await cluster.start_node(4)
    await members_are(cluster, *rest, 4)
    await asyncio.sleep(30)  # nobody tells it any more
    before = cluster.status(cluster.primary(GROUP), GROUP).view
    await cluster.start_node(gone)
    await asyncio.sleep(20)
    assert cluster.status(cluster.primary(GROUP), GROUP).view == before
    await cluster.client.change(PLACE, put(2, b"k", b"y"))


@with_spare
async def test_logs_created_under_a_later_ring_never_begin_a_group(cluster):
    """The ring has moved altogether and the old members are down: nobody may start from nothing."""
    for n in (1, 2, 3):
        await cluster.kill(n)
    cluster.membership.change(4, 5, 6)
    for n in (4, 5, 6):
        await cluster.start_node(n)
    with pytest.raises(Unavailable):
        await cluster.client.get(PLACE, b"first")
    for n in (1, 2, 3):
        await cluster.start_node(n)
    await members_are(cluster, 4, 5, 6)
    assert (await cluster.client.get(PLACE, b"first")).body == b"x"


@with_spare
async def test_a_device_swapped_for_an_empty_one_comes_back_as_a_learner(cluster):
    """It never votes for what it has forgotten; its birth is another."""
    await asyncio.sleep(1)
    swapped = next(n for n in (1, 2, 3) if n != cluster.primary(GROUP))
    before = cluster.status(swapped, GROUP)
    await cluster.kill(swapped)
    cluster.swap(swapped)
    await cluster.start_node(swapped)
    await asyncio.sleep(5)
    after = cluster.status(swapped, GROUP)
    assert after.birth != before.birth
    assert after.standing == "member"
    primary = cluster.status(cluster.primary(GROUP), GROUP)
    assert (
        primary.configuration >= before.configuration + 4
    )  # out and in again: joint, final, twice
    assert set(primary.members) == {1, 2, 3}


@with_spare
async def test_an_empty_device_does_not_make_a_majority_with_one_that_is_behind(cluster):
    """The only full copies are down: the swapped member's vote must not count."""
    await asyncio.sleep(1)
    one, two, three = cluster.primary(GROUP), *(n for n in (1, 2, 3) if n != cluster.primary(GROUP))
    await cluster.kill(three)
    await cluster.client.change(PLACE, put(2, b"k", b"y"))  # on one and two
    await cluster.kill(one)
    await cluster.kill(two)
    cluster.swap(two)
    await cluster.start_node(two)
    await cluster.start_node(three)
    with pytest.raises(Unavailable):
        await cluster.client.get(PLACE, b"k")
    await cluster.start_node(one)
    assert (await cluster.client.get(PLACE, b"k")).body == b"y"


@with_spare
async def test_a_learner_that_never_comes_changes_nothing(cluster):
    cluster.membership.change(2, 3, 4)
    await asyncio.sleep(10)
    assert set(cluster.status(2, GROUP).members) == {1, 2, 3}
    await cluster.kill(1)
    await cluster.client.change(PLACE, put(2, b"k", b"y"))
    cluster.membership.change(1, 2, 3)
    await cluster.start_node(1)
    await members_are(cluster, 1, 2, 3)


@pytest.mark.parametrize("seed", range(4))
def test_histories_are_linearizable_while_members_change(seed):
    async def work():
        cluster = await Cluster(groups=1, spare=2, limits=TIGHT, seed=seed).start()
        rng, loop, history = cluster.rng, asyncio.get_running_loop(), History()
        until = loop.time() + 25
        async with asyncio.TaskGroup() as group:
            for name in ("c2", "c3", "c4"):
                rows = cluster.new_client(name)
                work = client_work(rows, history, name, rng, lambda: loop.time() < until)
                group.create_task(work)
            await asyncio.sleep(1)
            while loop.time() < until:
                cluster.membership.change(*rng.sample(range(1, 6), rng.choice([3, 3, 5])))
                for n in (4, 5):
                    if n not in cluster.services:
                        await cluster.start_node(n)
                await asyncio.sleep(rng.random() * 3)
                victim = rng.choice(sorted(cluster.services))
                if rng.random() < 0.5:
                    await cluster.kill(victim)
                    await asyncio.sleep(rng.random() * 2)
                    await cluster.start_node(victim)
                else:
                    cluster.network.silenced.add(NodeName(f"n{victim}"))
                    await asyncio.sleep(rng.random() * 3)
                    cluster.network.silenced.discard(NodeName(f"n{victim}"))
        cluster.membership.change(1, 3, 5)
        await members_are(cluster, 1, 3, 5)
        await asyncio.sleep(3)
        rows = [cluster.stores[n].seen(GROUP).rows for n in (1, 3, 5)]
        assert rows[0] == rows[1] == rows[2]
        assert history.writes > 50
        await cluster.close()

    run_virtual(work)


def test_a_learner_behind_a_trimmed_log_copies_and_becomes_a_member():
    limits = Limits(retained_bytes=2000, trim_entries=2, page_bytes=300)

    async def test(cluster):
        for number in range(2, 60):
            await cluster.client.change(PLACE, put(number, b"k%d" % number, b"x" * 50))
        cluster.membership.change(2, 3, 4)
        await cluster.start_node(4)
        await members_are(cluster, 2, 3, 4)
        await asyncio.sleep(1)
        assert cluster.stores[4].seen(GROUP).rows == cluster.stores[2].seen(GROUP).rows
        change = put(60, b"k2", b"z", checks=(Check("present", b"k2"),))
        await cluster.client.change(PLACE, change)

    scenario(test, spare=1, limits=limits)()
