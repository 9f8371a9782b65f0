"""Clients of the admin port that are none: they cost neither log lines nor connections for ever."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from pinfold.admin import service
from pinfold.admin.service import BODY_S, KEEP_ALIVE_S, OPEN_REQUESTS_MAX
from tests.fuzz.http_targets import admin_service
from tests.fuzz.wires import MemoryWire
from tests.twins.virtual import run_virtual

Connect = Callable[[], MemoryWire]
OPEN = b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n"
USERS = b"GET /v1/users HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\n\r\n"
HEAD = b"POST /v1/users HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\ncontent-length: 9\r\n"


def stage(story: Callable[[Connect], Awaitable[None]]) -> None:
    async def run() -> None:
        runner = admin_service().runner()
        await runner.setup()
        wires: list[MemoryWire] = []

        def connect() -> MemoryWire:
            assert runner.server is not None
            wires.append(MemoryWire(runner.server()))
            return wires[-1]

        await story(connect)
        for wire in wires:
            wire.end()
        await runner.cleanup()

    run_virtual(run)


@pytest.mark.parametrize("said", [b"", b"GET /v1/sta", b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n"])
def test_a_connection_on_which_nothing_is_asked_ends(said: bytes) -> None:
    async def story(connect: Connect) -> None:
        wire = connect()
        wire.feed(said)
        await asyncio.sleep(2 * KEEP_ALIVE_S)
        assert wire.closing

    stage(story)


def test_a_body_that_does_not_come_is_not_awaited_for_ever() -> None:
    async def story(connect: Connect) -> None:
        wire = connect()
        wire.feed(HEAD + b"\r\n{")
        await asyncio.sleep(BODY_S + 1)
        assert bytes(wire.sent).startswith(b"HTTP/1.1 408 ")

    stage(story)


def test_over_the_limit_the_oldest_goes_an_idle_one_before_one_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "CONNECTIONS_MAX", 3)

    async def run() -> None:
        admin = admin_service()
        runner = admin._runner = admin.runner()
        await runner.setup()
        wires = []
        for said in (HEAD + b"\r\n{", b"GET /v1/sta", HEAD + b"\r\n{", b"", b"", b""):
            wires.append(MemoryWire(admin._accept()))
            wires[-1].feed(said)
            await asyncio.sleep(0.01)
            for wire in wires:
                if wire.closing:
                    wire.end()
        assert [wire.closing for wire in wires] == [False, True, False, True, True, False]
        wires[-1].feed(HEAD + b"\r\n{")  # nobody is idle, and no answer is taken
        await asyncio.sleep(0.01)
        wires.append(MemoryWire(admin._accept()))
        assert [wire.closing for wire in wires] == [True, True, False, True, True, False, False]
        for wire in wires:
            wire.end()
        await runner.cleanup()

    run_virtual(run)


def test_a_head_of_many_long_lines_is_refused_before_it_is_large() -> None:
    async def story(connect: Connect) -> None:
        wire = connect()
        line = b"x-line: " + 4000 * b"a" + b"\r\n"
        left = wire.feed(b"GET /healthz HTTP/1.1\r\nhost: h\r\n" + 40 * line, piece=1000)
        await asyncio.sleep(1)
        assert b" 400 " in wire.sent[:20]
        assert left or wire.closing

    stage(story)


def test_bytes_that_are_no_http_leave_no_stack_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(connect: Connect) -> None:
        wire = connect()
        with caplog.at_level(logging.DEBUG):
            wire.feed(b"\x16\x03\x01\x02\r\n\r\n")
            await asyncio.sleep(1)
        assert bytes(wire.sent).startswith(b"HTTP/1.0 400 ") or b" 400 " in wire.sent[:20]
        assert not [record for record in caplog.records if record.name != "asyncio"]

    stage(story)


def test_scrapes_at_once_are_one_question_and_keep_no_operator_out() -> None:
    async def run() -> None:
        service = admin_service()
        gatherer = service._parts.gatherer
        asked, answered = [], asyncio.Event()

        async def ask(operation: str) -> dict[str, object]:
            asked.append(operation)
            await answered.wait()
            return {}

        gatherer._ask = ask  # type: ignore[method-assign,assignment]
        runner = service.runner()
        await runner.setup()
        assert runner.server is not None
        scrapers = [MemoryWire(runner.server()) for _ in range(OPEN_REQUESTS_MAX + 9)]
        for scraper in scrapers:
            scraper.feed(OPEN)
        await asyncio.sleep(1)
        refused = [bytes(one.sent)[:13] for one in scrapers if one.sent]
        assert refused == [b"HTTP/1.1 503 "] * 9
        operator = MemoryWire(runner.server())
        operator.feed(USERS)
        await asyncio.sleep(0.1)
        assert bytes(operator.sent).startswith(b"HTTP/1.1 200 ")
        assert asked == ["node.metrics"]
        for leaver in scrapers[:3]:
            leaver.end()  # whoever asked first has gone: the others are answered all the same
        answered.set()
        await asyncio.sleep(0.1)
        answers = [bytes(one.sent)[:13] for one in scrapers[3:OPEN_REQUESTS_MAX]]
        assert answers == [b"HTTP/1.1 200 "] * (OPEN_REQUESTS_MAX - 3)
        assert asked == ["node.metrics", "node.status"]
        for wire in (*scrapers[3:], operator):
            wire.end()
        await runner.cleanup()

    run_virtual(run)
