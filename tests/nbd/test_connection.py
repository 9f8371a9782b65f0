"""One client's connection over a transport in memory: limits, batching, ends."""

import asyncio
import struct
from collections.abc import Callable

from pinfold.model.errors import Corrupt, Fenced
from pinfold.model.settings import NbdSettings
from pinfold.nbd import protocol as nbd
from pinfold.nbd.connection import RECEIVE_BYTES, Connection
from pinfold.nbd.counters import Counters
from pinfold.nbd.handshake import ExportFacts
from pinfold.nbd.window import Window
from pinfold.volumes.io import READ, WRITE, Io, Owner
from pinfold.volumes.row import Told
from tests.fuzz.nbd_targets import CONTEXT, FLAGS, GO, STRUCTURED
from tests.twins.virtual import run_virtual

FACTS = ExportFacts(name="v", told=Told(b"", 1 << 30), description="")


class Wire(asyncio.Transport):
    """Remembers what was written and whether anybody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.writes = 0
        self.reading = True
        self.closed = False
        self.aborted = False
        self.unsent = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self.writes += 1

    def writelines(self, list_of_data) -> None:  # type: ignore[no-untyped-def]
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Desk:
    """A service with one export whose requests stay unanswered until told."""

    def __init__(self, settings: NbdSettings) -> None:
        self.settings = settings
        self.window = Window(settings.total_bytes)
        self.counters = Counters()
        self.batches: list[list[Io]] = []
        self.withdrawn: list[Owner] = []

    def lookup(self, connection: Connection, name: str) -> None:
        connection.resolved(FACTS if name == "v" else None)

    def list_exports(self, connection: Connection) -> None:
        connection.listed(["v"])

    def attach(self, connection: Connection, facts: ExportFacts) -> "Desk":
        return self

    def gone(self, connection: Connection) -> None:
        return

    def submit(self, ios: list[Io]) -> None:
        self.batches.append(ios)

    def withdraw(self, owner: Owner) -> None:
        self.withdrawn.append(owner)

    def waiting(self) -> list[Io]:
        return [io for batch in self.batches for io in batch]


def stage(
    story: Callable[[Desk, Connection, Wire], None], settings: NbdSettings | None = None
) -> None:
    async def run() -> None:
        desk = Desk(settings or NbdSettings())
        connection, wire = enter(desk)
        story(desk, connection, wire)
        connection.connection_lost(None)

    run_virtual(run)


def feed(connection: Connection, wire: Wire, data: bytes) -> bytes:
    """Give bytes as a transport does, as long as it is allowed; what was not taken."""
    while data and wire.reading and not wire.is_closing():
        buffer = connection.get_buffer(-1)
        assert len(buffer) > 0
        taken = min(len(buffer), len(data))
        buffer[:taken] = data[:taken]
        data = data[taken:]
        connection.buffer_updated(taken)
    return data


def enter(desk: Desk) -> tuple[Connection, Wire]:
    """One more client, in the transmission phase."""
    connection, wire = Connection(desk), Wire()
    connection.connection_made(wire)
    name = struct.pack(">I", 1) + b"v" + struct.pack(">H", 0)
    feed(connection, wire, nbd.CLIENT_FLAGS.pack(3))
    feed(connection, wire, nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_GO, len(name)) + name)
    wire.sent.clear()
    wire.writes = 0
    return connection, wire


def read(length: int, cookie: int = 1) -> bytes:
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_READ, cookie, 0, length)


def write(payload: bytes, cookie: int = 1, offset: int = 0) -> bytes:
    head = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, cookie, offset, len(payload))
    return head + payload


def answer(ios: list[Io]) -> None:
    for io in ios:
        if io.kind == READ:
            io.parts = [bytes(io.length)]
    ios[0].owner.finished(ios)


def test_what_comes_together_goes_together() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        feed(connection, wire, b"".join(read(512, cookie) for cookie in range(20)))
        assert [len(batch) for batch in desk.batches] == [20]
        answer(desk.batches[0])
        assert wire.writes == 1
        assert len(wire.sent) == 20 * (16 + 512)
        assert desk.counters.reads == 20
        assert desk.window.used == 0

    stage(story)


def test_payloads_are_never_overwritten_by_what_comes_later() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        expected = []
        for number in range(300):
            payload = number.to_bytes(2, "big") * (100 + number * 7)
            expected.append(payload)
            feed(connection, wire, write(payload, number))
        assert [bytes(io.payload) for io in desk.waiting()] == expected

    stage(story)


def test_large_payloads_are_received_in_place() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        for number in range(4):
            payload = bytes([number]) * (3 << 20)
            assert feed(connection, wire, write(payload, number)) == b""
            (io,) = desk.batches.pop()
            assert io.payload == payload
            assert len(connection.get_buffer(-1)) <= RECEIVE_BYTES

    stage(story)


def test_a_client_that_asks_for_too_much_is_not_read_until_answered() -> None:
    settings = NbdSettings(connection_bytes=1 << 20)

    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        left = feed(connection, wire, read(256 << 10) * 1000)
        assert not wire.reading
        assert len(desk.waiting()) == 4
        for _ in range(300):
            if not desk.batches:
                break
            answer(desk.batches.pop(0))
            assert sum(io.length for io in desk.waiting()) <= settings.connection_bytes + (
                256 << 10
            )
            left = feed(connection, wire, left)
        assert desk.counters.reads == 1000
        assert wire.reading

    stage(story, settings)


def test_all_clients_share_one_limit() -> None:
    settings = NbdSettings(total_bytes=1 << 20)

    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        desk.window.take(1 << 20)
        left = feed(connection, wire, read(4096) * 2)
        assert not desk.batches
        assert not wire.reading
        desk.window.give(1 << 20)
        assert wire.reading
        feed(connection, wire, left)
        assert len(desk.waiting()) == 2

    stage(story, settings)


def test_a_client_that_takes_no_replies_is_not_read() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        connection.pause_writing()
        feed(connection, wire, read(4096))
        assert not desk.batches
        assert not wire.reading
        connection.resume_writing()
        assert wire.reading
        assert len(desk.waiting()) == 1

    stage(story)


def test_a_lost_volume_ends_the_connection_without_an_error_for_the_guest() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        feed(connection, wire, write(b"x" * 512))
        (io,) = desk.batches[0]
        io.error = Fenced("another holder")
        io.owner.finished([io])
        assert wire.aborted
        assert not wire.sent

    stage(story)


def test_a_failed_read_is_an_error_and_the_session_goes_on() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        feed(connection, wire, read(512, 42))
        (io,) = desk.batches[0]
        io.error = Corrupt("bits")
        io.owner.finished([io])
        assert wire.sent == nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, nbd.EIO, 42)
        assert not wire.is_closing()
        assert desk.counters.errors == 1

    stage(story)


def test_garbage_ends_the_connection() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        feed(connection, wire, bytes(64))
        assert wire.aborted
        assert not desk.batches

    stage(story)


def test_a_disconnect_closes_and_what_was_begun_ends_quietly() -> None:
    def story(desk: Desk, connection: Connection, wire: Wire) -> None:
        goodbye = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_DISC, 0, 0, 0)
        feed(connection, wire, write(b"x" * 512) + goodbye)
        assert wire.closed
        connection.connection_lost(None)
        assert desk.withdrawn == [connection]
        answer(desk.batches[0])
        assert not wire.sent
        assert desk.window.used == 0
        desk.counters.connections += 1  # the stage ends the connection once more

    stage(story)


def test_a_client_that_never_finishes_the_handshake_is_cut_off() -> None:
    async def run() -> None:
        connection, wire = Connection(Desk(NbdSettings(handshake_s=5))), Wire()
        connection.connection_made(wire)
        await asyncio.sleep(6)
        assert wire.aborted

    run_virtual(run)


def test_one_connection_too_many_is_closed_at_once() -> None:
    async def run() -> None:
        connection, wire = Connection(Desk(NbdSettings())), Wire()
        connection.refused = True
        connection.connection_made(wire)
        assert wire.aborted
        assert not wire.sent
        connection.connection_lost(None)

    run_virtual(run)


def test_counters_tell_kinds_apart() -> None:
    counters = Counters()

    class Nobody:
        def finished(self, ios: list[Io]) -> None:
            raise AssertionError

    counters.answered([Io(READ, 0, 9, Nobody()), Io(WRITE, 0, 1, Nobody())], 10)
    assert (counters.reads, counters.writes, counters.payload_bytes) == (1, 1, 10)


def test_block_status_requests_count_what_their_answers_take() -> None:
    """28 bytes ask for the runs of 4 GiB: thousands at once would fill the memory."""

    def story(desk: Desk, _connection: Connection, _wire: Wire) -> None:
        connection, wire = Connection(desk), Wire()
        connection.connection_made(wire)
        feed(connection, wire, FLAGS + STRUCTURED + CONTEXT + GO)
        asked = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_BLOCK_STATUS, 1, 0, 1 << 20)
        left = feed(connection, wire, asked * 1000)
        assert not wire.reading
        assert len(desk.waiting()) == 4
        while desk.batches:
            answer(desk.batches.pop(0))
            left = feed(connection, wire, left)
        assert desk.window.used == 0
        connection.connection_lost(None)

    stage(story, NbdSettings(connection_bytes=1 << 20))
