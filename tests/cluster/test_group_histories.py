"""Histories of concurrent clients under random faults are linearizable."""

import asyncio
import random

import pytest

from pinfold.cluster.api import Change, Row
from pinfold.cluster.groups.state import Limits
from pinfold.model.ids import NodeName, OpId
from tests.cluster.group_cluster import Cluster
from tests.cluster.history import History, client_work
from tests.twins.virtual import run_virtual

TIGHT = Limits(
    batch_bytes=2000, window_entries=4, retained_bytes=4000, trim_entries=2, page_bytes=500
)


async def trouble(cluster, rng, until):
    """Kill, restart, cut, hang; never more than one node at a time is down for long."""
    loop = asyncio.get_running_loop()
    nodes = list(cluster.stores)
    while loop.time() < until:
        await asyncio.sleep(rng.random() * 2)
        n = rng.choice(nodes)
        what = rng.choice(["kill", "kill", "cut", "hang", "power"])
        if what == "kill":
            await cluster.kill(n)
            await asyncio.sleep(rng.random() * 4)
            await cluster.start_node(n)
        elif what == "cut":
            for other in rng.sample([o for o in nodes if o != n], rng.randint(1, 2)):
                cluster.network.cut(NodeName(f"n{n}"), NodeName(f"n{other}"))
            await asyncio.sleep(rng.random() * 4)
            cluster.network.heal()
        elif what == "hang":
            cluster.network.silenced.add(NodeName(f"n{n}"))
            await asyncio.sleep(rng.random() * 4)
            cluster.network.silenced.discard(NodeName(f"n{n}"))
        else:
            for one in nodes:
                await cluster.kill(one)
            for one in nodes:
                await cluster.start_node(one)


async def one_history(seed, size=3):
    rng = random.Random(seed)
    cluster = await Cluster(
        size,
        groups=1,
        flush_s=rng.choice([0.0002, 0.002, 0.02]),
        delay_s=rng.choice([0.0001, 0.001, 0.01]),
        limits=TIGHT,
    ).start()
    loop, history = asyncio.get_running_loop(), History()
    until = loop.time() + 20
    async with asyncio.TaskGroup() as group:
        group.create_task(trouble(cluster, rng, until))
        for number in range(4):
            name = f"c{number}{seed}"
            rows = cluster.new_client(name)
            group.create_task(client_work(rows, history, name, rng, lambda: loop.time() < until))
    began = loop.time()
    await cluster.client.change(b"p", Change(OpId(b"after the faults"), (), ((b"z", Row(b"")),)))
    assert loop.time() - began < 6, "not serving again after the faults"
    await asyncio.sleep(5)
    rows = [store.seen(cluster.groups[0]).rows for store in cluster.stores.values()]
    assert all(one == rows[0] for one in rows), "members differ after everything has settled"
    await cluster.close()
    return history


@pytest.mark.parametrize("seed", range(6))
def test_histories_are_linearizable(seed):
    history = run_virtual(lambda: one_history(seed))
    assert history.writes > 20
    assert history.reads > 20


@pytest.mark.parametrize("seed", range(3))
def test_histories_of_five_members_are_linearizable(seed):
    history = run_virtual(lambda: one_history(500 + seed, size=5))
    assert history.writes > 20
    assert history.reads > 20
