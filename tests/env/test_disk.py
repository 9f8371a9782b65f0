"""One contract for every `Disk`: the machine's and the simulator's."""

from pathlib import Path

import pytest

from pinfold.env.api import Disk
from pinfold.env.osdisk import IOV_MAX, OsDisk
from pinfold.sim.disk import SimDisk
from pinfold.sim.loop import Process

BLOCK = 4096


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return OsDisk() if request.param == "real" else SimDisk(1).of(Process("n1"))


@pytest.fixture
def root(disk: Disk, tmp_path: Path) -> str:
    path = f"{tmp_path}/d"
    disk.mkdir(path)
    return path


def test_reads_give_what_writes_put(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    assert file.pwritev([b"abc", memoryview(b"defg"), bytearray(b"h")], 2) == 8
    assert file.pread(100, 0) == b"\0\0abcdefgh"
    assert file.pread(3, 3) == b"bcd"
    assert file.pread(5, 100) == b""
    assert file.size() == 10
    file.datasync()
    file.close()


def test_a_write_takes_any_number_of_buffers(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    buffers = [bytes([n % 251]) * (n % 5) for n in range(3 * IOV_MAX + 7)]
    assert file.pwritev(buffers, 1) == sum(map(len, buffers))
    assert file.pread(1 << 20, 1) == b"".join(buffers)
    assert file.pwritev([], 5) == 0
    file.close()


def test_a_cached_read_is_exact_or_nothing(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    file.pwritev([b"x" * BLOCK], 0)
    assert file.pread_cached(BLOCK, 0) in (b"x" * BLOCK, None)
    assert file.pread_cached(BLOCK + 1, 0) is None
    file.close()


def test_a_punched_range_reads_as_zeroes_and_keeps_the_size(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    file.pwritev([b"x" * (3 * BLOCK)], 0)
    file.punch(BLOCK, BLOCK)
    assert file.pread(3 * BLOCK, 0) == b"x" * BLOCK + b"\0" * BLOCK + b"x" * BLOCK
    file.punch(2 * BLOCK + 10, 4 * BLOCK)
    assert file.size() == 3 * BLOCK
    assert file.pread(20, 2 * BLOCK) == b"x" * 10 + b"\0" * 10
    file.close()


def test_allocate_and_truncate_set_the_size(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    file.pwritev([b"head"], 0)
    file.allocate(0, 2 * BLOCK)
    assert file.size() == 2 * BLOCK
    assert file.pread(8, 0) == b"head\0\0\0\0"
    file.truncate(2)
    file.truncate(4)
    assert file.pread(10, 0) == b"he\0\0"
    file.close()


def test_open_makes_only_when_told(disk: Disk, root: str) -> None:
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/f")
    disk.open(f"{root}/f", create=True, exclusive=True).close()
    with pytest.raises(FileExistsError):
        disk.open(f"{root}/f", create=True, exclusive=True)
    with pytest.raises(FileNotFoundError):
        disk.open(f"{root}/absent/f", create=True)
    disk.open(f"{root}/f").close()


def test_write_file_replaces_and_leaves_nothing_else(disk: Disk, root: str) -> None:
    disk.write_file(f"{root}/f", b"one")
    disk.write_file(f"{root}/f", b"second")
    assert disk.read_file(f"{root}/f") == b"second"
    assert disk.list(root) == ["f"]
    with pytest.raises(FileNotFoundError):
        disk.write_file(f"{root}/absent/f", b"")
    with pytest.raises(FileNotFoundError):
        disk.read_file(f"{root}/absent")


def test_directories(disk: Disk, root: str) -> None:
    disk.mkdir(f"{root}/a/b/c")
    disk.mkdir(f"{root}/a/b/c")
    disk.open(f"{root}/a/z", create=True).close()
    disk.open(f"{root}/a/c", create=True).close()
    assert disk.list(f"{root}/a") == ["b", "c", "z"]
    assert disk.exists(f"{root}/a/b")
    disk.unlink(f"{root}/a/z")
    disk.unlink(f"{root}/a/z")
    disk.sync_dir(f"{root}/a")
    assert not disk.exists(f"{root}/a/z")
    with pytest.raises(FileNotFoundError):
        disk.list(f"{root}/absent")
    with pytest.raises(FileExistsError):
        disk.mkdir(f"{root}/a/c")


def test_an_unlinked_file_lives_until_it_is_closed(disk: Disk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    file.pwritev([b"here"], 0)
    disk.unlink(f"{root}/f")
    assert file.pread(4, 0) == b"here"
    file.close()
    file.close()


def test_a_lock_has_one_holder(disk: Disk, root: str) -> None:
    lock = disk.lock(f"{root}/lock")
    with pytest.raises(BlockingIOError):
        disk.lock(f"{root}/lock")
    lock.close()
    lock.close()
    disk.lock(f"{root}/lock").close()


def test_space_is_told(disk: Disk, root: str) -> None:
    assert 0 < disk.free_bytes(root) <= disk.total_bytes(root)
