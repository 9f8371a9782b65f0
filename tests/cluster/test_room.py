"""Where devices are full: what grows is refused, what makes room goes on."""

import asyncio
import itertools
from collections.abc import Iterable

import pytest

from pinfold.cluster.api import Change, Row
from pinfold.cluster.groups.ledger import Batch
from pinfold.cluster.groups.room import Room
from pinfold.model.errors import Full
from pinfold.model.ids import DeviceId, GroupId, NodeName, OpId
from tests.cluster.group_cluster import Cluster
from tests.cluster.test_ledger import Store
from tests.twins.virtual import run_virtual

A, B, C = (DeviceId(number) for number in range(1, 4))
OBJECT = Row(b"etag", size=100, payload=bytes(100))
SMALLER = Row(b"etag", size=90, payload=bytes(90))
LARGER = Row(b"etag", size=101, payload=bytes(101))
BUCKET = Row(b"bucket")
MARKED = Row(b"bucket" + bytes(200))
SWOLLEN = Row(b"bucket" + bytes(300))

_numbers = itertools.count(1)


def change(*, puts: Iterable[tuple[bytes, Row]] = (), deletes: Iterable[bytes] = ()) -> Change:
    op_id = OpId(next(_numbers).to_bytes(16, "big"))
    return Change(op_id, puts=tuple(puts), deletes=tuple(deletes))


def tight() -> Batch:
    """The next entry of a group that may not grow, with an object and a bucket in its rows."""
    store = Store()
    store.entry([change(puts=[(b"o", OBJECT), (b"b", BUCKET)])])
    store.apply()
    return store.ledger.begin(store.op, 1000, 0.0, grows=False)


@pytest.mark.parametrize(
    "refused",
    [
        change(puts=[(b"new", OBJECT)]),
        change(puts=[(b"o", LARGER)]),
        change(puts=[(b"b", SWOLLEN)]),
        change(puts=[(b"o", OBJECT), (b"b", MARKED)]),
    ],
)
def test_what_grows_is_refused_and_changes_nothing(refused: Change) -> None:
    batch = tight()
    with pytest.raises(Full):
        batch.add(refused)
    assert batch.empty
    batch.add(change(deletes=[b"o"]))  # others of the same entry go on
    assert (b"o", None) in batch.finish()[1]


@pytest.mark.parametrize(
    "taken",
    [
        change(deletes=[b"o"]),
        change(puts=[(b"o", SMALLER)]),
        change(puts=[(b"b", MARKED)]),
        change(puts=[(b"new", OBJECT)], deletes=[b"o"]),
    ],
)
def test_what_makes_room_or_notes_a_deletion_goes_on(taken: Change) -> None:
    tight().add(taken)


def test_a_group_grows_while_its_primary_and_a_majority_have_room() -> None:
    room, full, absent = Room(), set[DeviceId](), set[DeviceId]()
    room.watch(A, lambda: A in full)

    def grows() -> bool:
        return room.grows(A, (A, B, C), absent.__contains__)

    assert grows()
    room.heard(NodeName("n2"), [B])
    assert grows()
    room.heard(NodeName("n3"), [C])
    assert not grows()
    room.heard(NodeName("n2"), [])
    assert grows()
    absent.add(B)
    assert not grows()  # every entry would have to go to C
    absent.add(C)
    room.heard(NodeName("n3"), [])
    assert grows()  # without a majority, but not for want of room
    full.add(A)
    assert room.tell() == [A]
    assert not grows()


def fill(cluster: Cluster, n: int) -> None:
    """The device of a node has no room for rows that grow."""
    cluster.services[n].room.watch(DeviceId(n), lambda: True)


def test_a_full_primary_hands_its_groups_over_and_full_members_refuse_all_but_deletes() -> None:
    async def life() -> None:
        cluster = await Cluster(3, groups=3).start()
        rows, places = cluster.client, (b"\0", b"\1", b"\2")
        for place in places:
            await rows.change(place, change(puts=[(b"o", OBJECT), (b"p", OBJECT)]))
        assert cluster.services[1].led()
        fill(cluster, 1)
        await asyncio.sleep(5)
        assert not cluster.services[1].led()
        for place in places:
            await rows.change(place, change(puts=[(b"o", LARGER)]))
        fill(cluster, 2)
        await asyncio.sleep(5)
        for place in places:
            with pytest.raises(Full):
                await rows.change(place, change(puts=[(b"q", OBJECT)]))
            await rows.change(place, change(deletes=[b"o"]))
            assert await rows.get(place, b"o") is None
        await cluster.close()

    run_virtual(life)


@pytest.mark.parametrize("copies", [False, True])
def test_a_full_member_is_not_filled_up_while_another_is_away_or_copies(copies: bool) -> None:
    """Every entry needs it: without room for more, not even deletes would be committed."""

    async def life() -> None:
        cluster = await Cluster(3, groups=1).start()
        rows = cluster.client
        await rows.change(b"p", change(puts=[(b"o", OBJECT), (b"p", OBJECT)]))
        primary = cluster.primary(GroupId(0))
        full, other = (n for n in (1, 2, 3) if n != primary)
        fill(cluster, full)
        await asyncio.sleep(5)
        await rows.change(b"p", change(puts=[(b"q", OBJECT)]))
        if copies:
            leadership = cluster.services[primary].led()[0].replica.leadership
            assert leadership is not None
            leadership.copies_to = DeviceId(other).__eq__  # type: ignore[assignment]
        else:
            await cluster.kill(other)
            await asyncio.sleep(5)
        with pytest.raises(Full):
            await rows.change(b"p", change(puts=[(b"r", OBJECT)]))
        await rows.change(b"p", change(deletes=[b"o"]))
        await cluster.close()

    run_virtual(life)
