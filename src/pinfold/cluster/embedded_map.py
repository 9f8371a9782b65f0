"""The cluster map of one machine: an LMDB environment that all its processes share.

LMDB serialises writers over processes and survives their death, so compare-and-set is one write
transaction. Readers learn of changes by looking at the number of the last transaction (1 µs, no
system call) ten times a second. What they read may be of an older one than that: only the number of
the very transaction that was read says what has been seen.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import lmdb

from pinfold.cluster.map import ClusterMap, Edit, decode_map, encode_map
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Conflict, Corrupt, Full, NotFound, PinfoldError, Unavailable

MAP_SIZE_BYTES: Final = 256 << 20
"""Address space for the map; the file grows as needed. Rings of 2^18 partitions take 2 MiB each."""

READERS_MAX: Final = 512
"""Processes of one machine that may have the map open at once."""

POLL_S: Final = 0.1
"""How stale a process may see the map: peers' addresses and rings change rarely."""

_KEY: Final = b"map"


def create_map(path: str, first: ClusterMap) -> None:
    """Store the first version of a map. Conflict when `path` holds one already."""
    with (
        _translated(path),
        lmdb.open(path, map_size=MAP_SIZE_BYTES, max_readers=READERS_MAX, mode=0o600) as store,
        store.begin(write=True) as transaction,
    ):
        if not transaction.put(_KEY, encode_map(first), overwrite=False):
            raise Conflict(f"{path} holds a cluster map already")


class EmbeddedMap:
    """`MapStore` over a shared LMDB environment; the last good copy is kept whatever happens.

    Make one per process: LMDB forbids opening an environment twice in a process.
    """

    def __init__(self, env: Env, path: str, on_error: Callable[[BaseException], None]) -> None:
        """Open and read; NotFound when there is no map, Corrupt when it does not verify."""
        self._path = path
        self._on_error = on_error
        self._watchers: list[Callable[[ClusterMap], None]] = []
        self._scope: TaskScope | None = None
        self._store = _open(env, path)
        try:
            self._map, self._seen = self._read()
        except PinfoldError:
            self._store.close()
            raise
        self._lane = env.new_offload("map")

    def get(self) -> ClusterMap:
        """See `MapStore`."""
        return self._map

    def watch(self, callback: Callable[[ClusterMap], None]) -> None:
        """See `MapStore`; the first call starts looking."""
        self._watchers.append(callback)
        if self._scope is None:
            self._scope = TaskScope(self._on_error)
            self._scope.start(self._poll(), name="map watch")

    async def update(self, edit: Edit) -> ClusterMap:
        """See `MapStore`. `edit` runs on the map's own thread, inside the write transaction."""
        self._adopt(await self._lane(self._replace, edit))
        return self._map

    async def close(self) -> None:
        """See `MapStore`."""
        if self._scope is not None:
            await self._scope.close()
        self._lane.close()
        self._store.close()

    def _replace(self, edit: Edit) -> ClusterMap:
        with _translated(self._path), self._store.begin(write=True) as transaction:
            current = decode_map(transaction.get(_KEY) or b"")
            following = edit(current)
            if following is current:
                return current
            assert following.version == current.version + 1, "an edit makes the next version"
            transaction.put(_KEY, encode_map(following))
        return following

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if self._last_transaction() == self._seen:
                    continue
                fresh, self._seen = self._read()
            except PinfoldError as error:
                self._on_error(error)
                continue
            self._adopt(fresh)

    def _adopt(self, fresh: ClusterMap) -> None:
        if fresh.version <= self._map.version:
            return
        self._map = fresh
        for callback in self._watchers:
            callback(fresh)

    def _last_transaction(self) -> int:
        with _translated(self._path):
            return int(self._store.info()["last_txnid"])

    def _read(self) -> tuple[ClusterMap, int]:
        """The map, and the transaction that left it so."""
        with _translated(self._path), self._store.begin() as transaction:
            record, number = transaction.get(_KEY), int(transaction.id())
        if record is None:
            raise NotFound(f"{self._path} holds no cluster map")
        return decode_map(record), number


def _open(env: Env, path: str) -> lmdb.Environment:
    """The environment, without dead readers that would pin old pages for ever."""
    if not env.disk.exists(path):
        raise NotFound(f"{path} holds no cluster map")
    with _translated(path):
        store = lmdb.open(path, create=False, map_size=MAP_SIZE_BYTES, max_readers=READERS_MAX)
        store.reader_check()
    return store


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn LMDB's errors into ours, by what the caller can do."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError) as error:
        raise Full(f"{path}: {error}") from error
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError) as error:
        raise Corrupt(f"{path}: {error}") from error
    except lmdb.Error as error:
        raise Unavailable(f"{path}: {error}") from error
