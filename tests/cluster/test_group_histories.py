"""Histories of concurrent clients under random faults are linearizable.

Each key is a register of unique values. The versions that changes return give the order of writes
that the log claims; a history is linearizable if that order is consistent with real time: nothing
that ended before something else began comes after it, for writes and reads alike.
"""

import asyncio
import random

import pytest
from tests.cluster.group_cluster import Cluster
from tests.twins.virtual import run_virtual

from pinfold.cluster.api import Change, Check, Row
from pinfold.cluster.groups.state import Limits
from pinfold.model.errors import Conflict, Unavailable
from pinfold.model.ids import NodeName, OpId

KEYS = (b"a", b"b", b"c")
TIGHT = Limits(
    batch_bytes=2000, window_entries=4, retained_bytes=4000, trim_entries=2, page_bytes=500
)


class History:
    """What clients saw: per key the highest version that any finished operation has shown."""

    def __init__(self):
        self.floor = dict.fromkeys(KEYS, 0)
        self.written = {}
        self.values = {key: {} for key in KEYS}
        self.writes = self.reads = self.conflicts = 0

    def wrote(self, key, value, version, floor):
        assert version > floor, f"write of {value} to {key} was ordered before what it followed"
        assert self.values[key].setdefault(version, value) == value, "one version, two values"
        self.floor[key] = max(self.floor[key], version)
        self.writes += 1

    def read(self, key, row, floor):
        version = row.version if row is not None else 0
        assert version >= floor, f"stale read of {key}: {version} after {floor}"
        if row is not None:
            value = self.values[key].setdefault(version, row.body)
            assert value == row.body, "a version changed its value"
        self.floor[key] = max(self.floor[key], version)
        self.reads += 1


async def client_work(cluster, history, name, rng, until):
    rows = cluster.new_client(name)
    loop, number = asyncio.get_running_loop(), 0
    while loop.time() < until:
        await asyncio.sleep(rng.random() * 0.05)
        key, floor = rng.choice(KEYS), None
        floor = history.floor[key]
        try:
            if rng.random() < 0.5:
                history.read(key, await rows.get(b"p", key), floor)
                continue
            number += 1
            value = f"{name}-{number}".encode()
            checks = (Check("version", key, floor),) if floor and rng.random() < 0.5 else ()
            change = Change(OpId(value.ljust(16, b".")), checks, ((key, Row(value)),))
            changed = await rows.change(b"p", change)
            history.wrote(key, value, changed.version, floor)
            if checks:
                later = [v for v in history.values[key] if floor < v < changed.version]
                assert not later, "a conditional write overlooked one before it"
        except Conflict as conflict:
            row = conflict.detail[1]
            assert row is not None
            history.read(key, row, floor)
            assert row.version != floor, "refused although the condition held"
            history.conflicts += 1
        except Unavailable:
            pass


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


async def one_history(seed):
    rng = random.Random(seed)
    cluster = await Cluster(
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
            work = client_work(cluster, history, f"c{number}{seed}", rng, until)
            group.create_task(work)
    began = loop.time()
    await cluster.client.change(b"p", Change(OpId(b"after the faults"), (), ((b"z", Row(b"")),)))
    assert loop.time() - began < 6, "not serving again after the faults"
    await asyncio.sleep(5)
    rows = [store.seen(cluster.groups[0]).rows for store in cluster.stores.values()]
    assert rows[0] == rows[1] == rows[2], "members differ after everything has settled"
    await cluster.close()
    return history


@pytest.mark.parametrize("seed", range(6))
def test_histories_are_linearizable(seed):
    history = run_virtual(lambda: one_history(seed))
    assert history.writes > 20
    assert history.reads > 20
