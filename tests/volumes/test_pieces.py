"""The pure parts of a volume against naive twins."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.model.ids import Boot, DeviceId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.batch import Batch, pack
from pinfold.volumes.flushes import FlushQueue, flushed_to
from pinfold.volumes.io import FLUSH, Io
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.placement import spares
from pinfold.volumes.retained import Retained
from pinfold.volumes.routes import ROUTES_KEPT, Route, Routes
from pinfold.volumes.spans import blocks, extent_count, split

offsets = st.integers(0, 5 * EXTENT_BYTES)
lengths = st.integers(1, 3 * EXTENT_BYTES)


class Nobody:
    def finished(self, ios: list[Io]) -> None:
        raise AssertionError


@given(offsets, lengths, st.integers(1, EXTENT_BYTES).filter(lambda size: size > 50_000))
def test_pieces_tile_the_range(offset: int, length: int, piece: int) -> None:
    position = offset
    for extent, within, size in split(offset, length, piece):
        assert extent * EXTENT_BYTES + within == position
        assert 0 < size <= piece
        assert within + size <= EXTENT_BYTES
        position += size
    assert position == offset + length


@given(st.integers(0, EXTENT_BYTES - 1), st.data())
def test_blocks_are_those_touched(within: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, EXTENT_BYTES - within))
    expected = set(range(within // BLOCK_BYTES, (within + length - 1) // BLOCK_BYTES + 1))
    mask = blocks(within, length)
    assert mask.bit_count() == len(expected)
    assert all(mask >> block & 1 for block in expected)


def test_the_last_extent_counts_whole() -> None:
    assert [extent_count(size) for size in (1, EXTENT_BYTES, EXTENT_BYTES + 1)] == [1, 1, 2]


def lanes_of(count: int) -> dict[DeviceId, Lane]:
    return {DeviceId(number): Lane(DeviceId(number)) for number in range(count)}


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 7)), min_size=1, max_size=20
    )
)
def test_every_member_gets_its_operations_in_order(
    writes: list[tuple[int, int, int]],
) -> None:
    lanes = lanes_of(5)
    routes = [
        Route(tuple(DeviceId((first + i) % 5) for i in range(3)), lanes, 2) for first in range(4)
    ]
    batch = Batch(1, 1, 0.0)
    for number, (kind, extent, block) in enumerate(writes):
        payload = bytes([number]) * BLOCK_BYTES if kind == 0 else None
        batch.add(routes[extent], (kind, extent, block * BLOCK_BYTES, BLOCK_BYTES), payload)
    for lane in lanes.values():
        mine = [
            (number, write)
            for number, write in enumerate(writes)
            if lane.device in routes[write[1]].members
        ]
        assert batch.concerns(lane.device) == bool(mine)
        if not mine:
            continue
        packed, payload = batch.message(lane.device)
        assert packed == pack([(k, e, b * BLOCK_BYTES, BLOCK_BYTES) for _n, (k, e, b) in mine])
        assert [bytes(p)[0] for p in payload] == [n for n, (kind, _e, _b) in mine if kind == 0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40000), st.integers(0, 9000)), max_size=8),
    st.integers(0, 3 * EXTENT_BYTES),
    st.integers(1, 20000),
)
def test_overlap_is_by_blocks(ops: list[tuple[int, int, int]], offset: int, length: int) -> None:
    route = Route((DeviceId(0),), lanes_of(1), 1)
    batch = Batch(1, 1, 0.0)
    touched: set[int] = set()
    for extent, within, size in ops:
        batch.add(route, (1, extent, within, size))
        start = extent * EXTENT_BYTES + within
        if size:
            touched.update(range(start // BLOCK_BYTES, (start + size - 1) // BLOCK_BYTES + 1))
    asked = set(range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1))
    assert batch.overlaps(offset, length) == bool(touched & asked)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Standing)), st.integers(0, 20), st.integers(0, 20)),
        max_size=5,
    ),
    st.integers(0, 20),
)
def test_a_flush_reaches_as_far_as_the_slowest_member(
    states: list[tuple[Standing, int, int]], sequence: int
) -> None:
    lanes = []
    for standing, last, flushed in states:
        lane = Lane(DeviceId(0))
        lane.standing, lane.last, lane.flushed = standing, last, flushed
        lanes.append(lane)
    reached = flushed_to(lanes, sequence)
    assert reached <= sequence
    for lane in lanes:
        if lane.standing in (Standing.LIVE, Standing.DOWN):
            assert lane.flushed >= min(reached, lane.last)


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(0, 31))
def test_flushes_answer_exactly_those_reached(needs: list[int], reached: int) -> None:
    queue = FlushQueue()
    for number, need in enumerate(needs):
        queue.add(Io(FLUSH, 0, 0, Nobody(), number), need)
    ready = [io.cookie for io in queue.reach(reached)]
    assert sorted(ready) == [number for number, need in enumerate(needs) if need <= reached]
    assert len(queue) == len(needs) - len(ready)
    assert len(queue.drain()) == len(needs) - len(ready)
    assert not queue


def test_retained_keeps_what_is_not_done_or_not_flushed() -> None:
    retained = Retained(VolumeSettings(retained_bytes=100, retained_s=5))
    route = Route((DeviceId(0),), lanes_of(1), 1)
    batches = []
    for sequence in range(1, 5):
        batch = Batch(sequence, 1, float(sequence))
        batch.add(route, (0, sequence, 0, 20), bytes(20))
        retained.add(batch)
        batches.append(batch)
    assert retained.crowded
    assert not retained.full
    batches[0].done = batches[2].done = batches[3].done = True
    assert retained.trim(4) == 1  # the second is not complete
    batches[1].done = True
    assert retained.trim(3) == 3
    assert retained.extents() == [4]
    assert not retained.due(8.0)
    assert retained.due(9.0)
    lane = Lane(DeviceId(0))
    assert retained.lacked_by(lane) == [batches[3]]
    lane.flushed = 4
    assert retained.lacked_by(lane) == []
    retained.clear()
    assert not retained


@given(
    st.lists(st.sets(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
)
def test_a_device_is_spared_only_where_enough_others_remain(
    sets: list[set[int]], out: set[int]
) -> None:
    member_sets = [tuple(DeviceId(device) for device in members) for members in sets]
    expected = all(len(members - out) >= 2 for members in sets)
    assert spares(member_sets, out, 2) == expected


def test_a_member_is_whole_when_it_has_taken_what_was_sent_again() -> None:
    lane = Lane(DeviceId(0))
    lane.boot = Boot(2)
    batch = Batch(7, 1, 0.0)
    lane.standing = Standing.LIVE
    lane.whole_after = 7
    lane.backlog.append(batch)
    assert not lane.whole
    lane.unacked[lane.backlog.popleft()] = None
    assert not lane.whole
    lane.unacked.clear()
    assert lane.whole
    lane.unacked[Batch(8, 1, 0.0)] = None
    assert lane.whole
    lane.standing = Standing.DOWN  # what it missed since then has not been answered
    assert lane.whole
    lane.standing = Standing.OUT
    assert not lane.whole


def test_routes_follow_standings_and_stay_bounded() -> None:
    lanes = lanes_of(3)
    lanes[DeviceId(0)].standing = Standing.LIVE
    lanes[DeviceId(2)].standing = Standing.OUT
    routes = Routes(lanes, lambda _extent: tuple(lanes), 2)
    route = routes.of(7)
    assert route is routes.of(8)
    assert route.waiting == (0, 1)
    assert [lane.device for lane in route.readers] == [0]
    assert route.writable
    lanes[DeviceId(1)].standing = Standing.OUT
    routes.forget()
    assert not routes.of(7).writable
    for extent in range(ROUTES_KEPT + 10):
        routes.of(extent)
    assert len(routes._by_extent) <= ROUTES_KEPT
