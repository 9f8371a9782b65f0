"""Give back blobs that no row names any more.

The change that drops a blob writes a row saying so (`entries.free_write`), in the same entry. On
the primary this worker reads the rows that are due, gives the blobs back, then removes the rows.
Giving back twice does nothing, so a crash in between costs only the work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from pinfold.cluster.api import BlobRef
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.entries import decode_free, frees_due_range
from pinfold.cluster.groups.service import GroupService
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError

_log: Final = structlog.get_logger("pinfold.groups")

BATCH: Final = 256
"""Blobs given back at a time from one group; one change's blobs may exceed it."""

IDLE_S: Final = 5.0
"""Pause between looks when nothing is due: deletes are not urgent."""

Discard = Callable[[Sequence[BlobRef]], Awaitable[None]]


def due_frees(
    bound: BoundGroup, now_ms: int, limit: int = BATCH
) -> tuple[list[bytes], list[BlobRef]]:
    """(keys, blobs) that may be given back at `now_ms`, oldest first, until `limit` is reached."""
    keys: list[bytes] = []
    blobs: list[BlobRef] = []
    for key, value in bound.scan(*frees_due_range(now_ms)):
        keys.append(key)
        blobs += decode_free(value)
        if len(blobs) >= limit:
            break
    return keys, blobs


async def ack_frees(bound: BoundGroup, keys: Sequence[bytes]) -> None:
    """The blobs of these keys are gone: forget them. NotPrimary when the group has moved."""
    serving = bound.serving
    if serving is None:
        raise bound.not_primary()
    await serving.remove(keys)


class FreesWorker:
    """Runs on every node; does the groups led there. `run` ends only by cancellation."""

    def __init__(self, env: Env, service: GroupService, discard: Discard) -> None:
        self._clock = env.clock
        self._service = service
        self._discard = discard

    async def run(self) -> None:
        """Look, give back, pause, for ever."""
        while True:
            if not await self.pass_once():
                await asyncio.sleep(IDLE_S)

    async def pass_once(self) -> int:
        """Give back a batch in every group led here; returns how many blobs."""
        count = 0
        for bound in self._service.led():
            try:
                count += await self._give_back(bound)
            except PinfoldError as error:
                _log.info("blobs not given back yet", group=bound.group, reason=error.message)
        return count

    async def _give_back(self, bound: BoundGroup) -> int:
        if bound.serving is None:
            return 0
        keys, blobs = due_frees(bound, int(self._clock.wall() * 1000))
        if keys:
            await self._discard(blobs)
            await ack_frees(bound, keys)
        return len(blobs)
