"""Multipart uploads through the front end."""

import base64
import hashlib

import pytest

from pinfold.objects import digests
from tests.s3.world import Answer, World, in_world

MIB = 1 << 20


def document(*parts: tuple[int, str]) -> bytes:
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


async def begin(world: World, headers: dict[str, str] | None = None) -> str:
    answer = await world.call("POST", "/bucket/k", query="uploads=", headers=headers)
    assert answer.status == 200, answer.body
    return answer.xml.findtext("UploadId") or ""


async def part(
    world: World, upload: str, number: int, content: bytes, headers: dict[str, str] | None = None
) -> Answer:
    query = f"partNumber={number}&uploadId={upload}"
    return await world.call("PUT", "/bucket/k", content, query=query, headers=headers)


async def complete(
    world: World, upload: str, body: bytes, headers: dict[str, str] | None = None
) -> Answer:
    return await world.call("POST", "/bucket/k", body, query=f"uploadId={upload}", headers=headers)


def test_an_upload_from_begin_to_end() -> None:
    async def test(world: World) -> None:
        said = {"x-amz-meta-a": "1", "content-type": "text/a"}
        upload = await begin(world, said)
        contents = [b"a" * 5 * MIB, b"b" * 100]
        etags = []
        for index, content in enumerate(contents):
            answer = await part(world, upload, index + 1, content)
            etags.append(answer.headers["etag"])
        listed = await world.call("GET", "/bucket/k", query=f"uploadId={upload}")
        assert listed.texts("Part/Size") == [str(5 * MIB), "100"]
        uploads = await world.call("GET", "/bucket", query="uploads=")
        assert uploads.texts("Upload/UploadId") == [upload]
        assert (await world.call("GET", "/bucket/k")).code == "NoSuchKey"
        body = document((1, etags[0]), (2, etags[1]))
        first = await complete(world, upload, body)
        again = await complete(world, upload, body)
        assert first.status == 200, first.body
        assert again.body == first.body
        got = await world.call("GET", "/bucket/k")
        assert got.body == b"".join(contents)
        assert got.headers["x-amz-meta-a"] == "1"
        md5s = b"".join(hashlib.md5(content).digest() for content in contents)
        assert got.headers["etag"] == f'"{hashlib.md5(md5s).hexdigest()}-2"'
        second = await world.call("GET", "/bucket/k", query="partNumber=2")
        assert (second.status, second.body) == (206, contents[1])
        assert second.headers["x-amz-mp-parts-count"] == "2"
        assert (await world.call("GET", "/bucket/k", query="partNumber=3")).code == "InvalidPart"
        uploads = await world.call("GET", "/bucket", query="uploads=")
        assert uploads.texts("Upload/UploadId") == []

    in_world(test)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MalformedXML"),
        (b"<CompleteMultipartUpload/>", "MalformedXML"),
        (document((0, "x")), "MalformedXML"),
        (document((1, "x")), "InvalidPart"),
        (document((9, "x")), "InvalidPart"),
        (document((2, "x"), (1, "x")), "InvalidPartOrder"),
    ],
)
def test_what_complete_refuses(body: bytes, code: str) -> None:
    async def test(world: World) -> None:
        upload = await begin(world)
        await part(world, upload, 1, b"x")
        assert (await complete(world, upload, body)).code == code

    in_world(test)


def test_parts_below_the_minimum_are_too_small() -> None:
    async def test(world: World) -> None:
        upload = await begin(world)
        etags = [(await part(world, upload, n, b"x")).headers["etag"] for n in (1, 2)]
        answer = await complete(world, upload, document((1, etags[0]), (2, etags[1])))
        assert answer.code == "EntityTooSmall"

    in_world(test)


def test_uploads_that_are_not_there_and_numbers_that_cannot_be() -> None:
    async def test(world: World) -> None:
        for upload in ("nonsense", "00" * 16):
            query = f"uploadId={upload}"
            assert (await part(world, upload, 1, b"x")).code == "NoSuchUpload"
            assert (await complete(world, upload, document((1, "x")))).code == "NoSuchUpload"
            for method in ("GET", "DELETE"):
                answer = await world.call(method, "/bucket/k", query=query)
                assert answer.code == "NoSuchUpload"
        upload = await begin(world)
        for number in (0, 10_001):
            assert (await part(world, upload, number, b"x")).code == "InvalidArgument"

    in_world(test)


def test_abort_gives_everything_back() -> None:
    async def test(world: World) -> None:
        upload = await begin(world)
        await part(world, upload, 1, b"x" * 5000)
        query = f"uploadId={upload}"
        assert (await world.call("DELETE", "/bucket/k", query=query)).status == 204
        assert world.blobs.named() == set()
        assert (await world.call("DELETE", "/bucket/k", query=query)).code == "NoSuchUpload"

    in_world(test)


