"""Where a device keeps what, and the superblock that says whose it is.

```
device.pinfold   superblock: whose device this is, its boot, and what its journal must still hold;
                 replaced atomically at every opening and closing
lock             held by the process that has the device open
journal/ index/ packs/ arena/
```
A directory without a superblock is not a device and is never made one by opening it.
"""

from typing import Final

import msgspec

from pinfold.codec.decoding import require_version
from pinfold.codec.sealed import seal, unseal
from pinfold.codec.seeds import SALT_BYTES
from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Disk, Lock
from pinfold.model.errors import Conflict, Corrupt, NotFound, Unavailable
from pinfold.model.ids import Boot, DeviceUuid

FORMAT: Final = 2
"""Number of the layout of everything below the directory."""

SUPERBLOCK_VERSION: Final = 3

_MAGIC: Final = b"PFdv"
_DIRECTORIES: Final = ("journal", "index", "packs", "arena")


class Superblock(msgspec.Struct, frozen=True, array_like=True):
    """Whose device this is."""

    format: int
    uuid: DeviceUuid
    cluster_id: bytes
    salt: bytes
    """Secret of the device: the checksums of what is found by scanning grow from it
    (`codec.seeds`), so that no client can write bytes that pass for the device's own."""
    boot: Boot = Boot(0)
    flushed: int = 0
    """Journal sequence known to be durable when this was written: a journal that ends before it
    has lost what it acknowledged."""


def superblock_path(path: str) -> str:
    """Where the superblock of the device at `path` is."""
    return f"{path}/device.pinfold"


def read_superblock(disk: Disk, path: str) -> Superblock:
    """NotFound where there is no device, Corrupt when its superblock does not verify."""
    try:
        record = disk.read_file(superblock_path(path))
    except FileNotFoundError:
        raise NotFound(f"{path} is not a device") from None
    return decode_superblock(superblock_path(path), record)


def decode_superblock(name: str, record: bytes) -> Superblock:
    """The content of the file `name`. Corrupt."""
    try:
        version, packed = unseal(_MAGIC, record)
    except Corrupt as error:
        raise Corrupt(f"{name}: {error.message}") from error
    require_version(name, version, SUPERBLOCK_VERSION, oldest=SUPERBLOCK_VERSION)
    try:
        found = msgspec.msgpack.decode(packed, type=Superblock)
    except UNREADABLE as error:
        raise Corrupt(f"{name} makes no sense: {error}") from error
    if found.format != FORMAT:
        raise Corrupt(f"{name} is of layout {found.format}, this program knows {FORMAT}")
    lengths = (len(found.uuid), len(found.cluster_id), len(found.salt))
    if lengths != (16, 16, SALT_BYTES) or found.boot < 0 or found.flushed < 0:
        raise Corrupt(f"{name} makes no sense: its ids or numbers are out of range")
    return found


def encode_superblock(superblock: Superblock) -> bytes:
    """The content of the superblock's file."""
    return seal(_MAGIC, SUPERBLOCK_VERSION, msgspec.msgpack.encode(superblock))


def write_superblock(disk: Disk, path: str, superblock: Superblock) -> None:
    """Replace it atomically and durably."""
    disk.write_file(superblock_path(path), encode_superblock(superblock))


def numbered_files(disk: Disk, directory: str) -> list[tuple[int, str]]:
    """(number, path) of the directory's files that are named by a number, ascending.

    Anything else was put there by somebody else, and is left alone.
    """
    return [
        (int(name), f"{directory}/{name}")
        for name in disk.list(directory)
        if name.isascii() and name.isdigit()
    ]


def lock_device(disk: Disk, path: str) -> Lock:
    """Keep every other process out; Unavailable when one is in already."""
    try:
        return disk.lock(f"{path}/lock")
    except BlockingIOError:
        raise Unavailable(f"another process has {path} open") from None


def make_device(disk: Disk, path: str, uuid: DeviceUuid, cluster_id: bytes, salt: bytes) -> None:
    """Turn an empty (or absent) directory into a device; Conflict when it holds anything."""
    disk.mkdir(path)
    if found := disk.list(path):
        raise Conflict(f"{path} is not empty: it holds {found[0]}")
    for name in _DIRECTORIES:
        disk.mkdir(f"{path}/{name}")
    # The superblock comes last: a format that was interrupted has made no device.
    write_superblock(disk, path, Superblock(FORMAT, uuid, cluster_id, salt))


def enter_device(
    disk: Disk, path: str, cluster_id: bytes, uuid: DeviceUuid | None
) -> tuple[Superblock, Lock]:
    """Lock a device, check whose it is, and flush its next boot. Blocks.

    Raises NotFound, Corrupt, Unavailable (open elsewhere), and Conflict for another cluster's
    device or another uuid than the one expected; only success changes anything.
    """
    read_superblock(disk, path)
    lock = lock_device(disk, path)
    try:
        found = read_superblock(disk, path)
        if found.cluster_id != cluster_id:
            raise Conflict(f"{path} belongs to cluster {found.cluster_id.hex()}")
        if uuid is not None and found.uuid != uuid:
            raise Conflict(f"{path} is device {found.uuid.hex()}, not {uuid.hex()}")
        entered = msgspec.structs.replace(found, boot=Boot(found.boot + 1))
        write_superblock(disk, path, entered)
    except BaseException:
        lock.close()
        raise
    return entered, lock
