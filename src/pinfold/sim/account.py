"""What happened in a run, for people: faults, operations, log lines, and what was found wrong.

Everybody who breaks or uses the simulated cluster tells it here. Nothing in it decides anything:
with an account or without one a seed runs the same.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LINES_KEPT: Final = 4000
"""Lines remembered: some tens of virtual seconds of a busy cluster."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened."""

    when: float
    """World time in seconds."""
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.when:10.4f}  {self.who:<10} {self.what}"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    rule: str
    """Short name of the promise, stable enough to group seeds by."""
    what: str
    when: float

    def __str__(self) -> str:
        return f"{self.rule} at {self.when:.4f} s: {self.what}"


class Account:
    """The lines of a run and its violations, in order."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        """World time in seconds."""
        self.lines: deque[Line] = deque(maxlen=LINES_KEPT)
        self.violations: list[Violation] = []
        self.counts: dict[str, int] = {}
        """How often each kind of thing happened."""

    def tell(self, who: str, what: str) -> None:
        """Something happened."""
        self.lines.append(Line(self.now(), who, what))

    def count(self, kind: str) -> None:
        """One more of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def violated(self, rule: str, what: str) -> None:
        """A promise was broken, now."""
        violation = Violation(rule, what, self.now())
        self.violations.append(violation)
        self.lines.append(Line(violation.when, "VIOLATION", f"{rule}: {what}"))

    def around(self, when: float, *, before: int = 60, after: int = 20) -> list[Line]:
        """The lines around an instant."""
        lines = list(self.lines)
        index = next((i for i, line in enumerate(lines) if line.when > when), len(lines))
        return lines[max(0, index - before) : index + after]
