"""Work of one group ends a turn of the event loop after a while, whatever is left of it."""

import asyncio

from pinfold.cluster.api import Change, Row
from pinfold.cluster.groups import results as results_module
from pinfold.cluster.groups.serving import TURN_S
from pinfold.model.ids import OpId
from tests.cluster.group_cluster import Cluster
from tests.twins.virtual import VirtualClock, run_virtual

PLACE = b"p"


def put(number):
    return Change(OpId(number.to_bytes(16, "big")), puts=((b"k%d" % number, Row(b"")),))


class Costly:
    """A clock of a process whose look-ups take time: nothing else moves it meanwhile."""

    def __init__(self):
        self.spent = 0.0

    def monotonic(self):
        return asyncio.get_running_loop().time() + self.spent

    def wall(self):
        return VirtualClock().wall()


async def cold_index(cluster):
    await cluster.client.change(PLACE, put(1))
    (bound,) = cluster.services[1].led()
    clock, serving, get = Costly(), bound.serving, cluster.logs[1].get
    serving._clock = clock
    turns = []

    def cold(group, key):
        clock.spent += 0.005
        return get(group, key)

    def timed(turn):
        def take(end):
            began = clock.spent
            turn(end)
            turns.append(clock.spent - began)

        return take

    serving._propose_until = timed(serving._propose_until)
    serving._look_until = timed(serving._look_until)

    serving._ledger._get = lambda key: cold(bound.group, key)
    cluster.logs[1].get = cold
    done = [asyncio.ensure_future(cluster.client.change(PLACE, put(n))) for n in range(2, 100)]
    done += [asyncio.ensure_future(cluster.client.get(PLACE, b"k%d" % n)) for n in range(100)]
    await asyncio.gather(*done)
    assert max(turns) <= TURN_S + 0.015, "one more change, with a few look-ups"
    assert sum(turns) > 0.9


def test_a_cold_index_makes_the_group_slow_and_not_its_node_deaf():
    """Between turns of 20 ms the loop does other work, whatever waits to be changed or read."""

    async def story():
        cluster = await Cluster(groups=1, size=1).start()
        await cold_index(cluster)
        await cluster.close()

    run_virtual(story)


def test_a_takeover_loads_one_slice_of_results_a_turn(monkeypatch):
    monkeypatch.setattr(results_module, "LOAD_RESULTS", 10)

    async def story():
        cluster = await Cluster(groups=1, size=1).start()
        for number in range(100):
            await cluster.client.change(PLACE, put(number + 1))
        (bound,) = cluster.services[1].led()
        bound.role_changed()  # as if it had just been elected
        serving, loads = bound.serving, []
        load, pump = serving._ledger.results.load, serving.pump

        def counted(now):
            loads[-1] += 1
            load(now)

        def turn():
            loads.append(0)
            pump()

        serving._ledger.results.load, serving.pump = counted, turn
        assert await cluster.client.get(PLACE, b"k7") is not None
        await cluster.client.change(PLACE, put(200))
        assert sum(loads) >= 10
        assert max(loads) == 1
        await cluster.close()

    run_virtual(story)
