"""Whom a caller asks, and what it may conclude from the error it gets in the end."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pinfold.cluster.api import Change, Changed
from pinfold.cluster.groups.client import AWAY_S, RowClient
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Corrupt, Full, Invalid, NotPrimary, PinfoldError, Unavailable
from pinfold.model.ids import Boot, DeviceId, GroupId, NodeName, OpId
from pinfold.model.limits import CHANGE_DEADLINE_S
from pinfold.rpc.api import Answer
from tests.twins.virtual import VirtualClock, run_virtual


class Connected:
    """All nodes have a session until one is lost."""

    lost: frozenset[str] = frozenset()

    def connected(self, node: NodeName) -> bool:
        return node not in self.lost

    def watch(self, callback: Callable[[NodeName, bool, Boot], None]) -> None:
        self.tell = callback

    def lose(self, *nodes: str) -> None:
        self.lost = frozenset(nodes)
        for node in nodes:
            self.tell(NodeName(node), False, Boot(1))


class Answers(Connected):
    """Peers that refuse as they were told, the last refusal for ever."""

    def __init__(self, errors: Sequence[PinfoldError]) -> None:
        self._errors = list(errors)

    def call(self, *_arguments: Any, **_options: Any) -> asyncio.Future[Any]:
        error = self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future


class Nodes(Connected):
    """Peers that answer or refuse by name."""

    def __init__(self, answers: dict[str, Answer | PinfoldError]) -> None:
        self._answers = answers

    def call(self, node: NodeName, *_arguments: Any, **_options: Any) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer = self._answers[node]
        if isinstance(answer, PinfoldError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


class Three:
    def members(self, _group: GroupId) -> tuple[DeviceId, ...]:
        return (DeviceId(1), DeviceId(2), DeviceId(3))

    def founding(self) -> bool:
        return True

    def node_of(self, device: DeviceId) -> NodeName:
        return NodeName(f"n{device}")


BUSY = Busy("too many changes wait")
FULL = Full("no room")
WRONG = Invalid("no such counter")
ROTTEN = Corrupt("a row does not decode")
SILENT = Unavailable("no answer in time")
FOLLOWER = NotPrimary("another leads", detail=(5, 2, (1, 2, 3)))
FOLLOWER_OF_3 = NotPrimary("another leads", detail=(5, 3, (1, 2, 3)))
CHANGE = Change(op_id=OpId(bytes(16)), puts=())


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([BUSY], Busy),
        ([FULL], Full),
        ([SILENT, BUSY], Unavailable),
        ([FOLLOWER, BUSY], Busy),
        ([FOLLOWER, FULL], Full),
        ([SILENT, FULL], Unavailable),
        ([BUSY, FULL], Full),
        ([FOLLOWER], Unavailable),
        ([WRONG], Invalid),
        ([SILENT, WRONG], Unavailable),
        ([ROTTEN], Corrupt),
        ([SILENT, ROTTEN], Unavailable),
    ],
)
def test_a_change_that_may_have_happened_is_never_called_refused(
    errors: list[PinfoldError], told: type[PinfoldError]
) -> None:
    """Whoever is refused gives back the bytes that the change would have named."""

    async def story() -> None:
        with pytest.raises(told):
            await client_of(Answers(errors)).change(b"p", CHANGE)

    run_virtual(story)


@pytest.mark.parametrize("view", [3, 5, 9])
def test_a_member_that_was_left_behind_in_its_own_view_is_not_asked_for_ever(view: int) -> None:
    """It lost its memory, so it leads nothing, and nobody tells it of later views."""

    async def story() -> None:
        left_behind = NotPrimary("lost", detail=(view, 1, (1, 2, 3)))
        served = Answer((7, 8), memoryview(b""))
        client = client_of(Nodes({"n1": left_behind, "n2": FOLLOWER_OF_3, "n3": served}))
        for _ in range(3):
            assert await client.change(b"p", CHANGE) == Changed(7, 8)

    run_virtual(story)


def test_nodes_that_have_just_come_into_the_map_are_waited_for() -> None:
    """They have had no session as long as this process runs, and nobody looked for one."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        peers = Nodes({"n1": SILENT, "n2": SILENT, "n3": SILENT})
        client = client_of(peers)
        peers.lost = frozenset(("n2", "n3"))
        await asyncio.sleep(10 * AWAY_S)
        began = loop.time()
        with pytest.raises(Unavailable):
            await client.change(b"p", CHANGE)
        assert AWAY_S <= loop.time() - began < AWAY_S + 1

    run_virtual(story)


def test_without_a_majority_in_reach_nobody_waits_for_the_deadline() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        peers = Nodes({"n1": SILENT, "n2": SILENT, "n3": SILENT})
        client = client_of(peers)
        peers.lose("n2")  # a majority has sessions still: it may answer yet
        began = loop.time()
        with pytest.raises(Unavailable):
            await client.change(b"p", CHANGE)
        assert loop.time() - began > CHANGE_DEADLINE_S - 1
        peers.lose("n2", "n3")  # a restart is waited for
        began = loop.time()
        with pytest.raises(Unavailable):
            await client.change(b"p", CHANGE)
        assert AWAY_S <= loop.time() - began < AWAY_S + 1
        began = loop.time()
        with pytest.raises(Unavailable):
            await client.change(b"p", CHANGE)
        assert loop.time() - began < 0.1

    run_virtual(story)


def client_of(peers: Any) -> RowClient:
    unused: Any = None
    env = Env(
        clock=VirtualClock(), rng=random.Random(1), disk=unused, net=unused, new_offload=unused
    )
    return RowClient(env, peers, Three(), lambda _place: GroupId(0))
