"""Batches on their way: who has still to take each, and the requests that wait for that."""

from collections.abc import Callable, Iterable

from pinfold.model.ids import DeviceId
from pinfold.volumes.batch import Batch
from pinfold.volumes.io import Io


class InFlight:
    """Batches that some member counted has not taken, in order of their sequence.

    `written` gets each request all of whose batches are complete, `readable` each read that no
    batch in flight can undo any more.
    """

    def __init__(self, written: Callable[[Io], None], readable: Callable[[Io], None]) -> None:
        self._written = written
        self._readable = readable
        self._batches: dict[Batch, None] = {}
        self.bytes = 0

    def add(self, batch: Batch) -> None:
        """One more, the latest; complete at once when it waits for nobody."""
        self._batches[batch] = None
        self.bytes += batch.payload_bytes
        if not batch.waiting:
            self.complete(batch)

    def relied(self, device: DeviceId, batches: Iterable[Batch] | None = None) -> None:
        """Answers may rely on a member for these batches (None: all), or need not."""
        for batch in list(self._batches) if batches is None else batches:
            batch.waiting.discard(device)
            if not batch.waiting and not batch.done:
                self.complete(batch)

    def complete(self, batch: Batch) -> None:
        """All have taken it, or it has failed: what waited for it may be answered."""
        batch.done = True
        del self._batches[batch]
        self.bytes -= batch.payload_bytes
        for io in batch.ios:
            io.pending -= 1
            if not io.pending:
                self._written(io)
        batch.ios.clear()
        for io in batch.readers:
            io.pending -= 1
            if not io.pending:
                self._readable(io)
        batch.readers.clear()

    def hold(self, io: Io) -> None:
        """A read's bytes are there: `readable` when no batch they may show can still be undone."""
        for batch in self._batches:
            if batch.overlaps(io.offset, io.length):
                batch.readers.append(io)
                io.pending += 1
        if not io.pending:
            self._readable(io)

    def drain(self) -> list[Io]:
        """Every request that waits here, when there is no hope."""
        ios: dict[Io, None] = {}
        for batch in self._batches:
            ios.update(dict.fromkeys(batch.ios))
            ios.update(dict.fromkeys(batch.readers))
        self._batches.clear()
        return list(ios)

    def __len__(self) -> int:
        return len(self._batches)
