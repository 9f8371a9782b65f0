"""Settings an operator may tune: frozen values with defaults, units and reasons.

Read once by the node layer and passed down as the part needed. `for_tests()` makes limits bite.
"""

import msgspec


class BlobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How replicated blobs are written and read."""

    put_timeout_s: float = 10.0
    """A put that has not reached W devices by then is Unavailable."""
    read_timeout_s: float = 10.0
    """A read that nobody could answer by then is Unavailable."""
    retry_pause_s: float = 0.1
    """Between attempts to reach W devices: the time a restarted node needs to be dialled."""
    hedge_s: float = 0.25
    """A device slower than this is not waited for alone: the next is asked too."""

    def quorum(self, copies: int) -> int:
        """W of N copies: 2 of 3, 3 of 5."""
        return copies // 2 + 1
