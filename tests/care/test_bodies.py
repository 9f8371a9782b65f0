"""What a broken member asks of care workers is refused, and never half understood."""

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from pinfold.care.copies import DESCRIBE, FETCH, LACKING, Copies
from pinfold.care.names import NAMES, NamesServer
from pinfold.care.replicator import MISSED, Replicator
from pinfold.cluster.blobs.client import HINT
from pinfold.model.errors import Invalid, NotFound
from pinfold.model.ids import Boot, NodeName
from pinfold.model.settings import CareSettings
from pinfold.rpc.api import Request
from pinfold.rpc.dispatch import Operations
from tests.cluster.group_cluster import env_for

BLOB = b"b" * 16


def answer(operation: str, body: Any) -> Any:
    """What an otherwise empty node answers; errors are raised."""

    async def scenario() -> Any:
        operations, unused = Operations(), SimpleNamespace(watch=lambda _: None)
        clock = env_for(1).clock
        groups = SimpleNamespace(led=list)
        Copies(unused, {}, operations)  # type: ignore[arg-type]
        NamesServer(clock, groups, operations)  # type: ignore[arg-type]
        Replicator(
            clock,
            unused,  # type: ignore[arg-type]
            operations,
            groups,  # type: ignore[arg-type]
            {},
            lambda: unused,  # type: ignore[arg-type,return-value]
            list,
            CareSettings(),
            lambda: None,
        )
        request = Request(NodeName("x"), Boot(1), operation, body, memoryview(b""), 9e9, 1)
        found = operations.run(request, 0.0)
        if inspect.iscoroutine(found):
            found = await found
        if isinstance(found, Exception):
            raise found
        return found

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (LACKING, None),
        (LACKING, [1, BLOB]),
        (LACKING, [1, [BLOB, b"short"]]),
        (LACKING, [-1, [BLOB]]),
        (DESCRIBE, [1]),
        (DESCRIBE, [1, "text"]),
        (FETCH, [1, BLOB, [2, 3]]),
        (FETCH, [1, b"", [[2, "n2"]]]),
        (FETCH, [1, BLOB, [[2, 3]]]),
        (NAMES, [1, 0, None, 10]),
        (NAMES, [1, 0, b"", -1]),
        (HINT, [BLOB, 5, [1], ["2"]]),
        (HINT, [BLOB, -5, [1], [2]]),
        (HINT, [b"", 5, [1], [2]]),
        (MISSED, 4),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(operation: str, body: Any) -> None:
    with pytest.raises(Invalid, match=operation):
        answer(operation, body)


@pytest.mark.parametrize(
    ("operation", "body"),
    [(LACKING, [1, [BLOB]]), (DESCRIBE, [1, BLOB]), (FETCH, [1, BLOB, [[2, "n2"]]])],
)
def test_a_device_that_is_elsewhere_is_said_to_be(operation: str, body: Any) -> None:
    with pytest.raises(NotFound, match="device 1 is not served here"):
        answer(operation, body)
