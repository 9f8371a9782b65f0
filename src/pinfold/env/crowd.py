"""Who has to go when a listener has too many connections. Pure.

Strangers (connections that have not yet shown that they are more than a connection) go first, the
oldest before the others: whoever opens thousands and says nothing pushes out its own. The proved
are never pushed out by strangers.
"""

from typing import Generic, TypeVar

C = TypeVar("C")


class Crowd(Generic[C]):
    """The connections of one listener.

    Invariant: never more than `limit` inside, if whoever is named by `enter` leaves.
    """

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self._limit = limit
        self._strangers: dict[C, None] = {}
        self._proved: dict[C, None] = {}
        self.turned_out = 0
        """Connections that had to go, so far."""

    def __len__(self) -> int:
        return len(self._strangers) + len(self._proved)

    def enter(self, connection: C) -> C | None:
        """A new connection. Who has to go for it: the oldest stranger, perhaps itself."""
        self._strangers[connection] = None
        if len(self) <= self._limit:
            return None
        self.turned_out += 1
        return next(iter(self._strangers))

    def prove(self, connection: C) -> None:
        """The connection has said something sensible. Idempotent; costs next to nothing."""
        if self._strangers.pop(connection, self) is None:
            self._proved[connection] = None

    def leave(self, connection: C) -> None:
        """The connection has ended. Idempotent."""
        self._strangers.pop(connection, None)
        self._proved.pop(connection, None)

    def everybody(self) -> list[C]:
        """All connections inside."""
        return [*self._proved, *self._strangers]

    def proved(self) -> list[C]:
        """The connections that are no strangers, oldest first."""
        return list(self._proved)
