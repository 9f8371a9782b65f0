"""Ask every process of the cluster at once. A process that does not answer in time is left out."""

import asyncio
from collections.abc import Mapping
from typing import Final

from pinfold.admin.api import View, VolumeAdmin
from pinfold.cluster.map import MapStore
from pinfold.env.api import Clock
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import NodeName
from pinfold.rpc.api import Answer, Peers

ANSWER_S: Final = 1.0
"""How long a process may take to tell its state; a dead one costs an operator this much."""

ROWS_S: Final = 1.0
"""How long a status waits for rows: when no majority of a group serves it goes without them."""


class Gatherer:
    """The cluster as its processes see it, at this moment."""

    def __init__(self, clock: Clock, map_store: MapStore, peers: Peers) -> None:
        self._clock = clock
        self._map = map_store
        self._peers = peers

    async def statuses(self) -> Mapping[str, dict[str, object]]:
        """`node.status` of every process that answers."""
        answers = await self._ask("node.status")
        return {name: one.body for name, one in answers.items() if isinstance(one.body, dict)}

    async def metrics(self) -> Mapping[str, str]:
        """The Prometheus text of every process that answers."""
        answers = await self._ask("node.metrics")
        return {name: str(answer.payload, "utf-8", "replace") for name, answer in answers.items()}

    async def _ask(self, operation: str) -> dict[str, Answer]:
        deadline = self._clock.monotonic() + ANSWER_S
        calls = {
            name: self._peers.call(NodeName(name), operation, deadline=deadline)
            for name in self._map.get().nodes
        }
        answers = {}
        for name, call in calls.items():
            try:
                answers[name] = await call
            except PinfoldError:
                continue
        return answers


async def volumes_or_none(volumes: VolumeAdmin) -> list[View] | None:
    """The volumes, or None when their rows cannot be read now: a status is never refused."""
    try:
        async with asyncio.timeout(ROWS_S):
            return await volumes.list()
    except (PinfoldError, TimeoutError):
        return None
