"""What documents hold in memory, together, and who is given up when others wait for it."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from pinfold.model.limits import MIB
from tests.s3.world import TINY, Answer, World
from tests.twins.virtual import run_virtual

LARGE = b"<Delete>%s</Delete>" % (b"<Object><Key>%s</Key></Object>" % (b"k" * 1020) * 1000)
SETTINGS = msgspec.structs.replace(
    TINY, document_memory_bytes=4 * MIB, stall_patience_s=5.0, requests_in_flight_max=1024
)


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(await World(SETTINGS).begin())

    run_virtual(run)


async def for_ever() -> None:
    await asyncio.Event().wait()


async def soon() -> None:
    await asyncio.sleep(1)


def delete(
    world: World, body: bytes = LARGE, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> asyncio.Task[Answer]:
    call = world.call("POST", "/bucket", body, query="delete=", meanwhile=meanwhile)
    return asyncio.ensure_future(call)


def test_documents_that_never_come_hold_bounded_memory_and_make_room_for_one_that_does() -> None:
    async def story(world: World) -> None:
        documents = world.service.store.documents
        stalled = [delete(world, meanwhile=for_ever) for _ in range(200)]
        await asyncio.sleep(1)
        assert 3 * MIB < documents.memory_taken <= 4 * MIB
        refused = [one.result() for one in stalled if one.done()]
        assert len(refused) == 200 - 4 - 64  # four fit, and so many may wait
        assert {(answer.status, answer.code) for answer in refused} == {(503, "SlowDown")}
        small = b"<Delete><Object><Key>k</Key></Object></Delete>"
        assert (await delete(world, small)).status == 200  # at once
        waited = [one for one in stalled if not one.done()]
        await asyncio.sleep(7.5)
        given_up = [one.result() for one in waited if one.done()]
        assert {(answer.status, answer.code) for answer in given_up} == {(400, "RequestTimeout")}
        assert len(given_up) == 4
        for one in stalled:
            one.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)
        assert documents.memory_taken == 0

    play(story)


def test_documents_that_come_wait_for_each_other() -> None:
    async def story(world: World) -> None:
        answers = await asyncio.gather(*(delete(world, meanwhile=soon) for _ in range(30)))
        assert [answer.status for answer in answers] == [200] * 30
        assert asyncio.get_running_loop().time() == 8  # four at a time
        assert world.service.store.documents.memory_taken == 0

    play(story)


def test_a_slow_document_has_its_time_as_long_as_nobody_waits() -> None:
    async def late() -> None:
        await asyncio.sleep(50)

    async def story(world: World) -> None:
        assert (await delete(world, meanwhile=late)).status == 200

    play(story)
