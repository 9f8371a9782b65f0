"""One line for every request, with what came of it and nothing that opens a door."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from pinfold.env.api import Buffer
from pinfold.s3.access_log import AccessLog
from pinfold.s3.request import EmptyBody, Request, Response
from tests.s3.world import World, in_world
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
