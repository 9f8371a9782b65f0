"""Buckets, listings and multi-delete through the front end."""

import pytest

from tests.s3.world import World, in_world


def test_the_life_of_a_bucket() -> None:
    async def test(world: World) -> None:
        assert (await world.call("PUT", "/second")).headers["location"] == "/second"
        assert (await world.call("PUT", "/second")).status == 200, "as in us-east-1"
        assert (await world.call("PUT", "/second", user="bob")).code == "BucketAlreadyExists"
        assert (await world.call("HEAD", "/second")).headers["x-amz-bucket-region"] == "us-east-1"
        listed = await world.call("GET", "/")
        assert listed.texts("Buckets/Bucket/Name") == ["bucket", "second"]
        assert listed.xml.findtext("Owner/DisplayName") == "Alice"
        page = await world.call("GET", "/", query="max-buckets=1")
        assert page.texts("Buckets/Bucket/Name") == ["bucket"]
        token = page.xml.findtext("ContinuationToken") or ""
        query = f"continuation-token={token.replace('=', '%3D')}"
        page = await world.call("GET", "/", query=query)
        assert page.texts("Buckets/Bucket/Name") == ["second"]
        await world.call("PUT", "/second/k")
        assert (await world.call("DELETE", "/second")).code == "BucketNotEmpty"
        await world.call("DELETE", "/second/k")
        assert (await world.call("DELETE", "/second", user="bob")).code == "AccessDenied"
        assert (await world.call("DELETE", "/second")).status == 204
        assert (await world.call("DELETE", "/second")).code == "NoSuchBucket"
        assert (await world.call("HEAD", "/second")).status == 404
        assert (await world.call("GET", "/", user="bob")).texts("Buckets/Bucket/Name") == []

    in_world(test)


def test_locations() -> None:
    def document(region: str) -> bytes:
        return (
            "<CreateBucketConfiguration><LocationConstraint>"
            f"{region}</LocationConstraint></CreateBucketConfiguration>"
        ).encode()

    async def test(world: World) -> None:
        assert (await world.call("PUT", "/b-one", document("default"))).status == 200
        location = await world.call("GET", "/b-one", query="location=")
        assert location.xml.text == "default"
        assert (await world.call("GET", "/bucket", query="location=")).xml.text is None
        refused = await world.call("PUT", "/b-two", document("moon-1"))
        assert refused.code == "InvalidLocationConstraint"
        assert (await world.call("PUT", "/b-two", b"<nonsense")).code == "MalformedXML"
        versioning = await world.call("GET", "/bucket", query="versioning=")
        assert versioning.xml.findtext("Status") is None

    in_world(test)


NAMES = ["a", "b/1", "b/2", "b/c/3", "z&<>", "ü x"]


@pytest.mark.parametrize("version", ["", "list-type=2&", "versions=&"])
def test_listings(version: str) -> None:
    element = "Version" if version.startswith("versions") else "Contents"

    async def test(world: World) -> None:
        for name in NAMES:
            await world.call("PUT", f"/bucket/{name}", name.encode())

        async def listed(query: str) -> tuple[list[str], list[str]]:
            text = "&".join(sorted((version + query).strip("&").split("&")))
            answer = await world.call("GET", "/bucket", query=text)
            assert answer.status == 200, answer.body
            return answer.texts(f"{element}/Key"), answer.texts("CommonPrefixes/Prefix")

        assert await listed("") == (NAMES, [])
        assert await listed("delimiter=%2F") == (["a", "z&<>", "ü x"], ["b/"])
        assert await listed("delimiter=%2F&prefix=b%2F") == (["b/1", "b/2"], ["b/c/"])
        keys, _ = await listed("encoding-type=url")
        assert keys[-2:] == ["z%26%3C%3E", "%C3%BC%20x"]
        assert await listed("max-keys=0") == ([], [])
        answer = await world.call(
            "GET", "/bucket", query="&".join(sorted(f"{version}max-keys=x".split("&")))
        )
        assert answer.code == "InvalidArgument"

    in_world(test)


def test_pages_continue() -> None:
    async def test(world: World) -> None:
        for name in NAMES:
            await world.call("PUT", f"/bucket/{name}")
        found: list[str] = []
        query = "delimiter=%2F&list-type=2&max-keys=1"
        token = ""
        while True:
            full = (f"continuation-token={token}&" if token else "") + query
            answer = await world.call("GET", "/bucket", query=full)
            found += answer.texts("Contents/Key") + answer.texts("CommonPrefixes/Prefix")
            if answer.xml.findtext("IsTruncated") == "false":
                break
            token = (answer.xml.findtext("NextContinuationToken") or "").replace("=", "%3D")
        assert found == ["a", "b/", "z&<>", "ü x"]
        answer = await world.call("GET", "/bucket", query="delimiter=%2F&marker=b%2F")
        assert answer.texts("Contents/Key") == ["z&<>", "ü x"]
        assert answer.texts("CommonPrefixes/Prefix") == []
        answer = await world.call("GET", "/bucket", query="list-type=2&start-after=b%2F2")
        assert answer.texts("Contents/Key") == ["b/c/3", "z&<>", "ü x"]
        answer = await world.call("GET", "/bucket", query="continuation-token=x&list-type=2")
        assert answer.code == "InvalidArgument"

    in_world(test)


def test_many_deletes_each_have_their_outcome() -> None:
    async def test(world: World) -> None:
        for name in ("a", "b", "c"):
            await world.call("PUT", f"/bucket/{name}", b"1")
        document = (
            b"<Delete><Object><Key>a</Key></Object><Object><Key>none</Key></Object>"
            b"<Object><Key>b</Key><ETag>wrong</ETag></Object>"
            b"<Object><Key>c</Key><VersionId>7</VersionId></Object></Delete>"
        )
        answer = await world.call("POST", "/bucket", document, query="delete=")
        assert answer.texts("Deleted/Key") == ["a", "none"]
        assert answer.texts("Error/Key") == ["b", "c"]
        assert answer.texts("Error/Code") == ["PreconditionFailed", "NoSuchVersion"]
        quiet = b"<Delete><Quiet>true</Quiet><Object><Key>b</Key></Object></Delete>"
        answer = await world.call("POST", "/bucket", quiet, query="delete=")
        assert list(answer.xml) == []
        listed = await world.call("GET", "/bucket")
        assert listed.texts("Contents/Key") == ["c"]

    in_world(test)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<Delete/>",
        b"<Other/>",
        b"<Delete><Object><Key>a</Key></Object>",
        b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>",
    ],
)
def test_bad_delete_documents_change_nothing(document: bytes) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/a")
        answer = await world.call("POST", "/bucket", document, query="delete=")
        assert answer.code == "MalformedXML"
        assert (await world.call("HEAD", "/bucket/a")).status == 200

    in_world(test)
