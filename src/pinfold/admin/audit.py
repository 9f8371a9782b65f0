"""What operators changed: one line for each act that came with the admin token.

Who has no token leaves no line, or a flood of strangers would push the acts out of the log.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from pinfold.env.api import Clock


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One change that was asked for."""

    remote: str
    method: str
    path: str
    asked: dict[str, Any]
    """The body's fields, without secrets."""
    outcome: str
    """`done`, or the error's code and message."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    time: float
    remote: str
    method: str
    path: str
    asked: dict[str, Any]
    outcome: str


def audit_log(clock: Clock, write: Callable[[str], None]) -> Callable[[Act], None]:
    """Writes each act as a JSON line, before the answer leaves."""

    def tell(act: Act) -> None:
        line = _Line(time=round(clock.wall(), 3), **msgspec.structs.asdict(act))
        write(msgspec.json.encode(line).decode())

    return tell
