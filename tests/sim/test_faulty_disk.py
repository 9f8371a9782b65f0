"""What a simulated disk loses, and what it must not."""

import errno
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.sim.disk import ProcessDisk, SimDisk
from pinfold.sim.inode import PAGE, SECTOR
from pinfold.sim.loop import NodeCrashed, Process

ROOT = "/d"


def fresh(seed: int) -> tuple[SimDisk, ProcessDisk, Process]:
    disk = SimDisk(seed)
    process = Process("n1")
    view = disk.of(process)
    view.mkdir(ROOT)
    return disk, view, process


def restart(disk: SimDisk, process: Process) -> ProcessDisk:
    process.alive = False
    disk.crash()
    return disk.of(Process("n1"))


writes = st.lists(
    st.tuples(
        st.integers(0, 5 * PAGE),
        st.integers(1, 3 * PAGE),
        st.sampled_from(["write", "punch", "cut"]),
    ),
    max_size=8,
)


def apply(view: ProcessDisk, model: bytearray, ops: list[tuple[int, int, str]], mark: int) -> None:
    file = view.open(f"{ROOT}/f")
    for n, (offset, length, kind) in enumerate(ops):
        byte = bytes([(mark + n) % 255 + 1])
        if kind == "write":
            file.pwritev([byte * length], offset)
            model.extend(bytes(max(offset + length - len(model), 0)))
            model[offset : offset + length] = byte * length
        elif kind == "punch":
            file.punch(offset, length)
            end = min(offset + length, len(model))
            model[offset:end] = bytes(max(end - offset, 0))
        else:
            file.truncate(offset)
            del model[offset:]
            model.extend(bytes(offset - len(model)))
    assert file.pread(1 << 20, 0) == model


@settings(deadline=None)
@given(st.integers(0, 1 << 30), writes, writes)
def test_flushed_pages_survive_and_others_are_old_new_or_torn(
    seed: int, before: list[tuple[int, int, str]], behind: list[tuple[int, int, str]]
) -> None:
    disk, view, process = fresh(seed)
    view.open(f"{ROOT}/f", create=True).datasync()
    view.sync_dir(ROOT)
    model = bytearray()
    apply(view, model, before, 0)
    view.open(f"{ROOT}/f").datasync()
    flushed = bytes(model)
    apply(view, model, behind, 100)
    file = restart(disk, process).open(f"{ROOT}/f")
    found = file.pread(1 << 20, 0)
    assert len(found) in (len(flushed), len(model))
    size = max(len(flushed), len(model), len(found))
    old, new = (bytes(c) + bytes(size - len(c)) for c in (flushed, model))
    found += bytes(size - len(found))
    shortest = min(len(flushed), len(model))
    for start in range(0, size, SECTOR):
        sector = slice(start, start + SECTOR)
        if start + SECTOR <= shortest:
            assert found[sector] in (old[sector], new[sector])
        if not behind:
            assert found[sector] == old[sector]


def test_unflushed_pages_meet_every_fate() -> None:
    fates = set()
    for seed in range(60):
        disk, view, process = fresh(seed)
        file = view.open(f"{ROOT}/f", create=True)
        file.pwritev([b"o" * PAGE], 0)
        file.datasync()
        view.sync_dir(ROOT)
        file.pwritev([b"n" * PAGE], 0)
        content = restart(disk, process).open(f"{ROOT}/f").pread(PAGE, 0)
        fates.add("torn" if len(set(content)) > 1 else chr(content[0]))
    assert fates == {"o", "n", "torn"}


def test_names_not_synced_survive_as_a_prefix() -> None:
    survivors = set()
    for seed in range(40):
        disk, view, process = fresh(seed)
        view.open(f"{ROOT}/kept", create=True).datasync()
        view.sync_dir(ROOT)
        for name in "abc":
            view.open(f"{ROOT}/{name}", create=True)
        survivors.add("".join(restart(disk, process).list(ROOT)))
    assert survivors == {"kept", "akept", "abkept", "abckept"}


def test_write_file_is_whole_or_not_at_all() -> None:
    for seed in range(30):
        disk, view, process = fresh(seed)
        view.write_file(f"{ROOT}/f", b"old")
        disk.on_crash = partial(setattr, process, "alive", False)
        disk.faults.crash_after = 0
        with pytest.raises(NodeCrashed):
            view.write_file(f"{ROOT}/f", b"newer")
        found = restart(disk, process)
        assert found.read_file(f"{ROOT}/f") in (b"old", b"newer")
        assert found.list(ROOT) == ["f"]


def test_a_dead_process_changes_nothing() -> None:
    disk, view, process = fresh(1)
    file = view.open(f"{ROOT}/f", create=True)
    process.alive = False
    for call in (lambda: file.pwritev([b"x"], 0), lambda: view.unlink(f"{ROOT}/f"), file.datasync):
        with pytest.raises(NodeCrashed):
            call()
    assert disk.file(f"{ROOT}/f").size == 0


def test_locks_end_with_their_process() -> None:
    disk, view, process = fresh(1)
    view.lock(f"{ROOT}/lock")
    again = restart(disk, process)
    again.lock(f"{ROOT}/lock").close()


def test_space_ends() -> None:
    disk, view, _ = fresh(1)
    disk.faults.capacity_bytes = 10 * PAGE
    file = view.open(f"{ROOT}/f", create=True)
    file.allocate(0, 8 * PAGE)
    with pytest.raises(OSError) as caught:
        file.allocate(0, 11 * PAGE)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError):
        file.pwritev([b"x" * (3 * PAGE)], 8 * PAGE)
    file.pwritev([b"x" * (8 * PAGE)], 0)  # within what was reserved
    assert view.free_bytes(ROOT) == 2 * PAGE
    file.punch(0, 4 * PAGE)
    assert view.free_bytes(ROOT) == 6 * PAGE


