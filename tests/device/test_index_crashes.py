"""Both engines of the index at a crash: the last commit is there whole, or the one before it is.

Applied position and rows travel in one commit, so neither may be seen without the other.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pinfold.device.index import Engine
from pinfold.device.lmdb_engine import LmdbEngine
from pinfold.device.ordered_engine import OrderedEngine, _frame
from pinfold.device.room import NoRoom
from pinfold.env.real import real_env
from pinfold.sim.disk import SimDisk
from pinfold.sim.loop import Process

Open = Callable[[Path], Engine]
ENGINES: dict[str, Open] = {
    "lmdb": lambda path: LmdbEngine(str(path), 1 << 20),
    "ordered": lambda path: OrderedEngine(real_env().disk, str(path)),
}
LMDB_PAGE = 4096


@pytest.fixture(params=sorted(ENGINES))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def changes_of(number: int) -> list[tuple[bytes, bytes | None]]:
    """A commit: the position, keys that come, change and go, and one beyond LMDB's limit."""
    return sorted(
        [
            (b"applied", b"%d" % number),
            (b"changes", b"%d" % number * 50),
            (b"comes %d" % number, b"x" * 300),
            (b"comes %d" % (number - 2), None),
            (b"long" * 300 + b"%d" % (number % 3), b"%d" % number),
        ]
    )


def states(count: int) -> list[dict[bytes, bytes]]:
    """What the index holds after each commit, the empty one first."""
    found: list[dict[bytes, bytes]] = [{}]
    for number in range(count):
        state = dict(found[-1])
        for key, value in changes_of(number):
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        found.append(state)
    return found


def held(kind: str, path: Path) -> dict[bytes, bytes]:
    engine = ENGINES[kind](path)
    try:
        return dict(engine.scan(b"", None, False))
    finally:
        engine.close()


def images(kind: str, tmp_path: Path, count: int) -> Iterator[Path]:
    """The files as a crash right behind each commit finds them: nothing is closed."""
    live = tmp_path / "live"
    live.mkdir()
    engine = ENGINES[kind](live)
    for number in range(count):
        engine.commit(changes_of(number))
        image = tmp_path / f"image-{number}"
        shutil.copytree(live, image)
        (image / "lock.mdb").unlink(missing_ok=True)
        yield image
    engine.close()


def test_a_crash_behind_a_commit_finds_all_of_it(kind: str, tmp_path: Path) -> None:
    expected = states(8)
    for number, image in enumerate(images(kind, tmp_path, 8)):
        assert held(kind, image) == expected[number + 1]


def test_a_commit_that_a_crash_tore_is_not_there_at_all(kind: str, tmp_path: Path) -> None:
    expected = states(6)
    before: Path | None = None
    for number, image in enumerate(images(kind, tmp_path, 6)):
        if before is not None:
            for torn in tear(kind, before, image, tmp_path):
                assert held(kind, torn) == expected[number]
                shutil.rmtree(torn)
        before = image


def tear(kind: str, before: Path, after: Path, tmp_path: Path) -> Iterator[Path]:
    """Images in which the last commit had not come to its end."""
    name = "data.mdb" if kind == "lmdb" else "log"
    old, new = (before / name).read_bytes(), (after / name).read_bytes()
    if kind == "lmdb":  # its data pages are there, the page that names them is not
        contents = [old[: 2 * LMDB_PAGE] + new[2 * LMDB_PAGE :]]
    else:
        cuts = (1, 3, 15, (len(new) - len(old)) // 2, len(new) - len(old) - 1)
        contents = [new[: len(old) + cut] for cut in cuts]
        contents.append(new[: len(old) + 20] + bytes(len(new) - len(old) - 20))
    for content in contents:
        torn = tmp_path / "torn"
        torn.mkdir()
        (torn / name).write_bytes(content)
        yield torn


def test_a_torn_commit_is_overwritten_by_the_next_one(kind: str, tmp_path: Path) -> None:
    first, second, *_ = images(kind, tmp_path, 2)
    torn = next(tear(kind, first, second, tmp_path))
    engine = ENGINES[kind](torn)
    engine.commit(changes_of(1))
    engine.close()
    assert held(kind, torn) == states(2)[2]


def test_a_commit_without_room_changes_nothing_and_may_be_tried_again() -> None:
    disk, process = SimDisk(1), Process("n1")
    view = disk.of(process)
    engine = OrderedEngine(view, "/index")
    engine.commit(changes_of(0))
    disk.faults.capacity_bytes = disk.used_bytes()
    bulk: list[tuple[bytes, bytes | None]] = [(b"bulk", bytes(20_000))]
    with pytest.raises(NoRoom):
        engine.commit(bulk)
    assert dict(engine.scan(b"", None, False)) == states(1)[1]
    disk.faults.capacity_bytes = 1 << 30
    engine.commit(bulk)
    engine.close()
    again = OrderedEngine(view, "/index")
    assert dict(again.scan(b"", None, False)) == {**states(1)[1], b"bulk": bytes(20_000)}
    again.close()


FILL = """
import resource, sys
from pinfold.device.lmdb_engine import LmdbEngine
from pinfold.device.room import NoRoom

engine = LmdbEngine(sys.argv[1], 64 << 20, free_bytes=lambda: 0)
engine.commit([(b"applied", b"0")])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
bulk = [(b"%06d" % number, bytes(2000)) for number in range(2000)] + [(b"applied", b"1")]
try:
    engine.commit(bulk)
except NoRoom:
    print("no room", dict(engine.scan(b"", None, False)))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
engine.commit(bulk)
print(len(list(engine.scan(b"", None, False))), engine.get(b"applied"))
engine.close()
"""
"""The system refuses to let the file grow, as it does on a full disk."""


def test_lmdb_without_room_changes_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["no room {b'applied': b'0'}", "2001 b'1'"]


def test_a_map_does_not_grow_under_an_open_scan(tmp_path: Path) -> None:
    engine = LmdbEngine(str(tmp_path), 64 << 10)
    engine.commit([(b"a", b"1"), (b"b", b"2")])
    scan = engine.scan(b"", None, False)
    assert next(scan) == (b"a", b"1")
    assert not engine.grow()
    assert list(scan) == [(b"b", b"2")]
    assert engine.grow()
    engine.close()


@pytest.mark.parametrize("forged", ["a frame", "a newer program's"])
def test_bytes_that_a_torn_frame_left_are_not_taken_for_the_next_one(forged: str) -> None:
    """Whoever wrote the value in it knows all but what was committed before."""
    disk = SimDisk(1)
    view = disk.of(Process("p"))
    view.mkdir("/i")
    engine = OrderedEngine(view, "/i")
    engine.commit([(b"key", b"value")])
    end = engine._position
    following, _ = _frame([(b"key", b"next")], 0)
    left, _ = _frame([(b"forged", b"row")], 0)
    if forged != "a frame":
        left = b"PFi9" + left[4:]
    engine._file.pwritev([bytes(len(following)), left], end)  # torn: its head was not written
    engine.close()
    engine = OrderedEngine(view, "/i")
    engine.commit([(b"key", b"next")])
    engine.close()
    assert dict(OrderedEngine(view, "/i").scan(b"", None, False)) == {b"key": b"next"}
