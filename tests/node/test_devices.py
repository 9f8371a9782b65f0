"""Why a device is not served, as its node tells it."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pinfold.device.device import Device
from pinfold.env.real import real_env
from pinfold.model.ids import DeviceId, GroupId
from pinfold.model.settings import DeviceSettings
from pinfold.node.devices import DeviceTable, format_device

CLUSTER = bytes(16)
NUMBER = DeviceId(1)


def remove(path: Path) -> None:
    shutil.rmtree(path)


def remove_index(path: Path) -> None:
    shutil.rmtree(path / "index")


def cut_index(path: Path) -> None:
    (path / "index" / "data.mdb").write_bytes(b"")
    with (path / "index" / "data.mdb").open("wb") as file:
        file.write(b"no index" * 1000)


def remove_journal(path: Path) -> None:
    for segment in (path / "journal").iterdir():
        segment.unlink()


def damage_superblock(path: Path) -> None:
    (path / "device.pinfold").write_bytes(b"x" * 100)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (remove, "absent"),
        (remove_index, "index"),
        (cut_index, "index"),
        (remove_journal, "damaged"),
        (damage_superblock, "damaged"),
    ],
)
def test_a_device_is_refused_for_what_is_wrong_with_it(
    damage: Callable[[Path], None], kind: str, tmp_path: Path
) -> None:
    """Whatever words its path has: what is to be done about an index would not help the others."""
    path = tmp_path / "disks of the index" / "d1"

    async def run() -> None:
        env = real_env()
        uuid = await format_device(env, str(path), CLUSTER)
        device = await Device.open(env, str(path), DeviceSettings(), cluster_id=CLUSTER)
        await device.log.create(GroupId(1))
        await device.close()
        damage(path)
        entry = SimpleNamespace(id=NUMBER, path="d1", uuid=uuid)
        cluster = SimpleNamespace(cluster_id=CLUSTER, devices_of=lambda _name: [entry])
        context: Any = SimpleNamespace(
            env=env,
            name="n1",
            map=SimpleNamespace(get=lambda: cluster),
            layout=SimpleNamespace(device=lambda _path: path),
            settings=SimpleNamespace(device=DeviceSettings()),
            open_device=Device.open,
            log=structlog.get_logger(),
        )
        table = await DeviceTable.open(context)
        await table.close()
        assert not table.devices
        assert table.refused[NUMBER].kind == kind

    path.parent.mkdir()
    asyncio.run(run())
