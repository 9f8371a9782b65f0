"""One line for every request, with what came of it and nothing that opens a door."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from pinfold.env.api import Buffer
from pinfold.model.settings import S3Settings
from pinfold.s3.access_log import AccessLog
from pinfold.s3.request import EmptyBody, Request, Response
from tests.s3.test_http import Wire, on_the_wire
from tests.s3.world import TINY, World, in_world
from tests.twins.env import HandClock


def logged(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.access_lines]


def test_who_asked_what_and_what_came_of_it() -> None:
    async def test(world: World) -> None:
        world.access_lines.clear()
        await world.call("PUT", "/bucket/name", b"content", headers={"user-agent": "tests"})
        await world.call("GET", "/bucket/name")
        await world.call("HEAD", "/bucket/name")
        await world.call("GET", "/bucket/absent", user="")
        put, got, head, refused = logged(world)
        assert (put["user"], put["operation"], put["status"]) == ("alice", "PutObject", 200)
        assert (put["target"], put["received"], put["agent"]) == ("/bucket/name", "7", "tests")
        assert (got["operation"], got["sent"], got["complete"]) == ("GetObject", 7, True)
        assert (head["operation"], head["sent"], head["complete"]) == ("HeadObject", 0, True)
        assert (refused["user"], refused["error"], refused["status"]) == ("", "AccessDenied", 403)
        assert all(line["id"] == "ID" and line["seconds"] >= 0 for line in logged(world))

    in_world(test)


def test_a_body_that_is_cut_short_is_told_as_such() -> None:
    async def chunks() -> AsyncIterator[list[Buffer]]:
        yield [b"four"]
        yield [b"more"]

    async def run() -> None:
        lines: list[bytes] = []
        request = Request(method="GET", target="/b/k", headers={}, body=EmptyBody(), id="I")
        response = Response(200, [], chunks=chunks(), length=8)
        AccessLog(HandClock(), lines.append).answered(request, "GetObject", response, 0.0)
        assert response.chunks is not None
        await anext(response.chunks)
        assert lines == []
        await response.chunks.aclose()
        await response.chunks.aclose()
        (line,) = map(json.loads, lines)
        assert (line["sent"], line["complete"]) == (4, False)

    asyncio.run(run())


def test_a_presigned_url_is_not_handed_on() -> None:
    lines: list[bytes] = []
    query = "X-Amz-Credential=AK&X-Amz-Signature=5ec4e7&prefix=a"
    odd = "/b/k?Signatur%65=5ec4e7"
    for target in (f"/b/k?{query}", "/b/k?Signature=5ec4e7&x", odd, "/b/\udcc3\udca9"):
        request = Request(method="GET", target=target, headers={}, body=EmptyBody(), id="I")
        AccessLog(HandClock(), lines.append).answered(request, "GetObject", Response(200, []), 0.0)
    text = b"".join(lines).decode()
    assert "5ec4e7" not in text
    assert "X-Amz-Credential=AK" in text
    assert "prefix=a" in text


def test_requests_that_are_refused_before_they_are_routed_have_a_line_too() -> None:
    async def test(wire: Wire) -> None:
        wire.world.access_lines.clear()
        query = "&".join(["X-Amz-Signature=5ec4e7"] * 101)
        wire.writer.write(f"GET /b?{query} HTTP/1.1\r\nHost: h\r\nUser-Agent: odd\r\n\r\n".encode())
        assert (await wire.response())[0] == 400
        wire.writer.write(wire.head("GET", "/bucket/k"))
        assert (await wire.response())[0] == 503
        for head in (b"no HTTP", b"GET / HTTP/1.1\r\nx: " + b"x" * 100_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(head + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n")).split()[1] == b"400"
            writer.close()
        odd, crowded, noise, long = logged(wire.world)
        assert (odd["error"], odd["method"], odd["agent"]) == ("InvalidURI", "GET", "odd")
        assert odd["target"] == "/b"
        assert (crowded["error"], crowded["target"]) == ("SlowDown", "/bucket/k")
        for line in (noise, long):
            assert (line["error"], line["method"], line["target"]) == ("BadRequest", "", "")
        assert {line["remote"] for line in (odd, crowded, noise, long)} == {"127.0.0.1"}
        assert {line["operation"] for line in (odd, crowded, noise, long)} == {"Unrouted"}

    on_the_wire(test, S3Settings(requests_in_flight_max=0, objects=TINY.objects))


def test_a_bug_in_a_request_has_a_line_as_well() -> None:
    async def test(wire: Wire) -> None:
        wire.world.access_lines.clear()
        wire.world.service.store.buckets.lookup = None  # type: ignore[assignment, method-assign]
        wire.writer.write(wire.head("GET", "/bucket/k"))
        assert (await wire.response())[0] == 500
        (line,) = logged(wire.world)
        assert (line["error"], line["target"]) == ("InternalError", "/bucket/k")

    on_the_wire(test)
