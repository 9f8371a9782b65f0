"""A change happens once and has one result, whoever asks again, whoever leads by then."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Check, Row
from pinfold.cluster.groups.state import Limits
from pinfold.model.errors import Conflict
from pinfold.model.ids import GroupId, NodeName, OpId
from tests.cluster.group_cluster import Cluster
from tests.twins.virtual import run_virtual

PLACE = b"p"
GROUP = GroupId(0)
TIGHT = Limits(retained_bytes=2000, trim_entries=2, page_bytes=300)
"""So that a member that was away for some entries has to copy."""


def put(number: int, body: bytes, *checks: Check) -> Change:
    return Change(OpId(number.to_bytes(16, "big")), checks, ((b"k", Row(body)),))


ONCE = put(7, b"one", Check("absent", b"k"))


def scenario(test):
    def wrapped() -> None:
        async def work() -> None:
            cluster = await Cluster(groups=1, spare=2, limits=TIGHT).start()
            await test(cluster)
            await cluster.close()

        run_virtual(work)

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


async def still_once(cluster: Cluster, first) -> None:
    """The row has moved on; asking again gives the first result and changes nothing."""
    assert await cluster.new_client(f"again-{cluster.rng.random()}").change(PLACE, ONCE) == first
    assert (await cluster.client.get(PLACE, b"k")).body == b"two"
    with pytest.raises(Conflict):  # the same under another op id is another change
        await cluster.client.change(PLACE, put(9, b"three", Check("absent", b"k")))


@scenario
async def test_a_retry_gets_the_first_result_through_many_views(cluster):
    first = await cluster.client.change(PLACE, ONCE)
    await cluster.client.change(PLACE, put(8, b"two"))
    for _ in range(4):
        primary = cluster.primary(GROUP)
        await cluster.kill(primary)
        await still_once(cluster, first)
        await cluster.start_node(primary)
        await asyncio.sleep(2)


@scenario
async def test_a_retry_gets_the_first_result_from_a_member_that_came_by_a_copy(cluster):
    first = await cluster.client.change(PLACE, ONCE)
    await cluster.client.change(PLACE, put(8, b"two"))
    for number in range(100, 160):
        row = ((b"other%d" % number, Row(b"x" * 50)),)
        await cluster.client.change(PLACE, Change(OpId(number.to_bytes(16, "big")), puts=row))
    cluster.membership.change(4, 5, 3)
    await cluster.start_node(4)
    await cluster.start_node(5)
    await asyncio.sleep(10)
    assert set(cluster.status(4, GROUP).members) == {3, 4, 5}
    await cluster.kill(3)
    assert cluster.stores[4].state(GROUP).first_op > 10, "it has these entries only as rows"
    await still_once(cluster, first)


@scenario
async def test_a_retry_while_the_first_attempt_is_under_way_waits_for_its_result(cluster):
    """The primary is cut off with the change in its log; who leads next may have it or not."""
    assert await cluster.client.get(PLACE, b"k") is None  # somebody leads
    for attempt in range(6):
        key = b"k%d" % attempt
        change = Change(
            OpId((1000 + attempt).to_bytes(16, "big")),
            (Check("absent", key),),
            ((key, Row(b"one")),),
        )
        first = asyncio.ensure_future(cluster.client.change(PLACE, change))
        await asyncio.sleep(0.0002 * attempt)
        primary = NodeName(f"n{cluster.primary(GROUP)}")
        cluster.network.silenced.add(primary)
        again = await cluster.new_client(f"again{attempt}").change(PLACE, change)
        cluster.network.silenced.discard(primary)
        assert await first == again
        assert (await cluster.client.get(PLACE, key)).version == again.version
        await asyncio.sleep(3)


@scenario
async def test_a_change_refused_by_one_primary_is_judged_anew_by_the_next(cluster):
    """A refusal is not remembered: only what happened has a result."""
    with pytest.raises(Conflict):
        await cluster.client.change(PLACE, put(5, b"x", Check("present", b"k")))
    await cluster.client.change(PLACE, put(6, b"y"))
    await cluster.kill(cluster.primary(GROUP))
    await cluster.client.change(PLACE, put(5, b"x", Check("present", b"k")))
    assert (await cluster.client.get(PLACE, b"k")).body == b"x"
