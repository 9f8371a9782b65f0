"""Documents that clients make as expensive as they can."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import pytest

from pinfold.objects import digests
from pinfold.s3 import documents
from pinfold.s3.documents import (
    COMPLETE,
    DELETE,
    FEED_BYTES,
    LEAF_CHARACTERS,
    LOCATION,
    OFFLOAD_FROM_BYTES,
    POLICY,
    Node,
    Shape,
)
from pinfold.s3.errors import Refused
from tests.s3.signing import EMPTY
from tests.s3.world import World, in_world
from tests.twins.env import InlineOffload

T = TypeVar("T")

MIB = 1 << 20


def filled(start: bytes, piece: bytes, end: bytes) -> bytes:
    """As many pieces as fit into the largest document."""
    return start + piece * ((2 * MIB - len(start) - len(end)) // len(piece)) + end


ATTRIBUTES = b" ".join(b'a%d=">"' % number for number in range(150_000))
SPACES = b" ".join(b'xmlns:a%d="u"' % number for number in range(100_000))

EXPENSIVE = {
    "siblings": filled(b"<Delete><Object>", b"<a/>", b"</Object></Delete>"),
    "depth": filled(b"<Delete>", b"<a>", b""),
    "attributes": b"<Delete " + ATTRIBUTES + b"></Delete>",
    "namespaces": b"<Delete " + SPACES + b"></Delete>",
    "a text": filled(b"<Delete><Object><Key>", b"k", b"</Key></Object></Delete>"),
    "references": filled(b"<Delete><Object><Key>", b"&#107;", b"</Key></Object></Delete>"),
    "a comment": filled(b"<Delete><!--", b"k", b"--></Delete>"),
    "an instruction": filled(b"<Delete><?a ", b"k", b"?></Delete>"),
}


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_a_document_is_read_no_further_than_to_where_it_is_too_much(kind: str) -> None:
    fed = 0

    def counted() -> Iterator[bytes]:
        nonlocal fed
        for piece in documents.pieces(EXPENSIVE[kind]):
            fed += len(piece)
            yield piece

    assert len(EXPENSIVE[kind]) <= DELETE.bytes_max
    with pytest.raises(Refused) as refused:
        documents.parse(counted(), DELETE)
    assert refused.value.s3_code == "MalformedXML"
    most = max(DELETE.elements_max * len("<a/>"), LEAF_CHARACTERS * len("&#107;"))
    assert fed <= most + 2 * FEED_BYTES


def complete(parts: int) -> bytes:
    part = (
        b"  <Part>\n    <PartNumber>%d</PartNumber>\n    <ETag>&quot;"
        + b"0" * 32
        + b"&quot;</ETag>\n"
        b"    <ChecksumCRC32C>AAAAAA==</ChecksumCRC32C>\n  </Part>\n"
    )
    body = b"".join(part % number for number in range(1, parts + 1))
    return b"<CompleteMultipartUpload>\n" + body + b"</CompleteMultipartUpload>"


def delete(objects: int) -> bytes:
    one = (
        b"<Object><Key>" + b"k&amp;" * 300 + b"</Key><VersionId>null</VersionId><ETag>e</ETag>"
        b"<LastModifiedTime>t</LastModifiedTime><Size>1</Size></Object>"
    )
    return b"<Delete><Quiet>true</Quiet>" + one * objects + b"</Delete>"


@pytest.mark.parametrize(
    ("document", "shape", "children"),
    [(complete(10_000), COMPLETE, 10_000), (delete(1000), DELETE, 1001)],
    ids=["complete", "delete"],
)
def test_the_largest_documents_that_make_sense_are_read(
    document: bytes, shape: Shape, children: int
) -> None:
    assert len(document) <= shape.bytes_max
    assert len(documents.parse(documents.pieces(document), shape).children()) == children


def test_pieces_may_end_anywhere() -> None:
    document = complete(3)
    whole = documents.parse([document], COMPLETE)
    for at in range(len(document)):
        split = documents.parse([document[:at], document[at:]], COMPLETE)
        assert [part.text("ETag") for part in split.children()] == [
            part.text("ETag") for part in whole.children()
        ]


class Watched(InlineOffload):
    """A lane that tells whether it is at work."""

    at_work = False

    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> Awaitable[T]:
        self.at_work = True
        try:
            return super().__call__(function, *arguments)
        finally:
            self.at_work = False


def test_large_documents_are_hashed_and_read_off_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest_hash, honest_parse = digests.checksum_of, documents.parse
    lane = Watched("documents")

    def demand_elsewhere(length: int) -> None:
        assert lane.at_work == (length >= OFFLOAD_FROM_BYTES)

    def checksum_of(algorithm: str, content: bytes) -> bytes:
        demand_elsewhere(len(content))
        return honest_hash(algorithm, content)

    def parse(pieces: Iterable[bytes], shape: Shape) -> Node:
        whole = list(pieces)
        demand_elsewhere(sum(map(len, whole)))
        return honest_parse(whole, shape)

    async def test(world: World) -> None:
        world.service.store.documents._lane = cast(Any, lane)
        monkeypatch.setattr(digests, "checksum_of", checksum_of)
        monkeypatch.setattr(documents, "parse", parse)
        small = b"<Delete><Object><Key>k</Key></Object></Delete>"
        for body, code in (
            (small, ""),
            (delete(1000), ""),
            (EXPENSIVE["siblings"], "MalformedXML"),
        ):
            signed = hashlib.sha256(body).hexdigest()
            answer = await world.call("POST", "/bucket", body, query="delete=", payload_hash=signed)
            assert answer.code == code
            answer = await world.call("POST", "/bucket", body, query="delete=", payload_hash=EMPTY)
            assert answer.code == "XAmzContentSHA256Mismatch"
        assert lane.calls == 4

    in_world(test)


@pytest.mark.parametrize(
    ("method", "path", "query", "shape"),
    [
        ("POST", "/bucket", "delete=", DELETE),
        ("PUT", "/bucket", "acl=", POLICY),
        ("PUT", "/bucket/k", "acl=", POLICY),
        ("PUT", "/another-bucket", "", LOCATION),
        ("POST", "/bucket/k", f"uploadId={'0' * 32}", COMPLETE),
    ],
)
def test_each_operation_takes_what_it_has_use_for(
    method: str, path: str, query: str, shape: Shape
) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x")
        root = shape.root.encode()
        many = b"<" + root + b">" + b"<a/>" * shape.elements_max + b"</" + root + b">"
        assert len(many) <= shape.bytes_max
        deep = b"<" + root + b">" + b"<a>" * shape.depth_max
        for body in (many, deep, b"<" + root + b" " * 3 * FEED_BYTES + b"/>"):
            if len(body) <= shape.bytes_max:
                answer = await world.call(method, path, body, query=query)
                assert answer.code == "MalformedXML"
        answer = await world.call(method, path, b" " * (shape.bytes_max + 1), query=query)
        assert answer.code == "MaxMessageLengthExceeded"

    in_world(test)


@pytest.mark.parametrize("key", ["a\x01b", "\x00", "\uffff", "\ufffe", "\x1f"])
def test_no_object_gets_a_name_that_no_listing_could_show(key: str) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket/k", b"x")
        source = {"x-amz-copy-source": "/bucket/k"}
        for answer in (
            await world.call("PUT", f"/bucket/{key}", b"x"),
            await world.call("PUT", f"/bucket/{key}", headers=source),
            await world.call("POST", f"/bucket/{key}", query="uploads="),
        ):
            assert answer.texts("Code") == ["InvalidArgument"], "a document that can be read"
        assert (await world.call("GET", f"/bucket/{key}")).texts("Code") == ["NoSuchKey"]
        for query in ("", "encoding-type=url&list-type=2", "prefix=%01", "delimiter=%EF%BF%BF"):
            listed = await world.call("GET", "/bucket", query=query)
            assert listed.texts("Contents/Key") == ([] if "prefix" in query else ["k"])

    in_world(test)
