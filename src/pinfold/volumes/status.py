"""Which parts of a volume hold data: asked of the members, a hint that never lies about zeroes.

A part told as a hole reads as zeroes unless somebody writes to it meanwhile. What is not known (an
extent that is not settled) is told as data.
"""

from collections.abc import Sequence
from typing import Final

from pinfold.cluster.extents import ExtentClient
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.limits import EXTENT_BYTES
from pinfold.volumes.copies import Holder
from pinfold.volumes.io import Io
from pinfold.volumes.lane import Lane
from pinfold.volumes.sequencer import Sequencer
from pinfold.volumes.spans import EXTENT_SHIFT, split

EXTENTS_MAX: Final = 1024
"""Extents looked at for one answer (4 GiB, all that a request can name)."""

RUNS_MAX: Final = 4096
"""Runs in one answer: 32 KiB; the client asks again for the rest."""


async def find_runs(
    holder: Holder, sequencer: Sequencer, client: ExtentClient, io: Io, deadline: float
) -> Sequence[tuple[int, bool]]:
    """(length, holds data) runs from the request's offset on; at least one.

    Fails with what the members' calls fail with, and Unavailable when no member can be asked.
    """
    pieces = split(io.offset, io.length)[:EXTENTS_MAX]
    asked: dict[Lane, list[int]] = {}
    for extent, _within, _length in pieces:
        if extent not in sequencer.unsettled:
            asked.setdefault(_source(sequencer, extent), []).append(extent)
    held: dict[int, list[tuple[int, int]]] = {}
    for lane, extents in asked.items():
        stream = lane.stream
        try:
            found = await client.allocated(holder.address(lane), extents, deadline=deadline)
        except PinfoldError as error:
            holder.failed(lane, stream, error)
            raise
        if len(found) != len(extents):
            raise Unavailable(f"runs of {len(found)} extents answered for {len(extents)}")
        held.update(zip(extents, found, strict=True))
    runs = Runs()
    for extent, within, length in pieces:
        runs.add(within, length, held.get(extent, [(0, EXTENT_BYTES)]))
        if len(runs.found) > (1 if io.first_only else RUNS_MAX):
            break
    return runs.found[: 1 if io.first_only else RUNS_MAX]


def _source(sequencer: Sequencer, extent: int) -> Lane:
    for lane in sequencer.route(extent).readers:
        if not lane.backlog:
            return lane
    raise Unavailable(f"no member of extent {extent} can be asked")


class Runs:
    """Runs of data and holes, neighbours of a kind merged."""

    def __init__(self) -> None:
        self.found: list[tuple[int, bool]] = []

    def add(self, within: int, length: int, held: Sequence[tuple[int, int]]) -> None:
        """Append [within, within + length) of an extent that holds data in `held`, in order."""
        position, end = within, within + length
        for offset, size in held:
            first, last = max(offset, position), min(offset + size, end)
            if first < last:
                self._append(first - position, data=False)
                self._append(last - first, data=True)
                position = last
        self._append(end - position, data=False)

    def _append(self, length: int, *, data: bool) -> None:
        if not length:
            return
        if self.found and self.found[-1][1] == data:
            self.found[-1] = (self.found[-1][0] + length, data)
        else:
            self.found.append((length, data))


assert EXTENTS_MAX << EXTENT_SHIFT >= 1 << 32
