"""An `Env` under the test's hand: a clock that stands until moved, a seeded rng, no threads."""

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from pinfold.env.api import Disk, Env, Net
from pinfold.env.osnet import OsNet

T = TypeVar("T")

START_S = 1_790_000_000.0


class HandClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return START_S + self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


class InlineOffload:
    """A lane without a thread: functions run when they are given."""

    def __init__(self, name: str) -> None:
        self.calls = 0

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> Awaitable[T]:
        self.calls += 1
        return _done(function(*arguments))

    def close(self) -> None:
        """Nothing to end."""


async def _done(value: T) -> T:
    return value


def hand_env(clock: HandClock | None = None, seed: int = 1, net: Net | None = None) -> Env:
    """The env; its net is real unless given, for tests that open sockets."""
    return Env(
        clock=clock or HandClock(),
        rng=random.Random(seed),
        disk=cast(Disk, None),
        net=net or OsNet(),
        new_offload=InlineOffload,
    )
