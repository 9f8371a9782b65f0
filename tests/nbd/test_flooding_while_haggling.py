"""A client may flood the handshake for as long as it has time for it: nothing may pile up."""

import asyncio

from pinfold.model.settings import NbdSettings
from pinfold.nbd import protocol as nbd
from pinfold.nbd.connection import RECEIVE_BYTES, Connection
from pinfold.nbd.handshake import ExportFacts
from pinfold.volumes.row import Told
from tests.nbd.test_connection import FACTS, Desk, Wire, feed, read
from tests.twins.virtual import run_virtual

NAMES = [f"volume-{number}" for number in range(1000)]
LIST = nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_LIST, 0)
UNKNOWN = nbd.OPTION.pack(nbd.OPTION_MAGIC, 99, 0)
GO = nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_GO, 7) + b"\0\0\0\1v\0\0"


class SlowDesk(Desk):
    """A service that answers when told."""

    def __init__(self) -> None:
        super().__init__(NbdSettings())
        self.asked = 0

    def lookup(self, connection: Connection, name: str) -> None:
        self.asked += 1

    def list_exports(self, connection: Connection) -> None:
        self.asked += 1
        asyncio.get_running_loop().call_soon(connection.listed, NAMES)


class Deaf(Wire):
    """A client that takes nothing until told."""

    connection: Connection
    deaf = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if self.deaf and self.writes == 2:  # the greeting has gone
            self.connection.pause_writing()

    def hear(self) -> None:
        self.deaf = False
        self.connection.resume_writing()


def greeted() -> tuple[SlowDesk, Connection, Deaf]:
    desk, wire = SlowDesk(), Deaf()
    wire.connection = connection = Connection(desk)
    connection.connection_made(wire)
    feed(connection, wire, nbd.CLIENT_FLAGS.pack(3))
    return desk, connection, wire


def test_a_client_is_not_read_while_its_export_is_looked_up() -> None:
    async def story() -> None:
        desk, connection, wire = greeted()
        left = feed(connection, wire, GO + bytes(2 << 20))
        assert not wire.reading
        assert len(left) >= (2 << 20) - 2 * RECEIVE_BYTES
        assert desk.asked == 1
        connection.connection_lost(None)

    run_virtual(story)


def test_what_came_during_the_look_up_is_served_behind_it() -> None:
    async def story() -> None:
        desk, connection, wire = greeted()
        wire.deaf = False
        left = feed(connection, wire, GO + read(512, 7) * 10)
        connection.resolved(FACTS)
        feed(connection, wire, left)
        assert [io.cookie for io in desk.waiting()] == [7] * 10
        assert wire.reading
        connection.connection_lost(None)

    run_virtual(story)


def test_lists_for_a_client_that_takes_none_do_not_pile_up() -> None:
    async def story() -> None:
        desk, connection, wire = greeted()
        left = LIST * 1000
        for _ in range(100):
            left = feed(connection, wire, left)
            await asyncio.sleep(0)
        assert desk.asked <= 2
        assert len(wire.sent) < 4 * len(NAMES) * 40
        assert not wire.reading
        wire.hear()
        for _ in range(1500):
            left = feed(connection, wire, left)
            await asyncio.sleep(0)
            wire.sent.clear()
        assert not left
        assert desk.asked == 1000  # all are answered to one that does
        connection.connection_lost(None)

    run_virtual(story)


def test_refusals_for_a_client_that_takes_none_do_not_pile_up() -> None:
    async def story() -> None:
        _desk, connection, wire = greeted()
        left = feed(connection, wire, UNKNOWN * (1 << 17))
        assert not wire.reading
        assert len(left) > 16 * (1 << 17) - 2 * RECEIVE_BYTES
        wire.hear()
        assert wire.reading
        connection.connection_lost(None)

    run_virtual(story)


def test_a_deaf_client_that_enters_the_transmission_is_read_when_it_listens() -> None:
    async def story() -> None:
        desk, connection, wire = greeted()
        feed(connection, wire, UNKNOWN)
        assert feed(connection, wire, GO) == GO
        wire.hear()
        feed(connection, wire, GO)
        assert desk.asked == 1
        connection.resolved(ExportFacts(name="v", told=Told(b"", 1 << 20), description=""))
        assert wire.reading
        feed(connection, wire, read(512))
        assert len(desk.waiting()) == 1
        connection.connection_lost(None)

    run_virtual(story)
