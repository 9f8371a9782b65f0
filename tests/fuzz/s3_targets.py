"""The S3 front end without a network: framing of bodies, pure parsers, and whole requests."""

import asyncio
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes
from xml.etree.ElementTree import fromstring

from hypothesis import strategies as st

from pinfold.s3 import acl, documents, numbers, paging, ranges, signature, signature_v2, times
from pinfold.s3.chunks import ChunkDecoder
from pinfold.s3.copying import source_name
from pinfold.s3.describe import conditions_of, metadata_of
from pinfold.s3.errors import Refused
from pinfold.s3.http import _head, _headers
from pinfold.s3.request import Request, parse_query
from pinfold.s3.signature import ChunkSigner, Claim
from tests.fuzz.harness import MIB, Target
from tests.fuzz.mutations import mutated, raw_or
from tests.s3.signing import UNSIGNED, Signer, unsigned_chunks
from tests.s3.world import HOST, SECRETS, PieceBody, World

STAMP = "20261122T181500Z"
SIGNER = Signer("alice", SECRETS["alice"], STAMP)
SEED = "0" * 64
NOW_S = float(signature.stamp_s(STAMP))
CLAIM = Claim("alice", STAMP[:8], "us-east-1", "s3", (), SEED, STAMP, "", None)
CHUNKED = [
    b"\0" + unsigned_chunks([b"hello", b"w" * 40], {}),
    b"\1" + unsigned_chunks([b"hello"], {"x-amz-checksum-crc32": "AAAAAA=="}),
    b"\2" + SIGNER.chunked(SEED, [b"hello", b"w" * 40]),
    b"\3" + SIGNER.chunked(SEED, [b"hello"], {"x-amz-checksum-crc32": "AAAAAA=="}),
]


def _decode(mode: int, body: bytes, piece: int) -> tuple[bytes, str, dict[str, str]]:
    signer = ChunkSigner(CLAIM, SIGNER.key) if mode & 2 else None
    decoder = ChunkDecoder(signer, has_trailer=bool(mode & 1))
    payload = b""
    try:
        for at in range(0, len(body), piece):
            payload += b"".join(decoder.feed(body[at : at + piece]))
    except Refused as refused:
        return payload, refused.s3_code, {}
    return payload, "finished" if decoder.finished else "open", decoder.trailers


def run_chunks(data: bytes) -> str:
    """However it is cut, a body says the same; unsigned, it says what a naive reader reads."""
    mode, body = data[0] & 3 if data else 0, data[1:]
    whole = _decode(mode, body, len(body) or 1)
    cut = _decode(mode, body, 1 + len(body) % 7)
    assert whole[1:] == cut[1:]
    if whole[1] == "finished":
        assert whole[0] == cut[0]
        assert mode & 2 or whole[0] == _naive(body)
    return f"{mode} {whole[1]} {len(whole[2])} trailers"


def _naive(body: bytes) -> bytes:
    payload = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return payload
        payload += body[:size]
        body = body[size + 2 :]


def _lines(data: bytes) -> dict[str, str]:
    """Headers of NAME: VALUE lines."""
    pairs = [line.partition(b":") for line in data.split(b"\n")]
    return _headers(tuple((name, value.strip()) for name, _, value in pairs))


def _signature_of(data: bytes) -> object:
    headers = _lines(data)
    query = parse_query(headers.pop("query", ""))
    authorization = headers.get("authorization", "")
    older = signature_v2.claim_of(authorization, query, headers)
    if older is not None:
        signature_v2.demand_in_time(older, headers, NOW_S)
        return signature_v2.demand_signature(
            older, "secret", method="GET", path="/b", query=query, headers=headers
        )
    claim = signature.claim_of(authorization, query, headers)
    if claim is None:
        return None
    key = signature.SigningKeys().key("secret", claim.date, claim.region)
    raw = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
    signature.SigningKeys().demand_in_time(claim, NOW_S)
    return signature.demand_signature(
        claim, key, method="GET", path="/b", raw_query=raw, headers=headers
    )