def test_parts_can_be_copied() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/s", bytes(range(256)) * 10)
        upload = await begin(world)
        query = f"partNumber=1&uploadId={upload}"
        headers = {"x-amz-copy-source": "/bucket/s", "x-amz-copy-source-range": "bytes=10-19"}
        answer = await world.call("PUT", "/bucket/k", query=query, headers=headers)
        etag = answer.xml.findtext("ETag") or ""
        assert (await complete(world, upload, document((1, etag)))).status == 200
        assert (await world.call("GET", "/bucket/k")).body == bytes(range(10, 20))
        headers["x-amz-copy-source-range"] = "bytes=0-2560"
        upload = await begin(world)
        query = f"partNumber=1&uploadId={upload}"
        answer = await world.call("PUT", "/bucket/k", query=query, headers=headers)
        assert answer.code == "InvalidRange"

    in_world(test)


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("CRC32", "FULL_OBJECT"),
        ("CRC32C", "FULL_OBJECT"),
        ("CRC64NVME", "FULL_OBJECT"),
        ("CRC32", "COMPOSITE"),
        ("SHA1", "COMPOSITE"),
        ("SHA256", "COMPOSITE"),
    ],
)
def test_checksums_of_the_whole(algorithm: str, kind: str) -> None:
    name = f"x-amz-checksum-{algorithm.lower()}"
    contents = [b"a" * 5 * MIB, b"bc"]

    def of(content: bytes) -> bytes:
        return digests.checksum_of(algorithm.lower(), content)

    async def test(world: World) -> None:
        said = {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind}
        upload = await begin(world, said)
        etags = []
        for index, content in enumerate(contents):
            declared = {name: base64.b64encode(of(content)).decode()}
            answer = await part(world, upload, index + 1, content, declared)
            etags.append(answer.headers["etag"])
        if kind == "COMPOSITE":
            value = of(b"".join(of(content) for content in contents))
            expected = base64.b64encode(value).decode() + "-2"
        else:
            expected = base64.b64encode(of(b"".join(contents))).decode()
        body = document((1, etags[0]), (2, etags[1]))
        wrong = {name: base64.b64encode(bytes(len(of(b"")))).decode()}
        assert (await complete(world, upload, body, wrong)).code == "BadDigest"
        answer = await complete(world, upload, body, {name: expected})
        assert answer.status == 200, answer.body
        assert answer.xml.findtext(f"Checksum{algorithm}") == expected
        head = await world.call("HEAD", "/bucket/k", headers={"x-amz-checksum-mode": "ENABLED"})
        assert head.headers[name] == expected
        assert head.headers["x-amz-checksum-type"] == kind

    in_world(test)


def test_a_part_with_another_algorithm_is_refused() -> None:
    async def test(world: World) -> None:
        upload = await begin(world, {"x-amz-checksum-algorithm": "SHA256"})
        declared = {"x-amz-checksum-crc32": "AAAAAA=="}
        assert (await part(world, upload, 1, b"", declared)).code == "InvalidRequest"
        for headers in (
            {"x-amz-checksum-algorithm": "SHA1", "x-amz-checksum-type": "FULL_OBJECT"},
            {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"},
            {"x-amz-checksum-type": "COMPOSITE"},
        ):
            answer = await world.call("POST", "/bucket/k", query="uploads=", headers=headers)
            assert answer.code == "InvalidRequest"

    in_world(test)


def test_uploads_are_listed_in_pages() -> None:
    async def test(world: World) -> None:
        for key in ("a", "b/1", "b/2", "c"):
            await world.call("POST", f"/bucket/{key}", query="uploads=")
        world.clock.advance(1)
        await world.call("POST", "/bucket/a", query="uploads=")
        found: list[tuple[str, str]] = []
        query = "max-uploads=2&uploads="
        while True:
            answer = await world.call("GET", "/bucket", query=query)
            keys, ids = answer.texts("Upload/Key"), answer.texts("Upload/UploadId")
            found += zip(keys, ids, strict=True)
            if answer.xml.findtext("IsTruncated") == "false":
                break
            key = (answer.xml.findtext("NextKeyMarker") or "").replace("/", "%2F")
            upload = answer.xml.findtext("NextUploadIdMarker")
            query = f"key-marker={key}&max-uploads=2&upload-id-marker={upload}&uploads="
        assert [key for key, _ in found] == ["a", "a", "b/1", "b/2", "c"]
        assert len({upload for _, upload in found}) == 5
        answer = await world.call("GET", "/bucket", query="delimiter=%2F&uploads=")
        assert answer.texts("CommonPrefixes/Prefix") == ["b/"]

    in_world(test)
