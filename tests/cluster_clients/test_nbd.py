"""qemu-img, nbdcopy and fio against volumes."""

from pathlib import Path

import pytest

from tests.cluster_clients.conftest import Run, content
from tests.running import Cluster

pytestmark = pytest.mark.cluster

MIB = 1 << 20


@pytest.fixture
def volume(pen: Cluster, request: pytest.FixtureRequest) -> str:
    """A fresh 64 MiB volume's URI."""
    name = request.node.name.replace("_", "-")
    pen.json("volume", "create", name, "64MiB")
    return f"{pen.facts['nbd']}/{name}"


def image(path: Path) -> Path:
    path.write_bytes(content(path.name, 20 * MIB) + bytes(44 * MIB))
    return path


def test_qemu_img_writes_and_compares_an_image(run: Run, volume: str, tmp_path: Path) -> None:
    source = image(tmp_path / "source.raw")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), volume)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), volume)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", volume, "back.qcow2")
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(source), "back.qcow2")


def test_nbdcopy_there_and_back(run: Run, volume: str, tmp_path: Path) -> None:
    source = image(tmp_path / "source.raw")
    run("nbdcopy", "--flush", str(source), volume)
    run("nbdcopy", volume, "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == source.read_bytes()


def test_nbdinfo_tells_the_size_and_what_the_server_can(
    run: Run, pen: Cluster, volume: str
) -> None:
    told = run("nbdinfo", volume)
    assert "export-size: 67108864" in told
    for promise in ("can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true"):
        assert promise in told
    run("nbdinfo", f"{pen.facts['nbd']}/no-such-volume", status=1)


def test_fio_reads_what_it_wrote(run: Run, volume: str) -> None:
    run(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={volume}",
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=1",
        "--iodepth=16",
        "--size=32m",
        "--io_size=24m",
        "--fsync=64",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=7",
    )


def test_a_volume_in_use_is_not_deleted_by_accident(run: Run, pen: Cluster, volume: str) -> None:
    run("qemu-io", "-f", "raw", "-c", "write -P 7 0 4k", volume)
    name = volume.rsplit("/", 1)[1]
    refused = pen.pinfold("volume", "delete", name)
    assert refused.returncode == 1, "the gateway holds it for some seconds after the last client"
    assert pen.pinfold("volume", "delete", name, "--force").returncode == 0
    assert pen.pinfold("volume", "show", name).returncode == 1