def test_errors_and_rot_can_be_planted() -> None:
    disk, view, _ = fresh(1)
    file = view.open(f"{ROOT}/f", create=True)
    file.pwritev([b"\0" * 100], 0)
    disk.rot(f"{ROOT}/f", 42, bit=3)
    assert file.pread(100, 0) == b"\0" * 42 + b"\x08" + b"\0" * 57
    disk.faults.write_error = errno.EIO
    for call in (lambda: file.pwritev([b"x"], 0), file.datasync):
        with pytest.raises(OSError):
            call()
    disk.faults.read_error = errno.EIO
    with pytest.raises(OSError):
        file.pread(1, 0)


def test_a_failed_flush_is_told_once_and_what_it_left_is_not_durable() -> None:
    """Readable or not, and gone or not after a loss of power: whatever a later flush says."""
    seen = set()
    for seed in range(30):
        disk, view, _ = fresh(seed)
        file = view.open(f"{ROOT}/f", create=True)
        view.sync_dir(ROOT)
        file.pwritev([b"o" * 10], 0)
        file.datasync()
        file.pwritev([b"n" * 10], 0)
        disk.faults.lost_flush_chance = 1.0
        with pytest.raises(OSError):
            file.datasync()
        disk.faults.lost_flush_chance = 0.0
        file.datasync()
        before = file.pread(1, 0)
        disk.crash()
        seen.add((before, disk.file(f"{ROOT}/f").read(1, 0)))
    assert seen == {(b"n", b"n"), (b"n", b"o"), (b"o", b"o")}


def test_a_page_of_a_failed_flush_that_is_written_again_is_flushed_again() -> None:
    for seed in range(30):
        disk, view, _ = fresh(seed)
        file = view.open(f"{ROOT}/f", create=True)
        view.sync_dir(ROOT)
        file.pwritev([b"n" * 10], 0)
        disk.faults.lost_flush_chance = 1.0
        with pytest.raises(OSError):
            file.datasync()
        disk.faults.lost_flush_chance = 0.0
        file.pwritev([b"n" * 10], 0)
        file.datasync()
        disk.crash()
        assert disk.file(f"{ROOT}/f").read(10, 0) == b"n" * 10


def test_cached_reads_are_sometimes_there() -> None:
    _, view, _ = fresh(1)
    file = view.open(f"{ROOT}/f", create=True)
    file.pwritev([b"x" * 10], 0)
    assert {file.pread_cached(10, 0) for _ in range(50)} == {None, b"x" * 10}


def test_a_bad_sector_is_read_by_nobody_until_it_is_written() -> None:
    disk, view, _process = fresh(1)
    file = view.open(f"{ROOT}/f", create=True)
    file.pwritev([bytes(4 * PAGE)], 0)
    disk.faults.cached_chance = 1.0
    disk.bad.add(f"{ROOT}/f", PAGE + 100, 10)
    assert file.pread(PAGE, 0) == bytes(PAGE)
    assert file.pread(PAGE, 2 * PAGE) == bytes(PAGE)
    assert file.pread_cached(PAGE, PAGE) is None
    with pytest.raises(OSError) as caught:
        file.pread(PAGE, PAGE)
    assert caught.value.errno == errno.EIO
    file.pwritev([b"x" * 5], PAGE + 100)  # half of it: what is left is bad still
    with pytest.raises(OSError):
        file.pread(PAGE, PAGE)
    file.pwritev([b"x" * PAGE], PAGE)
    assert file.pread(PAGE, PAGE) == b"x" * PAGE


def test_room_ends_at_the_call_that_was_armed_and_comes_back() -> None:
    disk, view, _process = fresh(1)
    file = view.open(f"{ROOT}/f", create=True)
    disk.faults.room_after, disk.faults.room_failures = 1, 2
    file.pwritev([bytes(PAGE)], 0)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            file.allocate(PAGE, PAGE)
        assert caught.value.errno == errno.ENOSPC
        file.pwritev([b"y" * PAGE], 0)  # takes no space: always goes
    file.allocate(PAGE, PAGE)


@pytest.mark.parametrize("failures", [1, -1])
def test_the_armed_call_fails_and_a_failed_flush_loses_what_it_covered(failures: int) -> None:
    disk, view, process = fresh(3)
    file = view.open(f"{ROOT}/f", create=True)
    file.datasync()
    view.sync_dir(ROOT)
    disk.faults.changes_after, disk.faults.failures = 1, failures
    file.pwritev([b"x" * 64 * PAGE], 0)
    with pytest.raises(OSError) as caught:
        file.datasync()
    assert caught.value.errno == errno.EIO
    if failures == 1:
        file.datasync()  # says ok, and is not to be believed
        assert restart(disk, process).open(f"{ROOT}/f").pread(64 * PAGE, 0) != b"x" * 64 * PAGE
    else:
        with pytest.raises(OSError):
            file.datasync()


@pytest.mark.parametrize("seed", range(12))
def test_a_crash_leaves_nothing_behind_the_end_of_a_file(seed: int) -> None:
    disk, view, process = fresh(seed)
    file = view.open(f"{ROOT}/f", create=True)
    view.sync_dir(ROOT)
    file.pwritev([b"x" * 3 * PAGE], 0)
    file.datasync()
    file.truncate(PAGE)
    restart(disk, process)
    inode = disk.file(f"{ROOT}/f")
    assert all(number * PAGE < inode.size for number in inode.pages)
