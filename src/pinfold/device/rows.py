"""Applied rows of the device's groups: ranges of the index, one per life of a group.

A group whose rows cannot be read, or not be proved absent, waits for a copy: the row that fails may
be the neighbour's, and then the neighbour does as well.
"""

from collections.abc import Iterator

from pinfold.device.group import Group, rows_prefix
from pinfold.device.index import Index
from pinfold.device.log import Log
from pinfold.model.errors import Corrupt
from pinfold.model.ids import GroupId


class Rows:
    """The device's `RowStore`."""

    def __init__(self, log: Log, index: Index) -> None:
        self._log = log
        self._index = index

    def get(self, group: GroupId, key: bytes) -> bytes | None:
        """See `RowStore.get`. NotFound for a group never created here."""
        known = self._log.group(group)
        try:
            return self._index.get(known.rows_prefix + key)
        except Corrupt:
            known.rotten = True
            raise

    def scan(
        self, group: GroupId, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `RowStore.scan`. NotFound for a group never created here."""
        known = self._log.group(group)
        prefix = known.rows_prefix
        stop = prefix + end if end is not None else rows_prefix(group, known.generation + 1)
        found = self._index.scan(prefix + start, stop, reverse=reverse)
        return _known_by(known, found)


def _known_by(known: Group, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Rows by the keys that the group has for them."""
    skip = len(known.rows_prefix)
    try:
        for key, value in found:
            yield key[skip:], value
    except Corrupt:
        known.rotten = True
        raise
