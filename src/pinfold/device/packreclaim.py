"""Gives the space of freed ranges and of empty packs back, beside the applier's passes.

The list of what is free is in the index: a crash forgets none of it, and no memory holds it. It is
worked off in pieces, behind the commit that made it durable and behind every read begun before.
"""

import asyncio
from functools import partial
from typing import Final

from pinfold.device.health import Health
from pinfold.device.journal import Journal
from pinfold.device.packs import Freed, Pack, Packs
from pinfold.device.readers import Readers
from pinfold.model.errors import PinfoldError

PIECE: Final = 256
"""Ranges punched at a time: some milliseconds of each reader's lane."""


class PackReclaim:
    """See the module."""

    def __init__(self, packs: Packs, readers: Readers, journal: Journal, health: Health) -> None:
        self._packs = packs
        self._readers = readers
        self._journal = journal
        self._health = health
        self._committed = asyncio.Event()

    def committed(self) -> None:
        """What the last pass freed is free in the index too, durably."""
        self._packs.committed()
        self._committed.set()

    async def run(self) -> None:
        """Work off the list, until cancelled or until the device stops."""
        try:
            while not self._health.reason:
                await self._committed.wait()
                self._committed.clear()
                await self._remove_empty()
                await self._punch_freed()
        except PinfoldError as error:
            self._health.stop(f"packs: {error.message}")

    async def _remove_empty(self) -> None:
        while (pack := self._packs.pop_empty()) is not None:
            await self._readers.submit(pack.number, partial(self._packs.remove, pack))
            self._packs.removed(pack)
            self._journal.activity.set()

    async def _punch_freed(self) -> None:
        after = b""
        while piece := self._packs.freed(after, PIECE):
            by_pack: dict[Pack, list[Freed]] = {}
            for one in piece:
                if one.pack is not None:
                    by_pack.setdefault(one.pack, []).append(one)
            jobs = [
                self._readers.submit(pack.number, partial(self._packs.punch, pack, ranges))
                for pack, ranges in by_pack.items()
            ]
            for job in jobs:
                await job
            self._packs.given_back(piece)
            self._journal.activity.set()
            after = piece[-1].key
