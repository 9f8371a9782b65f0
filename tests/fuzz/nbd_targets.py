"""The NBD front end against clients that have lost the thread."""

import asyncio
import struct
from collections import Counter
from typing import Any

from pinfold.model.settings import NbdSettings
from pinfold.nbd import protocol as nbd
from pinfold.nbd.connection import Connection
from pinfold.nbd.counters import Counters
from pinfold.nbd.handshake import (
    Action,
    Close,
    ExportFacts,
    Handshake,
    ListExports,
    Lookup,
    Send,
    Transmit,
    greeting,
)
from pinfold.nbd.window import Window
from pinfold.volumes.io import READ, STATUS, Io, Owner
from pinfold.volumes.row import Told
from tests.fuzz.harness import KIB, MIB, Target
from tests.fuzz.mutations import mutated, raw_or
from tests.fuzz.wires import MemoryWire
from tests.twins.virtual import run_virtual

SIZE = 1 * MIB
PATIENCE_TICKS = 1000
"""A client that is not read for so long never will be: each request takes a tick or two."""
FACTS = ExportFacts(name="v", told=Told(b"", SIZE), description="what it is")
SETTINGS = NbdSettings(connection_bytes=256 * KIB, total_bytes=512 * KIB, stall_patience_s=1.0)


def _option(number: int, body: bytes = b"") -> bytes:
    return nbd.OPTION.pack(nbd.OPTION_MAGIC, number, len(body)) + body


def _text(name: str) -> bytes:
    return struct.pack(">I", len(name)) + name.encode()


def _request(command: int, offset: int, length: int, cookie: int, flags: int = 0) -> bytes:
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, command, cookie, offset, length)


FLAGS = nbd.CLIENT_FLAGS.pack(3)
STRUCTURED = _option(nbd.OPT_STRUCTURED_REPLY)
CONTEXT = _option(
    nbd.OPT_SET_META_CONTEXT, _text("v") + struct.pack(">I", 1) + _text("base:allocation")
)
GO = _option(nbd.OPT_GO, _text("v") + struct.pack(">HHH", 2, 1, 3))
OPTIONS = (
    STRUCTURED,
    CONTEXT,
    _option(nbd.OPT_LIST),
    _option(nbd.OPT_INFO, _text("other") + struct.pack(">H", 0)),
    _option(nbd.OPT_STARTTLS),
    _option(nbd.OPT_ABORT),
    _option(nbd.OPT_LIST_META_CONTEXT, _text("v") + struct.pack(">I", 0)),
    _option(99, bytes(70_000)),
    GO,
    _option(nbd.OPT_EXPORT_NAME, b"v"),
)
REQUESTS = (
    _request(nbd.CMD_READ, 0, 4096, 1),
    _request(nbd.CMD_WRITE, 512, 1000, 2, nbd.CMD_FLAG_FUA) + bytes(1000),
    _request(nbd.CMD_WRITE, 0, 140 * KIB, 3) + bytes(140 * KIB),
    _request(nbd.CMD_FLUSH, 0, 0, 4),
    _request(nbd.CMD_TRIM, 4096, 8192, 5),
    _request(nbd.CMD_WRITE_ZEROES, 0, SIZE, 6, nbd.CMD_FLAG_NO_HOLE),
    _request(nbd.CMD_BLOCK_STATUS, 0, SIZE, 7, nbd.CMD_FLAG_REQ_ONE),
    _request(nbd.CMD_CACHE, 0, 0xFFFFFFFF, 8),
    _request(nbd.CMD_READ, SIZE - 1, 2, 9, nbd.CMD_FLAG_DF),
    _request(nbd.CMD_READ, (1 << 64) - 1, 1, 10),
    _request(nbd.CMD_DISC, 0, 0, 11),
)
HAGGLING = [FLAGS + b"".join(OPTIONS[:9]), FLAGS + OPTIONS[9], FLAGS + b"".join(OPTIONS[6:9])]
CONVERSATIONS = [
    FLAGS + STRUCTURED + CONTEXT + GO + b"".join(REQUESTS),
    FLAGS + GO + b"".join(REQUESTS[:2] + REQUESTS[3:]),
    FLAGS + OPTIONS[9] + b"".join(REQUESTS[3:]),
    FLAGS + GO + b"".join(_request(nbd.CMD_READ, 0, 64 * KIB, n) for n in range(30)),
]
TOKENS = (*OPTIONS, *REQUESTS)


