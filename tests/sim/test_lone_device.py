"""The lone device: its lives are decided by the seed, and what it does wrong shows at once."""

import asyncio
from typing import Any

import pytest

from pinfold.device.journal import Journal
from pinfold.device.reclaim import Reclaim
from pinfold.sim.alone.life import LIVES, live_alone

SEEDS = 12


def accused(seeds: int) -> str:
    """The first violation of some seeds."""
    accounts = (live_alone(seed)[0] for seed in range(seeds))
    return next((str(one.violations[0]) for one in accounts if one.violations), "")


def test_equal_seeds_live_equal_lives() -> None:
    (one, trace), (other, again) = live_alone(3), live_alone(3)
    assert trace == again
    assert list(one.lines) == list(other.lines)
    assert sum("ended" in line.what for line in one.lines) == LIVES


def test_a_device_that_keeps_its_word_is_not_accused() -> None:
    assert accused(SEEDS) == ""


def test_a_device_that_answers_before_it_has_flushed_is_accused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Journal, "flush", Journal.written)
    assert accused(SEEDS)


def test_space_that_is_kept_for_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_reclaim: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Reclaim, "run", never)
    assert "slots that no extent names take space" in accused(SEEDS)
