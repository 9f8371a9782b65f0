"""What operators see of groups, and what they can do about one that has lost its quorum."""

import asyncio

import pytest

from pinfold.cluster.api import Change, Row
from pinfold.cluster.map import METADATA, ClusterMap, DeviceEntry, NodeEntry, PolicyEntry
from pinfold.model.errors import Conflict, NotFound, Unavailable
from pinfold.model.ids import GroupId, NodeName, OpId
from pinfold.node.groups import Groups
from tests.cluster.group_cluster import Cluster
from tests.twins.virtual import VirtualClock, run_virtual

MAP = ClusterMap(
    cluster_id=b"c" * 16,
    nodes={f"n{n}": NodeEntry(role="storage") for n in range(1, 6)},
    devices=tuple(
        DeviceEntry(id=n, uuid=bytes([n]) * 16, node=f"n{n}", path="d") for n in range(1, 6)
    ),
    policies={METADATA: PolicyEntry(copies=3, write_quorum=2, part_power=1)},
)
GROUP = GroupId(0)


class FixedMap:
    def get(self) -> ClusterMap:
        return MAP


def scenario(test):
    def wrapped():
        async def work():
            cluster = await Cluster(groups=2, spare=2).start()
            peers = cluster.network.join(NodeName("admin"), 1)
            groups = Groups(VirtualClock(), FixedMap(), peers)  # type: ignore[arg-type]
            for number in range(5):
                await change(cluster, number)
            await asyncio.sleep(3)
            await test(cluster, groups)
            await cluster.close()

        run_virtual(work)

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


async def change(cluster, number):
    row = ((b"k%d" % number, Row(b"x")),)
    await cluster.client.change(b"\0", Change(OpId(number.to_bytes(16, "big")), puts=row))


@scenario
async def test_a_healthy_group_is_shown_with_equal_digests(cluster, groups):
    shown = await groups.show(0)
    assert (shown["state"], shown["digests"], shown["silent"]) == ("served", "equal", [])
    assert shown["primary"] == cluster.primary(GROUP)
    assert set(shown["members"]) == {1, 2, 3}
    assert {one["lag"] for one in shown["devices"]} == {0}
    assert len({one["digest"] for one in shown["devices"]}) == 1
    assert [one["group"] for one in await groups.list()] == [0, 1]
    with pytest.raises(NotFound):
        await groups.show(2)


@scenario
async def test_members_that_applied_other_writes_are_told_apart(cluster, groups):
    cluster.stores[2].seen(GROUP).digest.add(1, [(b"k", b"another write")])
    assert (await groups.show(0))["digests"] == "differ"


@scenario
async def test_a_change_under_way_is_shown(cluster, groups):
    cluster.membership.change(2, 3, 4)
    await asyncio.sleep(1)
    shown = await groups.show(0)
    assert shown["learners"] == [4]
    await cluster.start_node(4)
    await asyncio.sleep(3)
    assert set((await groups.show(0))["members"]) == {2, 3, 4}


@scenario
async def test_a_group_is_not_forced_while_a_majority_lives(cluster, groups):
    await cluster.kill(3)
    with pytest.raises(Conflict, match="a majority of the members"):
        await groups.force_members(0, [1, 2])
    assert set((await groups.show(0))["members"]) == {1, 2, 3}


@scenario
async def test_a_lost_quorum_is_forced_and_the_members_come_back_as_learners(cluster, groups):
    survivor = cluster.primary(GROUP)
    lost = [n for n in (1, 2, 3) if n != survivor]
    for n in lost:
        await cluster.kill(n)
    await asyncio.sleep(2)
    assert (await groups.show(0))["state"] == "no primary"
    with pytest.raises(Unavailable, match="does not answer"):
        await groups.force_members(0, [survivor, lost[0]])
    done = await groups.force_members(0, [survivor])
    assert (done["survivor"], sorted(done["given_up"])) == (survivor, lost)
    await change(cluster, 7)
    for n in lost:
        await cluster.start_node(n)
    await asyncio.sleep(10)
    shown = await groups.show(0)
    assert (shown["state"], shown["digests"]) == ("served", "equal")
    assert set(shown["members"]) == {1, 2, 3}
    assert shown["configuration"] >> 32 == 1
    with pytest.raises(Conflict):
        await groups.force_members(0, [survivor])
