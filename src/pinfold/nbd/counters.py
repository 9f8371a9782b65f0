"""What a front end counts; the node layer shows it as metrics."""

from dataclasses import dataclass

from pinfold.volumes.io import FLUSH, READ, Io


@dataclass(slots=True)
class Counters:
    """Plain numbers, so that counting costs next to nothing; all but `connections` only grow."""

    connections: int = 0
    """Open now."""
    reads: int = 0
    writes: int = 0
    """Writes, zeroes, trims, and the rare rest."""
    flushes: int = 0
    errors: int = 0
    payload_bytes: int = 0
    """Read and written."""

    def answered(self, ios: list[Io], carried: int) -> None:
        """Count answered requests and the payload they carried."""
        reads = flushes = errors = 0
        for io in ios:
            if io.kind == READ:
                reads += 1
            elif io.kind == FLUSH:
                flushes += 1
            if io.error is not None:
                errors += 1
        self.reads += reads
        self.flushes += flushes
        self.writes += len(ios) - reads - flushes
        self.errors += errors
        self.payload_bytes += carried
