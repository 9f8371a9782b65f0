"""Who may do what: owners, others, nobody, by header, URL and ACL."""

import pytest

from tests.s3.signing import Signer
from tests.s3.world import HOST, World, in_world


def test_strangers_and_nobody_are_denied_everything() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x")
        for user in ("bob", ""):
            for method, path, query in (
                ("GET", "/bucket", ""),
                ("GET", "/bucket/k", ""),
                ("HEAD", "/bucket/k", ""),
                ("GET", "/bucket/none", ""),
                ("PUT", "/bucket/k", ""),
                ("DELETE", "/bucket/k", ""),
                ("DELETE", "/bucket", ""),
                ("GET", "/bucket", "acl="),
                ("GET", "/bucket/k", "acl="),
                ("POST", "/bucket/k", "uploads="),
                ("GET", "/bucket", "uploads="),
            ):
                answer = await world.call(method, path, query=query, user=user)
                assert answer.status == 403, (user, method, path, query)
        assert (await world.call("PUT", "/mine", user="")).code == "AccessDenied"
        assert (await world.call("GET", "/bucket/k")).body == b"x"

    in_world(test)


def test_canned_acls_open_what_they_say() -> None:
    async def test(world: World) -> None:
        public = {"x-amz-acl": "public-read"}
        await world.call("PUT", "/bucket/k", b"x", headers=public)
        assert (await world.call("GET", "/bucket/k", user="")).body == b"x"
        assert (await world.call("GET", "/bucket", user="")).status == 403
        assert (await world.call("PUT", "/bucket/k", user="")).status == 403
        await world.call("PUT", "/bucket", query="acl=", headers=public)
        assert (await world.call("GET", "/bucket", user="")).texts("Contents/Key") == ["k"]
        assert (await world.call("GET", "/bucket/none", user="")).code == "NoSuchKey"
        read_write = {"x-amz-acl": "public-read-write"}
        await world.call("PUT", "/bucket", query="acl=", headers=read_write)
        assert (await world.call("PUT", "/bucket/theirs", b"b", user="bob")).status == 200
        assert (await world.call("GET", "/bucket/theirs")).status == 403, "it is bob's"
        await world.call("PUT", "/bucket/k", query="acl=", headers={"x-amz-acl": "private"})
        assert (await world.call("GET", "/bucket/k", user="")).status == 403
        assert (await world.call("GET", "/bucket/k")).body == b"x"

    in_world(test)


def test_acls_are_told_and_set_as_documents() -> None:
    async def test(world: World) -> None:
        headers = {"x-amz-acl": "public-read"}
        await world.call("PUT", "/bucket/k", b"x", headers=headers)
        document = (await world.call("GET", "/bucket/k", query="acl=")).body
        await world.call("PUT", "/bucket/k", query="acl=", headers={"x-amz-acl": "private"})
        before = await world.call("HEAD", "/bucket/k")
        world.clock.advance(60)
        assert (await world.call("PUT", "/bucket/k", document, query="acl=")).status == 200
        assert (await world.call("GET", "/bucket/k", user="")).body == b"x"
        after = await world.call("HEAD", "/bucket/k")
        assert after.headers["last-modified"] == before.headers["last-modified"]
        others = document.replace(b"<ID>alice</ID>", b"<ID>bob</ID>")
        answer = await world.call("PUT", "/bucket/k", others, query="acl=")
        assert answer.code == "AccessDenied", "an owner is not changed so"
        single = document.replace(b"READ", b"WRITE_ACP")
        assert (await world.call("PUT", "/bucket/k", single, query="acl=")).status == 501
        assert (await world.call("PUT", "/bucket/k", b"", query="acl=")).status == 400
        bad = await world.call("PUT", "/bucket/k", query="acl=", headers={"x-amz-acl": "odd"})
        assert bad.code == "InvalidArgument"

    in_world(test)


