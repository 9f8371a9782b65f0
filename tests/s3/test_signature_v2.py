"""Version 2 against botocore's signer: what it signs is taken, what it did not sign is not."""

from email.utils import formatdate
from urllib.parse import urlsplit

import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pinfold.s3.errors import Refused
from pinfold.s3.request import parse_query
from pinfold.s3.signature_v2 import ClaimV2, claim_of, demand_in_time, demand_signature
from tests.s3.world import World, in_world

ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CREDENTIALS = Credentials(ACCESS, SECRET)
NOW = 1369353600


def verify(method: str, url: str, headers: dict[str, str]) -> ClaimV2:
    parts = urlsplit(url)
    query = parse_query(parts.query)
    claim = claim_of(headers.get("authorization", ""), query, headers)
    assert claim is not None
    demand_signature(claim, SECRET, method=method, path=parts.path, query=query, headers=headers)
    return claim


def presigned(url: str) -> str:
    request = AWSRequest("GET", url, headers={})
    HmacV1QueryAuth(CREDENTIALS, expires=60).add_auth(request)
    return str(request.prepare().url)


URLS = [
    "http://host/bucket/key",
    "http://host/bucket/a%20b/%C3%BC",
    "http://host/bucket/key?response-content-type=text%2Fplain",
    "http://host/bucket?prefix=a&acl",
    "http://host/bucket/key?uploadId=abc&partNumber=7",
]


@pytest.mark.parametrize("url", URLS)
def test_presigned_urls_of_botocore_are_taken(url):
    claim = verify("GET", presigned(url), {})
    assert claim.access_key == ACCESS


@pytest.mark.parametrize("url", URLS)
def test_signed_headers_of_botocore_are_taken(url):
    given = {"Date": formatdate(NOW, usegmt=True), "x-amz-meta-b": "2", "x-amz-acl": "private"}
    request = AWSRequest("PUT", url, headers={**given, "Content-Type": "text/plain"})
    HmacV1Auth(CREDENTIALS).add_auth(request)
    headers = {name.lower(): str(value) for name, value in request.headers.items()}
    verify("PUT", url, headers)


def test_a_bucket_may_be_signed_as_the_root_of_its_names():
    """As boto3 does for every operation on a bucket, wherever the URL has its name."""
    request = AWSRequest("GET", "http://host/bucket?acl", headers={}, auth_path="/bucket/")
    HmacV1QueryAuth(CREDENTIALS, expires=60).add_auth(request)
    url = str(request.prepare().url)
    verify("GET", url, {})
    with pytest.raises(Refused):
        verify("GET", url.replace("/bucket", "/another"), {})
    with pytest.raises(Refused):
        verify("GET", url.replace("/bucket", "/bucket/key"), {})


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("PUT", ("", "")),
        ("GET", ("/key", "/kez")),
        ("GET", ("Expires=", "Expires=9")),
        ("GET", ("text", "html")),
        ("GET", ("AWSAccessKeyId", "acl&AWSAccessKeyId")),
    ],
)
def test_whatever_is_changed_breaks_the_signature(method, change):
    url = presigned("http://host/bucket/key?response-content-type=text%2Fplain")
    with pytest.raises(Refused) as refused:
        verify(method, url.replace(*change) if change[0] else url, {})
    assert refused.value.s3_code == "SignatureDoesNotMatch"


def test_a_header_with_meaning_that_was_not_signed_breaks_the_signature():
    with pytest.raises(Refused):
        verify("GET", presigned("http://host/bucket/key"), {"x-amz-acl": "public-read"})


def test_a_parameter_that_version_2_never_signs_is_refused():
    with pytest.raises(Refused) as refused:
        verify("GET", presigned("http://host/bucket/key") + "&attributes", {})
    assert refused.value.s3_code == "AccessDenied"


def test_time_runs_out():
    query = {"AWSAccessKeyId": ACCESS, "Signature": "x", "Expires": str(NOW)}
    claim = claim_of("", query, {})
    assert claim is not None
    demand_in_time(claim, {}, NOW)
    with pytest.raises(Refused, match="expired"):
        demand_in_time(claim, {}, NOW + 1)
    with pytest.raises(Refused):
        demand_in_time(claim, {}, NOW - 8 * 86400)
    dated = {"date": formatdate(NOW, usegmt=True)}
    claim = claim_of(f"AWS {ACCESS}:x", {}, dated)
    assert claim is not None
    demand_in_time(claim, dated, NOW + 899)
    with pytest.raises(Refused):
        demand_in_time(claim, dated, NOW + 901)


@pytest.mark.parametrize("expires", ["", "x", "-1", "1e9", "9" * 13])
def test_an_expiry_that_is_no_time_is_refused(expires):
    with pytest.raises(Refused):
        claim_of("", {"AWSAccessKeyId": ACCESS, "Signature": "x", "Expires": expires}, {})


def test_a_wrong_signature_is_denied_by_the_service():
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x")
        query = "AWSAccessKeyId=alice-key&Signature=x&Expires=99999999"
        answer = await world.call("GET", "/bucket/k", query=query, user="")
        assert answer.status == 403

    in_world(test)
