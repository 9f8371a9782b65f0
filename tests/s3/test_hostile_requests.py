"""Requests made to break something: each gets its answer and changes nothing."""

import hmac
from base64 import b64encode
from urllib.parse import quote

import pytest

from pinfold.s3.chunks import LINE_BYTES_MAX, TRAILERS_MAX, ChunkDecoder
from pinfold.s3.errors import Refused
from pinfold.s3.request import Request, Response
from pinfold.s3.times import parse_date
from tests.fuzz.meters import steps_of
from tests.s3.signing import UNSIGNED
from tests.s3.world import HOST, SECRETS, PieceBody, World, in_world


async def respond(world: World, target: str, headers: dict[str, str]) -> Response:
    request = Request(
        method="GET", target=target, headers=headers, body=PieceBody(b""), id="ID", domain=HOST
    )
    return await world.service.respond(request)


def version_2_url(world: World, signed_path: str, path: str) -> str:
    """`path`, presigned as if it were `signed_path`."""
    expires = int(world.clock.wall()) + 60
    text = f"GET\n\n\n{expires}\n{signed_path}"
    mac = hmac.digest(SECRETS["alice"].encode(), text.encode(), "sha1")
    signature = quote(b64encode(mac).decode(), safe="")
    return f"{path}?AWSAccessKeyId=alice&Signature={signature}&Expires={expires}"


def test_a_version_2_url_is_not_good_for_the_bucket_of_another_host() -> None:
    """Version 2 does not sign the host, so the bucket it names has to be in what is signed."""

    async def test(world: World) -> None:
        await world.call("PUT", "/secret")
        await world.call("PUT", "/secret/bucket/k", b"x")
        await world.call("PUT", "/bucket/k", b"x")
        url = version_2_url(world, "/bucket/k", "/bucket/k")
        assert (await respond(world, url, {"host": HOST})).status == 200
        assert (await respond(world, url, {"host": f"secret.{HOST}"})).status == 403
        theirs = version_2_url(world, "/secret/bucket/k", "/bucket/k")
        assert (await respond(world, theirs, {"host": f"secret.{HOST}"})).status == 200

    in_world(test)


def test_a_signature_that_is_any_text_is_only_wrong() -> None:
    async def test(world: World) -> None:
        query = world.signer().presigned("GET", "/bucket/k", HOST, 60)
        query = query.rpartition("=")[0] + "=%C3%A9"
        answer = await world.send("GET", f"/bucket/k?{query}", {"host": HOST}, b"")
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")

    in_world(test)


def test_a_date_in_a_zone_beyond_time_is_no_date() -> None:
    async def test(world: World) -> None:
        headers = world.signer().signed("GET", "/bucket", "", {"host": HOST}, UNSIGNED)
        del headers["x-amz-date"]
        headers["date"] = "Sun, 22 Nov 2026 08:49:37 +" + "9" * 30
        answer = await world.send("GET", "/bucket", headers, b"")
        assert (answer.status, answer.code) == (403, "AccessDenied")

    in_world(test)


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 +" + "9" * 30, f"Sun, {'9' * 30} Nov 1994 08:49:37 GMT"]
)
def test_times_that_cannot_be_written_are_none(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize("query", ["prefix=\udcff", "\udcff", "list-type=2&start-after=a%20\udc80"])
def test_bytes_that_are_not_utf_8_are_refused_in_a_query_however_they_come(query: str) -> None:
    with pytest.raises(Refused) as refused:
        Request(method="GET", target=f"/b?{query}", headers={}, body=PieceBody(b""), id="")
    assert refused.value.s3_code == "InvalidURI"


@pytest.mark.parametrize("element", ["Key", "VersionId", "ETag", "Size"])
def test_a_malformed_list_of_keys_deletes_none_of_them(element: str) -> None:
    async def test(world: World) -> None:
        for key in ("a", "z"):
            await world.call("PUT", f"/bucket/{key}", b"x")
        twice = f"<{element}>z</{element}>" * 2
        body = f"<Delete><Object><Key>a</Key></Object><Object>{twice}</Object></Delete>"
        answer = await world.call("POST", "/bucket", body.encode(), query="delete=")
        assert (answer.status, answer.code) == (400, "MalformedXML")
        listed = await world.call("GET", "/bucket")
        assert listed.texts("Contents/Key") == ["a", "z"]

    in_world(test)


def test_a_trailer_of_spaces_costs_what_it_is_long() -> None:
    """Regular expressions with two ways to take a space try them all: a second for each line."""
    line = b"a:" + b" " * (LINE_BYTES_MAX - 10) + b"\x7f"

    def decode() -> None:
        for _ in range(TRAILERS_MAX):
            decoder = ChunkDecoder(None, has_trailer=True)
            with pytest.raises(Refused):
                decoder.feed(b"0\r\n" + line + b"\r\n\r\n")

    assert steps_of(decode, seconds=2.0) < 5000


def test_spaces_around_a_trailers_value_are_not_part_of_it() -> None:
    decoder = ChunkDecoder(None, has_trailer=True)
    decoder.feed(b"0\r\nx-amz-checksum-crc32 : \t A B \t\r\n\r\n")
    assert decoder.trailers == {"x-amz-checksum-crc32": "A B"}
