"""Which engine holds a device's index: chosen by a setting for serving, found out for looking."""

from typing import Final

from pinfold.device.api import IndexDamaged
from pinfold.device.index import Engine
from pinfold.device.lmdb_engine import LmdbEngine
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.env.api import Disk
from pinfold.model.errors import Invalid
from pinfold.model.settings import DeviceSettings

_FILES: Final = {"lmdb": "data.mdb", "ordered": "log"}
"""By engine, the file whose presence tells that it was used."""


def open_engine(disk: Disk, path: str, settings: DeviceSettings) -> Engine:
    """The engine that the settings name, made if there is none. Blocks.

    Raises IndexDamaged when its directory is gone, and Invalid when another engine has the index:
    opening a second would forget everything.
    """
    if not disk.exists(path):
        raise IndexDamaged(f"there is no index in {path}")
    found = engine_name(disk, path)
    if found not in (None, settings.index_engine):
        raise Invalid(
            f"{path} is kept by {found}, device.index_engine says {settings.index_engine}"
        )
    if settings.index_engine == "ordered":
        return OrderedEngine(disk, path)
    engine = LmdbEngine(path, settings.index_map_bytes, free_bytes=lambda: disk.free_bytes(path))
    if found is None:
        disk.sync_dir(path)  # LMDB flushes its file, and not the name of it
    return engine


def engine_name(disk: Disk, path: str) -> str | None:
    """The engine whose files are in the directory; None when there is none."""
    names = disk.list(path) if disk.exists(path) else []
    return next((engine for engine, name in _FILES.items() if name in names), None)


def look_at_engine(disk: Disk, path: str) -> Engine:
    """The engine that is there, to be read and never written. IndexDamaged when none is."""
    found = engine_name(disk, path)
    if found is None:
        raise IndexDamaged(f"there is no index in {path}")
    if found == "ordered":
        return OrderedEngine(disk, path, read_only=True)
    return LmdbEngine(path, 0, read_only=True)


def remove_engine(disk: Disk, path: str) -> None:
    """Forget the index that is there, whatever state it is in."""
    disk.mkdir(path)
    for name in disk.list(path):
        disk.unlink(f"{path}/{name}")
    disk.sync_dir(path)
