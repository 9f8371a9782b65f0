"""A device finds out, while a volume is held, that it has lost some of its extents."""

import asyncio

from pinfold.model.ids import VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.volumes.io import STATUS, Io
from tests.volumes.world import Client, World, pattern, play


def test_a_holder_at_rest_hears_of_it_and_makes_the_copy_whole() -> None:
    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        await client.flush()
        await asyncio.sleep(1)
        volume = VolumeId((await world.row()).id)
        world.devices[1].extents.lose(volume)
        async with asyncio.timeout(10 * world.settings.beat_s):
            await world.whole(1)
        assert world.contents(1, volume, range(1)) == [pattern(1)]

    play(story)


def test_which_parts_hold_data_is_then_asked_of_another_member() -> None:
    """Of a volume whose writes never rest, whose holder asks nothing else of the member."""

    async def story(world: World) -> None:
        client = Client(world.gateway().session)
        await client.write(0, pattern(1))
        world.devices[0].extents.lose(VolumeId((await world.row()).id))
        io = Io(STATUS, 0, EXTENT_BYTES, client)
        async with asyncio.timeout(world.settings.beat_s / 2):
            await client.ask(io)
        assert io.runs[0][1]
        assert await client.read(0, BLOCK_BYTES) == pattern(1)

    play(story)
