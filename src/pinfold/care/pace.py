"""How fast background work may go: so many bytes and operations a second, less under load.

The rule of this file: no clock; whoever asks says what time it is.
"""

from dataclasses import dataclass
from typing import Final

SLOWEST: Final = 0.05
"""Share of its pace that work keeps under full load: it slows down and never stops, since a
cluster that is always busy must be repaired too."""


@dataclass(slots=True)
class Pace:
    """A budget that is spent first and waited for afterwards.

    Invariant: from any instant on, what was granted within `t` seconds is at most what one grant
    takes and `t` seconds' worth of either budget.
    """

    bytes_per_s: float
    operations_per_s: float
    _free_at: float = 0.0

    def take(self, now: float, payload_bytes: int, load: float) -> float:
        """Grant one operation of so many bytes; the seconds to wait before it is begun.

        `load` from 0 to 1 is how busy the foreground is.
        """
        assert payload_bytes >= 0
        assert 0.0 <= load <= 1.0
        cost_s = max(1 / self.operations_per_s, payload_bytes / self.bytes_per_s)
        start = max(self._free_at, now)
        self._free_at = start + cost_s / max(1.0 - load, SLOWEST)
        return start - now
