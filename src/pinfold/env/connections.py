"""Connections of the HTTP library that end when they are told to."""

import asyncio
from typing import Any, cast

from aiohttp import web


class Connection(web.RequestHandler):
    """What it closes aiohttp first lets the client take, for as long as the client likes."""

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._wire: asyncio.Transport | None = None
        """Which the base class forgets once it has asked it to close."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)  # uvloop's do not derive from asyncio's

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        self._wire = None
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no request is under way: clients expect such connections to end any time.

        An answer that is being sent is under way; `_current_request` is over before that.
        """
        return not self._request_in_progress

    @property
    def inside(self) -> bool:
        """Whether it has neither ended nor been told to."""
        return self._wire is not None

    def leave(self) -> None:
        """Make room for others, now: who does not read would never take what is left to send."""
        self.force_close()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()
