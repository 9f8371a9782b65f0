"""Objects through the front end: what is put is got, in every framing and with every condition."""

import base64
import hashlib

import pytest

from pinfold.model.errors import Busy, Corrupt, Full, Unavailable
from pinfold.objects import digests
from pinfold.s3 import signature
from tests.s3.signing import EMPTY, unsigned_chunks
from tests.s3.world import HOST, Answer, World, in_world

BIG = bytes(range(256)) * 1000
ALGORITHMS = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")


def b64(algorithm: str, content: bytes) -> str:
    return base64.b64encode(digests.checksum_of(algorithm, content)).decode()


@pytest.mark.parametrize("content", [b"", b"small", bytes(1025), BIG])
@pytest.mark.parametrize("key", ["k", "a//b/../c", "./.", "ünï & +%41?#", "k" * 1024, "\t\n\r\x7f"])
def test_what_is_put_is_got(key: str, content: bytes) -> None:
    async def test(world: World) -> None:
        put = await world.call("PUT", f"/bucket/{key}", content)
        assert (put.status, put.body) == (200, b"")
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        assert put.headers["etag"] == etag
        got = await world.call("GET", f"/bucket/{key}")
        assert (got.status, got.body) == (200, content)
        assert got.headers["etag"] == etag
        head = await world.call("HEAD", f"/bucket/{key}")
        assert head.status == 200
        assert head.headers == got.headers
        deleted = await world.call("DELETE", f"/bucket/{key}")
        assert deleted.status == 204
        assert (await world.call("GET", f"/bucket/{key}")).code == "NoSuchKey"
        assert world.blobs.named() == set()

    in_world(test)


def test_what_is_said_of_an_object_is_returned() -> None:
    said = {
        "content-type": "text/x-t",
        "cache-control": "no-cache",
        "content-disposition": "attachment",
        "content-encoding": "gzip, aws-chunked",
        "content-language": "de",
        "expires": "Thu, 01 Dec 2094 16:00:00 GMT",
        "x-amz-meta-color": "blau \xe4",
        "x-amz-meta-": "odd",
    }

    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x", headers=said)
        got = await world.call("GET", "/bucket/k")
        expected = {**said, "content-encoding": "gzip"}
        assert {name: got.headers.get(name) for name in expected} == expected
        query = "response-cache-control=max-age%3D1&response-content-type=image%2Fpng"
        overridden = await world.call("GET", "/bucket/k", query=query)
        assert overridden.headers["content-type"] == "image/png"
        assert overridden.headers["cache-control"] == "max-age=1"
        evil = await world.call("GET", "/bucket/k", query="response-content-type=a%0D%0Ab")
        assert evil.code == "InvalidArgument"
        too_much = {"x-amz-meta-a": "x" * 2048}
        refused = await world.call("PUT", "/bucket/k", headers=too_much)
        assert refused.code == "MetadataTooLarge"

    in_world(test)


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        ("bytes=5-9", 206, slice(5, 10)),
        ("bytes=70000-200000", 206, slice(70000, 200001)),
        ("bytes=-1", 206, slice(-1, None)),
        ("bytes=255999-", 206, slice(255999, None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("bytes=256000-", 416, None),
    ],
)
def test_ranges(header: str, status: int, part: slice | None) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", BIG)
        got = await world.call("GET", "/bucket/k", headers={"range": header})
        assert got.status == status
        if part is not None:
            assert got.body == BIG[part]
        else:
            assert got.code == "InvalidRange"
            assert got.headers["content-range"] == f"bytes */{len(BIG)}"

    in_world(test)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [b"", b"x" * 100, BIG])
def test_checksums_are_verified_kept_and_returned(algorithm: str, content: bytes) -> None:
    async def test(world: World) -> None:
        name, value = f"x-amz-checksum-{algorithm}", b64(algorithm, content)
        put = await world.call("PUT", "/bucket/k", content, headers={name: value})
        assert put.headers[name] == value
        plain = await world.call("HEAD", "/bucket/k")
        assert name not in plain.headers
        asked = {"x-amz-checksum-mode": "ENABLED"}
        got = await world.call("GET", "/bucket/k", headers=asked)
        assert (got.headers[name], got.headers["x-amz-checksum-type"]) == (value, "FULL_OBJECT")
        for wrong in (b64(algorithm, content + b"x"), "bad"):
            refused = await world.call("PUT", "/bucket/k2", content, headers={name: wrong})
            assert refused.code == "BadDigest"
        assert (await world.call("HEAD", "/bucket/k2")).status == 404

    in_world(test)


