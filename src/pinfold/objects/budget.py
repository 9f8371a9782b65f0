"""A budget of bytes: what all requests together may hold in memory.

First come, first served, so that a large request is not starved by small ones.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from pinfold.model.errors import Busy


class ByteBudget:
    """Bytes that may be taken and must be given back.

    Invariant: what is taken and not given back never exceeds `limit`, and nobody overtakes.
    """

    def __init__(self, limit: int, *, waiting_max: int) -> None:
        assert limit > 0
        self._limit = limit
        self._free = limit
        self._waiting_max = waiting_max
        self._waiting: deque[_Wish] = deque()

    @property
    def taken(self) -> int:
        """Bytes out now."""
        return self._limit - self._free

    @property
    def free(self) -> int:
        """Bytes that may be taken now, if nobody waits."""
        return self._free

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    async def take(self, count: int, *, timeout_s: float, least: int | None = None) -> int:
        """Wait for `count` bytes and take them; how many were taken.

        That is `count`, unless those who wait have been told to be content with their `least`. Busy
        when too many wait already or the bytes do not come within `timeout_s`; then nothing is
        taken.
        """
        assert 0 <= count <= self._limit, f"{count} bytes never fit into a budget of {self._limit}"
        if not self._waiting and count <= self._free:
            self._free -= count
            return count
        if len(self._waiting) >= self._waiting_max:
            raise Busy("too many requests wait for memory")
        least = count if least is None else min(least, count)
        wish = _Wish(count, least, asyncio.get_running_loop().create_future())
        self._waiting.append(wish)
        try:
            async with asyncio.timeout(timeout_s):
                await wish.granted
        except BaseException as error:
            self._forget(wish)
            if isinstance(error, TimeoutError):
                raise Busy("no memory for the request") from None
            raise
        return wish.count

    def make_content(self) -> None:
        """Give everybody who waits only the least that they are content with."""
        for wish in self._waiting:
            wish.count = wish.least
        self._serve()

    def give(self, count: int) -> None:
        """Give back bytes that were taken."""
        self._free += count
        assert self._free <= self._limit, "more given back than taken"
        self._serve()

    def _forget(self, wish: "_Wish") -> None:
        if wish.granted.done() and not wish.granted.cancelled():
            self.give(wish.count)  # it was granted in the same moment
        elif wish in self._waiting:
            self._waiting.remove(wish)
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0].count <= self._free:
            wish = self._waiting.popleft()
            if not wish.granted.done():
                self._free -= wish.count
                wish.granted.set_result(None)


@dataclass(eq=False, slots=True)
class _Wish:
    """Somebody who waits."""

    count: int
    least: int
    granted: asyncio.Future[None]
