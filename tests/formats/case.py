"""One stored format at one version: bytes that were written once, and what they must still say."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """`write` makes the same bytes today; None for a version that is only read."""

    name: str
    read: Callable[[bytes], object]
    value: object
    golden: str
    """Hexadecimal."""
    write: Callable[[], bytes] | None
    behind: bytes = b""
    """What follows the bytes where they are read."""

    @property
    def stored(self) -> bytes:
        """The bytes as they are read."""
        return bytes.fromhex(self.golden) + self.behind