def _round_trip(data: bytes) -> object:
    assert paging.decode_token(paging.encode_token(data)) == data
    return paging.decode_token(data.decode("latin-1"))


def _canonical(data: bytes) -> object:
    """A path and a query have one canonical form: that of the canonical form is itself."""
    text = data.decode("utf-8", "surrogateescape")
    path, query = signature.canonical_path(text), signature.canonical_query(text)
    assert signature.canonical_path(path) == path
    assert unquote_to_bytes(path) == unquote_to_bytes(data)
    return parse_query(query), path.encode("ascii")


def _date(text: str) -> object:
    second = times.parse_date(text)
    return None if second is None else (times.http_date(second), times.iso_date(second * 1000))


def _acl(data: bytes) -> object:
    name = acl.from_xml(documents.parse(documents.pieces(data), documents.POLICY), "alice")
    assert name in acl.BUCKET_CANNED
    return name


PARSERS: tuple[Callable[[bytes], object], ...] = (
    _signature_of,
    lambda data: _date(data.decode("latin-1")),
    lambda data: ranges.parse_range(data.decode("latin-1"), 1000),
    lambda data: ranges.parse_copy_range(data.decode("latin-1"), 1000),
    _round_trip,
    lambda data: parse_query(data.decode("utf-8", "surrogateescape")),
    _canonical,
    lambda data: source_name(data.decode("latin-1")),
    lambda data: conditions_of(_lines(data)),
    lambda data: metadata_of(_lines(data)),
    _acl,
    lambda data: numbers.parse_number(data.decode("latin-1"), most=1 << 40),
)
PARSED = [
    (0, b"authorization: AWS4-HMAC-SHA256 Credential=alice/20261122/us-east-1/s3/aws4_request, "
        b"SignedHeaders=host;x-amz-date, Signature=" + b"0" * 64 + b"\nx-amz-date: "
        + STAMP.encode() + b"\nx-amz-content-sha256: UNSIGNED-PAYLOAD"),
    (0, b"query: X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a/20261122/r/s3/aws4_request"
        b"&X-Amz-Date=20261122T181400Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host"
        b"&X-Amz-Signature=%C3%A9"),
    (0, b"authorization: AWS4-HMAC-SHA256 Credential=a/20261122/r/s3/aws4_request, SignedHeaders=a,"
        b" Signature=0\ndate: Sun, 22 Nov 2026 08:49:37 +99\nx-amz-content-sha256: "
        b"UNSIGNED-PAYLOAD"),
    (0, b"authorization: AWS alice:c2lnbmF0dXJl\ndate: Sun, 06 Nov 1994 08:49:37 +9999"),
    (0, b"query: AWSAccessKeyId=alice&Signature=%C3%A9&Expires=1795371400"),
    (1, b"Sun, 06 Nov 1994 08:49:37 GMT"),
    (1, b"Sun, 06 Nov 9999 08:49:37 -99999999"),
    (1, b"2009-10-12T17:50:30.000Z"),
    (2, b"bytes=0-18446744073709551615"),
    (3, b"bytes=0-5"),
    (4, paging.encode_token(b"position").encode()),
    (5, b"a=b&c=%C3%A9&d&e=+%2B&\xff=\xfe"),
    (6, b"/a%2Fb/%C3%A9?x=%20+%FF&X-Amz-Signature=1"),
    (7, b"/bucket/k%C3%A9y?versionId=null"),
    (8, b'if-match: "a", W/"b"\nif-modified-since: Sun, 06 Nov 1994 08:49:37 GMT'),
    (9, b"x-amz-meta-a: b\nx-amz-meta-a: c"),
    (10, acl.to_xml("public-read", acl.Identity("alice", "Alice"))),
    (11, b"12345"),
]  # fmt: skip
PARSER_TOKENS = [b"&", b";", b"%", b"%00", b"%0D%0A", b"\r\n", b" ", b",", b"=", b"<!DOCTYPE a>",
                 b"<!ENTITY x 'y'>", b"</a>", b"&#0;", b"999999999999999999999", b"-", b"\xff",
                 b"\xd9\xa3", b'encoding="utf-7"', b":", b"/"]  # fmt: skip


