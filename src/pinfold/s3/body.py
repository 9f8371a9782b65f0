"""A request's body as payload: length enforced, aws-chunked framing removed, digests declared.

A payload is what is stored: exactly `size` bytes or Refused. What the client declared about them
(Content-MD5, x-amz-checksum-*, x-amz-content-sha256) is checked by `demand_declared`, once they
are stored and before anything names them.
"""

import base64
import binascii
from collections import deque
from typing import Final

from pinfold.env.api import Buffer
from pinfold.objects import digests
from pinfold.objects.digests import MD5, SHA256
from pinfold.s3 import signature
from pinfold.s3.chunks import ChunkDecoder
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.request import Body, Request
from pinfold.s3.signature import ChunkSigner

CHECKSUM_PREFIX: Final = "x-amz-checksum-"

LENGTH_MAX: Final = 2**64 - 1
"""Lengths that are lengths at all; too large ones are refused as that."""

_NOT_VALUES: Final = frozenset({"mode", "type", "algorithm"})
"""What follows x-amz-checksum- in headers that carry no checksum."""


class Declared:
    """What the client says about its payload before we have seen it."""

    __slots__ = ("algorithm", "md5", "sha256", "trailer", "value")

    def __init__(
        self, headers: dict[str, str], payload_hash: str, *, of_object: bool = False
    ) -> None:
        self.md5 = _content_md5(headers)
        self.sha256 = b""
        if len(payload_hash) == 64:
            self.sha256 = bytes.fromhex(payload_hash)
        self.algorithm, self.value, self.trailer = "", b"", ""
        if of_object:
            return
        self.algorithm, self.value = _checksum_header(headers)
        self.trailer = _trailer_algorithm(headers, payload_hash)
        if self.trailer and self.algorithm:
            raise Refused("InvalidRequest", "Expecting a single x-amz-checksum- header")
        self.algorithm = self.algorithm or self.trailer
        _demand_sdk_algorithm(headers, self.algorithm)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What to compute besides the MD5."""
        wanted = (self.algorithm, SHA256 if self.sha256 else "")
        return tuple(dict.fromkeys(name for name in wanted if name))


class Payload:
    """The stored bytes of a request, read once."""

    __slots__ = (
        "_body",
        "_decoder",
        "_pieces",
        "_received",
        "_wire_length",
        "_yielded",
        "declared",
        "size",
    )

    def __init__(
        self,
        request: Request,
        payload_hash: str,
        signer: ChunkSigner | None,
        *,
        of_object: bool = False,
    ) -> None:
        """`of_object`: the x-amz-checksum- headers are of something else than this body."""
        headers = request.headers
        self._body: Body = request.body
        self._wire_length = _length(headers, "content-length")
        self._received = 0
        self._yielded = 0
        self._pieces: deque[memoryview] = deque()
        self.declared = Declared(headers, payload_hash, of_object=of_object)
        self._decoder: ChunkDecoder | None = None
        if payload_hash in signature.CHUNKED:
            has_trailer = payload_hash in signature.TRAILING
            self._decoder = ChunkDecoder(signer, has_trailer=has_trailer)
            decoded = _length(headers, "x-amz-decoded-content-length")
            if decoded is None:
                raise Refused("MissingContentLength", "x-amz-decoded-content-length is required")
            self.size = decoded
        else:
            if self._wire_length is None:
                raise Refused("MissingContentLength")
            self.size = self._wire_length

    async def read(self) -> Buffer:
        """The next piece, empty at the end. Refused when the body is not what was announced."""
        if self._decoder is None:
            return await self._read_plain()
        while not self._pieces:
            received = await self._body.read()
            if not received:
                self._demand_end()
                return b""
            self._received += len(received)
            self._pieces.extend(self._decoder.feed(received))
        piece = self._pieces.popleft()
        self._yielded += len(piece)
        if self._yielded > self.size:
            raise Refused("IncompleteBody", "the body is longer than it says")
        return piece

    async def finish(self) -> None:
        """Read what follows the last payload byte: the end of the framing, and trailers."""
        if self._yielded < self.size or self._decoder is not None:
            piece = await self.read()
            if piece:
                raise Refused("IncompleteBody", "the body is longer than it says")

    async def whole(self, limit: int) -> bytes:
        """All of a small body, checked against what was declared of it."""
        content = await self.unchecked(limit)
        self.demand_content(content)
        return content

    async def unchecked(self, limit: int) -> bytes:
        """All of a small body; `demand_content` is for whoever gets it."""
        if self.size > limit:
            raise Refused("MaxMessageLengthExceeded")
        pieces: list[Buffer] = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def demand_content(self, content: bytes) -> None:
        """Refuse a body that is not what was declared of it; on any thread."""
        names = (MD5, *self.declared.algorithms)
        self.demand_declared({name: digests.checksum_of(name, content) for name in names})

    def demand_declared(self, sums: dict[str, bytes]) -> None:
        """Refuse a payload with these checksums unless they are what the client declared."""
        declared = self.declared
        if declared.md5 and sums[MD5] != declared.md5:
            raise Refused("BadDigest", "The Content-MD5 you specified did not match.")
        if declared.sha256 and sums[SHA256] != declared.sha256:
            raise Refused("XAmzContentSHA256Mismatch")
        if not declared.algorithm:
            return
        expected = declared.value
        if declared.trailer:
            expected = self._trailer_value(declared.trailer)
        if sums[declared.algorithm] != expected:
            name = declared.algorithm.upper()
            raise Refused("BadDigest", f"The {name} you specified did not match.")

    def _trailer_value(self, algorithm: str) -> bytes:
        assert self._decoder is not None
        text = self._decoder.trailers.get(CHECKSUM_PREFIX + algorithm)
        if text is None:
            raise Refused("InvalidRequest", "the checksum announced as a trailer is missing")
        return _decoded_checksum(algorithm, text)

    async def _read_plain(self) -> Buffer:
        if self._yielded == self.size:
            return b""
        piece = await self._body.read()
        self._yielded += len(piece)
        if not piece or self._yielded > self.size:
            raise Refused("IncompleteBody")
        return piece

    def _demand_end(self) -> None:
        assert self._decoder is not None
        if not self._decoder.finished or self._yielded != self.size:
            raise Refused("IncompleteBody")
        if self._wire_length is not None and self._received != self._wire_length:
            raise Refused("IncompleteBody")


async def read_body(body: Body, limit: int) -> bytes:
    """All of a body however it is framed; Refused when it is longer than that."""
    pieces: list[Buffer] = []
    size = 0
    while piece := await body.read():
        size += len(piece)
        if size > limit:
            raise Refused("MaxMessageLengthExceeded")
        pieces.append(piece)
    return b"".join(pieces)


def _length(headers: dict[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    length = parse_number(text, most=LENGTH_MAX)
    if length is None:
        raise Refused("InvalidArgument", f"{name} is not a length")
    return length


def _content_md5(headers: dict[str, str]) -> bytes:
    text = headers.get("content-md5")
    if text is None:
        return b""
    value = _base64(text)
    if len(value) != digests.DIGEST_BYTES[MD5]:
        raise Refused("InvalidDigest")
    return value


def _checksum_header(headers: dict[str, str]) -> tuple[str, bytes]:
    """(algorithm, value) of the one x-amz-checksum- header, or empty ones."""
    algorithm, value = "", b""
    for name, text in headers.items():
        if not name.startswith(CHECKSUM_PREFIX) or name[len(CHECKSUM_PREFIX) :] in _NOT_VALUES:
            continue
        if algorithm:
            raise Refused("InvalidRequest", "Expecting a single x-amz-checksum- header")
        algorithm = known_algorithm(name[len(CHECKSUM_PREFIX) :])
        value = _decoded_checksum(algorithm, text)
    return algorithm, value


def _trailer_algorithm(headers: dict[str, str], payload_hash: str) -> str:
    announced = headers.get("x-amz-trailer", "").strip().lower()
    if not announced:
        return ""
    if not announced.startswith(CHECKSUM_PREFIX) or "," in announced:
        raise Refused("InvalidRequest", "x-amz-trailer may only announce one x-amz-checksum-")
    if payload_hash not in signature.TRAILING:
        raise Refused("InvalidRequest", "x-amz-trailer needs a payload with trailers")
    return known_algorithm(announced[len(CHECKSUM_PREFIX) :])


def known_algorithm(name: str) -> str:
    """The checksum algorithm of this name; refused when there is none here."""
    lower = name.lower()
    if lower not in digests.ALGORITHMS:
        raise Refused("NotImplemented", f"the checksum algorithm {name} is not implemented")
    return lower


def _demand_sdk_algorithm(headers: dict[str, str], algorithm: str) -> None:
    announced = headers.get("x-amz-sdk-checksum-algorithm")
    if announced is None:
        return
    wanted = known_algorithm(announced)
    if not algorithm and "content-md5" in headers:
        return
    if algorithm != wanted:
        raise Refused(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or "
            "x-amz-trailer headers were found.",
        )


def _decoded_checksum(algorithm: str, text: str) -> bytes:
    value = _base64(text)
    if len(value) != digests.DIGEST_BYTES[algorithm]:
        raise Refused("BadDigest", f"The value of {CHECKSUM_PREFIX}{algorithm} is not valid.")
    return value


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
