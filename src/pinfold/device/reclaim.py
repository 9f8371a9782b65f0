"""Gives the space of freed slots back, piece by piece, beside the applier's passes.

A piece is punched once the commit that freed its slots is durable and every read begun before has
ended. The next pass flushes the arena, and then its slots can be handed out again; a crash before
that has them punched once more.
"""

import asyncio

from pinfold.device.arena import Arena
from pinfold.device.health import Health
from pinfold.device.journal import Journal
from pinfold.device.readers import Readers
from pinfold.device.slots import Slots
from pinfold.env.api import Offload


class Reclaim:
    """See the module."""

    def __init__(
        self,
        slots: Slots,
        arena: Arena,
        readers: Readers,
        lane: Offload,
        journal: Journal,
        health: Health,
    ) -> None:
        self._slots = slots
        self._arena = arena
        self._readers = readers
        self._lane = lane
        self._journal = journal
        self._health = health
        self._committed = asyncio.Event()

    def committed(self) -> None:
        """The slots that the last pass freed are free in the index too, durably."""
        self._slots.committed()
        self._committed.set()

    async def run(self) -> None:
        """Work off what is held, until cancelled or until the device stops."""
        try:
            while not self._health.reason:
                await self._committed.wait()
                self._committed.clear()
                while runs := self._slots.piece():
                    await self._readers.drain()
                    await self._lane(self._arena.punch, runs)
                    self._slots.given_back(runs)
                    self._journal.activity.set()
        except OSError as error:
            self._health.stop(f"arena: {error}")
