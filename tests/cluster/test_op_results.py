"""A change happens once and has one result, whoever asks again, whoever leads by then."""

import asyncio

import msgspec
import pytest

from pinfold.cluster.api import BlobRef, Change, Changed, Check, Row
from pinfold.cluster.groups import results as results_module
from pinfold.cluster.groups.operations import CHANGE
from pinfold.cluster.groups.state import Limits
from pinfold.model.errors import Busy, Conflict, Unavailable
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
    """A refusal of a first attempt is not remembered: there is nothing that could come late."""
    with pytest.raises(Conflict):
        await cluster.client.change(PLACE, put(5, b"x", Check("present", b"k")))
    await cluster.client.change(PLACE, put(6, b"y"))
    await cluster.kill(cluster.primary(GROUP))
    await cluster.client.change(PLACE, put(5, b"x", Check("present", b"k")))
    assert (await cluster.client.get(PLACE, b"k")).body == b"x"


class Lossy:
    """A client whose first attempts are carried out as told, and never answered."""

    def __init__(self, cluster: Cluster, attempts) -> None:
        self.client = cluster.new_client(f"lossy-{cluster.rng.random()}")
        self._attempts = list(attempts)
        self._attempt = self.client._attempt
        self.client._attempt = self._first_by_plan

    async def _first_by_plan(self, *arguments):
        if not self._attempts:
            return await self._attempt(*arguments)
        await self._attempts.pop(0)(lambda: self._attempt(*arguments))
        raise Unavailable("the answer is lost")


@scenario
async def test_a_new_primary_judges_nothing_before_it_has_all_results(cluster):
    """They are loaded a few at a time; reads do not wait for that."""
    results_module.LOAD_RESULTS, usual = 2, results_module.LOAD_RESULTS
    try:
        first = await cluster.client.change(PLACE, ONCE)
        for number in range(100, 140):
            await cluster.client.change(PLACE, put(number, b"two"))
        await cluster.kill(cluster.primary(GROUP))
        await still_once(cluster, first)
    finally:
        results_module.LOAD_RESULTS = usual


@scenario
async def test_a_change_whose_answer_was_lost_is_not_refused_by_its_own_row(cluster):
    """However much others change until it comes again: age counts, not number."""

    async def made_then_many(attempt):
        await attempt()
        for number in range(1000, 1400):
            await cluster.client.change(PLACE, put(number, b"other"))

    assert isinstance(await Lossy(cluster, [made_then_many]).client.change(PLACE, ONCE), Changed)
    assert (await cluster.client.get(PLACE, b"k")).body == b"one"


@scenario
async def test_an_attempt_that_comes_late_finds_its_refusal(cluster):
    """Its caller has been told that it never happened, and has given back what it names."""
    late = []
    await cluster.client.change(PLACE, put(1, b"other's"))

    async def delayed(attempt):
        late.append(attempt)

    lossy = Lossy(cluster, [delayed])
    with pytest.raises(Conflict) as refusal:
        await lossy.client.change(PLACE, ONCE)
    assert (refusal.value.detail[0], refusal.value.detail[1].body) == (0, b"other's")
    await cluster.client.change(PLACE, Change(OpId(bytes(16)), deletes=(b"k",)))
    with pytest.raises(Conflict):
        await late[0]()
    assert await cluster.client.get(PLACE, b"k") is None
    await cluster.kill(cluster.primary(GROUP))
    with pytest.raises(Conflict):
        await cluster.new_client("later").change(PLACE, ONCE)
    assert await cluster.client.get(PLACE, b"k") is None


@pytest.mark.parametrize("name", ["stored too long ago", "named before"])
def test_what_else_is_said_behind_a_lost_answer_is_no_answer(name):
    """Whoever hears Unavailable gives nothing back: the first attempt may yet come."""

    @scenario
    async def story(cluster):
        counter = Row(b"no counter")
        await cluster.client.change(PLACE, Change(OpId(bytes(16)), puts=((b"c", counter),)))

        async def lost(_attempt):
            return None

        change = Change(OpId(b"x" * 16), puts=((b"k", Row(b"", size=1)),), counter=b"c")
        if name == "stored too long ago":
            old = BlobRef(bytes(16), 5, (1,))
            change = Change(OpId(b"x" * 16), puts=((b"k", Row(b"", blobs=(old,))),))
        with pytest.raises(Unavailable):
            await Lossy(cluster, [lost]).client.change(PLACE, change)

    story()


def test_a_group_that_may_forget_no_result_answers_busy_until_it_may():
    async def story():
        limits = Limits(results_max=50)
        cluster = await Cluster(groups=1, limits=limits).start()
        loop = asyncio.get_running_loop()
        first = await cluster.client.change(PLACE, ONCE)
        began = loop.time()
        for number in range(100, 149):
            assert not crowded(cluster)
            await cluster.client.change(PLACE, put(number, b"x"))
        with pytest.raises(Busy):
            await cluster.client.change(PLACE, put(200, b"y"))
        assert crowded(cluster)
        assert await cluster.client.change(PLACE, ONCE) == first, "a known one is no further one"
        await asyncio.sleep(began + 21 - loop.time())
        await cluster.client.change(PLACE, put(201, b"z"))
        assert not crowded(cluster)
        await cluster.close()

    run_virtual(story)


def test_results_are_as_old_for_the_next_primary():
    """Else each takeover would have a group at its bound answer Busy for 20 s more."""

    async def story():
        limits = Limits(results_max=50)
        cluster = await Cluster(groups=1, limits=limits).start()
        for number in range(100, 149):
            await cluster.client.change(PLACE, put(number, b"x"))
            await asyncio.sleep(0.1)
        await asyncio.sleep(9)
        known = await cluster.client.change(PLACE, put(300, b"y"))
        await cluster.kill(cluster.primary(GROUP))
        await asyncio.sleep(8)
        await cluster.client.change(PLACE, put(301, b"z"))
        assert await cluster.new_client("c2").change(PLACE, put(300, b"y")) == known
        assert (await cluster.client.get(PLACE, b"k")).body == b"z"
        await cluster.close()

    run_virtual(story)


def crowded(cluster):
    return cluster.status(cluster.primary(GROUP), GROUP).crowded


def test_waiting_changes_of_all_groups_of_a_node_have_one_bound():
    async def story():
        limits = Limits(waiting_bytes=20_000)
        cluster = await Cluster(groups=3, limits=limits, size=1).start()
        await cluster.client.get(b"\0", b"k")
        peers = cluster.network.join(NodeName("many"))
        answers = []
        for number in range(60):
            change = put(number, b"x" * 1000)
            body = (1, number % 3, False)
            payload = (msgspec.msgpack.encode(change),)
            answers.append(peers.call(NodeName("n1"), CHANGE, body, payload, deadline=1e9))
        done = await asyncio.gather(*answers, return_exceptions=True)
        refused = [one for one in done if isinstance(one, Busy)]
        assert 35 <= len(refused) <= 42
        assert len(refused) + sum(not isinstance(one, Exception) for one in done) == 60
        assert cluster.services[1].waiting.taken == 0
        await cluster.close()

    run_virtual(story)
