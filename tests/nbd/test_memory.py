"""What clients may make a front end hold: shared memory, queues for it, patience."""

import asyncio
import tracemalloc
from collections.abc import Callable

from pinfold.model.settings import NbdSettings
from pinfold.nbd import protocol as nbd
from pinfold.nbd.connection import Connection
from tests.nbd.test_connection import Desk, Wire, answer, enter, feed, read, write
from tests.twins.virtual import run_virtual

MIB = 1 << 20
PATIENCE_S = 10.0


def crowd(
    count: int, story: Callable[[Desk, list[tuple[Connection, Wire]]], None], *, total_bytes: int
) -> None:
    """So many clients of one front end; everything is given back when they have gone."""

    async def run() -> None:
        desk = Desk(NbdSettings(total_bytes=total_bytes, stall_patience_s=PATIENCE_S))
        clients = [enter(desk) for _ in range(count)]
        story(desk, clients)
        for connection, _wire in clients:
            connection.connection_lost(None)
        for batch in desk.batches:
            answer(batch)
        assert desk.window.used == 0
        assert not desk.window.wanted

    run_virtual(run)


def head(length: int) -> bytes:
    """A large write of which only the header has come."""
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 0, length)


def reading(clients: list[tuple[Connection, Wire]]) -> list[bool]:
    """Who is read."""
    return [wire.reading for _, wire in clients]


def test_headers_of_large_writes_allocate_no_more_than_the_limit() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        tracemalloc.start()
        try:
            for connection, wire in clients:
                feed(connection, wire, head(4 * MIB))
            held, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 17 * MIB
        assert held >= 12 * MIB
        assert desk.window.used <= 16 * MIB
        assert reading(clients) == [True] * 3 + [False] * 37

    crowd(40, story, total_bytes=16 * MIB)


def test_large_writes_that_waited_go_on_first_come_first_served() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        payload = b"p" * (2 * MIB)
        left = [feed(*client, write(payload, cookie)) for cookie, client in enumerate(clients)]
        order = []
        while desk.batches:
            batch = desk.batches.pop(0)
            order += [io.cookie for io in batch]
            assert all(io.payload == payload for io in batch)
            answer(batch)
            left = [feed(*client, rest) for client, rest in zip(clients, left, strict=True)]
        assert order == list(range(8))
        assert not any(left)
        assert all(wire.reading for _, wire in clients)

    crowd(8, story, total_bytes=5 * MIB)


def test_a_write_larger_than_all_memory_is_taken_alone() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        (first, second) = clients
        rest = feed(*first, write(b"a" * 512) + head(MIB))
        assert not rest
        assert reading(clients) == [False, True]
        feed(*second, read(512))
        assert len(desk.waiting()) == 1, "nobody overtakes the one that waits"
        answer(desk.batches.pop())
        feed(*first, b"b" * MIB)
        assert desk.batches[0][0].length == MIB
        answer(desk.batches.pop(0))
        assert desk.batches[0][0].length == 512
        assert reading(clients) == [True, True]

    crowd(2, story, total_bytes=256 << 10)


def test_a_half_received_write_is_read_on_whatever_others_hold() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        first, second = clients
        feed(*first, head(MIB))
        desk.window.take(8 * MIB)
        feed(*second, read(512))
        assert reading(clients) == [True, False]
        first[0].pause_writing()
        assert not feed(*first, b"x" * MIB)
        assert [io.length for io in desk.waiting()] == [MIB]
        first[0].resume_writing()
        desk.window.give(8 * MIB)
        assert reading(clients) == [True, True]

    crowd(2, story, total_bytes=4 * MIB)


def test_a_refused_large_write_gives_its_buffer_back() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        (connection, wire) = clients[0]
        beyond = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 1 << 40, MIB)
        feed(connection, wire, beyond + bytes(MIB))
        assert not desk.batches
        assert desk.window.used == 0
        assert len(connection.get_buffer(-1)) < MIB

    crowd(1, story, total_bytes=4 * MIB)


def test_a_client_that_waits_and_leaves_lets_the_next_one_on() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        first, second, third = clients
        feed(*first, head(3 * MIB))
        feed(*second, head(3 * MIB))
        feed(*third, read(512))
        assert not desk.batches
        second[0].connection_lost(None)
        assert third[1].reading
        assert len(desk.waiting()) == 1
        desk.counters.connections += 1  # the crowd ends the connection once more

    crowd(3, story, total_bytes=4 * MIB)


def test_a_client_at_its_own_limit_comes_back_though_others_filled_the_memory_meanwhile() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        (client,) = clients
        desk.settings = NbdSettings(connection_bytes=4096)
        left = feed(*client, read(4096) + read(512))
        desk.window.take(4 * MIB)
        answer(desk.batches.pop())
        assert reading(clients) == [False]
        desk.window.give(4 * MIB)
        assert reading(clients) == [True]
        assert not left
        assert len(desk.waiting()) == 1

    crowd(1, story, total_bytes=4 * MIB)