def run_parser(data: bytes) -> str:
    """Every parser takes any text and refuses what it does not understand."""
    which = data[0] % len(PARSERS) if data else 0
    try:
        PARSERS[which](data[1:])
    except Refused as refused:
        return f"{which} {refused.s3_code}"
    return f"{which} taken"


def _http(mode: int, text: str, body: bytes = b"") -> bytes:
    return bytes((mode,)) + text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


DELETE = (b"<Delete><Object><Key>k</Key></Object><Object><Key>l</Key><VersionId>null</VersionId>"
          b"</Object><Quiet>true</Quiet></Delete>")  # fmt: skip
COMPLETE = (b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>e</ETag></Part>"
            b"</CompleteMultipartUpload>")  # fmt: skip
MD5 = "content-md5: 1B2M2Y8AsgTpgAmY7PhCfg=="
REQUESTS = [
    _http(1, "PUT /bucket/k\ncontent-type: a/b\nx-amz-meta-a: b\nif-none-match: *", b"content"),
    _http(1, "GET /bucket/k?response-content-type=a%2Fb&partNumber=1\nrange: bytes=0-3"),
    _http(1, "GET /bucket?list-type=2&prefix=a&delimiter=%2F&max-keys=5&start-after=a"
             "&encoding-type=url&continuation-token=AWE%3D"),
    _http(1, "GET /bucket?prefix=a&marker=b&max-keys=1000"),
    _http(1, "GET /bucket?versions&key-marker=a&version-id-marker=null"),
    _http(1, "GET /bucket?uploads&key-marker=a&upload-id-marker=0123&prefix=a&delimiter=b"),
    _http(1, "GET /?prefix=b&max-buckets=3&continuation-token=AWE%3D"),
    _http(1, "POST /bucket/k?uploads\nx-amz-checksum-algorithm: CRC32C"),
    _http(1, "GET /bucket/k?uploadId=00112233445566778899aabbccddeeff&max-parts=2"),
    _http(1, "PUT /bucket/k?partNumber=1&uploadId=00112233445566778899aabbccddeeff", b"part"),
    _http(1, "POST /bucket/k?uploadId=00112233445566778899aabbccddeeff\n" + MD5, COMPLETE),
    _http(1, "POST /bucket?delete", DELETE),
    _http(1, "PUT /bucket/c\nx-amz-copy-source: /bucket/k\nx-amz-metadata-directive: REPLACE"),
    _http(1, "PUT /bucket?acl", acl.to_xml("private", acl.Identity("alice", "Alice"))),
    _http(1, "GET /bucket/k?attributes\nx-amz-object-attributes: ETag,ObjectParts"),
    _http(1, "PUT /new-bucket", b"<CreateBucketConfiguration><LocationConstraint>us-east-1"
             b"</LocationConstraint></CreateBucketConfiguration>"),
    _http(2, "GET /bucket/k?response-content-disposition=attachment"),
    _http(3, "PUT /bucket/k\nx-amz-decoded-content-length: 5\nx-amz-trailer: x-amz-checksum-crc32",
          unsigned_chunks([b"hello"], {"x-amz-checksum-crc32": "NhCmhg=="})),
    _http(4, "PUT /bucket/k\nx-amz-decoded-content-length: 5", b"hello"),
    _http(0, "OPTIONS /bucket\norigin: x"),
    _http(0, "GET /bucket/k\nauthorization: AWS alice:c2lnbmF0dXJl\ndate: " + "Sun, 06 Nov 1994"),
    _http(0, "DELETE http://host/bucket/k?x-id=DeleteObject\nx-amz-content-sha256: STREAMING-"),
]  # fmt: skip
REQUEST_TOKENS = [*PARSER_TOKENS, b"x-amz-checksum-sha256: ", b"x-amz-acl: public-read\r\n",
                  b"content-length: 5\r\n", b"?acl", b"&uploads", b"<Key>z</Key>",
                  b"expect: 100-continue\r\n", b"if-match: *\r\n"]  # fmt: skip


