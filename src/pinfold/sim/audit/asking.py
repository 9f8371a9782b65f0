"""Asking an open device for what it holds of a volume: marks, tokens, and blocks that verify."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pinfold.device.api import ExtentStore, Mark
from pinfold.model.errors import Corrupt, Fenced
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES

EVERYTHING: Final = 1 << 30

_RUN: Final = 64
"""Blocks read at once."""

Place = tuple[int, int]
"""Extent and block within it."""


def runs_of(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Blocks that are neighbours."""
    run: list[Place] = []
    for extent, block in sorted(places):
        if run and (len(run) == _RUN or run[-1] != (extent, block - 1)):
            yield run
            run = []
        run.append((extent, block))
    if run:
        yield run


def token_of(extents: ExtentStore, volume: VolumeId, tokens: Sequence[int]) -> Token | None:
    """Which of these a device knows as the highest: it refuses all others."""
    for token in map(Token, tokens):
        try:
            dirty_marks(extents, volume, token)
        except Fenced:
            continue
        return token
    return None


def dirty_marks(extents: ExtentStore, volume: VolumeId, token: Token) -> list[Mark]:
    """The dirty ones."""
    return extents.marks(volume, token, -1, EVERYTHING, dirty=True)


async def read_run(
    extents: ExtentStore, volume: VolumeId, token: Token, run: Sequence[Place]
) -> dict[Place, bytes]:
    """Blocks that are neighbours, without those that fail verification."""
    extent, block = run[0]
    try:
        found = extents.read(volume, token, [(extent, block * BLOCK_BYTES, len(run) * BLOCK_BYTES)])
        content = b"".join(await found if isinstance(found, asyncio.Future) else found)
    except Corrupt:
        if len(run) == 1:
            return {}
        singly = [await read_run(extents, volume, token, [place]) for place in run]
        return {place: content for one in singly for place, content in one.items()}
    return {
        place: content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES] for at, place in enumerate(run)
    }
