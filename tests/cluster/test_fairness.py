"""One row that everybody writes must not keep the others of its group waiting."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.cluster.api import Change, Check, Row
from pinfold.cluster.groups.operations import CHANGE
from pinfold.cluster.groups.serving import PIPELINE_ENTRIES, WAITING_BYTES
from pinfold.cluster.groups.turns import WAITING_PER_ROW, Turns, row_of
from pinfold.model.errors import Busy
from pinfold.model.ids import GroupId, NodeName, OpId
from tests.cluster.group_cluster import Cluster
from tests.twins.virtual import run_virtual

GROUP = GroupId(0)


def ask(cluster: Cluster, number: int, key: bytes, size: int) -> asyncio.Future:
    deadline = asyncio.get_running_loop().time() + 60
    primary = cluster.primary(GROUP)
    change = Change(OpId(number.to_bytes(16, "big")), puts=((key, Row(b"x" * size)),))
    payload = (msgspec.msgpack.encode(change),)
    peers, node = cluster.network.nodes[NodeName("c1")], NodeName(f"n{primary}")
    return peers.call(node, CHANGE, (primary, GROUP, False), payload, deadline=deadline)


def scenario(test):
    def wrapped() -> None:
        async def work() -> None:
            cluster = await Cluster(groups=1, flush_s=0.2).start()
            await asyncio.sleep(5)
            busy = []
            for number in range(PIPELINE_ENTRIES):  # what comes now has to wait
                busy.append(ask(cluster, number, b"first", 1))
                await asyncio.sleep(0.01)
            await test(cluster)
            for call in busy:
                await call
            await cluster.close()

        run_virtual(work)

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


@scenario
async def test_a_row_behind_a_thousand_changes_of_another_is_written_in_the_next_entry(cluster):
    hot = [ask(cluster, 100 + n, b"hot", 8192) for n in range(1000)]  # eight entries
    cold = [ask(cluster, 5000 + n, b"cold%d" % n, 8192) for n in range(20)]
    for call in cold:
        await call
    assert sum(call.done() for call in hot) < 600, "only those of the entries that were next"
    for call in hot:
        await call


@scenario
async def test_a_hot_row_is_refused_its_excess_and_no_other_row_is(cluster):
    hot = [ask(cluster, 100 + n, b"hot", 10) for n in range(3 * WAITING_PER_ROW)]
    cold = ask(cluster, 9000, b"cold", 10)
    await cold
    refused = 0
    for call in hot:
        try:
            await call
        except Busy:
            refused += 1
    assert refused == 2 * WAITING_PER_ROW


@scenario
async def test_a_hot_row_of_large_values_leaves_room_for_others(cluster):
    size = 1 << 19
    hot = [ask(cluster, 100 + n, b"hot", size) for n in range(WAITING_BYTES // size)]
    cold = ask(cluster, 9000, b"cold", size)
    await cold
    outcomes = await asyncio.gather(*hot, return_exceptions=True)
    assert any(isinstance(one, Busy) for one in outcomes)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans()), max_size=40))
def test_turns_go_round_and_keep_the_order_of_each_row(steps):
    turns, waiting, taken = Turns(), {b"a": [], b"b": [], b"c": []}, []
    for number, (row, take) in enumerate(steps):
        if take and turns:
            found = turns.take()
            taken.append(found[0])
            assert waiting[found[0]].pop(0) == found[1]
        else:
            turns.put(row, (row, number))
            waiting[row].append(number)
        assert len(turns) == sum(map(len, waiting.values())) == len(list(turns))
        assert turns.waiting(row) == len(waiting[row])
    rest = []
    while turns:
        expected = turns.ahead(b"new")
        rest.append(turns.take()[0])
        assert expected <= len(rest) + len(turns)
    rows = {row for row, left in waiting.items() if left}
    assert set(rest[: len(rows)]) == rows, "every row has its turn before any has a second"


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (Change(OpId(b"o"), puts=((b"p", Row(b"")),), deletes=(b"d",)), b"p"),
        (Change(OpId(b"o"), deletes=(b"d",), checks=(Check("absent", b"c"),)), b"d"),
        (Change(OpId(b"o"), checks=(Check("absent", b"c"),)), b"c"),
        (Change(OpId(b"o"), delete_ranges=((b"r", b"s"),)), b"r"),
        (Change(OpId(b"o")), b""),
    ],
)
def test_a_change_takes_the_turn_of_the_first_row_it_names(change, row):
    assert row_of(change) == row
