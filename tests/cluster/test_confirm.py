"""Confirming a view: every question ends, whoever answers last."""

import asyncio

from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.confirm import CONFIRM, Confirmer
from pinfold.model.errors import PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName
from pinfold.rpc.api import Answer
from tests.cluster.group_cluster import FixedMembership
from tests.twins.virtual import VirtualClock, run_virtual


class Members:
    """`Peers` whose answers are given by hand, node by node."""

    def __init__(self) -> None:
        self.asked: dict[NodeName, asyncio.Future[Answer]] = {}

    def call(self, node, operation, body=None, payload=(), *, deadline):
        assert operation == CONFIRM
        self.asked[node] = asyncio.get_running_loop().create_future()
        return self.asked[node]

    def confirm(self, node: str) -> None:
        self.asked.pop(NodeName(node)).set_result(Answer(None, memoryview(b"")))

    def fail(self, node: str) -> None:
        self.asked.pop(NodeName(node)).set_exception(Unavailable("gone"))


def test_a_question_whose_last_answer_is_one_confirmation_too_few_ends() -> None:
    async def story() -> None:
        members = Members()
        ended: list[PinfoldError | None] = []
        confirmer = Confirmer(VirtualClock(), members, FixedMembership(5))  # type: ignore[arg-type]
        configuration = Configuration(members=tuple(map(DeviceId, range(1, 6))))
        confirmer.ask(GroupId(0), 1, DeviceId(1), configuration, ended.append)
        confirmer.flush()
        await asyncio.sleep(1)  # everybody is asked by now
        for node in ("n2", "n3", "n4"):
            members.fail(node)
            await asyncio.sleep(0.1)
        assert not ended
        members.confirm("n5")
        await asyncio.sleep(0.1)
        (error,) = ended
        assert isinstance(error, Unavailable)

    run_virtual(story)
