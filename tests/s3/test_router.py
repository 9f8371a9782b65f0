"""The router's table, whole: every operation of S3 is implemented or refused, never mistaken."""

import pytest

from pinfold.s3.errors import Refused
from pinfold.s3.request import EmptyBody, Request
from pinfold.s3.router import BUCKET, OBJECT, OPERATIONS, demand_understood, operation_of
from pinfold.s3.verbs import HANDLERS
from tests.s3.world import World, in_world

PATHS = {"service": "/", "bucket": "/bucket", "object": "/bucket/key"}
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
ROWS = [
    (scope, subresource, method, name)
    for scope, table in OPERATIONS.items()
    for subresource, methods in table.items()
    for method, name in methods.items()
]


def request(
    method: str, path: str, query: str = "", headers: dict[str, str] | None = None
) -> Request:
    target = f"{path}?{query}" if query else path
    return Request(method=method, target=target, headers=headers or {}, body=EmptyBody(), id="")


@pytest.mark.parametrize(("scope", "subresource", "method", "name"), ROWS)
def test_every_row_is_found(scope: str, subresource: str, method: str, name: str) -> None:
    assert operation_of(request(method, PATHS[scope], subresource)) == name
    if subresource:
        assert operation_of(request(method, PATHS[scope], f"{subresource}=x&x-id={name}")) == name


@pytest.mark.parametrize(("scope", "subresource", "method", "name"), ROWS)
def test_what_is_not_implemented_answers_501_and_changes_nothing(
    scope: str, subresource: str, method: str, name: str
) -> None:
    if name in HANDLERS:
        return

    async def test(world: World) -> None:
        rows = list(world.rows)
        query = f"{subresource}=" if subresource else ""
        answer = await world.call(method, PATHS[scope], b"<X/>", query=query)
        assert (answer.status, answer.code) == (501, "NotImplemented")
        assert list(world.rows) == rows

    in_world(test)


@pytest.mark.parametrize("scope", sorted(OPERATIONS))
def test_methods_that_a_subresource_has_not_are_405(scope: str) -> None:
    for subresource, methods in OPERATIONS[scope].items():
        for method in METHODS:
            if method not in methods:
                with pytest.raises(Refused) as refused:
                    operation_of(request(method, PATHS[scope], subresource))
                assert refused.value.status == 405


@pytest.mark.parametrize("scope", [BUCKET, OBJECT])
def test_two_subresources_at_once_are_refused(scope: str) -> None:
    with pytest.raises(Refused) as refused:
        operation_of(request("GET", PATHS[scope], "acl&tagging"))
    assert refused.value.status == 501


def test_refinements() -> None:
    copy = {"x-amz-copy-source": "/b/k"}
    assert operation_of(request("GET", "/bucket", "list-type=2")) == "ListObjectsV2"
    assert operation_of(request("PUT", "/bucket/key", "", copy)) == "CopyObject"
    query = "partNumber=1&uploadId=x"
    assert operation_of(request("PUT", "/bucket/key", query, copy)) == "UploadPartCopy"
    assert operation_of(request("PUT", "/bucket/key", query)) == "UploadPart"


REFUSED_HEADERS = {
    "x-amz-server-side-encryption": "AES256",
    "x-amz-server-side-encryption-aws-kms-key-id": "key",
    "x-amz-server-side-encryption-bucket-key-enabled": "true",
    "x-amz-server-side-encryption-context": "x",
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-server-side-encryption-customer-key": "x",
    "x-amz-tagging": "a=b",
    "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-object-lock-retain-until-date": "x",
    "x-amz-object-lock-legal-hold": "ON",
    "x-amz-website-redirect-location": "/",
    "x-amz-mfa": "1",
    "x-amz-write-offset-bytes": "5",
    "x-amz-grant-read": "id=bob",
    "x-amz-grant-full-control": "id=bob",
    "x-amz-object-ownership": "BucketOwnerEnforced",
    "x-amz-copy-source-server-side-encryption-customer-key": "x",
    "x-amz-rename-source": "x",
    "x-amz-something-of-next-year": "x",
    "if-modified-since": "Sun, 06 Nov 1994 08:49:37 GMT",
}


@pytest.mark.parametrize("name", sorted(REFUSED_HEADERS))
@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("PUT", "/bucket/key", ""),
        ("POST", "/bucket/key", "uploads="),
        ("PUT", "/new-bucket", ""),
        ("DELETE", "/bucket/key", ""),
    ],
)
def test_headers_that_would_change_the_meaning_are_501(
    name: str, method: str, path: str, query: str
) -> None:
    async def test(world: World) -> None:
        headers = {name: REFUSED_HEADERS[name]}
        answer = await world.call(method, path, query=query, headers=headers)
        assert (answer.status, answer.code) == (501, "NotImplemented")

    in_world(test)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/bucket/key", {"x-amz-storage-class": "GLACIER"}),
        ("PUT", "/bucket/key", {"x-amz-acl": "log-delivery-write"}),
        ("PUT", "/bucket", {"x-amz-acl": "bucket-owner-read"}),
        ("PUT", "/new-bucket", {"x-amz-bucket-object-lock-enabled": "true"}),
        ("PUT", "/bucket/key", {"x-amz-checksum-md5": "x"}),
        ("PUT", "/bucket/key", {"x-amz-checksum-xxhash64": "x"}),
        ("PUT", "/bucket/key", {"x-amz-copy-source": "/b/k", "x-amz-tagging-directive": "REPLACE"}),
    ],
)
def test_values_that_we_do_not_have_are_501(
    method: str, path: str, headers: dict[str, str]
) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/source")
        answer = await world.call(method, path, headers=headers)
        assert (answer.status, answer.code) == (501, "NotImplemented")

    in_world(test)


def test_parameters_of_other_operations_and_unheard_of_ones_are_refused() -> None:
    for operation, query in (
        ("ListObjects", "something-new"),
        ("PutObject", "append-at="),
        ("PutObject", "partNumber=3"),
        ("GetBucketAcl", "max-keys=3"),
    ):
        with pytest.raises(Refused) as refused:
            demand_understood(operation, request("GET", "/bucket/key", query))
        assert refused.value.status == 501
    demand_understood("ListObjects", request("GET", "/bucket", "prefix=&x-id=ListObjects&utm=1"))


def test_reads_ignore_conditions_that_do_not_apply() -> None:
    headers = {"if-none-match": "x"}
    demand_understood("ListObjects", request("GET", "/bucket", "", headers))
