"""How much memory a front end holds for its clients at once."""

from collections.abc import Callable


class Window:
    """Bytes that all connections share; those that were stopped go on in the order they stopped.

    Invariants: `resume` is called once per stop, when what it was stopped for fits; while somebody
    waits, nobody else is given room.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._stopped: dict[Callable[[], None], int] = {}
        self._resuming = False
        """It is the turn of one that was stopped: the others do not stand in its way."""

    @property
    def used(self) -> int:
        """Bytes held."""
        return self._used

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._stopped)

    @property
    def room(self) -> int:
        """Bytes that may be taken on now; the request that crosses the limit is still let in."""
        if self._stopped and not self._resuming:
            return 0
        return self._limit - self._used

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be taken now. Alone, anything may: it would never fit else."""
        return size <= self.room or (not self._used and self.room > 0)

    def take(self, size: int) -> None:
        """Count bytes as held."""
        self._used += size

    def give(self, size: int) -> None:
        """Bytes are not held any more."""
        self._used -= size
        assert self._used >= 0
        if self._stopped:
            self._resume()

    def stop(self, resume: Callable[[], None], size: int = 1) -> None:
        """Be called when `size` bytes fit. One that waits already keeps its place."""
        self._stopped[resume] = size

    def forget(self, resume: Callable[[], None]) -> None:
        """The stopped one has gone."""
        if self._stopped.pop(resume, None) is not None:
            self._resume()

    def _resume(self) -> None:
        if self._resuming:
            return  # whoever does this already goes on with what has changed
        self._resuming = True
        try:
            while self._stopped:
                resume, size = next(iter(self._stopped.items()))
                if not self.fits(size):
                    return
                del self._stopped[resume]
                resume()
        finally:
            self._resuming = False
