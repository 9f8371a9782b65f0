"""The handshake of one connection as a synchronous machine: bytes in, bytes and a decision out.

Fixed newstyle only. What the machine needs to know about exports it asks for with `Lookup` and
`ListExports`; the shell answers with `resolved` or `listed`, and until then no option is read:
the protocol forbids clients to send a second option before the first one's last reply.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pinfold.model.limits import NBD_REQUEST_BYTES
from pinfold.nbd import protocol as nbd
from pinfold.volumes.row import Told


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What the handshake tells of an export."""

    name: str
    told: Told
    description: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """Answer with `resolved`."""

    name: str


@dataclass(frozen=True, slots=True)
class ListExports:
    """Answer with `listed`."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection when everything is sent."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """The handshake is over; whatever follows in the buffer belongs to the transmission."""

    facts: ExportFacts
    structured: bool
    allocation: bool
    """`base:allocation` was negotiated: block status may be asked."""
    rest: bytes


Action = Send | Lookup | ListExports | Close | Transmit

_FLAGS: Final = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES
_META: Final = (nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT)
_NAME_LENGTH: Final = struct.Struct(">I")
_COUNT: Final = struct.Struct(">H")


def greeting() -> bytes:
    """What the server says first."""
    return nbd.GREETING.pack(nbd.INIT_MAGIC, nbd.OPTION_MAGIC, _FLAGS)


def transmission_flags(facts: ExportFacts, *, structured: bool) -> int:
    """What an export can do. Multi-conn is honest: one holder serves all connections, so a flush
    on one covers what was answered on any. Not to fragment a reply means something only where
    structured replies were agreed on.
    """
    flags = nbd.HAS_FLAGS | nbd.SEND_FLUSH | nbd.SEND_FUA | nbd.CAN_MULTI_CONN | nbd.SEND_CACHE
    if structured:
        flags |= nbd.SEND_DF
    if facts.read_only:
        return flags | nbd.READ_ONLY
    return flags | nbd.SEND_TRIM | nbd.SEND_WRITE_ZEROES | nbd.SEND_FAST_ZERO


class Handshake:
    """One connection's haggling.

    Invariant: at most one option is open (`_asked`), and nothing is parsed while it is.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._flags: int | None = None
        self._skip = 0
        self._structured = False
        self._asked = 0
        self._wanted: tuple[int, ...] = ()
        self._queries: list[str] = []
        self._allocation_of: str | None = None
        """The export for which `base:allocation` was selected last."""
        self._over = False
        self._held = False

    @property
    def waiting(self) -> bool:
        """Whether an option is open: what comes meanwhile is only kept."""
        return bool(self._asked)

    def hold(self) -> None:
        """Read no further option until `go_on`: the client does not take its answers."""
        self._held = True

    def go_on(self) -> list[Action]:
        """The client takes its answers again."""
        self._held = False
        return self._advance()

    def receive(self, data: bytes | bytearray | memoryview) -> list[Action]:
        """Take bytes from the client."""
        self._buffer += data
        return self._advance()

    def resolved(self, facts: ExportFacts | None, *, shutdown: bool = False) -> list[Action]:
        """The export last looked up; None: there is none of this name."""
        option, self._asked = self._asked, 0
        if option == nbd.OPT_EXPORT_NAME:
            if facts is None or shutdown:
                return self._end()
            return self._transmit(facts, [Send(self._export_name_reply(facts))])
        actions: list[Action]
        if shutdown:
            actions = [_error(option, nbd.REP_ERR_SHUTDOWN, "the server is shutting down")]
        elif facts is None:
            actions = [_error(option, nbd.REP_ERR_UNKNOWN, "there is no such export")]
        elif option in _META:
            actions = self._contexts(option, facts)
        else:
            actions = [*self._describe(option, facts), _ack(option)]
            if option == nbd.OPT_GO:
                return self._transmit(facts, actions)
        return actions + self._advance()

    def listed(self, exports: Sequence[str]) -> list[Action]:
        """The name of every export; no descriptions: old clients print them as part of the name."""
        self._asked = 0
        actions: list[Action] = []
        for name in exports:
            encoded = name.encode()
            body = _NAME_LENGTH.pack(len(encoded)) + encoded
            actions.append(_reply(nbd.OPT_LIST, nbd.REP_SERVER, body))
        return [*actions, _ack(nbd.OPT_LIST), *self._advance()]

    def _advance(self) -> list[Action]:
        """Parse as far as the buffer and the open option allow."""
        actions: list[Action] = []
        while not (self._asked or self._over or self._held):
            if self._flags is None:
                more = self._client_flags()
            elif self._skip:
                more = self._skipped()
            else:
                more = self._option()
            if more is None:
                break
            actions += more
        return actions

    def _client_flags(self) -> list[Action] | None:
        if len(self._buffer) < nbd.CLIENT_FLAGS.size:
            return None
        (flags,) = nbd.CLIENT_FLAGS.unpack_from(self._buffer)
        del self._buffer[: nbd.CLIENT_FLAGS.size]
        self._flags = flags
        return self._end() if flags & ~_FLAGS else []

    def _skipped(self) -> list[Action] | None:
        if not self._buffer:
            return None
        gone = min(self._skip, len(self._buffer))
        del self._buffer[:gone]
        self._skip -= gone
        return []

    def _option(self) -> list[Action] | None:
        if len(self._buffer) < nbd.OPTION.size:
            return None
        magic, option, length = nbd.OPTION.unpack_from(self._buffer)
        if magic != nbd.OPTION_MAGIC or length > nbd.OPTION_SKIP_BYTES:
            return self._end()
        if length > nbd.OPTION_BYTES:
            del self._buffer[: nbd.OPTION.size]
            self._skip = length
            if option == nbd.OPT_EXPORT_NAME:
                return self._end()
            return [_error(option, nbd.REP_ERR_TOO_BIG, "the option is too long")]
        if len(self._buffer) < nbd.OPTION.size + length:
            return None
        body = bytes(self._buffer[nbd.OPTION.size : nbd.OPTION.size + length])
        del self._buffer[: nbd.OPTION.size + length]
        return self._handle(option, body)

    def _handle(self, option: int, body: bytes) -> list[Action]:
        if option == nbd.OPT_EXPORT_NAME:
            return self._export_name(body)
        if option in (nbd.OPT_INFO, nbd.OPT_GO):
            return self._info(option, body)
        if option in _META:
            return self._meta(option, body)
        if option == nbd.OPT_ABORT:
            return [_ack(option), *self._end()]
        if option in (nbd.OPT_LIST, nbd.OPT_STRUCTURED_REPLY) and body:
            return [_error(option, nbd.REP_ERR_INVALID, "the option takes no data")]
        if option == nbd.OPT_LIST:
            self._asked = option
            return [ListExports()]
        if option == nbd.OPT_STRUCTURED_REPLY:
            self._structured = True
            return [_ack(option)]
        if option == nbd.OPT_STARTTLS:
            return [_error(option, nbd.REP_ERR_POLICY, "TLS is not configured here")]
        return [_error(option, nbd.REP_ERR_UNSUP, "the option is not supported")]

    def _export_name(self, body: bytes) -> list[Action]:
        name = _text(body)
        if name is None:
            return self._end()
        self._asked = nbd.OPT_EXPORT_NAME
        return [Lookup(name)]

    def _info(self, option: int, body: bytes) -> list[Action]:
        parsed = _parse_info(body)
        if parsed is None:
            return [_error(option, nbd.REP_ERR_INVALID, "malformed lengths")]
        name, self._wanted = parsed
        self._asked = option
        return [Lookup(name)]

    def _meta(self, option: int, body: bytes) -> list[Action]:
        self._allocation_of = None
        parsed = _parse_meta(body)
        if parsed is None or (option == nbd.OPT_SET_META_CONTEXT and not self._structured):
            return [_error(option, nbd.REP_ERR_INVALID, "malformed, or no structured replies")]
        name, self._queries = parsed
        self._asked = option
        return [Lookup(name)]

    def _contexts(self, option: int, facts: ExportFacts) -> list[Action]:
        """Answer which of the contexts asked for there are."""
        listing = option == nbd.OPT_LIST_META_CONTEXT
        matching = {nbd.ALLOCATION_CONTEXT, "base:"} if listing else {nbd.ALLOCATION_CONTEXT}
        if not (matching & set(self._queries) or (listing and not self._queries)):
            return [_ack(option)]
        number = 0 if listing else nbd.ALLOCATION_ID
        if not listing:
            self._allocation_of = facts.name
        body = _NAME_LENGTH.pack(number) + nbd.ALLOCATION_CONTEXT.encode()
        return [_reply(option, nbd.REP_META_CONTEXT, body), _ack(option)]

    def _describe(self, option: int, facts: ExportFacts) -> list[Action]:
        """The information replies: the export always, block sizes always, the rest on request."""
        flags = transmission_flags(facts, structured=self._structured)
        infos = [
            struct.pack(">HQH", nbd.INFO_EXPORT, facts.told.size, flags),
            struct.pack(
                ">HIII",
                nbd.INFO_BLOCK_SIZE,
                nbd.BLOCK_MINIMUM,
                nbd.BLOCK_PREFERRED,
                NBD_REQUEST_BYTES,
            ),
        ]
        if nbd.INFO_NAME in self._wanted:
            infos.append(struct.pack(">H", nbd.INFO_NAME) + facts.name.encode())
        if nbd.INFO_DESCRIPTION in self._wanted:
            infos.append(struct.pack(">H", nbd.INFO_DESCRIPTION) + facts.description.encode())
        return [_reply(option, nbd.REP_INFO, info) for info in infos]

    def _export_name_reply(self, facts: ExportFacts) -> bytes:
        flags = transmission_flags(facts, structured=self._structured)
        reply = nbd.EXPORT_NAME_REPLY.pack(facts.told.size, flags)
        assert self._flags is not None
        return reply if self._flags & nbd.FLAG_NO_ZEROES else reply + nbd.EXPORT_NAME_ZEROES

    def _transmit(self, facts: ExportFacts, actions: list[Action]) -> list[Action]:
        self._over = True
        rest = bytes(self._buffer)
        self._buffer.clear()
        allocation = self._allocation_of == facts.name
        transmit = Transmit(facts, self._structured, allocation, rest)
        return [*actions, transmit]

    def _end(self) -> list[Action]:
        self._over = True
        self._buffer.clear()
        return [Close()]