def test_other_digests_of_the_body() -> None:
    async def test(world: World) -> None:
        async def put(headers: dict[str, str], payload_hash: str = "UNSIGNED-PAYLOAD") -> str:
            answer = await world.call(
                "PUT", "/bucket/k", b"content", headers=headers, payload_hash=payload_hash
            )
            return answer.code

        assert await put({"content-md5": b64("md5", b"content")}) == ""
        assert await put({"content-md5": b64("md5", b"other")}) == "BadDigest"
        assert await put({"content-md5": "short"}) == "InvalidDigest"
        assert await put({}, hashlib.sha256(b"content").hexdigest()) == ""
        assert await put({}, hashlib.sha256(b"other").hexdigest()) == "XAmzContentSHA256Mismatch"
        two = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "x"}
        assert await put(two) in ("InvalidRequest", "BadDigest")
        assert await put({"x-amz-sdk-checksum-algorithm": "CRC32"}) == "InvalidRequest"
        assert await put({"x-amz-trailer": "x-amz-checksum-crc32"}) == "InvalidRequest"

    in_world(test)


async def put_chunked(
    world: World,
    kind: str,
    chunks: list[bytes],
    trailers: dict[str, str],
    *,
    damage: bytes = b"",
    size: int | None = None,
) -> Answer:
    """PUT /bucket/k in one of the chunked framings."""
    content = b"".join(chunks)
    headers = {
        "host": HOST,
        "x-amz-decoded-content-length": str(len(content) if size is None else size),
    }
    if trailers:
        headers["x-amz-trailer"] = ",".join(trailers)
    signer = world.signer()
    signed = signer.signed("PUT", "/bucket/k", "", headers, kind)
    if kind == signature.STREAMING_UNSIGNED_TRAILER:
        body = unsigned_chunks(chunks, trailers)
    else:
        seed = signed["authorization"].rpartition("=")[2]
        has_trailer = kind == signature.STREAMING_TRAILER
        body = signer.chunked(seed, chunks, trailers if has_trailer else None)
    if damage:
        body = body.replace(damage, bytes(reversed(damage)), 1)
    signed["content-length"] = str(len(body))
    return await world.send("PUT", "/bucket/k", signed, body)


