"""Clients that are slow on purpose, or by misfortune, and what they may keep from the others.

While there is room they may be as slow as they like, up to a silence of `body_timeout_s`. When
others wait for what they hold (a request's place, read memory), those who hardly move are dropped.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from pinfold.model.settings import S3Settings

PROGRESS_PART: Final = 8
"""Of what waits to be sent this part must be taken within the patience: 200 kbit/s at the
defaults."""

C = TypeVar("C")


class Upload:
    """The body of one request on its way in."""

    __slots__ = ("_limit", "_since", "_waited_s", "came", "dropped")

    def __init__(self) -> None:
        self.came = 0
        """Bytes, so far."""
        self.dropped = False
        self._waited_s = 0.0
        self._since: float | None = None
        self._limit: asyncio.Timeout | None = None

    def waiting(self, now: float, timeout_s: float) -> asyncio.Timeout:
        """The time-out of one wait for the client; over at once when the upload is dropped."""
        self._since = now
        self._limit = asyncio.timeout(0 if self.dropped else timeout_s)
        return self._limit

    def waited(self, now: float) -> None:
        """The wait is over."""
        self._waited_s, self._since = self.waited_s(now), None

    def waited_s(self, now: float) -> float:
        """How long the client was waited for: what waits for memory or a disk is not slow."""
        return self._waited_s + (0.0 if self._since is None else now - self._since)

    def drop(self) -> None:
        """End the wait under way, and every later one."""
        self.dropped = True
        if self._limit is not None and self._limit.when() is not None:
            try:
                self._limit.reschedule(asyncio.get_running_loop().time())
            except RuntimeError:
                return  # it is over: the next wait will not begin


class Uploads:
    """The bodies on their way in. Which one goes first is decided here, without I/O."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._uploads: dict[Upload, None] = {}

    def begin(self) -> Upload:
        """A request whose body follows."""
        upload = Upload()
        self._uploads[upload] = None
        return upload

    def end(self, upload: Upload) -> None:
        """The request has been answered."""
        del self._uploads[upload]

    def slowest(self, now: float) -> Upload | None:
        """Who is to be dropped when somebody has to be; None when all are fast enough or new."""
        found, found_rate = None, float(self._settings.upload_bytes_per_s_min)
        for upload in self._uploads:
            waited_s = upload.waited_s(now)
            if upload.dropped or waited_s < self._settings.stall_patience_s:
                continue
            rate = upload.came / waited_s
            if rate < found_rate:
                found, found_rate = upload, rate
        return found

    def drop_slowest(self, now: float) -> bool:
        """Make room for a request; whether that was possible."""
        upload = self.slowest(now)
        if upload is None:
            return False
        upload.drop()
        return True


class Patience:
    """How long a client may take for a chunk of a response."""

    def __init__(self, timeout_s: float, stall_s: float, wanted: Callable[[], bool]) -> None:
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._wanted = wanted

    async def taken(self, flowing: asyncio.Event, transport: asyncio.Transport) -> None:
        """Wait until the client has taken what was written; TimeoutError when it is given up."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._timeout_s
        while True:
            left = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout_at(min(ends, loop.time() + self._stall_s)):
                    await flowing.wait()
                return
            except TimeoutError:
                taken = left - transport.get_write_buffer_size()
                if loop.time() >= ends or (self._wanted() and taken < left // PROGRESS_PART):
                    raise


class Heads(Generic[C]):
    """Bytes of requests that no handler has taken up yet, by connection: heads, mostly.

    A head may be large, none is for long: who holds most goes when all together hold too much.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[C, int] = {}
        self._total = 0

    def hold(self, connection: C, count: int) -> C | None:
        """What a connection holds now. Who has to go for it: perhaps itself."""
        self._total += count - self._held.pop(connection, 0)
        if count:
            self._held[connection] = count
        if self._total <= self._limit:
            return None
        return max(self._held, key=self._held.__getitem__)
