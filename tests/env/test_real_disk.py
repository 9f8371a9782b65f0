"""What only the machine's own files can show."""

import errno
import os
import resource
from pathlib import Path

import pytest

from pinfold.env.osdisk import OsDisk


def test_a_punch_gives_space_back(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    file = OsDisk().open(path, create=True)
    file.pwritev([b"x" * (1 << 20)], 0)
    file.datasync()
    before = os.stat(path).st_blocks
    file.punch(0, 1 << 19)
    assert os.stat(path).st_blocks <= before - (1 << 18) // 512
    file.close()


@pytest.mark.parametrize("written", range(10))
def test_a_short_write_is_finished(tmp_path: Path, written: int) -> None:
    batch = [b"ab", b"", b"cdefg", b"hi"]
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    file.pwritev([b"".join(batch)[:written]], 3)
    file._write_rest(batch, 3, written)
    assert file.pread(20, 3) == b"abcdefghi"
    file.close()


def test_a_write_cut_short_by_the_system_tells_its_cause(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(OSError) as caught:
            file.pwritev([b"12345", b"67890"], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert file.pread(20, 0) == b"12345678"
    file.close()


@pytest.mark.parametrize("length", [1, 4096, 1 << 20, (1 << 20) + 1])
def test_cached_reads_of_any_length_are_copies(tmp_path: Path, length: int) -> None:
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    file.pwritev([b"a" * length, b"b" * length], 0)
    first, second = file.pread_cached(length, 0), file.pread_cached(length, length)
    assert first in (None, b"a" * length)
    assert second in (None, b"b" * length)
    file.close()


def test_errors_of_the_system_come_out(tmp_path: Path) -> None:
    file = OsDisk().open(str(tmp_path / "f"), create=True)
    with pytest.raises(OSError) as caught:
        file.punch(0, 0)
    assert caught.value.errno == errno.EINVAL
    file.close()
    with pytest.raises(OSError):
        file.pread(1, 0)


def test_a_failed_write_file_leaves_the_old_content(tmp_path: Path) -> None:
    disk = OsDisk()
    disk.mkdir(f"{tmp_path}/f")
    with pytest.raises(OSError):
        disk.write_file(f"{tmp_path}/f", b"over a directory")
    assert disk.list(str(tmp_path)) == ["f"]


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    OsDisk().write_file(f"{tmp_path}/secret", b"s")
    assert os.stat(tmp_path / "secret").st_mode & 0o077 == 0
