"""Applied rows of the device's groups: ranges of the index, one per life of a group."""

from collections.abc import Iterator

from pinfold.device.group import rows_prefix
from pinfold.device.index import Index
from pinfold.device.log import Log
from pinfold.model.ids import GroupId


class Rows:
    """The device's `RowStore`."""

    def __init__(self, log: Log, index: Index) -> None:
        self._log = log
        self._index = index

    def get(self, group: GroupId, key: bytes) -> bytes | None:
        """See `RowStore.get`. NotFound for a group never created here."""
        return self._index.get(self._log.group(group).rows_prefix + key)

    def scan(
        self, group: GroupId, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `RowStore.scan`. NotFound for a group never created here."""
        known = self._log.group(group)
        prefix = known.rows_prefix
        stop = prefix + end if end is not None else rows_prefix(group, known.generation + 1)
        found = self._index.scan(prefix + start, stop, reverse=reverse)
        skip = len(prefix)
        return ((key[skip:], value) for key, value in found)
