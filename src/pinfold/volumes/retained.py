"""The batches a holder keeps until every member in sync has flushed them."""

from collections import deque

from pinfold.model.settings import VolumeSettings
from pinfold.volumes.batch import Batch
from pinfold.volumes.lane import Lane


class Retained:
    """Batches in order of sequence, none of which is known to be durable everywhere.

    Bounded: `crowded` asks for a flush, `full` lets writes wait until it is done.
    """

    def __init__(self, settings: VolumeSettings) -> None:
        self._bytes_max = settings.retained_bytes
        self._age_max = settings.retained_s
        self._batches: deque[Batch] = deque()
        self._bytes = 0

    def add(self, batch: Batch) -> None:
        """Keep one more, the latest."""
        self._batches.append(batch)
        self._bytes += batch.payload_bytes

    def remove(self, batch: Batch) -> None:
        """Drop one that has failed everywhere."""
        self._batches.remove(batch)
        self._bytes -= batch.payload_bytes

    def trim(self, flushed: int) -> int:
        """Drop what is complete and flushed up to `flushed`; everything up to the result is."""
        batches = self._batches
        while batches and batches[0].done and batches[0].sequence <= flushed:
            self._bytes -= batches.popleft().payload_bytes
        return min(flushed, batches[0].sequence - 1) if batches else flushed

    def clear(self) -> None:
        """Drop everything."""
        self._batches.clear()
        self._bytes = 0

    @property
    def crowded(self) -> bool:
        """Whether a flush should start although nobody asked for one."""
        return self._bytes * 2 >= self._bytes_max

    @property
    def full(self) -> bool:
        """Whether writes must wait for a flush."""
        return self._bytes >= self._bytes_max

    def due(self, now: float) -> bool:
        """Whether the bytes are too many or the oldest is too old."""
        return bool(self._batches) and (
            self.crowded or now - self._batches[0].born >= self._age_max
        )

    def lacked_by(self, lane: Lane) -> list[Batch]:
        """What a member that kept only what it had flushed has to be sent again."""
        return [
            batch
            for batch in self._batches
            if batch.sequence > lane.flushed and batch.concerns(lane.device)
        ]

    def extents(self) -> list[int]:
        """Every extent changed by a batch kept, in order of its first change."""
        return list(dict.fromkeys(op[1] for batch in self._batches for op in batch.ops))

    def __bool__(self) -> bool:
        return bool(self._batches)
