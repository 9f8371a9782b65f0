from pathlib import Path

import pytest

from pinfold.env.osdisk import OsDisk
from pinfold.model.errors import Conflict, Corrupt
from pinfold.node.boot import hold, next_boot


def test_boots_grow_and_never_repeat(tmp_path: Path) -> None:
    assert [next_boot(OsDisk(), tmp_path) for _ in range(3)] == [1, 2, 3]


def test_a_damaged_boot_number_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "boot").write_bytes(b"\0\0")
    with pytest.raises(Corrupt, match="boot number"):
        next_boot(OsDisk(), tmp_path)


def test_a_second_holder_is_told_who_has_the_lock(tmp_path: Path) -> None:
    first = hold(OsDisk(), tmp_path / "lock", "n1 is running")
    with pytest.raises(Conflict, match=r"n1 is running \(process \d+\)"):
        hold(OsDisk(), tmp_path / "lock", "n1 is running")
    first.close()
    hold(OsDisk(), tmp_path / "lock", "n1 is running").close()