def _taken_apart(data: bytes) -> tuple[int, str, str, dict[str, str], bytes]:
    """(mode, method, target, headers, body), as the HTTP library would give them."""
    head, _, body = data[1:].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, _, target = first.partition(b" ")
    headers = _headers(
        tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
    )
    text = "".join(chr(byte) for byte in method if 0x20 < byte < 0x7F)
    visible = target.translate(None, bytes((*range(0x21), 0x7F)))
    return data[0] % 5, text, visible.decode("utf-8", "surrogateescape"), headers, body


def _signed(world: World, data: bytes) -> tuple[str, str, dict[str, str], bytes]:
    """A request with a signature that is right, where its mode asks for one."""
    mode, method, target, headers, body = _taken_apart(data)
    headers.setdefault("host", HOST)
    headers.setdefault("content-length", str(len(body)))
    path, _, raw_query = target.partition("?")
    path, query = signature.canonical_path(path), signature.canonical_query(raw_query)
    signer = world.signer()
    if mode == 2:
        presigned = signer.presigned(method, path, headers["host"], 60, query)
        return method, f"{path}?{presigned}", headers, body
    payload = {1: UNSIGNED, 3: signature.STREAMING_UNSIGNED_TRAILER, 4: signature.STREAMING}
    if mode in payload:
        covered = {name: headers[name] for name in headers if name.startswith(("x-amz-", "host"))}
        covered = signer.signed(method, path, query, covered, payload[mode])
        headers |= covered
        if mode == 4:
            seed = covered["authorization"].rpartition("=")[2]
            body = signer.chunked(seed, [body])
            headers["content-length"] = str(len(body))
    return method, target, headers, body


def run_request(data: bytes) -> str:
    """Any request gets an answer that is HTTP and S3; nobody else is worse off for it."""

    async def story() -> str:
        world = await World().begin()
        await world.call("PUT", "/good-bucket")
        method, target, headers, body = _signed(world, data or b"\0")
        try:
            request = Request(
                method=method, target=target, headers=headers, body=PieceBody(body, 11), id="ID"
            )
        except Refused as refused:
            return f"no request: {refused.s3_code}"
        response = await world.service.respond(request)
        assert response.status != 500
        head = _head(response, "ID", world.clock, keep_alive=True)
        assert head.count(b"\r\n\r\n") == 1
        content = response.body
        if response.chunks is not None:
            content = b"".join([bytes(p) async for chunk in response.chunks for p in chunk])
            assert len(content) == response.length
        code = ""
        if response.status >= 400:
            code = fromstring(_without_references(content)).findtext("Code") or ""
            assert code
        stored = await world.call("PUT", "/good-bucket/k", b"good")
        read = await world.call("GET", "/good-bucket/k")
        assert (stored.status, read.body) == (200, b"good")
        return f"{response.status} {code}"

    return asyncio.run(story())


def _without_references(document: bytes) -> bytes:
    """The document without references to control characters, which S3 writes and XML has not."""
    for code in range(0x20):
        document = document.replace(b"&#x%x;" % code, b"")
    return document.translate(None, b"\x00")


TARGETS = (
    Target(
        name="s3-chunks",
        inputs=raw_or(mutated(CHUNKED, [b"\r\n", b";chunk-signature=", b" " * 400, b"a:"])),
        run=run_chunks,
        examples=200,
        seconds=2.0,
    ),
    Target(
        name="s3-parsers",
        inputs=st.one_of(
            mutated([bytes((which,)) + text for which, text in PARSED], PARSER_TOKENS),
            st.builds(lambda which, text: bytes((which,)) + text,
                      st.integers(0, len(PARSERS) - 1), st.binary(max_size=200)),
        ),
        run=run_parser,
        examples=500,
    ),
    Target(
        name="s3-requests",
        inputs=raw_or(mutated(REQUESTS, REQUEST_TOKENS)),
        run=run_request,
        examples=300,
        memory_bytes=8 * MIB,
    ),
)  # fmt: skip