def _haggle(data: bytes, piece: int) -> tuple[bytes, list[str], bytes]:
    """(bytes sent, decisions, what is left for the transmission) of one handshake."""
    handshake = Handshake()
    sent, decisions = bytearray(), []
    for at in range(0, len(data), piece):
        queue: list[Action] = handshake.receive(data[at : at + piece])
        while queue:
            action = queue.pop(0)
            match action:
                case Send(reply):
                    sent += reply
                case Lookup(name):
                    queue += handshake.resolved(FACTS if name == "v" else None)
                case ListExports():
                    queue += handshake.listed(["v", "é"])
                case Close():
                    return bytes(sent), [*decisions, "close"], b""
                case Transmit():
                    decisions.append(f"transmit {action.structured} {action.allocation}")
                    return bytes(sent), decisions, action.rest + data[at + piece :]
    return bytes(sent), decisions, b""


def run_handshake(data: bytes) -> str:
    """However the bytes are cut, the same replies and the same decision come of them."""
    whole, cut = _haggle(data, len(data) or 1), _haggle(data, 1 + len(data) % 13 + len(data) // 500)
    assert whole == cut
    return f"{whole[1]} {_option_replies(whole[0])}"


def _option_replies(sent: bytes) -> str:
    """A letter for each kind of reply to an option."""
    kinds, at = set(), 0
    while len(sent) >= at + nbd.OPTION_REPLY.size:
        magic, _option, kind, length = nbd.OPTION_REPLY.unpack_from(sent, at)
        if magic != nbd.REPLY_MAGIC:
            break  # the answer to EXPORT_NAME has no head
        kinds.add(chr(ord("a" if kind < 1 << 31 else "A") + kind % 32))
        at += nbd.OPTION_REPLY.size + length
    return "".join(sorted(kinds))


class MemoryDesk:
    """A service with one export in memory, which answers a tick later."""

    def __init__(self) -> None:
        self.settings = SETTINGS
        self.window = Window(SETTINGS.total_bytes)
        self.counters = Counters()
        self.memory = bytearray(SIZE)
        self.went = 0

    def lookup(self, connection: Connection, name: str) -> None:
        facts = FACTS if name in ("v", "") else None
        asyncio.get_running_loop().call_soon(connection.resolved, facts)

    def list_exports(self, connection: Connection) -> None:
        asyncio.get_running_loop().call_soon(connection.listed, ["v"])

    def attach(self, _connection: Connection, _facts: ExportFacts) -> "MemoryDesk":
        return self

    def gone(self, _connection: Connection) -> None:
        self.went += 1

    def withdraw(self, _owner: Owner) -> None:
        return

    def submit(self, ios: list[Io]) -> None:
        for io in ios:
            assert 0 <= io.offset <= io.offset + io.length <= SIZE, "judged before it comes here"
            if io.kind == READ:
                io.parts = [bytes(self.memory[io.offset : io.offset + io.length])]
            elif io.kind == STATUS:
                io.runs = [(io.length, True)]
        asyncio.get_running_loop().call_soon(ios[0].owner.finished, ios)


async def _converse(data: bytes) -> tuple[bytes, bytes, MemoryWire, MemoryDesk]:
    """(sent, not read, wire, desk) when all has come to rest."""
    desk = MemoryDesk()
    wire = MemoryWire(Connection(desk))
    assert bytes(wire.sent[: len(greeting())]) == greeting()
    unread, patience = len(data), PATIENCE_TICKS
    while data and not wire.closing:
        data = wire.feed(data, 64 * KIB)
        await asyncio.sleep(0)
        patience = patience - 1 if len(data) == unread else PATIENCE_TICKS
        unread = len(data)
        assert patience, "what is sent is read in the end"
    await asyncio.sleep(0.01)
    sent = bytes(wire.sent[len(greeting()) :])
    return sent, data, wire, desk


def run_connection(data: bytes) -> str:
    """Every request understood is answered once; memory is given back when the client is gone."""

    async def story() -> str:
        _sent, _agreed, rest = _haggle(data, len(data) or 1)
        sent, _left, wire, desk = await _converse(data)
        outcome = "ended" if wire.closing else "open"
        if _agreed and _agreed[-1].startswith("transmit"):
            cookies, sane, commands = _cookies(rest)
            structured = _agreed[-1].startswith("transmit True")
            answers = _answers(sent, structured, cookies)
            if sane:
                assert Counter(answers) == Counter(cookies)
            outcome += f" {commands} {sane} {len(answers) == len(cookies)}"
        wire.end()
        assert desk.window.used == 0
        assert desk.went == 1
        assert desk.counters.connections == 0
        again, _, other, _ = await _converse(FLAGS + GO + REQUESTS[0])
        assert again.endswith(bytes(4096)) and not other.closing
        other.end()
        return outcome

    return run_virtual(story)


def _cookies(rest: bytes) -> tuple[list[int], bool, str]:
    """The cookies of the requests, whether all of it can be understood, letters of commands."""
    cookies: list[int] = []
    commands: set[str] = set()
    at, sane = 0, True
    while len(rest) >= at + nbd.REQUEST.size:
        magic, _flags, command, cookie, _offset, length = nbd.REQUEST.unpack_from(rest, at)
        if magic != nbd.REQUEST_MAGIC or (command == nbd.CMD_WRITE and length > 32 * MIB):
            sane = False
            break
        size = nbd.REQUEST.size + (length if command == nbd.CMD_WRITE else 0)
        commands.add(chr(ord("a") + min(command, 25)))
        if command == nbd.CMD_DISC:
            sane = False  # it may leave before its last answers
            break
        if len(rest) < at + size:
            break
        cookies.append(cookie)
        at += size
    return cookies, sane, "".join(sorted(commands))


def _answers(sent: bytes, structured: bool, cookies: list[int]) -> list[int]:
    """The cookies answered, read off the end of what was sent."""
    # Option replies come first: the transmission's begin at the first reply magic of its kind.
    magic = nbd.CHUNK_MAGIC if structured else nbd.SIMPLE_REPLY_MAGIC
    start = sent.find(struct.pack(">I", magic))
    if start < 0 or not cookies:
        return []
    return list(_structured(sent[start:]) if structured else _simple(sent[start:]))


def _structured(sent: bytes) -> Any:
    at = 0
    while at < len(sent):
        magic, _flags, _kind, cookie, length = nbd.CHUNK.unpack_from(sent, at)
        assert magic == nbd.CHUNK_MAGIC
        yield cookie
        at += nbd.CHUNK.size + length


def _simple(sent: bytes) -> Any:
    """The payload of a simple reply has no length: it is all zeroes here."""
    start = struct.pack(">I", nbd.SIMPLE_REPLY_MAGIC)
    at = 0
    while at < len(sent):
        magic, _error, cookie = nbd.SIMPLE_REPLY.unpack_from(sent, at)
        assert magic == nbd.SIMPLE_REPLY_MAGIC
        yield cookie
        behind = sent.find(start, at + nbd.SIMPLE_REPLY.size)
        payload = sent[at + nbd.SIMPLE_REPLY.size : None if behind < 0 else behind]
        assert not payload.strip(b"\0")
        at += nbd.SIMPLE_REPLY.size + len(payload)


TARGETS = (
    Target(
        name="nbd-handshake",
        inputs=raw_or(mutated(HAGGLING, TOKENS)),
        run=run_handshake,
        examples=200,
    ),
    Target(
        name="nbd-connection",
        inputs=raw_or(mutated(CONVERSATIONS, TOKENS)),
        run=run_connection,
        examples=60,
        memory_bytes=34 * MIB,
    ),
)
