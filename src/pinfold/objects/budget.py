"""A budget of bytes: what all requests together may hold in memory.

First come, first served, so that a large request is not starved by small ones.
"""

import asyncio
from collections import deque

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
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

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

    async def take(self, count: int, *, timeout_s: float) -> None:
        """Wait for `count` bytes and take them.

        Busy when too many wait already or the bytes do not come within `timeout_s`; then nothing
        is taken.
        """
        assert 0 <= count <= self._limit, f"{count} bytes never fit into a budget of {self._limit}"
        if not self._waiting and count <= self._free:
            self._free -= count
            return
        if len(self._waiting) >= self._waiting_max:
            raise Busy("too many requests wait for memory")
        future = asyncio.get_running_loop().create_future()
        entry = (count, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except BaseException as error:
            self._forget(entry)
            if isinstance(error, TimeoutError):
                raise Busy("no memory for the request") from None
            raise

    def give(self, count: int) -> None:
        """Give back bytes that were taken."""
        self._free += count
        assert self._free <= self._limit, "more given back than taken"
        self._serve()

    def _forget(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        count, future = entry
        if future.done() and not future.cancelled():
            self.give(count)  # it was granted in the same moment
        elif entry in self._waiting:
            self._waiting.remove(entry)
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, future = self._waiting.popleft()
            if not future.done():
                self._free -= count
                future.set_result(None)
