"""One contract for both engines: an ordered map, at any key length, beside a sorted dict."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinfold.device.engines import open_engine
from pinfold.device.index import Change, Engine, Index, MapFull, seal_rows
from pinfold.device.lmdb_engine import DIRECT_BYTES, LmdbEngine
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.env.api import Env
from pinfold.env.osdisk import OsDisk
from pinfold.env.real import real_env
from pinfold.model.errors import Unavailable
from pinfold.model.settings import DeviceSettings
from pinfold.sim.world import World

Open = Callable[[], Engine]


@pytest.fixture(params=["lmdb", "ordered"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine on a new directory each time; all are closed at the end."""
    engines: list[Engine] = []

    def fresh() -> Engine:
        path = tmp_path / str(len(engines))
        path.mkdir()
        engine: Engine
        if request.param == "lmdb":
            engine = LmdbEngine(str(path), 1 << 20)
        else:
            engine = OrderedEngine(real_env().disk, str(path))
        engines.append(engine)
        return engine

    yield fresh
    for engine in engines:
        engine.close()


LENGTHS = st.sampled_from(
    (1, 2, 502, 503, DIRECT_BYTES - 1, DIRECT_BYTES, 511, 512, 1012, 1013, 1014, 1515, 4096)
)
KEYS = st.builds(
    lambda length, fill, tail: (fill * length)[: max(1, length - len(tail))] + tail,
    LENGTHS,
    st.sampled_from((b"a", b"b", b"\x00", b"\xff", b"\x01")),
    st.sampled_from((b"", b"\x00", b"\x01", b"\x02", b"z", b"\xff\xff", b"\x01a")),
)
CHANGES = st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=8)), max_size=12)


def compare(index: Index, twin: dict[bytes, bytes], low: bytes, high: bytes | None) -> None:
    """Ranges, both ways, as the sorted dict has them."""
    expected = [(k, twin[k]) for k in sorted(twin) if k >= low and (high is None or k < high)]
    assert list(index.scan(low, high)) == expected
    assert list(index.scan(low, high, reverse=True)) == expected[::-1]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(CHANGES, max_size=5), edges=st.lists(KEYS, min_size=2, max_size=6))
def test_the_index_is_a_sorted_dict(
    opened: Open, batches: list[dict[bytes, bytes | None]], edges: list[bytes]
) -> None:
    async def run() -> None:
        lane = real_env().new_offload("index")
        index = Index(opened())
        twin: dict[bytes, bytes] = {}
        for number, batch in enumerate(batches):
            for key, value in batch.items():
                index.put(key, value)
                if value is None:
                    twin.pop(key, None)
                else:
                    twin[key] = value
            if number % 3 == 1:
                index.seal()
                compare(index, twin, edges[0], None)
                await index.commit(lane)
        compare(index, twin, b"", None)
        for low, high in pairwise(edges):
            compare(index, twin, low, high)
        for key in (*edges, *twin):
            assert index.get(key) == twin.get(key)
        lane.close()

    asyncio.run(run())


def test_a_commit_survives_and_a_seal_alone_does_not(tmp_path: Path) -> None:
    async def run() -> None:
        disk = real_env().disk
        lane = real_env().new_offload("index")
        for reopen in (
            lambda: LmdbEngine(str(tmp_path), 1 << 20),
            lambda: OrderedEngine(disk, str(tmp_path)),
        ):
            index = Index(reopen())
            index.put(b"kept", b"1")
            index.put(b"k" * 2000, b"2")
            index.seal()
            await index.commit(lane)
            index.put(b"lost", b"3")
            index.seal()
            index.close()
            again = Index(reopen())
            assert list(again.scan(b"", None)) == [(b"kept", b"1"), (b"k" * 2000, b"2")]
            again.close()
        lane.close()

    asyncio.run(run())


def test_a_deleted_long_key_leaves_no_marker_behind(tmp_path: Path) -> None:
    engine = LmdbEngine(str(tmp_path), 1 << 20)
    long, longer = b"x" * 600, b"x" * 3000
    engine.commit([(long, b"1"), (longer, b"2")])
    engine.commit([(longer, None)])
    assert list(engine.scan(b"", None, False)) == [(long, b"1")]
    engine.commit([(long, None)])
    assert engine.entries() == 0
    engine.close()


def test_a_full_map_grows(tmp_path: Path) -> None:
    async def run() -> None:
        lane = real_env().new_offload("index")
        index = Index(LmdbEngine(str(tmp_path), 64 << 10))
        for number in range(500):
            index.put(b"%04d" % number, bytes(1000))
        index.seal()
        await index.commit(lane)
        assert len(list(index.scan(b"", None))) == 500
        index.close()
        lane.close()

    asyncio.run(run())


def test_the_name_of_a_new_index_is_flushed_too(tmp_path: Path) -> None:
    class Watched(OsDisk):
        def sync_dir(self, path: str) -> None:
            super().sync_dir(path)
            synced.append(path)

    synced: list[str] = []
    disk = Watched()
    for _ in range(2):
        open_engine(disk, str(tmp_path), DeviceSettings()).close()
    assert synced == [str(tmp_path)]


def test_a_commit_that_waits_for_a_scan_to_end_pauses_between_attempts() -> None:
    attempts: list[float] = []

    class Scanned(OrderedEngine):
        def commit(self, changes: Sequence[Change]) -> None:
            attempts.append(world.loop.time())
            if attempts[-1] < attempts[0] + 1.0:
                raise MapFull
            super().commit(changes)

        def grow(self) -> bool:
            return world.loop.time() >= attempts[0] + 1.0

    async def life(env: Env) -> None:
        env.disk.mkdir("/i")
        index = Index(Scanned(env.disk, "/i"))
        index.put(b"key", b"value")
        index.seal()
        await index.commit(env.new_offload("apply"))
        assert index.get(b"key") == b"value"

    with World(1) as world:

        async def scenario() -> None:
            await world.node("n1").start(life)

        world.run(scenario())
    assert 100 < len(attempts) < 210


def test_what_was_deleted_counts_as_room_inside_the_file(tmp_path: Path) -> None:
    engine = LmdbEngine(str(tmp_path), 64 << 20)
    rows: list[Change] = [(b"%06d" % number, bytes(4300)) for number in range(1000)]
    engine.commit(seal_rows(rows))
    before = engine.spare_bytes()
    engine.commit([(key, None) for key, _ in rows])
    engine.commit([(b"another", bytes(8))])
    freed = engine.spare_bytes() - before
    assert 1000 * 4300 < freed < 3 * 1000 * 4300
    size = (tmp_path / "data.mdb").stat().st_size
    engine.commit(seal_rows(rows))
    assert engine.spare_bytes() < before + freed // 4
    assert (tmp_path / "data.mdb").stat().st_size < size * 1.2
    engine.close()


def test_who_asks_a_closed_index_does_not_hear_of_damage(opened: Open) -> None:
    index = Index(opened())
    told: list[bytes] = []
    index.watch(b"", lambda key: bool(told.append(key)))
    index.close()
    with pytest.raises(Unavailable):
        index.get(b"key")
    with pytest.raises(Unavailable):
        list(index.scan(b"a", b"z"))
    with pytest.raises(Unavailable):
        list(index.keys(b"a", b"z"))
    assert told == []
