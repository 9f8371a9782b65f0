"""boto3, as programs use S3."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError

from tests.cluster_clients.conftest import content
from tests.running import Cluster

pytestmark = pytest.mark.cluster

MIB = 1 << 20


@pytest.fixture(scope="module")
def s3(pen: Cluster) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=pen.facts["s3"],
        region_name="us-east-1",
        aws_access_key_id=pen.facts["access_key"],
        aws_secret_access_key=pen.facts["secret_key"],
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
    )
    client.create_bucket(Bucket="boto3")
    yield client
    client.close()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    code: str = error.value.response["Error"]["Code"]
    return code


def test_an_object_comes_back_with_its_metadata(s3: Any) -> None:
    body = content("meta", 100_000)
    put = s3.put_object(
        Bucket="boto3", Key="meta", Body=body, ContentType="text/x", Metadata={"colour": "blue"}
    )
    got = s3.get_object(Bucket="boto3", Key="meta")
    assert got["Body"].read() == body
    assert (got["ContentType"], got["Metadata"]) == ("text/x", {"colour": "blue"})
    assert got["ETag"] == put["ETag"]
    part = s3.get_object(Bucket="boto3", Key="meta", Range="bytes=70000-70099")
    assert part["Body"].read() == body[70000:70100]


def test_a_listing_in_pages_shows_every_key_in_order(s3: Any) -> None:
    keys = [f"page/{number:03}" for number in range(25)] + ["page/é", "page/\U0001f40f"]
    for key in keys:
        s3.put_object(Bucket="boto3", Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket="boto3", Prefix="page/", PaginationConfig={"PageSize": 7}
    )
    found = [item["Key"] for page in pages for item in page.get("Contents", [])]
    assert found == sorted(keys, key=str.encode)


def test_of_many_who_create_only_one_succeeds(s3: Any) -> None:
    def create(number: int) -> str:
        try:
            s3.put_object(Bucket="boto3", Key="once", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return f"won {number}"

    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(create, range(12)))
    (winner,) = [outcome for outcome in outcomes if outcome.startswith("won")]
    assert outcomes.count("PreconditionFailed") == 11
    body = s3.get_object(Bucket="boto3", Key="once")["Body"].read()
    assert winner == f"won {int(body)}"


def test_a_multipart_upload(s3: Any) -> None:
    parts = [content("one", 5 * MIB), content("two", 6 * MIB), content("three", 10)]
    upload = s3.create_multipart_upload(Bucket="boto3", Key="parts")["UploadId"]
    etags = [
        s3.upload_part(Bucket="boto3", Key="parts", UploadId=upload, PartNumber=number, Body=part)[
            "ETag"
        ]
        for number, part in enumerate(parts, 1)
    ]
    s3.complete_multipart_upload(
        Bucket="boto3",
        Key="parts",
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        },
    )
    assert s3.get_object(Bucket="boto3", Key="parts")["Body"].read() == b"".join(parts)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="boto3")


def test_a_deleted_object_is_gone(s3: Any) -> None:
    s3.put_object(Bucket="boto3", Key="gone", Body=b"x" * 5000)
    s3.delete_object(Bucket="boto3", Key="gone")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket="boto3", Key="gone")
    assert code_of(caught) == "NoSuchKey"


def test_a_wrong_secret_is_refused(pen: Cluster) -> None:
    stranger = boto3.client(
        "s3",
        endpoint_url=pen.facts["s3"],
        region_name="us-east-1",
        aws_access_key_id=pen.facts["access_key"],
        aws_secret_access_key="wrong",
    )
    with pytest.raises(ClientError) as caught:
        stranger.list_buckets()
    stranger.close()
    assert code_of(caught) == "SignatureDoesNotMatch"


def test_a_user_made_by_the_operator_sees_only_its_own_buckets(pen: Cluster, s3: Any) -> None:
    made = pen.json("user", "create", "alice", "--display-name", "Alice")
    alice = boto3.client(
        "s3",
        endpoint_url=pen.facts["s3"],
        region_name="us-east-1",
        aws_access_key_id=made["access_key"],
        aws_secret_access_key=made["secret_key"],
    )
    alice.create_bucket(Bucket="of-alice")
    assert [bucket["Name"] for bucket in alice.list_buckets()["Buckets"]] == ["of-alice"]
    with pytest.raises(ClientError) as caught:
        alice.get_object(Bucket="boto3", Key="meta")
    alice.close()
    assert code_of(caught) == "AccessDenied"
