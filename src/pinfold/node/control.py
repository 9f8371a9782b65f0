"""The supervisor's own socket: one process of this machine is stopped, started or restarted.

A request is a line of JSON, so is its answer, on a Unix socket in the cluster's private directory:
whoever may read the cluster's secrets may do this. Whether it is wise is asked before, of the admin
API, which knows the cluster (`admin.stopping`).
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import BY_CODE, PinfoldError, Unavailable
from pinfold.model.ids import NodeName
from pinfold.node.layout import Layout

LINE_BYTES_MAX: Final = 4096

ANSWER_S: Final = 90.0
"""For a command to end: a stop may take the whole drain time, a start some recovery."""

Command = Literal["stop", "start", "restart"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done to one process."""

    command: Command
    node: str


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Empty when it was done."""

    code: str = ""
    message: str = ""


Obey = Callable[[Command, NodeName], Awaitable[None]]
"""Carries an order out; a PinfoldError goes back to who gave it."""


async def serve_control(layout: Layout, obey: Obey) -> asyncio.Server:
    """Listen for orders until the server is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            outcome = await _outcome(line, obey)
            writer.write(msgspec.json.encode(outcome) + b"\n")
            await writer.drain()
        except (ConnectionError, ValueError):
            return  # who asked has gone, or what it sent has no end
        finally:
            writer.close()

    path = _path(layout)
    path.unlink(missing_ok=True)  # the data directory's lock says that nobody else serves it
    return await asyncio.start_unix_server(answer, path, limit=LINE_BYTES_MAX)


async def _outcome(line: bytes, obey: Obey) -> _Outcome:
    try:
        order = msgspec.json.decode(line, type=Order)
        await obey(order.command, NodeName(order.node))
    except PinfoldError as error:
        return _Outcome(code=error.code, message=error.message)
    except UNREADABLE as error:
        return _Outcome(code="invalid", message=f"not an order: {error}")
    return _Outcome()


def give_order(layout: Layout, order: Order) -> None:
    """Have the supervisor of this machine do it; blocks until it is done.

    Raises what it answers, and Unavailable when no `pinfold up` runs here.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWER_S)
        try:
            client.connect(str(_path(layout)))
            client.sendall(msgspec.json.encode(order) + b"\n")
            with client.makefile("rb") as answers:
                line = answers.readline(LINE_BYTES_MAX)
        except OSError as error:
            raise Unavailable(
                f"no supervisor answers for {layout.root} ({error}): start it with `pinfold up`"
            ) from error
    try:
        outcome = msgspec.json.decode(line, type=_Outcome)
    except UNREADABLE as error:
        raise Unavailable(f"the supervisor's answer makes no sense: {error}") from error
    if outcome.code:
        raise BY_CODE.get(outcome.code, PinfoldError)(outcome.message)


def _path(layout: Layout) -> Path:
    return layout.socket_dir() / "supervisor.sock"