def test_many_refused_requests_leave_nothing_unanswered() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        desk.settings = NbdSettings(connection_bytes=4096)
        connection, wire = clients[0]
        unknown = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, 99, 1, 0, 512)
        assert not feed(connection, wire, unknown * 20_000)
        assert len(wire.sent) == 20_000 * nbd.SIMPLE_REPLY.size

    crowd(1, story, total_bytes=MIB)


def patience(pace: int, *, wanted: bool) -> bool:
    """Whether a client is dropped that sends `pace` bytes of 1 MiB in each period."""

    async def run() -> bool:
        desk = Desk(NbdSettings(total_bytes=MIB + 4096, stall_patience_s=PATIENCE_S))
        first, second = enter(desk), enter(desk)
        feed(*first, head(MIB))
        if wanted:
            feed(*second, head(MIB))
            assert not second[1].reading
        for _ in range(4):
            feed(*first, bytes(pace))
            await asyncio.sleep(PATIENCE_S)
        dropped = first[1].aborted
        first[0].connection_lost(None)
        assert second[1].reading
        second[0].connection_lost(None)
        assert desk.window.used == 0
        return dropped

    return run_virtual(run)


def test_a_write_that_stalls_while_others_wait_is_dropped() -> None:
    assert patience(1000, wanted=True)
    assert patience(0, wanted=True)


def test_a_slow_write_is_kept_and_so_is_one_nobody_waits_for() -> None:
    assert not patience(MIB // 5, wanted=True)
    assert not patience(0, wanted=False)


def deaf(client: tuple[Connection, Wire]) -> None:
    """From now on the client takes nothing."""
    connection, wire = client
    sent = wire.write

    def queue(data: bytes | bytearray | memoryview) -> None:
        sent(data)
        if not wire.unsent:
            connection.pause_writing()
        wire.unsent += len(data)

    wire.write = queue  # type: ignore[method-assign]


def takes(client: tuple[Connection, Wire], count: int) -> None:
    """The client takes so many bytes of what waits for it."""
    connection, wire = client
    assert count <= wire.unsent
    wire.unsent -= count
    if not wire.unsent:
        connection.resume_writing()


def test_replies_that_nobody_takes_count_until_they_are_taken() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        for client in clients:
            deaf(client)
            feed(*client, read(MIB) * 3)
        while desk.batches:
            answer(desk.batches.pop())
        assert sum(wire.unsent for _, wire in clients) <= 8 * MIB + MIB
        assert desk.window.used == sum(wire.unsent for _, wire in clients)
        assert desk.window.wanted
        for client in clients * 3:
            takes(client, client[1].unsent // 2)
            takes(client, client[1].unsent)
            while desk.batches:
                answer(desk.batches.pop())
        assert [len(wire.sent) for _, wire in clients] == [3 * (16 + MIB)] * 12
        assert desk.window.used == 0

    crowd(12, story, total_bytes=8 * MIB)


def test_replies_that_went_out_at_once_are_not_counted() -> None:
    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        feed(*clients[0], read(MIB))
        answer(desk.batches.pop())
        assert desk.window.used == 0

    crowd(1, story, total_bytes=8 * MIB)


def dropped_taking(pace: int, *, wanted: bool) -> bool:
    """Whether a client is dropped that takes `pace` bytes of 2 MiB of replies in each period."""

    async def run() -> bool:
        desk = Desk(NbdSettings(total_bytes=2 * MIB, stall_patience_s=PATIENCE_S))
        first, second = enter(desk), enter(desk)
        deaf(first)
        feed(*first, read(MIB) * 2)
        answer(desk.batches.pop())
        if wanted:
            feed(*second, read(512))
            assert not desk.batches
        for _ in range(4):
            takes(first, pace)
            await asyncio.sleep(PATIENCE_S)
        dropped = first[1].aborted
        first[0].connection_lost(None)
        assert len(desk.waiting()) == wanted
        second[0].connection_lost(None)
        return dropped

    return run_virtual(run)


def test_a_client_that_takes_no_replies_while_others_wait_is_dropped() -> None:
    assert dropped_taking(0, wanted=True)
    assert dropped_taking(1000, wanted=True)


def test_a_client_that_takes_its_replies_slowly_is_kept_and_so_is_one_nobody_waits_for() -> None:
    assert not dropped_taking(MIB // 3, wanted=True)
    assert not dropped_taking(0, wanted=False)


def test_small_writes_do_not_hold_on_to_what_came_with_them() -> None:
    """They are answered, and kept until they are flushed; what came between them was refused."""
    count = 100
    refused = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_WRITE, 1, 1 << 40, 120 << 10)
    refused += bytes(120 << 10)

    def story(desk: Desk, clients: list[tuple[Connection, Wire]]) -> None:
        ((connection, wire),) = clients
        kept = []
        tracemalloc.start()
        try:
            before, _peak = tracemalloc.get_traced_memory()
            for _ in range(count):
                assert not feed(connection, wire, write(bytes(4096)) + 2 * refused)
                wire.sent.clear()
                batch = desk.batches.pop()
                kept += batch
                answer(batch)
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert len(kept) == count
        assert held < 2 * count * 4096 + MIB

    crowd(1, story, total_bytes=16 * MIB)
