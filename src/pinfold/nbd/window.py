"""How much of its clients' work a front end holds at once."""

from collections.abc import Callable


class Window:
    """Bytes that all connections share; those that were stopped go on in the order they stopped.

    Invariant: `resume` is called once per stop, when there is room again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._stopped: dict[Callable[[], None], None] = {}

    @property
    def used(self) -> int:
        """Bytes held."""
        return self._used

    @property
    def crowded(self) -> bool:
        """Whether nobody should take on more."""
        return self._used >= self._limit

    def take(self, size: int) -> None:
        """Count work taken on. The one that crosses the limit is still let in."""
        self._used += size

    def give(self, size: int) -> None:
        """Work is done."""
        self._used -= size
        assert self._used >= 0
        while self._stopped and self._used < self._limit:
            resume = next(iter(self._stopped))
            del self._stopped[resume]
            resume()

    def stop(self, resume: Callable[[], None]) -> None:
        """Be called when there is room."""
        self._stopped[resume] = None

    def forget(self, resume: Callable[[], None]) -> None:
        """The stopped one has gone."""
        self._stopped.pop(resume, None)
