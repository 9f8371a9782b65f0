"""When to start a process again that has ended by itself. Pure: no clock, no process."""

from dataclasses import dataclass
from typing import Final

FIRST_DELAY_S: Final = 0.1
"""A killed node should be back before anybody notices."""

DELAY_MAX_S: Final = 10.0
"""A process that cannot start is tried this often for ever: its cause may go away."""

STEADY_S: Final = 10.0
"""A process that ran this long had started well: its next restart is quick again."""


@dataclass(slots=True)
class RestartPolicy:
    """Exponential delays for one process. Invariant: 0.1 s <= delay <= 10 s."""

    delay_s: float = FIRST_DELAY_S

    def on_exit(self, ran_s: float) -> float:
        """Seconds to wait before the next start of a process that ran for `ran_s`."""
        if ran_s >= STEADY_S:
            self.delay_s = FIRST_DELAY_S
        delay = self.delay_s
        self.delay_s = min(2 * delay, DELAY_MAX_S)
        return delay
