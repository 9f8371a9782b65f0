"""The embedded map on a real LMDB environment, with other processes as real processes."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pinfold.cluster.embedded_map import EmbeddedMap, create_map
from pinfold.cluster.map import ClusterMap, NodeEntry
from pinfold.env.real import real_env
from pinfold.model.errors import Conflict, Corrupt, NotFound
from pinfold.model.ids import NodeName

FIRST = ClusterMap(cluster_id=b"c" * 16, nodes={"n1": NodeEntry(role="storage")})
N1 = NodeName("n1")

OTHER_PROCESS = """
import asyncio, sys
from pinfold.cluster.embedded_map import EmbeddedMap
from pinfold.cluster.map import NodeEntry
from pinfold.env.real import real_env
from pinfold.model.ids import NodeName

async def main():
    store = EmbeddedMap(real_env(), sys.argv[1], lambda error: None)
    for _ in range(int(sys.argv[2])):
        await store.update(lambda current: current.with_node(
            NodeName("n1"), NodeEntry(role="storage", boot=current.nodes["n1"].boot + 1)))
    await store.close()

asyncio.run(main())
"""


def run(path: Path, use: Callable[[EmbeddedMap], Awaitable[None]]) -> list[BaseException]:
    errors: list[BaseException] = []

    async def main() -> None:
        store = EmbeddedMap(real_env(), str(path), errors.append)
        try:
            await use(store)
        finally:
            await store.close()

    asyncio.run(main())
    return errors


def boot_raised(current: ClusterMap) -> ClusterMap:
    boot = current.node(N1).boot + 1
    return current.with_node(N1, NodeEntry(role="storage", boot=boot))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_map(str(tmp_path / "map"), FIRST)
    return tmp_path / "map"


def test_a_map_is_created_once(path: Path) -> None:
    with pytest.raises(Conflict):
        create_map(str(path), FIRST)


def test_no_map_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        run(tmp_path / "none", lambda _store: asyncio.sleep(0))


def test_an_update_is_seen_at_once_and_by_the_next_opener(path: Path) -> None:
    async def change(store: EmbeddedMap) -> None:
        updated = await store.update(boot_raised)
        assert updated.node(N1).boot == 1
        assert store.get() is updated

    async def look(store: EmbeddedMap) -> None:
        assert store.get().node(N1).boot == 1

    run(path, change)
    run(path, look)


def test_an_edit_that_raises_changes_nothing(path: Path) -> None:
    def refuse(_current: ClusterMap) -> ClusterMap:
        raise Conflict("no")

    async def change(store: EmbeddedMap) -> None:
        with pytest.raises(Conflict):
            await store.update(refuse)
        assert (await store.update(boot_raised)).version == FIRST.version + 1

    run(path, change)


def test_no_update_of_concurrent_processes_is_lost(path: Path) -> None:
    each = 20

    async def change(store: EmbeddedMap) -> None:
        others = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", OTHER_PROCESS, str(path), str(each)
            )
            for _ in range(2)
        ]
        for _ in range(each):
            await store.update(boot_raised)
        for other in others:
            assert await other.wait() == 0
        assert (await store.update(lambda current: current)).node(N1).boot == 3 * each

    run(path, change)


def test_a_watcher_hears_of_another_process_in_order(path: Path) -> None:
    async def watch(store: EmbeddedMap) -> None:
        versions: list[int] = []
        seen = asyncio.Event()

        def callback(fresh: ClusterMap) -> None:
            versions.append(fresh.version)
            if fresh.version == FIRST.version + 5:
                seen.set()

        store.watch(callback)
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHER_PROCESS, str(path), "5"
        )
        async with asyncio.timeout(30):
            await seen.wait()
            await other.wait()
        assert versions == sorted(set(versions))
        assert store.get().version == FIRST.version + 5

    assert run(path, watch) == []


def test_the_last_good_copy_outlives_a_damaged_map(path: Path) -> None:
    async def main() -> None:
        damaged: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        def on_error(error: BaseException) -> None:
            if not damaged.done():
                damaged.set_result(error)

        store = EmbeddedMap(real_env(), str(path), on_error)
        store.watch(lambda _fresh: None)
        await store._lane(_overwrite, store)
        async with asyncio.timeout(30):
            assert isinstance(await damaged, Corrupt)
        assert store.get() == FIRST
        await store.close()

    asyncio.run(main())
    with pytest.raises(Corrupt):
        run(path, lambda _store: asyncio.sleep(0))


def _overwrite(store: EmbeddedMap) -> None:
    with store._store.begin(write=True) as transaction:
        transaction.put(b"map", b"not a map")


def test_a_watcher_hears_of_an_own_update_once(path: Path) -> None:
    async def watch(store: EmbeddedMap) -> None:
        versions: list[int] = []
        last = asyncio.Event()

        def callback(fresh: ClusterMap) -> None:
            versions.append(fresh.version)
            if fresh.version == FIRST.version + 2:
                last.set()

        store.watch(callback)
        await store.update(boot_raised)
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHER_PROCESS, str(path), "1"
        )
        async with asyncio.timeout(30):
            await other.wait()
            await last.wait()
        assert versions == [FIRST.version + 1, FIRST.version + 2]

    run(path, watch)


def test_a_map_read_as_of_before_a_change_is_not_taken_for_the_changed_one(path):
    """LMDB shows the number of a transaction before every reader gets what it left."""

    async def use(store: EmbeddedMap) -> None:
        real = store._store
        stale = [real.begin()]

        class Late:
            info = real.info
            close = real.close

            def begin(self, **options):
                return stale.pop() if stale else real.begin(**options)

        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHER_PROCESS, str(path), "1"
        )
        assert await other.wait() == 0
        store._store = Late()
        seen = asyncio.Event()
        store.watch(lambda _map: seen.set())
        async with asyncio.timeout(10):
            await seen.wait()
        assert not stale
        assert store.get().node(N1).boot == 1

    assert run(path, use) == []
