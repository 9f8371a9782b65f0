import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pinfold.cli.device import device
from pinfold.codec.packs import checks_of
from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.env.real import real_env
from pinfold.model.errors import Conflict, NotFound, Unavailable
from pinfold.model.ids import BlobId, Token, VolumeId
from pinfold.model.settings import DeviceSettings

CLUSTER = "00112233445566778899aabbccddeeff"
BLOB = BlobId(b"a" * 16)


def test_a_formatted_device_shows_whose_it_is(tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    made = runner.invoke(device, ["format", path, "--cluster-id", CLUSTER, "--json"])
    assert made.exit_code == 0, made.output
    shown = json.loads(runner.invoke(device, ["show", path, "--json"]).stdout)
    assert shown == {**json.loads(made.stdout), "format": 2, "boot": 0}
    assert json.loads(made.stdout)["uuid"] in runner.invoke(device, ["show", path]).stdout


def test_nothing_is_formatted_twice_or_by_mistake(tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    arguments = ["format", path, "--cluster-id", CLUSTER]
    assert runner.invoke(device, arguments).exit_code == 0
    with pytest.raises(Conflict):
        runner.invoke(device, arguments, catch_exceptions=False)
    with pytest.raises(NotFound):
        runner.invoke(device, ["show", str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize("bad", ["xyz", "0011", CLUSTER + "00"])
def test_a_cluster_id_has_32_hex_digits(tmp_path: Path, bad: str) -> None:
    asked = CliRunner().invoke(device, ["format", str(tmp_path / "d"), "--cluster-id", bad])
    assert asked.exit_code == 2
    assert not (tmp_path / "d").exists()


def filled(path: str) -> None:
    """A device on real files with a blob of 300,000 bytes in a pack and a block in its arena."""
    payload = bytes(range(256)) * 1200
    volume, token = VolumeId(b"v" * 16), Token(1)

    async def fill() -> None:
        env = real_env()
        settings = DeviceSettings(reserve_bytes=0)
        opened = await Device.open(env, path, settings, cluster_id=bytes.fromhex(CLUSTER))
        stream = opened.blobs.begin(BLOB, len(payload), checks_of(payload))
        await stream.write(payload)
        await stream.commit()
        await opened.extents.claim(volume, token)
        opened.extents.write(
            volume, token, 0, 1, [ExtentOp(0, 3, 0, 4096)], memoryview(bytes(4096))
        )
        await opened.extents.flush(volume, token)
        await opened.close()

    asyncio.run(fill())


def test_check_and_repair_find_set_aside_and_list_what_is_lost(tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    assert runner.invoke(device, ["format", path, "--cluster-id", CLUSTER]).exit_code == 0
    filled(path)
    clean = runner.invoke(device, ["check", path, "--json"])
    assert (clean.exit_code, json.loads(clean.stdout)["clean"]) == (0, True), clean.output
    assert json.loads(clean.stdout)["verified"]["blobs"] == 1
    assert json.loads(clean.stdout)["verified"]["blocks"] == 1
    assert runner.invoke(device, ["check", path]).stdout.endswith("clean\n")

    pack = tmp_path / "d1" / "packs" / "00000000"
    image = bytearray(pack.read_bytes())
    image[100_000] ^= 1
    pack.write_bytes(image)
    found = runner.invoke(device, ["check", path])
    assert found.exit_code == 1
    assert BLOB.hex() in found.stdout
    assert f"next: pinfold device repair {path}" in found.stdout
    planned = runner.invoke(device, ["repair", path, "--dry-run"])
    assert (planned.exit_code, "1 blobs would be quarantined" in planned.stdout) == (0, True)
    assert runner.invoke(device, ["check", path]).exit_code == 1  # nothing was done
    mended = runner.invoke(device, ["repair", path, "--json"])
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.stdout)["lost_blobs"] == [BLOB.hex()]
    after = runner.invoke(device, ["check", path, "--json"])
    assert (after.exit_code, json.loads(after.stdout)["quarantined"]) == (0, [BLOB.hex()])


def replace_index(index: Path) -> None:
    index.write_bytes(b"not an index" * 1000)


def shorten_index(index: Path) -> None:
    os.truncate(index, 2 * 4096)  # whoever reads behind its end is killed by SIGBUS


@pytest.mark.parametrize("spoil", [replace_index, shorten_index])
def test_a_device_without_its_index_is_told_how_to_get_one(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    assert runner.invoke(device, ["format", path, "--cluster-id", CLUSTER]).exit_code == 0
    filled(path)
    spoil(tmp_path / "d1" / "index" / "data.mdb")
    for command in ("check", "repair"):
        found = runner.invoke(device, [command, path])
        assert found.exit_code == 1
        assert f"next: pinfold device rebuild-index {path}" in found.stdout
    made = runner.invoke(device, ["rebuild-index", path, "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["whole"]  # a young device: its journal has everything
    assert runner.invoke(device, ["check", path]).exit_code == 0


def test_a_device_in_use_and_a_directory_that_is_none_are_refused(tmp_path: Path) -> None:
    runner, path = CliRunner(), str(tmp_path / "d1")
    assert runner.invoke(device, ["format", path, "--cluster-id", CLUSTER]).exit_code == 0
    lock = real_env().disk.lock(f"{path}/lock")
    for command in ("check", "repair"):
        with pytest.raises(Unavailable):
            runner.invoke(device, [command, path], catch_exceptions=False)
        with pytest.raises(NotFound):
            runner.invoke(device, [command, str(tmp_path)], catch_exceptions=False)
    lock.close()
