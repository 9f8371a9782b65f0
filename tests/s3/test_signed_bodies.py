"""What a signature says of the body and the region, for operations that look at neither."""

import hashlib

import pytest

from pinfold.s3.verbs import HANDLERS, TAKE_A_BODY
from tests.s3.signing import EMPTY, Signer
from tests.s3.world import HOST, SECRETS, World, in_world

SOURCE = {"x-amz-copy-source": "/bucket/k"}

BODILESS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "AbortMultipartUpload": ("DELETE", "/bucket/u", "uploadId=UPLOAD", {}),
    "CopyObject": ("PUT", "/bucket/copy", "", SOURCE),
    "CreateMultipartUpload": ("POST", "/bucket/other", "uploads=", {}),
    "DeleteBucket": ("DELETE", "/empty", "", {}),
    "DeleteObject": ("DELETE", "/bucket/k", "", {}),
    "GetBucketAcl": ("GET", "/bucket", "acl=", {}),
    "GetBucketLocation": ("GET", "/bucket", "location=", {}),
    "GetBucketVersioning": ("GET", "/bucket", "versioning=", {}),
    "GetObject": ("GET", "/bucket/k", "", {}),
    "GetObjectAcl": ("GET", "/bucket/k", "acl=", {}),
    "GetObjectAttributes": (
        "GET",
        "/bucket/k",
        "attributes=",
        {"x-amz-object-attributes": "ETag"},
    ),
    "HeadBucket": ("HEAD", "/bucket", "", {}),
    "HeadObject": ("HEAD", "/bucket/k", "", {}),
    "ListBuckets": ("GET", "/", "", {}),
    "ListMultipartUploads": ("GET", "/bucket", "uploads=", {}),
    "ListObjectVersions": ("GET", "/bucket", "versions=", {}),
    "ListObjects": ("GET", "/bucket", "", {}),
    "ListObjectsV2": ("GET", "/bucket", "list-type=2", {}),
    "ListParts": ("GET", "/bucket/u", "uploadId=UPLOAD", {}),
    "UploadPartCopy": ("PUT", "/bucket/u", "partNumber=1&uploadId=UPLOAD", SOURCE),
}


def test_every_operation_either_reads_a_body_or_has_none() -> None:
    assert set(HANDLERS) - TAKE_A_BODY - {"PreflightCors"} == set(BODILESS)


@pytest.mark.parametrize("operation", BODILESS)
def test_a_body_that_nobody_signed_is_refused_by_who_has_no_use_for_one(operation: str) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x")
        await world.call("PUT", "/empty")
        begun = await world.call("POST", "/bucket/u", query="uploads=")
        method, path, query, headers = BODILESS[operation]
        query = query.replace("UPLOAD", begun.texts("UploadId")[0])
        for body, signed in ((b"Z", EMPTY), (b"", hashlib.sha256(b"Z").hexdigest())):
            answer = await world.call(
                method, path, body, query=query, headers=headers, payload_hash=signed
            )
            assert answer.status == 400
            assert method == "HEAD" or answer.code == "XAmzContentSHA256Mismatch"
        long = await world.call(method, path, b"Z" * 70_000, query=query, headers=headers)
        assert long.status == 400
        answer = await world.call(method, path, query=query, headers=headers, payload_hash=EMPTY)
        assert answer.status in (200, 204), "nothing was done before"

    in_world(test)


def test_a_bucket_is_not_made_by_a_body_in_chunks_that_nobody_signed() -> None:
    async def test(world: World) -> None:
        async def create(body: bytes, signed: bytes) -> str:
            headers = {"host": HOST}
            digest = hashlib.sha256(signed).hexdigest()
            headers |= world.signer().signed("PUT", "/fresh", "", headers, digest)
            headers["transfer-encoding"] = "chunked"
            return (await world.send("PUT", "/fresh", headers, body)).code

        assert await create(b"Z", b"") == "XAmzContentSHA256Mismatch"
        assert await create(b"", b"Z") == "XAmzContentSHA256Mismatch"
        assert await create(b"Z", b"Z") == "MissingContentLength"
        assert (await world.call("HEAD", "/fresh")).status == 404
        assert await create(b"", b"") == ""
        assert (await world.call("HEAD", "/fresh")).status == 200

    in_world(test)


def test_a_signature_for_another_region_is_refused_with_the_right_one() -> None:
    async def test(world: World) -> None:
        stamp = world.signer().stamp
        signer = Signer("alice", SECRETS["alice"], stamp, "eu-west-1")
        headers = signer.signed("GET", "/bucket", "", {"host": HOST}, EMPTY)
        refused = await world.send("GET", "/bucket", headers, b"")
        assert (refused.status, refused.code) == (400, "AuthorizationHeaderMalformed")
        assert refused.texts("Region") == ["us-east-1"]
        assert refused.texts("Message") == [
            "The authorization header is malformed; the region 'eu-west-1' is wrong; "
            "expecting 'us-east-1'"
        ]
        query = signer.presigned("GET", "/bucket", HOST, 60)
        refused = await world.send("GET", f"/bucket?{query}", {"host": HOST}, b"")
        assert (refused.status, refused.code) == (400, "AuthorizationQueryParametersError")
        assert refused.texts("Region") == ["us-east-1"]

    in_world(test)
