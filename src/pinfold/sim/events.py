"""What happens inside of a simulated cluster, by name, for faults that strike at an instant.

Names are those of the product's own seams, so nothing is planted in it: operations of rpc
(`extent.claim`), calls of a device and their acknowledgements (`log.append`, `log.append done`),
changes of a disk's files (`sync journal`), changes of rows (`rows.change v`). Whoever sees one
tells it here; a fault awaits the n-th of a name.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """Something that has just happened."""

    name: str
    node: str
    """Where."""


Match = Callable[[Event], bool]


@dataclass(slots=True)
class _Waiter:
    match: Match
    left: int
    seen: asyncio.Future[Event]


class Events:
    """Everybody who tells and everybody who waits."""

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []
        self.counts: dict[str, int] | None = None
        """How often each name was told, once somebody wants to know."""

    def tell(self, name: str, node: str) -> None:
        """Something has happened."""
        if self.counts is not None:
            self.counts[name] = self.counts.get(name, 0) + 1
        if not self._waiters:
            return
        event = Event(name, node)
        for waiter in self._waiters:
            if not waiter.seen.done() and waiter.match(event):
                waiter.left -= 1
                if not waiter.left:
                    waiter.seen.set_result(event)

    async def wait(self, match: Match, nth: int = 1) -> Event:
        """The n-th event from now on that matches."""
        waiter = _Waiter(match, nth, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            return await waiter.seen
        finally:
            self._waiters.remove(waiter)
