"""Requests that are under way while what they were allowed to do becomes somebody else's."""

from collections.abc import Awaitable, Callable

import pytest

from pinfold.cluster.api import Change, Changed
from tests.s3.world import World, in_world

BIG = b"x" * 20_000
PUBLIC = {"x-amz-acl": "public-read-write"}


async def hand_over(world: World) -> None:
    """Bob's bucket is deleted, and alice makes one of the name with an object in it."""
    assert (await world.call("DELETE", "/spot", user="bob")).status == 204
    assert (await world.call("PUT", "/spot")).status == 200
    assert (await world.call("PUT", "/spot/important", b"precious")).status == 200


async def demand_untouched(world: World) -> None:
    """Alice's bucket is private and holds what she put into it."""
    assert (await world.call("GET", "/spot")).texts("Contents/Key") == ["important"]
    assert (await world.call("GET", "/spot/important")).body == b"precious"
    assert (await world.call("GET", "/spot", query="uploads=")).texts("Upload/Key") == []
    for user in ("bob", ""):
        assert (await world.call("GET", "/spot", user=user)).status == 403
        assert (await world.call("PUT", "/spot/o", b"", user=user)).status == 403


HELD = {
    "PutObject": ("PUT", "/spot/planted", "", b"evil"),
    "DeleteObjects": (
        "POST",
        "/spot",
        "delete=",
        b"<Delete><Object><Key>important</Key></Object></Delete>",
    ),
    "PutBucketAcl": (
        "PUT",
        "/spot",
        "acl=",
        b"<AccessControlPolicy><Owner><ID>bob</ID></Owner><AccessControlList><Grant><Grantee>"
        b"<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee>"
        b"<Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>",
    ),
}


@pytest.mark.parametrize("operation", HELD)
def test_a_request_held_open_does_nothing_to_the_next_owners_bucket(operation: str) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/spot", user="bob")
        method, path, query, body = HELD[operation]
        answer = await world.call(
            method, path, body, query=query, user="bob", meanwhile=lambda: hand_over(world)
        )
        assert answer.status in (200, 403, 404), "DeleteObjects tells each key's outcome"
        assert answer.status != 200 or answer.texts("Error/Code") == ["AccessDenied"]
        await demand_untouched(world)

    in_world(test)


def test_parts_and_completion_of_an_upload_end_with_the_bucket_that_it_was_in() -> None:
    async def test(world: World) -> None:
        async def held(query: str, body: bytes, method: str) -> None:
            await world.call("PUT", "/spot", user="bob")
            begun = await world.call("POST", "/spot/o", query="uploads=", user="bob")
            upload = begun.texts("UploadId")[0]
            part = await world.call(
                "PUT", "/spot/o", b"p", query=f"partNumber=1&uploadId={upload}", user="bob"
            )

            async def meanwhile() -> None:
                await world.call("DELETE", "/spot/o", query=f"uploadId={upload}", user="bob")
                await hand_over(world)

            etag = part.headers["etag"].strip('"').encode()
            answer = await world.call(
                method,
                "/spot/o",
                body.replace(b"ETAG", etag),
                query=query.replace("UPLOAD", upload),
                user="bob",
                meanwhile=meanwhile,
            )
            assert answer.status in (403, 404)
            await demand_untouched(world)
            await world.call("DELETE", "/spot/important")
            await world.call("DELETE", "/spot")

        await held("partNumber=2&uploadId=UPLOAD", b"evil", "PUT")
        complete = (
            b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>ETAG</ETag></Part>"
            b"</CompleteMultipartUpload>"
        )
        await held("uploadId=UPLOAD", complete, "POST")

    in_world(test)


def test_a_slow_copy_lands_in_no_other_owners_bucket() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bobs", user="bob")
        await world.call("PUT", "/bobs/source", BIG, user="bob")
        await world.call("PUT", "/spot", user="bob")
        honest = world.blobs.put

        async def put(*arguments: object) -> object:
            world.blobs.put = honest  # type: ignore[method-assign]
            await hand_over(world)
            return await honest(*arguments)  # type: ignore[arg-type]

        world.blobs.put = put  # type: ignore[method-assign,assignment]
        source = {"x-amz-copy-source": "/bobs/source"}
        answer = await world.call("PUT", "/spot/copy", headers=source, user="bob")
        assert answer.code == "AccessDenied"
        await demand_untouched(world)

    in_world(test)


def before_the_change_of(
    world: World, key: bytes, meanwhile: Callable[[], Awaitable[object]]
) -> None:
    """Let something happen right before the next change of a name's row."""
    honest = world.rows.change

    async def change(place: bytes, wanted: Change) -> Changed:
        if any(key in put for put, _ in wanted.puts):
            world.rows.change = honest  # type: ignore[method-assign]
            await meanwhile()
        return await honest(place, wanted)

    world.rows.change = change  # type: ignore[method-assign]


