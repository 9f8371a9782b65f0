"""An index whose file is cut short, or has sectors that cannot be read: refused, never mapped."""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from pinfold.device import lmdb_file
from pinfold.device.check import check
from pinfold.device.device import Device
from pinfold.device.lmdb_file import SERVED
from pinfold.device.offline import look_at
from pinfold.device.rebuild import rebuild_index
from pinfold.env.real import real_env
from pinfold.model.errors import Corrupt
from tests.device.test_real import CLUSTER, SETTINGS, use


def made(path: Path) -> Path:
    """A device with something in its index, closed; the index's file."""

    async def life() -> None:
        await Device.format(real_env(), str(path), CLUSTER, SETTINGS)
        device = await Device.open(real_env(), str(path), SETTINGS, cluster_id=CLUSTER)
        await use(device)
        await asyncio.sleep(0.3)
        await device.close()

    uvloop.run(life())
    return path / "index" / "data.mdb"


def opened(path: Path) -> None:
    async def life() -> None:
        device = await Device.open(real_env(), str(path), SETTINGS, cluster_id=CLUSTER)
        await device.close()

    uvloop.run(life())


def found(path: Path) -> list[str]:
    device = look_at(real_env().disk, str(path))
    try:
        report = check(real_env().disk, str(path), device, lambda _done, _total: None)
    finally:
        device.close()
    return [finding.what for finding in report.findings if finding.part == "index"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_an_index_that_lost_its_end_is_refused_told_and_rebuilt(
    tmp_path: Path, share: float
) -> None:
    device = tmp_path / "device"
    file = made(device)
    os.truncate(file, int(in_use(file) * share) // 4096 * 4096)
    assert found(device) != []
    with pytest.raises(Corrupt, match="index"):
        opened(device)
    rebuild_index(real_env().disk, str(device), SETTINGS, b"lost")
    opened(device)
    assert found(device) == []


def test_an_index_whose_directory_is_gone_is_refused_as_an_index_and_rebuilt(
    tmp_path: Path,
) -> None:
    device = tmp_path / "device"
    made(device)
    shutil.rmtree(device / "index")
    with pytest.raises(Corrupt, match="no index"):
        opened(device)
    rebuild_index(real_env().disk, str(device), SETTINGS, b"lost")
    opened(device)
    assert found(device) == []


def in_use(file: Path) -> int:
    """Bytes up to the last page that LMDB uses; the rest is there, and empty."""
    image = file.read_bytes()
    assert len(image) >= SETTINGS.index_map_bytes
    return len(image.rstrip(b"\0"))


def unreadable_behind(place: int, reads: list[int]) -> Callable[[int, int, int], bytes]:
    real = os.pread

    def pread(file: int, length: int, offset: int) -> bytes:
        reads.append(length)
        if offset + length > place and length > 4096:
            raise OSError(errno.EIO, "a bad sector")
        return real(file, length, offset)

    return pread


def test_a_sector_that_cannot_be_read_is_met_before_the_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "device"
    file = made(device)
    reads: list[int] = []
    bad = {**vars(os), "pread": unreadable_behind(8192, reads)}
    monkeypatch.setattr(lmdb_file, "os", SimpleNamespace(**bad))
    opened(device)  # after a clean closing nobody looks
    assert max(reads) <= 4096
    assert found(device) == [
        f"{file} cannot be read behind byte 0: [Errno {errno.EIO}] a bad sector"
    ]
    (file.parent / SERVED).touch()  # as a process leaves it that ended by a signal
    with pytest.raises(Corrupt, match="cannot be read"):
        opened(device)
    monkeypatch.undo()
    opened(device)
    assert not (file.parent / SERVED).exists()
