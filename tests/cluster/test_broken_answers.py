"""What a broken member answers is an error to whoever asked, and never keeps it waiting."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pinfold.cluster.api import BlobRef, Change
from pinfold.cluster.blobs.client import BlobClient
from pinfold.cluster.extents import Address, ExtentClient
from pinfold.cluster.groups.client import RowClient
from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.confirm import Confirmer
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Conflict, Corrupt, NotPrimary, PinfoldError, Unavailable
from pinfold.model.ids import Boot, DeviceId, GroupId, NodeName, Token, VolumeId
from pinfold.model.settings import BlobSettings
from pinfold.rpc.api import Answer
from tests.cluster.group_cluster import FixedMembership, env_for
from tests.twins.virtual import VirtualClock, run_virtual

WEIRD: list[Any] = [None, 5, -1, "x", [], [[]], {"a": 1}, [1, None, 2], [[1, 2, 3, 4]], 1 << 63]
PAYLOADS = [b"", b"\xc1", b"\x91\x92\x05\x06", b"x" * 100]
VOLUME = VolumeId(b"v" * 16)
ADDRESS = Address(DeviceId(1), Boot(1), VOLUME, Token(1), 1)


class Parrot:
    """Peers that all give the one answer, or error."""

    def __init__(self, answer: Answer | PinfoldError) -> None:
        self.answer = answer

    def connected(self, _node: NodeName) -> bool:
        return True

    def watch(self, _callback: Any) -> None:
        """No session is ever lost."""

    def call(self, *_arguments: Any, **_named: Any) -> "asyncio.Future[Answer]":
        future = asyncio.get_running_loop().create_future()
        if isinstance(self.answer, Answer):
            future.set_result(self.answer)
        else:
            future.set_exception(type(self.answer)("no", detail=self.answer.detail))
        return future


async def demand_error(asked: Awaitable[Any]) -> None:
    async with asyncio.timeout(60):
        try:
            await asked
        except PinfoldError as error:
            told = error
        else:
            return  # it happened to make sense
    assert type(told) is not PinfoldError


def rows(parrot: Parrot) -> RowClient:
    return RowClient(env_for(1), parrot, FixedMembership(3), lambda _place: GroupId(0))  # type: ignore[arg-type]


CALLS: dict[str, Callable[[Parrot], Awaitable[Any]]] = {
    "get": lambda parrot: rows(parrot).get(b"p", b"k"),
    "scan": lambda parrot: rows(parrot).scan(b"p", b"", None, 10),
    "change": lambda parrot: rows(parrot).change(b"p", Change(b"o" * 16)),
    "claim": lambda parrot: extents(parrot).claim(DeviceId(1), VOLUME, Token(1), 1, deadline=5.0),
    "marks": lambda parrot: extents(parrot).marks(ADDRESS, -1, dirty=True, deadline=5.0),
    "opening": lambda parrot: extents(parrot).opening(DeviceId(1), deadline=5.0),
    "allocated": lambda parrot: extents(parrot).allocated(ADDRESS, [1], deadline=5.0),
}


def extents(parrot: Parrot) -> ExtentClient:
    return ExtentClient(parrot, lambda _device: NodeName("n1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("body", WEIRD, ids=repr)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_answer_of_another_shape_is_an_error(
    call: Callable[[Parrot], Awaitable[Any]], body: Any
) -> None:
    async def story() -> None:
        for payload in PAYLOADS:
            await demand_error(call(Parrot(Answer(body, memoryview(payload)))))

    run_virtual(story)


@pytest.mark.parametrize("detail", WEIRD, ids=repr)
@pytest.mark.parametrize("kind", [NotPrimary, Conflict])
def test_a_detail_of_another_shape_tells_nothing(kind: type[PinfoldError], detail: Any) -> None:
    async def story() -> None:
        with pytest.raises(Unavailable):
            async with asyncio.timeout(60):
                await rows(Parrot(kind("no", detail=detail))).get(b"p", b"k")

    run_virtual(story)


def test_a_blob_of_another_length_is_asked_for_elsewhere() -> None:
    """The answer came in a callback, where a failed assertion left the reader waiting for ever."""

    class Everywhere:
        def primaries(self, _key: bytes) -> tuple[DeviceId, ...]:
            return DeviceId(1), DeviceId(2), DeviceId(3)

        def handoffs(self, _key: bytes) -> Iterator[DeviceId]:
            return iter(())

        def node_of(self, device: DeviceId) -> NodeName:
            return NodeName(f"n{device}")

    async def story() -> None:
        scope = TaskScope(lambda _error: None)
        parrot = Parrot(Answer(None, memoryview(b"short")))
        client = BlobClient(env_for(1), parrot, Everywhere, BlobSettings(), scope)  # type: ignore[arg-type]
        reference = BlobRef(b"b" * 16, 100, (1, 2, 3))
        with pytest.raises(Corrupt):
            async with asyncio.timeout(60):
                await client.read(reference, 0, 100)
        await scope.close()

    run_virtual(story)


def test_a_confirmation_that_is_none_counts_as_a_failure() -> None:
    async def story() -> None:
        told: list[PinfoldError | None] = []
        parrot = Parrot(Answer(5, memoryview(b"")))
        confirmer = Confirmer(VirtualClock(), parrot, FixedMembership(3))  # type: ignore[arg-type]
        configuration = Configuration(number=1, members=(DeviceId(1), DeviceId(2), DeviceId(3)))
        confirmer.ask(GroupId(0), 1, DeviceId(1), configuration, told.append)
        confirmer.flush()
        await asyncio.sleep(30)
        assert len(told) == 1
        assert isinstance(told[0], Unavailable)

    run_virtual(story)
