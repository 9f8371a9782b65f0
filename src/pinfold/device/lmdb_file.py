"""LMDB's file, looked at without mapping it: has it all its pages, and can they be read?

LMDB reads through a map of its file, where a page that is not there or cannot be read is no error
but the end of the process (SIGBUS). So a file that is shorter than its header says is refused
before it is mapped; it is kept as long as the map, sparse, because LMDB itself may leave the last
pages unwritten. Sectors that cannot be read are met by reading: before a stopped device is looked
at, and at an opening after a life that did not end well, which a file beside tells.

What remains: a sector that goes bad, or a file that somebody cuts, while it is mapped ends the
process once. Its next start refuses the device, and says why.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pinfold.device.api import IndexDamaged
from pinfold.device.room import NO_ROOM
from pinfold.model.limits import MIB

FILE: Final = "data.mdb"

SERVED: Final = "served"
"""Beside it while it is mapped for serving: found at an opening, the last life ended badly."""

_READ_BYTES: Final = 4 * MIB

_META: Final = struct.Struct("=16xII16xI92xQQ")
"""Of a page: its header; magic, version; address and size of the map; the page size, which stands
first in the first of two tables; the last page in use, the transaction."""
_MAGIC: Final = 0xBEEFC0DE


def demand_whole(path: str) -> None:
    """IndexDamaged for an index in the directory `path` whose file has lost its end."""
    with _opened(path) as file:
        if file is None:
            return
        size, claimed = os.fstat(file).st_size, _claimed_bytes(file)
        if size < claimed:
            raise IndexDamaged(f"{path}/{FILE} is cut short: {size} of {claimed} bytes are there")


def demand_readable(path: str) -> None:
    """IndexDamaged for an index of which a part cannot be read. Reads all that is in use."""
    with _opened(path) as file:
        if file is None:
            return
        for offset in range(0, _claimed_bytes(file), _READ_BYTES):
            try:
                os.pread(file, _READ_BYTES, offset)
            except OSError as error:
                raise IndexDamaged(
                    f"{path}/{FILE} cannot be read behind byte {offset}: {error}"
                ) from error


def extend(path: str, size: int) -> None:
    """Make the file as long as its map, durably."""
    file = os.open(f"{path}/{FILE}", os.O_RDWR)
    try:
        if os.fstat(file).st_size < size:
            os.ftruncate(file, size)
            os.fsync(file)
    finally:
        os.close(file)


def begin_serving(path: str) -> bool:
    """Note that the index is mapped; whether the life before did not end well."""
    name = f"{path}/{SERVED}"
    if os.path.exists(name):
        return True
    try:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
    return False


def end_serving(path: str) -> None:
    """The index is not mapped any more."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}/{SERVED}")


def _claimed_bytes(file: int) -> int:
    """Where the last page in use ends, by the newer of the file's two headers; 0 without any."""
    newest = (-1, 0)
    page = 0
    for _ in range(2):
        head = os.pread(file, _META.size, page)
        if len(head) == _META.size:
            magic, _, page_bytes, last_page, transaction = _META.unpack(head)
            if magic == _MAGIC:
                newest = max(newest, (transaction, (last_page + 1) * page_bytes))
                page = page_bytes
    return newest[1]


@contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        file = os.open(f"{path}/{FILE}", os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)
