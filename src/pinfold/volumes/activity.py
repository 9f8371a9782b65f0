"""Which extents are dirty on devices: a bounded set, since a takeover compares all of them."""

from pinfold.volumes.batch import Batch


class Activity:
    """Extents with writes that are not stable, and the last sequence of each, oldest first.

    Bounded: `crowded` asks for a flush, after which the holder says what is stable; `admits` lets
    writes to further extents wait for that.
    """

    def __init__(self, extents_max: int) -> None:
        self._max = extents_max
        self._last: dict[int, int] = {}

    def touch(self, batch: Batch) -> None:
        """A batch, the latest, changes these extents."""
        last, sequence = self._last, batch.sequence
        for op in batch.ops:
            last.pop(op[1], None)
            last[op[1]] = sequence

    def stable(self, sequence: int) -> None:
        """Devices are told that everything up to `sequence` is flushed everywhere."""
        last = self._last
        while last:
            extent = next(iter(last))
            if last[extent] > sequence:
                return
            del last[extent]

    def admits(self, extent: int) -> bool:
        """Whether an extent may be written now."""
        return len(self._last) < self._max or extent in self._last

    @property
    def crowded(self) -> bool:
        """Whether a flush should start although nobody asked for one."""
        return 2 * len(self._last) >= self._max