def test_presigned_urls() -> None:
    async def test(world: World) -> None:
        signer = world.signer()
        put = signer.presigned("PUT", "/bucket/k", HOST, 60)
        sent = {"host": HOST, "content-length": "5"}
        assert (await world.send("PUT", f"/bucket/k?{put}", sent, b"hello")).status == 200
        get = signer.presigned("GET", "/bucket/k", HOST, 60, "response-content-type=a%2Fb")
        answer = await world.send("GET", f"/bucket/k?{get}", {"host": HOST}, b"")
        assert (answer.body, answer.headers["content-type"]) == (b"hello", "a/b")
        for method, target, headers in (
            ("PUT", f"/bucket/k?{get}", sent),
            ("GET", f"/bucket/l?{get}", {"host": HOST}),
            ("GET", f"/bucket/k?{get}&response-expires=x", {"host": HOST}),
            ("GET", f"/bucket/k?{get}", {"host": "elsewhere"}),
        ):
            answer = await world.send(method, target, headers, b"")
            assert answer.code == "SignatureDoesNotMatch", target
        extra = {**sent, "x-amz-acl": "public-read"}
        answer = await world.send("PUT", f"/bucket/k?{put}", extra, b"hello")
        assert answer.code == "AccessDenied", "the ACL was not signed"
        world.clock.advance(61)
        answer = await world.send("GET", f"/bucket/k?{get}", {"host": HOST}, b"")
        assert answer.code == "AccessDenied"

    in_world(test)


def test_bad_signatures() -> None:
    async def test(world: World) -> None:
        stamp = world.signer().stamp

        async def code(signer: Signer) -> str:
            signed = signer.signed("GET", "/bucket", "", {"host": HOST}, "UNSIGNED-PAYLOAD")
            return (await world.send("GET", "/bucket", signed, b"")).code

        assert await code(Signer("alice", "secret-of-alice", stamp)) == ""
        assert await code(Signer("alice", "wrong", stamp)) == "SignatureDoesNotMatch"
        assert await code(Signer("nobody", "secret", stamp)) == "InvalidAccessKeyId"
        assert await code(world.signer(offset_s=901)) == "RequestTimeTooSkewed"
        assert await code(world.signer(offset_s=-901)) == "RequestTimeTooSkewed"
        assert await code(world.signer(offset_s=-899)) == ""
        await world.service.store.accounts.delete_key("alice")
        assert await code(Signer("alice", "secret-of-alice", stamp)) == "InvalidAccessKeyId"

    in_world(test)


@pytest.mark.parametrize(("owner", "status"), [("alice", 200), ("bob", 403)])
def test_the_expected_owner_is_compared(owner: str, status: int) -> None:
    async def test(world: World) -> None:
        headers = {"x-amz-expected-bucket-owner": owner}
        assert (await world.call("GET", "/bucket", headers=headers)).status == status

    in_world(test)


def test_temporary_credentials_and_preflights_are_refused() -> None:
    async def test(world: World) -> None:
        token = {"x-amz-security-token": "x"}
        assert (await world.call("GET", "/bucket", headers=token)).code == "InvalidToken"
        assert (await world.call("OPTIONS", "/bucket/k")).code == "BadRequest"
        origin = {"origin": "https://example.com"}
        answer = await world.call("OPTIONS", "/bucket/k", headers=origin, user="")
        assert (answer.status, answer.code) == (403, "AccessForbidden")

    in_world(test)


def test_copies_need_the_right_to_read_the_source() -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x")
        await world.call("PUT", "/bobs", user="bob")
        source = {"x-amz-copy-source": "/bucket/k"}
        answer = await world.call("PUT", "/bobs/k", headers=source, user="bob")
        assert answer.code == "AccessDenied"
        await world.call(
            "PUT", "/bucket/k", query="acl=", headers={"x-amz-acl": "authenticated-read"}
        )
        answer = await world.call("PUT", "/bobs/k", headers=source, user="bob")
        assert answer.status == 200

    in_world(test)
