"""A group's queue under load: what cannot be in time is refused early, what is late is not done."""

import asyncio

import msgspec
import pytest

from pinfold.cluster.api import Change, Row
from pinfold.cluster.groups.operations import CHANGE, GET
from pinfold.cluster.groups.pace import Pace
from pinfold.cluster.groups.serving import PIPELINE_ENTRIES, WAITING_CHANGES
from pinfold.model.errors import Busy, DeadlineExceeded
from pinfold.model.ids import GroupId, NodeName, OpId
from pinfold.model.limits import ENTRY_CHANGES
from tests.cluster.group_cluster import Cluster
from tests.twins.virtual import run_virtual

GROUP = GroupId(0)


def encoded(number: int) -> bytes:
    change = Change(OpId(number.to_bytes(16, "big")), puts=((b"k%d" % number, Row(b"x")),))
    return msgspec.msgpack.encode(change)


def ask(cluster: Cluster, number: int, patience_s: float) -> asyncio.Future:
    deadline = asyncio.get_running_loop().time() + patience_s
    peers = cluster.network.nodes[NodeName("c1")]
    primary = cluster.primary(GROUP)
    node = NodeName(f"n{primary}")
    return peers.call(node, CHANGE, (primary, GROUP, False), (encoded(number),), deadline=deadline)


async def row(cluster: Cluster, number: int) -> Row | None:
    return await cluster.client.get(b"\x00", b"k%d" % number)


def test_a_change_that_waited_until_its_deadline_is_not_made() -> None:
    async def work() -> None:
        cluster = await Cluster(flush_s=0.2).start()
        await asyncio.sleep(5)
        in_flight = []
        for number in range(PIPELINE_ENTRIES):
            in_flight.append(ask(cluster, number, 5))
            await asyncio.sleep(0.01)  # each its own entry
        late = ask(cluster, 50, 0.1)
        in_time = ask(cluster, 51, 5)
        for call in (*in_flight, in_time):
            await call
        with pytest.raises(DeadlineExceeded):
            await late
        assert await row(cluster, 50) is None
        assert await row(cluster, 51) is not None
        await cluster.close()

    run_virtual(work)


def test_a_read_that_waited_until_its_deadline_is_not_looked_up() -> None:
    async def work() -> None:
        cluster = await Cluster().start()
        await asyncio.sleep(5)
        looked: list[bytes] = []
        primary = cluster.primary(GROUP)
        bound = next(one for one in cluster.services[primary].led() if one.group == GROUP)
        honest = bound.get
        bound.get = lambda key: looked.append(key) or honest(key)  # type: ignore[method-assign]
        peers = cluster.network.nodes[NodeName("c1")]
        node = NodeName(f"n{primary}")
        now = asyncio.get_running_loop().time()
        cluster.network.delay_s = 0.05  # the confirmation takes two of these
        answers = [
            peers.call(node, GET, (primary, GROUP, key, ()), deadline=now + patience_s)
            for key, patience_s in ((b"late", 0.12), (b"in time", 1.0))
        ]
        await answers[1]
        with pytest.raises(DeadlineExceeded):
            await answers[0]
        assert looked == [b"in time"]
        await cluster.close()

    run_virtual(work)


def test_what_cannot_be_in_time_is_refused_at_once_and_a_queue_has_an_end() -> None:
    async def work() -> None:
        cluster = await Cluster(flush_s=0.2).start()
        await asyncio.sleep(5)
        calls = [ask(cluster, number, 30) for number in range(WAITING_CHANGES + 6 * ENTRY_CHANGES)]
        await asyncio.sleep(0.01)
        refused = [call for call in calls if call.done()]
        assert len(refused) == 6 * ENTRY_CHANGES
        assert all(isinstance(call.exception(), Busy) for call in refused)
        kept = [call for call in calls if not call.done()]
        while not any(call.done() for call in kept):  # noqa: ASYNC110 - the pace is known then
            await asyncio.sleep(0.01)
        kept += [ask(cluster, 20_000 + number, 30) for number in range(WAITING_CHANGES // 2)]
        await asyncio.sleep(0.001)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Busy, match="in time"):
            await ask(cluster, 90_000, 0.15)
        assert asyncio.get_running_loop().time() - began < 0.1
        for call in kept:
            await call
        await cluster.close()

    run_virtual(work)


def test_the_pace_is_that_of_commits_while_something_is_in_flight() -> None:
    pace = Pace()
    assert pace.wait_s(100 * ENTRY_CHANGES) == 0
    now = 500.0
    for _ in range(50):
        pace.proposed(now)
        pace.proposed(now)
        pace.committed(2, now + 0.4, idle=True)
        now += 3600  # a pause tells nothing
    assert pace.wait_s(3 * ENTRY_CHANGES) == pytest.approx(0.6, rel=0.01)
    assert pace.wait_s(ENTRY_CHANGES - 1) == 0
    pace.proposed(now)
    for _ in range(50):
        now += 0.1
        pace.committed(1, now, idle=False)
    assert pace.wait_s(3 * ENTRY_CHANGES) == pytest.approx(0.3, rel=0.01)
