"""Give back blobs that no row names any more.

The change that drops a blob writes a row saying so (`entries.free_write`), in the same entry. On
the primary this worker reads the rows that are due, gives the blobs back, then removes the rows.
Giving back twice does nothing, so a crash in between costs only the work. While some device is
away its blobs' rows stay, and the worker goes on behind them: the others' space comes back.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from pinfold.cluster.api import BlobRef
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.entries import decode_free, dropped_key, frees_range
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.groups.serving import Serving
from pinfold.env.api import Env
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import GroupId
from pinfold.model.settings import BlobSettings

_log: Final = structlog.get_logger("pinfold.groups")

BATCH: Final = 256
"""Blobs given back at a time from one group; one change's blobs may exceed it."""

KEEP_STEPS: Final = 16
"""Into so many steps the time for which blobs are kept is divided, by which it may be exceeded."""

Discard = Callable[[Sequence[BlobRef]], Awaitable[None]]


def due_frees(
    bound: BoundGroup, until_op: int, after: bytes = b"", limit: int = BATCH
) -> tuple[list[bytes], list[BlobRef]]:
    """(keys behind `after`, blobs) dropped until `until_op`, oldest first, some `limit` blobs."""
    keys: list[bytes] = []
    blobs: list[BlobRef] = []
    for key, value in bound.scan(*frees_range(until_op, after)):
        keys.append(key)
        blobs += decode_free(value)
        if len(blobs) >= limit:
            break
    return keys, blobs


async def ack_frees(bound: BoundGroup, keys: Sequence[bytes], blobs: Sequence[BlobRef]) -> None:
    """These blobs of these keys are gone: forget them. NotPrimary when the group has moved."""
    serving = bound.serving
    if serving is None:
        raise bound.not_primary()
    await serving.remove([*keys, *(dropped_key(blob.id) for blob in blobs)])


class _Past:
    """How far a group had come, when: since it is led here."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._seen: deque[tuple[float, int]] = deque()
        """(monotonic time, applied op)."""

    def op_before(self, now: float, keep_s: float, applied_op: int) -> int:
        """What was applied `keep_s` ago, or up to a step earlier; 0 when that is not known."""
        seen = self._seen
        if not seen or now - seen[-1][0] >= keep_s / KEEP_STEPS:
            seen.append((now, applied_op))
        while len(seen) > 1 and now - seen[1][0] >= keep_s:
            seen.popleft()
        return seen[0][1] if now - seen[0][0] >= keep_s else 0


class FreesWorker:
    """Runs on every node; does the groups led there. `run` ends only by cancellation.

    `delay_s` says how long blobs are kept at present, for readers who have read the row that
    named them. That is counted from when this primary knew them dropped, by its monotonic clock.
    """

    def __init__(
        self,
        env: Env,
        service: GroupService,
        discard: Discard,
        delay_s: Callable[[], float],
        settings: BlobSettings | None = None,
    ) -> None:
        self._clock = env.clock
        self._service = service
        self._discard = discard
        self._delay_s = delay_s
        self._settings = settings or BlobSettings()
        self._pasts: dict[GroupId, _Past] = {}
        self._passed: dict[GroupId, tuple[bytes, float]] = {}
        """Where to go on behind rows that have failed, and when to begin from the start again."""

    async def run(self) -> None:
        """Look, give back, pause, for ever."""
        while True:
            if not await self.pass_once():
                await asyncio.sleep(self._settings.free_look_s)

    async def pass_once(self) -> int:
        """Try to give back a batch in every group led here; returns how many blobs."""
        count = 0
        led = self._service.led()
        served = {bound.group for bound in led}
        self._pasts = {group: past for group, past in self._pasts.items() if group in served}
        for bound in led:
            try:
                count += await self._give_back(bound)
            except PinfoldError as error:
                _log.info("blobs not forgotten yet", group=bound.group, reason=error.message)
        return count

    async def _give_back(self, bound: BoundGroup) -> int:
        if bound.serving is None:
            return 0
        now = self._clock.monotonic()
        until_op = self._past(bound.group, bound.serving).op_before(
            now, self._delay_s(), bound.replica.state.applied_op
        )
        after, again_at = self._passed.get(bound.group, (b"", 0.0))
        keys, blobs = due_frees(bound, until_op, after)
        if not keys:
            if now >= again_at:
                self._passed.pop(bound.group, None)
            return 0
        try:
            await self._discard(blobs)
        except PinfoldError as error:
            _log.info("blobs not given back yet", group=bound.group, reason=error.message)
            again_at = again_at or self._clock.monotonic() + self._settings.free_retry_s
            self._passed[bound.group] = (keys[-1], again_at)
        else:
            await ack_frees(bound, keys, blobs)
        return len(blobs)

    def _past(self, group: GroupId, serving: Serving) -> _Past:
        past = self._pasts.get(group)
        if past is None or past.serving is not serving:
            past = self._pasts[group] = _Past(serving)
        return past
