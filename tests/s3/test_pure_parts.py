"""Ranges, times, names, XML, canned ACLs, tokens: the small pure parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.model import errors as model_errors
from pinfold.s3 import acl, documents, xml
from pinfold.s3.acl import ANONYMOUS, Identity, Permission
from pinfold.s3.copying import source_name
from pinfold.s3.describe import conditions_of
from pinfold.s3.errors import CODES, Refused, refusal_of
from pinfold.s3.paging import decode_token, encode_token, page_size
from pinfold.s3.ranges import parse_copy_range, parse_range
from pinfold.s3.request import EmptyBody, Request
from pinfold.s3.times import http_date, iso_date, parse_date
from pinfold.s3.verbs.create_bucket import demand_bucket_name

ALICE, BOB = Identity("alice", "Alice"), Identity("bob", "Bob")


@pytest.mark.parametrize(
    ("text", "size", "wanted"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-4", 10, (2, 5)),
        ("bytes=2-", 10, (2, 10)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=-30", 10, (0, 10)),
        ("bytes=2-99", 10, (2, 10)),
        ("bytes=2-18446744073709551615", 10, (2, 10)),
        ("bytes=4-2", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("lines=0-1", 10, None),
        ("bytes=-", 10, None),
        ("nonsense", 10, None),
    ],
)
def test_ranges(text: str, size: int, wanted: tuple[int, int] | None) -> None:
    assert parse_range(text, size) == wanted


@pytest.mark.parametrize(
    ("text", "size"), [("bytes=10-", 10), ("bytes=0-0", 0), ("bytes=-0", 10), ("bytes=-5", 0)]
)
def test_ranges_of_no_byte_are_refused(text: str, size: int) -> None:
    with pytest.raises(Refused) as refused:
        parse_range(text, size)
    assert refused.value.status == 416
    assert ("Content-Range", f"bytes */{size}") in refused.value.headers


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=-1", "0-1", "bytes=0-10", "bytes=3-2"])
def test_copy_ranges_must_be_whole_and_inside(text: str) -> None:
    assert parse_copy_range("bytes=0-9", 10) == (0, 10)
    with pytest.raises(Refused):
        parse_copy_range(text, 10)


@given(st.integers(0, 4_000_000_000))
def test_times_are_read_as_they_are_written(second: int) -> None:
    assert parse_date(http_date(second)) == second
    assert parse_date(iso_date(second * 1000 + 7)) == second


@pytest.mark.parametrize("text", ["", "yesterday", "Sun, 99 Foo 1994 08:49:37 GMT", "2009-13-99"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_date(text) is None


SMALL = documents.Shape(root="Root", bytes_max=1000, elements_max=9, depth_max=3)


def parsed(document: bytes) -> documents.Node:
    return documents.parse(documents.pieces(document), SMALL)


@given(st.text(max_size=20).filter(lambda text: text.isprintable()))
def test_what_is_written_reads_the_same(text: str) -> None:
    writer = xml.Writer("Root")
    with writer.inside("Inner"):
        writer.leaf("Leaf", text)
        writer.flag("Flag", value=True)
    root = parsed(writer.document())
    inner = root.child("Inner")
    assert inner is not None
    assert (inner.text("Leaf") or "") == text
    assert inner.text("Flag") == "true"


@given(st.binary(max_size=60))
def test_any_document_is_read_or_refused(document: bytes) -> None:
    with pytest.raises(Refused):
        parsed(document)


@pytest.mark.parametrize(
    "document",
    [
        b"<Other/>",
        b"<!DOCTYPE x><Root/>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><Root>&a;</Root>',
        b"<Root>",
        b'<?xml version="1.0" encoding="nonsense"?><Root/>',
    ],
)
def test_bad_documents_are_refused(document: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parsed(document)
    assert refused.value.s3_code == "MalformedXML"


def test_names_can_be_asked_for_encoded() -> None:
    assert xml.encoded_name("a b+&/ü\x01", "url") == "a%20b%2B%26/%C3%BC%01"
    assert xml.encoded_name("a&b\r\x01", "") == "a&amp;b&#xd;\ufffd"


@given(st.text(max_size=20))
def test_every_document_can_be_read_whatever_is_said_in_it(text: str) -> None:
    writer = xml.Writer("Root")
    writer.leaf("Leaf", text)
    said = parsed(writer.document()).text("Leaf")
    assert (said == text) == xml.sayable(text)


@pytest.mark.parametrize("name", sorted(acl.BUCKET_CANNED))
def test_a_canned_acls_document_names_it(name: str) -> None:
    document = documents.parse([acl.to_xml(name, ALICE)], documents.POLICY)
    assert acl.from_xml(document, "alice") == name


@pytest.mark.parametrize(
    ("name", "who", "allowed"),
    [
        ("private", ALICE, "READ WRITE READ_ACP WRITE_ACP"),
        ("private", BOB, ""),
        ("private", ANONYMOUS, ""),
        ("public-read", ANONYMOUS, "READ"),
        ("public-read-write", ANONYMOUS, "READ WRITE"),
        ("authenticated-read", ANONYMOUS, ""),
        ("authenticated-read", BOB, "READ"),
        ("bucket-owner-read", Identity("owner", ""), "READ"),
        ("bucket-owner-full-control", Identity("owner", ""), "READ WRITE READ_ACP WRITE_ACP"),
        ("bucket-owner-full-control", BOB, ""),
        ("something-new", BOB, ""),
    ],
)
def test_who_may_do_what(name: str, who: Identity, allowed: str) -> None:
    may = {
        permission.value
        for permission in Permission
        if acl.allows(name, permission, who, owner="alice", bucket_owner="owner")
    }
    assert may == set(allowed.split())


def test_nobody_owns_what_has_no_owner() -> None:
    for permission in Permission:
        assert not acl.allows("private", permission, ANONYMOUS, owner="")


@given(st.binary(max_size=40))
def test_tokens_name_their_place(place: bytes) -> None:
    assert decode_token(encode_token(place)) == place


@pytest.mark.parametrize("token", ["", "nonsense!", "AA==", "ü"])
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(Refused):
        decode_token(token)


def test_page_sizes() -> None:
    assert page_size({}, "max-keys") == 1000
    assert page_size({"max-keys": "5"}, "max-keys") == 5
    assert page_size({"max-keys": "5000"}, "max-keys") == 1000
    for text in ("-1", "x", "1e3"):
        with pytest.raises(Refused):
            page_size({"max-keys": text}, "max-keys")


@pytest.mark.parametrize(
    ("target", "bucket", "key"),
    [
        ("/", "", ""),
        ("/bucket", "bucket", ""),
        ("/bucket/", "bucket", ""),
        ("/bucket/a/b", "bucket", "a/b"),
        ("/bucket//a", "bucket", "/a"),
        ("/bucket/./../a", "bucket", "./../a"),
        ("/bucket/a%2Fb%20c%C3%BC", "bucket", "a/b cü"),
        ("/bucket/a+b", "bucket", "a+b"),
        ("http://host/bucket/a", "bucket", "a"),
    ],
)
def test_paths_are_taken_as_they_are(target: str, bucket: str, key: str) -> None:
    request = Request(method="GET", target=target, headers={}, body=EmptyBody(), id="")
    assert (request.bucket, request.key) == (bucket, key)


def test_a_host_can_name_the_bucket() -> None:
    def resource(host: str) -> tuple[str, str]:
        request = Request(
            method="GET",
            target="/a/b",
            headers={"host": host},
            body=EmptyBody(),
            id="",
            domain="s3.example.com",
        )
        return request.bucket, request.key

    assert resource("bucket.s3.example.com:9000") == ("bucket", "a/b")
    assert resource("s3.example.com") == ("a", "b")


@pytest.mark.parametrize("target", ["/bucket/%ff", "/?prefix=%ff", "nonsense"])
def test_paths_and_queries_that_are_not_utf_8_are_refused(target: str) -> None:
    with pytest.raises(Refused) as refused:
        Request(method="GET", target=target, headers={}, body=EmptyBody(), id="")
    assert refused.value.s3_code == "InvalidURI"


def test_copy_sources() -> None:
    assert source_name("/bucket/a%20b") == ("bucket", b"a b")
    assert source_name("bucket/a?versionId=null") == ("bucket", b"a")
    assert source_name("bucket/a?b") == ("bucket", b"a?b")
    for header in ("", "bucket", "bucket/", "/bucket/a?versionId=7"):
        with pytest.raises(Refused):
            source_name(header)


def test_tags_in_headers_come_with_and_without_quotes() -> None:
    found = conditions_of({"if-match": '"a", W/"b",c', "if-none-match": "*"})
    assert found.if_match == ("a", "b", "c")
    assert found.if_none_match == ("*",)


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "a" * 64,
        "Upper",
        "under_score",
        "-a-",
        "a.-b",
        "a..b",
        "1.2.3.4",
        "xn--a",
        "",
        "ü" * 3,
    ],
)
def test_names_that_buckets_cannot_have(name: str) -> None:
    with pytest.raises(Refused) as refused:
        demand_bucket_name(name)
    assert refused.value.s3_code == "InvalidBucketName"


def test_every_error_of_ours_has_a_code() -> None:
    for kind in model_errors.BY_CODE.values():
        refused = refusal_of(kind("why"))
        assert refused.s3_code in CODES
        assert (refused.status == 503) == bool(refused.headers)
    assert refusal_of(model_errors.Corrupt("secret path")).message == CODES["InternalError"][1]
    assert refusal_of(model_errors.Busy("")).s3_code == "SlowDown"
    assert refusal_of(model_errors.Full("")).s3_code == "InsufficientStorage"