def _parse_info(body: bytes) -> tuple[str, tuple[int, ...]] | None:
    """(export name, information requested) of INFO and GO; None when the lengths do not fit."""
    if len(body) < _NAME_LENGTH.size + _COUNT.size:
        return None
    (length,) = _NAME_LENGTH.unpack_from(body)
    count_at = _NAME_LENGTH.size + length
    if length > nbd.NAME_BYTES or len(body) < count_at + _COUNT.size:
        return None
    name = _text(body[_NAME_LENGTH.size : count_at])
    (count,) = _COUNT.unpack_from(body, count_at)
    if name is None or len(body) != count_at + _COUNT.size * (1 + count):
        return None
    return name, struct.unpack_from(f">{count}H", body, count_at + _COUNT.size)


def _parse_meta(body: bytes) -> tuple[str, list[str]] | None:
    """(export name, queries) of the options about contexts; None when the lengths do not fit."""
    strings: list[str] = []
    position = 0
    count = 0
    while position < len(body) or not strings:
        if len(body) < position + _NAME_LENGTH.size:
            return None
        (number,) = _NAME_LENGTH.unpack_from(body, position)
        position += _NAME_LENGTH.size
        text = _text(body[position : position + number])
        if text is None or len(body) < position + number:
            return None
        strings.append(text)
        position += number
        if len(strings) == 1:  # the name is followed by the number of queries
            if len(body) < position + _NAME_LENGTH.size:
                return None
            (count,) = _NAME_LENGTH.unpack_from(body, position)
            position += _NAME_LENGTH.size
    return (strings[0], strings[1:]) if len(strings) == count + 1 else None


def _text(encoded: bytes) -> str | None:
    """A protocol string; None when it is too long or not text."""
    if len(encoded) > nbd.NAME_BYTES or b"\x00" in encoded:
        return None
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None


def _reply(option: int, kind: int, body: bytes) -> Send:
    return Send(nbd.OPTION_REPLY.pack(nbd.REPLY_MAGIC, option, kind, len(body)) + body)


def _ack(option: int) -> Send:
    return _reply(option, nbd.REP_ACK, b"")


def _error(option: int, kind: int, message: str) -> Send:
    return _reply(option, kind, message.encode())
