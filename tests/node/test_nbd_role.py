"""What failed behind an NBD gateway is told."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import CapturingLogger

from pinfold.nbd.counters import Counters
from pinfold.nbd.service import NbdService
from pinfold.node.roles.nbd import _NbdRole, _tell_errors


def test_background_errors_are_logged_once() -> None:
    log = CapturingLogger()
    errors: list[BaseException] = [OSError("first"), OSError("second")]

    async def run() -> None:
        task = asyncio.ensure_future(_tell_errors(errors, log))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert [call.kwargs["error"] for call in log.calls] == ["OSError('first')", "OSError('second')"]
    assert errors == []


def test_a_broken_assertion_ends_the_process() -> None:
    with pytest.raises(AssertionError, match="invariant"):
        asyncio.run(_tell_errors([AssertionError("invariant")], CapturingLogger()))  # type: ignore[arg-type]


def test_the_endpoint_is_told_as_clients_write_it() -> None:
    role = _NbdRole(cast(NbdService, SimpleNamespace(counters=Counters())), "tcp://127.0.0.1:7")
    assert role.status()["endpoint"] == "nbd://127.0.0.1:7"
