"""aws-chunked bodies: however the bytes arrive, the payload is whole or the body is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.s3.chunks import LINE_BYTES_MAX, ChunkDecoder
from pinfold.s3.errors import Refused
from pinfold.s3.signature import ChunkSigner, Claim, SigningKeys
from tests.s3.signing import Signer, unsigned_chunks

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
STAMP = "20130524T000000Z"
SIGNER = Signer("key", SECRET, STAMP)
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"


def chunk_signer(seed: str = SEED) -> ChunkSigner:
    claim = Claim("key", "20130524", "us-east-1", "s3", ("host",), seed, STAMP, "", None)
    return ChunkSigner(claim, SigningKeys().key(SECRET, "20130524", "us-east-1"))


def decoded(decoder: ChunkDecoder, body: bytes, cuts: list[int]) -> bytes:
    payload = b""
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, stop in itertools.pairwise(edges):
        payload += b"".join(decoder.feed(body[start:stop]))
    return payload


def test_amazons_example() -> None:
    body = (
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature="
        b"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
        + b"a"
        * 1024
        + b"\r\n0;chunk-signature="
        b"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
    )
    decoder = ChunkDecoder(chunk_signer(), has_trailer=False)
    assert decoded(decoder, body, [100, 70_000]) == b"a" * 66560
    assert decoder.finished


def test_amazons_trailer_example() -> None:
    seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    body = (
        b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature="
        b"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"
        + b"a"
        * 1024
        + b"\r\n0;chunk-signature="
        b"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
        b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
        b"x-amz-trailer-signature:"
        b"d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )
    decoder = ChunkDecoder(chunk_signer(seed), has_trailer=True)
    assert len(decoded(decoder, body, [])) == 66560
    assert decoder.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}


CHUNKS = st.lists(st.binary(min_size=1, max_size=50), max_size=4)
CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@given(CHUNKS, CUTS, st.booleans())
def test_signed_bodies_survive_any_cuts(
    chunks: list[bytes], cuts: list[int], trailing: bool
) -> None:
    trailers = {"x-amz-checksum-crc32": "AAAAAA=="} if trailing else None
    body = SIGNER.chunked(SEED, chunks, trailers)
    decoder = ChunkDecoder(chunk_signer(), has_trailer=trailing)
    assert decoded(decoder, body, cuts) == b"".join(chunks)
    assert decoder.finished
    assert decoder.trailers == (trailers or {})


@given(CHUNKS, CUTS)
def test_unsigned_bodies_survive_any_cuts(chunks: list[bytes], cuts: list[int]) -> None:
    body = unsigned_chunks(chunks, {"X-Amz-Checksum-Crc32": "AAAAAA=="})
    decoder = ChunkDecoder(None, has_trailer=True)
    assert decoded(decoder, body, cuts) == b"".join(chunks)
    assert decoder.finished
    assert decoder.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}


@given(CHUNKS, CUTS, st.booleans(), st.data())
def test_a_signed_body_with_one_byte_changed_is_never_accepted(
    chunks: list[bytes], cuts: list[int], trailing: bool, data: st.DataObject
) -> None:
    trailers = {"x-amz-checksum-crc32": "AAAAAA=="} if trailing else None
    body = bytearray(SIGNER.chunked(SEED, chunks, trailers))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    decoder = ChunkDecoder(chunk_signer(), has_trailer=trailing)
    try:
        payload = decoded(decoder, bytes(body), cuts)
    except Refused:
        return
    # Only a change of a number's or name's letter case says the same.
    assert not decoder.finished or (payload, decoder.trailers) == (
        b"".join(chunks),
        trailers or {},
    )


@given(st.binary(max_size=300), CUTS, st.booleans())
def test_any_bytes_are_taken_or_refused(body: bytes, cuts: list[int], signed: bool) -> None:
    decoder = ChunkDecoder(chunk_signer() if signed else None, has_trailer=True)
    try:
        decoded(decoder, body, cuts)
    except Refused as refused:
        assert refused.status in (400, 403)  # noqa: PT017


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nabcdeXX0\r\n\r\n",
        b"5;chunk-signature=" + b"0" * 64 + b"\r\nabcde\r\n0\r\n\r\n",
        b"-5\r\n",
        b"\r\n",
        b"0\r\n\r\nmore",
        b"0" * (LINE_BYTES_MAX + 1),
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n" + b"".join(b"x%d:y\r\n" % index for index in range(17)) + b"\r\n",
        b"fffffffffffffff\r\n",
        b"0\r\nx:y\r\nX:z\r\n\r\n",
    ],
)
def test_bad_framing_is_refused(body: bytes) -> None:
    decoder = ChunkDecoder(None, has_trailer=True)
    with pytest.raises(Refused):
        decoder.feed(body)


def test_a_trailer_that_was_not_announced_is_refused() -> None:
    decoder = ChunkDecoder(None, has_trailer=False)
    with pytest.raises(Refused):
        decoder.feed(b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n")


def test_a_body_that_stops_early_is_not_finished() -> None:
    body = SIGNER.chunked(SEED, [b"abc"], {"x-amz-checksum-crc32": "AAAAAA=="})
    decoder = ChunkDecoder(chunk_signer(), has_trailer=True)
    decoder.feed(body[:-2])
    assert not decoder.finished


def test_a_body_has_few_chunks_that_are_small() -> None:
    """A chunk costs more than a byte: 16 MiB of single bytes took gigabytes, and minutes."""
    large = b"2000\r\n" + bytes(8192) + b"\r\n"
    few = 2 * large + 1023 * b"1\r\nx\r\n" + large + b"0\r\n\r\n"
    decoder = ChunkDecoder(None, has_trailer=False)
    assert len(decoded(decoder, few, [7, 30_000])) == 3 * 8192 + 1023
    assert decoder.finished
    with pytest.raises(Refused) as refused:
        decoded(ChunkDecoder(None, has_trailer=False), 1025 * b"1\r\nx\r\n", [])
    assert refused.value.s3_code == "InvalidChunkSizeError"
