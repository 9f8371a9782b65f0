"""Give back blobs that no row names any more.

The change that drops a blob writes a row saying so (`entries.free_write`), in the same entry. On
the primary this worker reads the rows that are due, gives the blobs back, then removes the rows.
Giving back twice does nothing, so a crash in between costs only the work. While some device is
away its blobs' rows stay, and the worker goes on behind them: the others' space comes back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from pinfold.cluster.api import BlobRef
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.entries import decode_free, frees_range
from pinfold.cluster.groups.service import GroupService
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import GroupId

_log: Final = structlog.get_logger("pinfold.groups")

BATCH: Final = 256
"""Blobs given back at a time from one group; one change's blobs may exceed it."""

IDLE_S: Final = 5.0
"""Pause between looks when nothing is due: deletes are not urgent."""

RETRY_S: Final = 300.0
"""Rows whose blobs some device did not give back are tried again after this."""

Discard = Callable[[Sequence[BlobRef]], Awaitable[None]]


def due_frees(
    bound: BoundGroup, until_ms: int, after: bytes = b"", limit: int = BATCH
) -> tuple[list[bytes], list[BlobRef]]:
    """(keys behind `after`, blobs) dropped until `until_ms`, oldest first, some `limit` blobs."""
    keys: list[bytes] = []
    blobs: list[BlobRef] = []
    for key, value in bound.scan(*frees_range(until_ms, after)):
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
    """Runs on every node; does the groups led there. `run` ends only by cancellation.

    `delay_s` says how long blobs are kept at present, for readers who have read the row that
    named them.
    """

    def __init__(
        self, env: Env, service: GroupService, discard: Discard, delay_s: Callable[[], float]
    ) -> None:
        self._clock = env.clock
        self._service = service
        self._discard = discard
        self._delay_s = delay_s
        self._passed: dict[GroupId, tuple[bytes, float]] = {}
        """Where to go on behind rows that have failed, and when to begin from the start again."""

    async def run(self) -> None:
        """Look, give back, pause, for ever."""
        while True:
            if not await self.pass_once():
                await asyncio.sleep(IDLE_S)

    async def pass_once(self) -> int:
        """Try to give back a batch in every group led here; returns how many blobs."""
        count = 0
        for bound in self._service.led():
            try:
                count += await self._give_back(bound)
            except PinfoldError as error:
                _log.info("blobs not forgotten yet", group=bound.group, reason=error.message)
        return count

    async def _give_back(self, bound: BoundGroup) -> int:
        if bound.serving is None:
            return 0
        until_ms = int((self._clock.wall() - self._delay_s()) * 1000)
        after, again_at = self._passed.get(bound.group, (b"", 0.0))
        keys, blobs = due_frees(bound, until_ms, after)
        if not keys:
            if self._clock.monotonic() >= again_at:
                self._passed.pop(bound.group, None)
            return 0
        try:
            await self._discard(blobs)
        except PinfoldError as error:
            _log.info("blobs not given back yet", group=bound.group, reason=error.message)
            again_at = again_at or self._clock.monotonic() + RETRY_S
            self._passed[bound.group] = (keys[-1], again_at)
        else:
            await ack_frees(bound, keys)
        return len(blobs)
