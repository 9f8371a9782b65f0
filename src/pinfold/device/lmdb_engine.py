"""The index on LMDB, for keys of any length.

LMDB keys end at 511 bytes. A key up to `DIRECT_BYTES` is stored as it is. A longer one is cut:
its first `DIRECT_BYTES` and one byte more make a *marker* that names a node, and the rest of the
key lives under that node's number in a second database, where the same rule applies again. The
marker of a prefix sorts right behind the prefix itself and before everything greater, and a
longer key is always below its marker, so walking in order and descending at markers is byte order.

A read transaction lives for one get or one scan. A commit is synchronous: durable on return.

LMDB checks nothing that it reads. Keys in pages are compared, so one whose bits flipped is missed
where it was, and so may be others: a search that its key misled always ends beside it. That is why
the neighbours of an absent key, and of a range, are verified, and why keys must ascend. In the
second database, which only keys of names near their longest reach, rows are verified and absences
are not.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import lmdb

from pinfold.device.api import IndexDamaged
from pinfold.device.index import Change, MapFull, Rotten, open_row, seal_row
from pinfold.device.lmdb_file import (
    begin_serving,
    demand_readable,
    demand_whole,
    end_serving,
    extend,
)
from pinfold.device.room import NO_ROOM, NoRoom

DIRECT_BYTES: Final = 510
"""Longest key stored whole; its marker has one byte more, LMDB's 511."""

_NO_ROOM: Final = tuple(os.strerror(number) for number in NO_ROOM)

_PLENTY_BYTES: Final = 64 << 20
"""Free space with which no commit fails for want of it: several of the largest."""

_META_PAGES: Final = 2

_NODE: Final = struct.Struct(">Q")
_NODE_DIRECT_BYTES: Final = DIRECT_BYTES - _NODE.size
_MARK: Final = b"\x01"
_BEYOND_MARK: Final = b"\x02"
_NEXT_NODE: Final = b"\x00"
"""Key in the node database of the number to give next: below every 8-byte node key in use."""


