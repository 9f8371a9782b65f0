"""Zeroing what shrinking cut off a volume, before growing could show it again.

Whoever shrinks a volume only names the range in the row: devices are written by holders alone. The
next holder zeroes it before it serves anybody.
"""

import asyncio
from collections.abc import Callable

from pinfold.model.errors import Corrupt, Fenced, PinfoldError
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.copies import EVERYTHING, Copies
from pinfold.volumes.io import FLUSH, TRIM, Io
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.spans import EXTENT_SHIFT


class Cutting:
    """The owner of the requests that zero a range."""

    def __init__(
        self,
        sequencer: Sequencer,
        copies: Copies,
        schedule: Callable[[], None],
        settings: VolumeSettings,
    ) -> None:
        self._sequencer = sequencer
        self._copies = copies
        self._schedule = schedule
        self._settings = settings
        self._pending = 0
        self._error: PinfoldError | None = None
        self._done = asyncio.Event()

    async def zero(self, first: int, end: int) -> None:
        """Zero [first, end) and flush that. Only extents that somebody has are touched."""
        after = (first >> EXTENT_SHIFT) - 1
        while after < (end - 1) >> EXTENT_SHIFT:
            try:
                marks, told_to = await self._copies.present(after)
            except Fenced:
                raise
            except PinfoldError:  # a member was lost meanwhile: it comes back, or is put out
                await asyncio.sleep(self._settings.retry_s)
                continue
            found = sorted({mark.extent for mark in marks if mark.extent <= told_to})
            await self._do([io for extent in found for io in self._trim(extent, first, end)])
            after = told_to
        assert after <= EVERYTHING
        await self._do([Io(FLUSH, 0, 0, self)])

    def _trim(self, extent: int, first: int, end: int) -> list[Io]:
        low = max(first, extent << EXTENT_SHIFT)
        high = min(end, (extent + 1) << EXTENT_SHIFT)
        return [Io(TRIM, low, high - low, self)] if low < high else []

    async def _do(self, ios: list[Io]) -> None:
        if not ios:
            return
        self._pending = len(ios)
        self._done.clear()
        self._sequencer.submit(ios)
        self._schedule()
        await self._done.wait()
        if self._error is not None:
            raise self._error

    def finished(self, ios: list[Io]) -> None:
        """See `Owner`."""
        for io in ios:
            if not isinstance(io.error, Corrupt):  # a block cut in two that is rotten stays so
                self._error = self._error or io.error
        self._pending -= len(ios)
        if not self._pending:
            self._done.set()