def test_creating_ones_own_bucket_again_opens_no_other_owners() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/spot", user="bob")
        before_the_change_of(world, b"spot", lambda: hand_over(world))
        await world.call("PUT", "/spot", headers=PUBLIC, user="bob")
        await demand_untouched(world)

    in_world(test)


def test_a_copy_to_itself_takes_only_a_version_that_may_be_read() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket", query="acl=", headers=PUBLIC)
        await world.call("PUT", "/bucket/o", b"bait", user="bob")
        before_the_change_of(world, b"o", lambda: world.call("PUT", "/bucket/o", b"secret"))
        headers = {"x-amz-copy-source": "/bucket/o", "x-amz-metadata-directive": "REPLACE"}
        assert (await world.call("PUT", "/bucket/o", headers=headers, user="bob")).status == 403
        assert (await world.call("GET", "/bucket/o", user="bob")).status == 403
        assert (await world.call("GET", "/bucket/o")).body == b"secret"

    in_world(test)


def test_a_copy_to_itself_demands_its_conditions_of_the_version_that_it_takes() -> None:
    async def test(world: World) -> None:
        etag = (await world.call("PUT", "/bucket/o", b"seen")).headers["etag"]
        before_the_change_of(world, b"o", lambda: world.call("PUT", "/bucket/o", b"unseen"))
        headers = {
            "x-amz-copy-source": "/bucket/o",
            "x-amz-copy-source-if-match": etag,
            "x-amz-metadata-directive": "REPLACE",
            "x-amz-meta-a": "b",
        }
        assert (await world.call("PUT", "/bucket/o", headers=headers)).code == "PreconditionFailed"
        answer = await world.call("GET", "/bucket/o")
        assert (answer.body, "x-amz-meta-a" in answer.headers) == (b"unseen", False)

    in_world(test)


def test_an_acl_is_set_only_on_a_version_whose_acl_allows_it() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket", query="acl=", headers=PUBLIC)
        full = {"x-amz-acl": "bucket-owner-full-control"}
        await world.call("PUT", "/bucket/o", b"theirs", headers=full, user="bob")
        before_the_change_of(
            world, b"o", lambda: world.call("PUT", "/bucket/o", b"private", user="bob")
        )
        public = {"x-amz-acl": "public-read"}
        answer = await world.call("PUT", "/bucket/o", query="acl=", headers=public)
        assert answer.code == "AccessDenied", "alice owns the bucket, but this version is bob's own"
        assert (await world.call("GET", "/bucket/o", user="")).status == 403

    in_world(test)


def test_an_upload_is_its_initiators_and_the_bucket_owners_alone() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket", query="acl=", headers=PUBLIC)
        begun = await world.call("POST", "/bucket/o", query="uploads=", user="bob")
        upload = begun.texts("UploadId")[0]
        of_upload = f"uploadId={upload}"
        complete = (
            b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>ETAG</ETag></Part>"
            b"</CompleteMultipartUpload>"
        )
        put = await world.call(
            "PUT", "/bucket/o", b"p", query=f"partNumber=1&{of_upload}", user="bob"
        )
        body = complete.replace(b"ETAG", put.headers["etag"].strip('"').encode())
        source = {"x-amz-copy-source": "/bucket/theirs"}
        for user in ("carol", ""):
            await world.call("PUT", "/bucket/theirs", b"t", user=user)
            for method, query, content, headers in (
                ("PUT", f"partNumber=1&{of_upload}", b"forged", {}),
                ("PUT", f"partNumber=1&{of_upload}", b"", source),
                ("GET", of_upload, b"", {}),
                ("DELETE", of_upload, b"", {}),
                ("POST", of_upload, body, {}),
            ):
                answer = await world.call(
                    method, "/bucket/o", content, query=query, headers=headers, user=user
                )
                assert answer.code == "AccessDenied", (user, method)
            answer = await world.call("GET", "/bucket", query="uploads=", user=user)
            assert answer.code == "AccessDenied"
        listed = await world.call("GET", "/bucket/o", query=of_upload)
        assert listed.texts("Owner/ID") == listed.texts("Initiator/ID") == ["bob"]
        assert (await world.call("POST", "/bucket/o", body, query=of_upload)).status == 200
        again = await world.call("POST", "/bucket/o", body, query=of_upload, user="carol")
        assert again.code == "AccessDenied"
        assert (await world.call("GET", "/bucket/o", user="bob")).body == b"p", "it is bob's"

    in_world(test)


def test_nobody_begins_an_upload() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket", query="acl=", headers=PUBLIC)
        answer = await world.call("POST", "/bucket/o", query="uploads=", user="")
        assert answer.code == "AccessDenied"

    in_world(test)