class LmdbEngine:
    """The real `Engine`. See the module."""

    def __init__(
        self,
        path: str,
        map_bytes: int,
        *,
        read_only: bool = False,
        free_bytes: Callable[[], int] = lambda: _PLENTY_BYTES,
    ) -> None:
        """Raises IndexDamaged for a file that lost its end, cannot be read, or is no index."""
        demand_whole(path)
        self._path = path
        self._served = None if read_only else path
        if read_only or begin_serving(path):
            demand_readable(path)
        try:
            self._env: Any = lmdb.open(
                path,
                map_size=map_bytes,
                max_dbs=2,
                max_readers=64,
                subdir=True,
                metasync=True,
                sync=True,
                readahead=False,
                max_spare_txns=4,
                readonly=read_only,
                create=not read_only,
                lock=not read_only,
            )
            self._roots: Any = self._env.open_db(b"keys", create=not read_only)
            self._nodes: Any = self._env.open_db(b"nodes", create=not read_only)
        except lmdb.Error as error:
            raise IndexDamaged(f"the index in {path} cannot be opened: {error}") from error
        self._demand_next_node()
        if not read_only:
            self._extend()
        self.verify: Callable[[bytes, bytes], object] = open_row
        self._free_bytes = free_bytes
        self._scans = 0

    def get(self, key: bytes) -> bytes | None:
        """See `Engine.get`."""
        try:
            with self._env.begin(db=self._roots) as txn:
                if len(key) > DIRECT_BYTES:
                    return self._get_long(txn, key)
                found: bytes | None = txn.get(key)
                if found is None:
                    self._prove_absent(txn, key)
                return found
        except lmdb.Error as error:
            raise Rotten(b"", f"{error}") from error

    def scan(
        self, start: bytes, end: bytes | None, reverse: bool, *, proved: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `Engine.scan`."""
        self._scans += 1
        try:
            with self._env.begin(db=self._roots) as txn:
                prove = self._prove if proved else _nothing
                yield from self._walk(txn, b"", b"", start, end, reverse, prove)
        except lmdb.Error as error:
            raise Rotten(b"", f"{error}") from error
        finally:
            self._scans -= 1

    def commit(self, changes: Sequence[Change]) -> None:
        """See `Engine.commit`."""
        puts = [(k, v) for k, v in changes if v is not None and len(k) <= DIRECT_BYTES]
        try:
            with self._env.begin(write=True, db=self._roots) as txn:
                with txn.cursor() as cursor:
                    cursor.putmulti(puts)
                for key, value in changes:
                    if len(key) > DIRECT_BYTES:
                        self._change_long(txn, key, value)
                    elif value is None:
                        txn.delete(key)
        except lmdb.MapFullError as error:
            raise MapFull from error
        except lmdb.Error as error:
            if self._lacks_room(str(error)):
                raise NoRoom(f"index: {error}") from error
            raise OSError(f"index: {error}") from error
        except Rotten as rotten:
            raise OSError(rotten.message) from rotten

    def _lacks_room(self, error: str) -> bool:
        """Whether a commit failed for want of room; nothing of it was committed then.

        LMDB tells the system's error by its words only, and calls a write that found room for its
        beginning an input/output error.
        """
        cut_short = os.strerror(errno.EIO) in error and self._free_bytes() < _PLENTY_BYTES
        return cut_short or any(no_room in error for no_room in _NO_ROOM)

    def grow(self) -> bool:
        """See `Engine.grow`."""
        if self._scans:
            return False
        self._env.set_mapsize(2 * self._env.info()["map_size"])
        self._extend()
        return True

    def _extend(self) -> None:
        """Make the file as long as its map."""
        extend(self._path, self._env.info()["map_size"])

    def _demand_next_node(self) -> None:
        """Rotten where the number of the next node fails: no walk meets it, and commits may."""
        with self._env.begin(db=self._nodes) as txn:
            last = txn.get(_NEXT_NODE)
        try:
            if last is not None:
                _node_at(_NEXT_NODE, last)
        except Rotten:
            self._env.close()
            raise

    def entries(self) -> int:
        """Keys and markers in the root database."""
        with self._env.begin() as txn:
            count: int = txn.stat(self._roots)["entries"]
            return count

    def spare_bytes(self) -> int:
        """Pages that held what was deleted: LMDB uses them again and never shortens its file."""
        pages = self._env.info()["last_pgno"] + 1
        with self._env.begin() as txn:
            stats = [self._env.stat(), txn.stat(self._roots), txn.stat(self._nodes)]
        used = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats
        )
        spare: int = max(0, pages - used - _META_PAGES) * stats[0]["psize"]
        return spare

    def close(self) -> None:
        """Close the environment. Idempotent."""
        self._env.close()
        if self._served is not None:
            end_serving(self._served)
            self._served = None

    def _prove(self, key: bytes, stored: bytes) -> None:
        """Hold a pair that is only passed against its checksum. Raises Rotten."""
        if len(key) > DIRECT_BYTES:
            _node_at(key, stored)
        else:
            self.verify(key, stored)

    def _prove_absent(self, txn: Any, key: bytes) -> None:
        """Raise Rotten unless the pairs on either side of a key's place are sound."""
        with txn.cursor() as cursor:
            if cursor.set_range(key):
                self._prove(*cursor.item())
                _demand_order(key, cursor.key())
                before = cursor.prev()
            else:
                before = cursor.last()
            if before:
                self._prove(*cursor.item())
                _demand_order(cursor.key(), key)

    def _get_long(self, txn: Any, key: bytes) -> bytes | None:
        place = self._descend(txn, key)
        if place is None:
            return None
        found: bytes | None = txn.get(place[-1], db=self._nodes)
        return found

    def _descend(self, txn: Any, key: bytes) -> list[bytes] | None:
        """The markers on the way to a long key and its last stored key; None without them."""
        path = [key[:DIRECT_BYTES] + _MARK]
        rest = key[DIRECT_BYTES:]
        found = txn.get(path[0])
        if found is None:
            self._prove_absent(txn, path[0])
        while found is not None:
            node = _node_at(path[-1], found)
            if len(rest) <= _NODE_DIRECT_BYTES:
                path.append(node + rest)
                return path
            path.append(node + rest[:_NODE_DIRECT_BYTES] + _MARK)
            rest = rest[_NODE_DIRECT_BYTES:]
            found = txn.get(path[-1], db=self._nodes)
        return None

    def _change_long(self, txn: Any, key: bytes, value: bytes | None) -> None:
        if value is None:
            if (path := self._descend(txn, key)) is not None:
                self._delete_long(txn, path)
            return
        node = self._node_of(txn, key[:DIRECT_BYTES] + _MARK, self._roots)
        rest = key[DIRECT_BYTES:]
        while len(rest) > _NODE_DIRECT_BYTES:
            node = self._node_of(txn, node + rest[:_NODE_DIRECT_BYTES] + _MARK, self._nodes)
            rest = rest[_NODE_DIRECT_BYTES:]
        txn.put(node + rest, value, db=self._nodes)

    def _node_of(self, txn: Any, marker: bytes, database: Any) -> bytes:
        """The node a marker names; made when it is not there."""
        found: bytes | None = txn.get(marker, db=database)
        if found is not None:
            return _node_at(marker, found)
        last = txn.get(_NEXT_NODE, db=self._nodes)
        number = 1 if last is None else _NODE.unpack(_node_at(_NEXT_NODE, last))[0] + 1
        node = _NODE.pack(number)
        txn.put(_NEXT_NODE, seal_row(_NEXT_NODE, node), db=self._nodes)
        txn.put(marker, seal_row(marker, node), db=database)
        return node

    def _delete_long(self, txn: Any, path: list[bytes]) -> None:
        """Remove the key, and every marker whose node holds nothing afterwards."""
        with txn.cursor(db=self._nodes) as cursor:
            for place in reversed(path[1:]):
                txn.delete(place, db=self._nodes)
                node = place[: _NODE.size]
                if cursor.set_range(node) and cursor.key().startswith(node):
                    return
        txn.delete(path[0])

    def _walk(
        self,
        txn: Any,
        node: bytes,
        prefix: bytes,
        start: bytes,
        end: bytes | None,
        reverse: bool,
        prove: Callable[[bytes, bytes], None],
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs under a node (b"" for the roots) whose whole key is prefix + what is stored.

        `start` and `end` bound what is stored, so they shrink on the way down.
        """
        database = self._nodes if node else self._roots
        direct = _NODE_DIRECT_BYTES if node else DIRECT_BYTES
        skip = len(node)
        with txn.cursor(db=database) as cursor:
            low = node + start[:direct]
            high = _bound(node, end, direct)
            for stored, value in _range(cursor, low, high, reverse, prove):
                key = stored[skip:] if skip else stored
                if len(key) <= direct:
                    if key >= start and (end is None or key < end):
                        yield prefix + key, value
                    continue
                above = key[:direct]
                yield from self._walk(
                    txn,
                    _node_at(stored, value),
                    prefix + above,
                    start[direct:] if start.startswith(above) else b"",
                    end[direct:] if end is not None and end.startswith(above) else None,
                    reverse,
                    _nothing,
                )


def _node_at(marker: bytes, stored: bytes) -> bytes:
    """The node that a marker names. One that fails is no row: what it led to cannot be found."""
    try:
        return open_row(marker, stored)
    except Rotten:
        raise Rotten(b"", f"the way to long keys is lost: {marker[:32].hex()}… fails") from None


def _bound(node: bytes, end: bytes | None, direct: int) -> bytes | None:
    """Stored keys of a node that may lead to keys below `end` are below this one."""
    if end is None:
        return _NODE.pack(_NODE.unpack(node)[0] + 1) if node else None
    # An end beyond a marker cuts through the marker's node, so the marker itself is inside.
    return node + (end if len(end) <= direct else end[:direct] + _BEYOND_MARK)


def _range(
    cursor: Any,
    low: bytes,
    high: bytes | None,
    reverse: bool,
    prove: Callable[[bytes, bytes], None],
) -> Iterator[tuple[bytes, bytes]]:
    """Stored pairs with low <= key < high; those on either side are held against `prove`.

    Raises Rotten where keys do not ascend.
    """
    if not reverse:
        last, more = _enter(cursor, low, prove) if low else (b"", cursor.first())
        if more:
            for pair in cursor.iternext():
                key = pair[0]
                if key <= last:
                    _demand_order(last, key)
                if high is not None and key >= high:
                    prove(*pair)
                    return
                last = key
                yield pair
        return
    last = b""
    if high is None or not cursor.set_range(high):
        if not cursor.last():
            return
    else:
        prove(*cursor.item())
        last = cursor.key()
        if not cursor.prev():
            return
    for pair in cursor.iterprev():
        key = pair[0]
        if last and key >= last:
            _demand_order(key, last)
        if key < low:
            prove(*pair)
            return
        last = key
        yield pair


def _enter(cursor: Any, low: bytes, prove: Callable[[bytes, bytes], None]) -> tuple[bytes, bool]:
    """(the last key below `low`, its pair proved; whether the cursor stands at one behind it).

    One search only: a second one would start from the first one's place.
    """
    more: bool = cursor.set_range(low)
    if not (cursor.prev() if more else cursor.last()):
        return b"", more and cursor.first()
    prove(*cursor.item())
    key: bytes = cursor.key()
    _demand_order(key, low)
    return key, more and cursor.next()


def _demand_order(key: bytes, following: bytes) -> None:
    if key >= following:
        raise Rotten(b"", f"keys do not ascend: {key.hex()} stands before {following.hex()}")


def _nothing(_key: bytes, _stored: bytes) -> None:
    """No proof is asked for."""