KINDS = sorted(signature.CHUNKED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", [[], [b"hello"], [b"ab" * 40_000, b"c" * 70_000, b"d"]])
def test_chunked_bodies(kind: str, chunks: list[bytes]) -> None:
    async def test(world: World) -> None:
        content = b"".join(chunks)
        trailers = {}
        if kind != signature.STREAMING:
            trailers = {"x-amz-checksum-crc32c": b64("crc32c", content)}
        put = await put_chunked(world, kind, chunks, trailers)
        assert put.status == 200, put.body
        assert (await world.call("GET", "/bucket/k")).body == content

    in_world(test)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_chunked_bodies_leave_nothing(kind: str) -> None:
    async def test(world: World) -> None:
        chunks = [b"abcdef" * 300]
        right, wrong = {}, {}
        if kind != signature.STREAMING:
            right = {"x-amz-checksum-crc32": b64("crc32", chunks[0])}
            wrong = {"x-amz-checksum-crc32": b64("crc32", b"")}
        for answer in (
            await put_chunked(world, kind, chunks, right, damage=b"abcdef"),
            await put_chunked(world, kind, chunks, right, size=1799),
            await put_chunked(world, kind, chunks, right, size=1801),
            *([await put_chunked(world, kind, chunks, wrong)] if wrong else []),
        ):
            assert answer.code in ("SignatureDoesNotMatch", "BadDigest", "IncompleteBody")
        assert (await world.call("HEAD", "/bucket/k")).status == 404
        assert world.blobs.payloads == {}

    in_world(test)


def test_bodies_shorter_than_they_say_are_refused() -> None:
    async def test(world: World) -> None:
        for size in (10, 5000):
            answer = await world.call(
                "PUT", "/bucket/k", b"short", headers={"content-length": str(size)}
            )
            assert answer.code == "IncompleteBody"
        signed = world.signer().signed("PUT", "/bucket/k", "", {"host": HOST}, EMPTY)
        assert (await world.send("PUT", "/bucket/k", signed, b"")).code == "MissingContentLength"

    in_world(test)


def test_who_has_a_part_of_another_version_gets_the_whole_object() -> None:
    async def test(world: World) -> None:
        first = (await world.call("PUT", "/bucket/k", b"a" * 9)).headers["etag"]
        world.clock.advance(10)
        second = (await world.call("PUT", "/bucket/k", b"b" * 9)).headers["etag"]
        written = (await world.call("HEAD", "/bucket/k")).headers["last-modified"]
        for held, status in (
            (second, 206),
            (written, 206),
            (first, 200),
            (f"W/{second}", 200),
            ("Fri, 01 Jan 2010 00:00:00 GMT", 200),
            ("nonsense", 200),
        ):
            sent = {"range": "bytes=5-", "if-range": held}
            got = await world.call("GET", "/bucket/k", headers=sent)
            assert (got.status, len(got.body)) == (status, 4 if status == 206 else 9), held

    in_world(test)


def test_a_part_of_no_bytes_has_no_range() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k")
        got = await world.call("GET", "/bucket/k", query="partNumber=1")
        assert (got.status, got.body) == (200, b"")
        assert "content-range" not in got.headers

    in_world(test)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": "ETAG"}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-none-match": "ETAG"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ({"if-modified-since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 200),
        ({"if-unmodified-since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 412),
        ({"if-unmodified-since": "nonsense"}, 200),
    ],
)
def test_conditional_reads(headers: dict[str, str], status: int) -> None:
    async def test(world: World) -> None:
        etag = (await world.call("PUT", "/bucket/k", b"x")).headers["etag"]
        sent = {name: value.replace("ETAG", etag) for name, value in headers.items()}
        for method in ("GET", "HEAD"):
            got = await world.call(method, "/bucket/k", headers=sent)
            assert got.status == status
            if status == 304:
                assert got.body == b""
                assert got.headers["etag"] == etag

    in_world(test)


def test_conditional_writes() -> None:
    async def test(world: World) -> None:
        async def put(name: str, value: str, key: str = "k") -> int:
            answer = await world.call("PUT", f"/bucket/{key}", b"x", headers={name: value})
            return answer.status

        assert await put("if-match", '"x"') == 404
        assert await put("if-none-match", "*") == 200
        assert await put("if-none-match", "*") == 412
        etag = (await world.call("HEAD", "/bucket/k")).headers["etag"]
        assert await put("if-match", etag) == 200
        assert await put("if-match", '"x"') == 412
        assert await put("if-none-match", etag) == 412
        for name, value, status in (
            ("if-match", '"x"', 412),
            ("x-amz-if-match-size", "2", 412),
            ("x-amz-if-match-last-modified-time", "Fri, 01 Jan 2010 00:00:00 GMT", 412),
            ("x-amz-if-match-size", "two", 400),
            ("if-match", etag, 204),
            ("if-match", '"x"', 204),
        ):
            answer = await world.call("DELETE", "/bucket/k", headers={name: value})
            assert answer.status == status, name

    in_world(test)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Busy("full"), 503, "SlowDown"),
        (Unavailable("gone"), 503, "ServiceUnavailable"),
        (Full("full"), 507, "InsufficientStorage"),
        (Corrupt("rotten"), 500, "InternalError"),
    ],
)
def test_errors_of_the_cluster(error: Exception, status: int, code: str) -> None:
    async def test(world: World) -> None:
        world.blobs.failures.append(error)  # type: ignore[arg-type]
        answer = await world.call("PUT", "/bucket/k", BIG)
        assert (answer.status, answer.code) == (status, code)
        assert ("retry-after" in answer.headers) == (status == 503)
        assert (await world.call("HEAD", "/bucket/k")).status == 404

    in_world(test)


