"""What a caller may conclude from the error it gets in the end."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from pinfold.cluster.api import Change
from pinfold.cluster.groups.client import RowClient
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Full, NotPrimary, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName, OpId
from tests.twins.virtual import VirtualClock, run_virtual


class Answers:
    """Peers that refuse as they were told, the last refusal for ever."""

    def __init__(self, errors: Sequence[PinfoldError]) -> None:
        self._errors = list(errors)

    def call(self, *_arguments: Any, **_options: Any) -> asyncio.Future[Any]:
        error = self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
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
SILENT = Unavailable("no answer in time")
FOLLOWER = NotPrimary("another leads", detail=(5, 2, (1, 2, 3)))


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
    ],
)
def test_a_change_that_may_have_happened_is_never_called_refused(
    errors: list[PinfoldError], told: type[PinfoldError]
) -> None:
    """Whoever is refused gives back the bytes that the change would have named."""

    async def story() -> None:
        unused: Any = None
        env = Env(
            clock=VirtualClock(),
            rng=random.Random(1),
            disk=unused,
            net=unused,
            new_offload=unused,
        )
        peers: Any = Answers(errors)
        client = RowClient(env, peers, Three(), lambda _place: GroupId(0))
        with pytest.raises(told):
            await client.change(b"p", Change(op_id=OpId(bytes(16)), puts=()))

    run_virtual(story)