def test_keys_and_buckets_that_are_not_there() -> None:
    async def test(world: World) -> None:
        long = "k" * 1025
        for method in ("PUT", "GET", "DELETE"):
            answer = await world.call(method, f"/bucket/{long}")
            assert answer.code == "KeyTooLongError"
            assert (await world.call(method, "/nowhere/k")).code == "NoSuchBucket"
        head = await world.call("HEAD", "/bucket/none")
        assert head.status == 404
        assert (
            await world.call("GET", "/bucket/none", query="versionId=7")
        ).code == "NoSuchVersion"
        assert (await world.call("DELETE", "/bucket/none")).status == 204

    in_world(test)


def test_copies() -> None:
    async def test(world: World) -> None:
        headers = {"x-amz-meta-a": "1", "content-type": "text/a"}
        await world.call("PUT", "/bucket/s", BIG, headers=headers)
        source = {"x-amz-copy-source": "/bucket/s"}
        copied = await world.call("PUT", "/bucket/t", headers=source)
        assert copied.status == 200
        assert copied.xml.findtext("ETag") == f'"{hashlib.md5(BIG).hexdigest()}"'
        got = await world.call("GET", "/bucket/t")
        assert (got.body, got.headers["x-amz-meta-a"]) == (BIG, "1")
        replaced = {**source, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
        await world.call("PUT", "/bucket/u", headers=replaced)
        got = await world.call("GET", "/bucket/u")
        assert got.body == BIG
        assert got.headers["x-amz-meta-b"] == "2"
        assert "x-amz-meta-a" not in got.headers
        await world.call("DELETE", "/bucket/s")
        assert (await world.call("GET", "/bucket/t")).body == BIG, "copies stand alone"
        assert (await world.call("PUT", "/bucket/v", headers=source)).code == "NoSuchKey"

    in_world(test)


def test_copies_to_oneself_change_the_description_only() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/s", BIG)
        source = {"x-amz-copy-source": "/bucket/s"}
        assert (await world.call("PUT", "/bucket/s", headers=source)).code == "InvalidRequest"
        blobs = world.blobs.named()
        replace = {**source, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
        assert (await world.call("PUT", "/bucket/s", headers=replace)).status == 200
        got = await world.call("GET", "/bucket/s")
        assert (got.body, got.headers["x-amz-meta-b"]) == (BIG, "2")
        assert world.blobs.named() == blobs

    in_world(test)


def test_a_copy_to_oneself_under_conditions() -> None:
    async def test(world: World) -> None:
        etag = (await world.call("PUT", "/bucket/s", b"x")).headers["etag"]
        source = {"x-amz-copy-source": "/bucket/s", "x-amz-metadata-directive": "REPLACE"}
        for name, value, status in (
            ("if-none-match", "*", 412),
            ("if-none-match", etag, 412),
            ("if-match", '"x"', 412),
            ("if-match", etag, 200),
        ):
            copied = await world.call("PUT", "/bucket/s", headers={**source, name: value})
            assert copied.status == status, (name, value)

    in_world(test)


def test_conditional_copies() -> None:
    async def test(world: World) -> None:
        etag = (await world.call("PUT", "/bucket/s", b"x")).headers["etag"]
        for name, value, status in (
            ("x-amz-copy-source-if-match", etag, 200),
            ("x-amz-copy-source-if-match", '"x"', 412),
            ("x-amz-copy-source-if-none-match", etag, 412),
            ("x-amz-copy-source-if-none-match", '"x"', 200),
            ("x-amz-copy-source-if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT", 412),
            ("if-none-match", "*", 412),
        ):
            headers = {"x-amz-copy-source": "/bucket/s", name: value}
            assert (await world.call("PUT", "/bucket/t", headers=headers)).status == status, name

    in_world(test)


def test_attributes() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"123")
        wanted = {"x-amz-object-attributes": "ETag,Checksum,ObjectSize,StorageClass,ObjectParts"}
        answer = await world.call("GET", "/bucket/k", query="attributes=", headers=wanted)
        assert answer.xml.findtext("ObjectSize") == "3"
        assert answer.xml.findtext("Checksum/ChecksumCRC64NVME") == b64("crc64nvme", b"123")
        assert answer.xml.find("ObjectParts") is None
        unknown = {"x-amz-object-attributes": "Colour"}
        answer = await world.call("GET", "/bucket/k", query="attributes=", headers=unknown)
        assert answer.code == "InvalidArgument"

    in_world(test)
