"""The aws-chunked framing of bodies, taken apart: bytes in, payload out, signatures checked.

    SIZE[;chunk-signature=HEX] CRLF payload CRLF ... 0[;chunk-signature=HEX] CRLF
    [trailer: value CRLF ... [x-amz-trailer-signature:HEX CRLF]] CRLF

Payload is given out before its chunk's signature was seen to match: whoever stores it must not
name it before `finished`.
"""

import hashlib
import re
from typing import Final

from pinfold.env.api import Buffer
from pinfold.model.limits import KIB, PUT_BYTES
from pinfold.s3.errors import Refused
from pinfold.s3.signature import ChunkSigner

LINE_BYTES_MAX: Final = 1024
"""A chunk's head has about 90 bytes, a trailer with a checksum about 80."""

SMALL_CHUNK_BYTES: Final = 8 * KIB
SMALL_CHUNKS_MAX: Final = 1024
"""Chunks below that of one body: S3 takes but one, the last, and some clients' streams are cut
unluckily now and then. Each costs some microseconds and 200 bytes, however little it brings."""

TRAILERS_MAX: Final = 16
"""A body has one checksum and its signature behind it."""

_HEAD: Final = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-fA-F]{64}))?")
_TRAILER: Final = re.compile(rb"([A-Za-z0-9\-]{1,64})[ \t]*:([\x20-\x7e\t]*)")
"""No two parts of it take the same byte: a line of spaces would be tried in a billion ways."""
_TRAILER_SIGNATURE: Final = "x-amz-trailer-signature"

_SIZE, _PAYLOAD, _PAYLOAD_END, _TRAILERS, _FINISHED = range(5)


class ChunkDecoder:
    """Takes one body apart.

    Refused: IncompleteBody, InvalidRequest or InvalidChunkSizeError for framing, or
    SignatureDoesNotMatch. `signer` is None
    where chunks are not signed; `has_trailer` says whether trailers may follow.
    """

    __slots__ = (
        "_digest",
        "_expected",
        "_has_trailer",
        "_left",
        "_line",
        "_signature",
        "_signed_trailers",
        "_signer",
        "_small",
        "_state",
        "trailers",
    )

    def __init__(self, signer: ChunkSigner | None, *, has_trailer: bool) -> None:
        self._signer = signer
        self._has_trailer = has_trailer
        self._state = _SIZE
        self._line = b""
        self._left = 0
        self._small = 0
        self._digest = hashlib.sha256()
        self._signature = ""
        self._signed_trailers = b""
        self.trailers: dict[str, str] = {}

    @property
    def finished(self) -> bool:
        """Whether the body ended as it should, signatures and all."""
        return self._state == _FINISHED

    def feed(self, received: Buffer) -> list[memoryview]:
        """Take the next bytes; what of them is payload."""
        view = memoryview(received)
        payload: list[memoryview] = []
        while view:
            if self._state == _PAYLOAD:
                piece = view[: self._left]
                view = view[len(piece) :]
                payload.append(piece)
                self._take(piece)
            elif self._state == _FINISHED:
                raise Refused("InvalidRequest", "bytes follow the end of the chunked body")
            else:
                view = self._collect(view)
        return payload

    def _take(self, piece: memoryview) -> None:
        if self._signer is not None:
            self._digest.update(piece)
        self._left -= len(piece)
        if not self._left:
            self._end_chunk()
            self._state = _PAYLOAD_END

    def _collect(self, view: memoryview) -> memoryview:
        """Add to the line being read, and act on it when it is whole; what is left of `view`."""
        head = bytes(view[: LINE_BYTES_MAX + 2])
        before = len(self._line)
        line = self._line + head
        end = line.find(b"\r\n", max(0, before - 1))
        if end < 0:
            if len(line) > LINE_BYTES_MAX:
                raise Refused("InvalidRequest", "a line of the chunked body is too long")
            self._line = line
            return view[len(head) :]
        self._line = b""
        self._on_line(line[:end])
        return view[end + 2 - before :]

    def _on_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            self._begin_chunk(line)
        elif self._state == _PAYLOAD_END:
            if line:
                raise Refused("InvalidRequest", "a chunk is longer than it says")
            self._state = _SIZE
        elif line:
            self._on_trailer(line)
        else:
            self._end_body()

    def _begin_chunk(self, line: bytes) -> None:
        found = _HEAD.fullmatch(line)
        if found is None or (found[2] is None) != (self._signer is None):
            raise Refused("InvalidRequest", "a chunk's head is not valid")
        self._left = int(found[1], 16)
        if self._left > PUT_BYTES:
            raise Refused("EntityTooLarge")
        self._small += self._left < SMALL_CHUNK_BYTES
        if self._small > SMALL_CHUNKS_MAX:
            raise Refused("InvalidChunkSizeError")
        self._signature = (found[2] or b"").decode().lower()
        if self._left:
            self._state = _PAYLOAD
        else:
            self._end_chunk()
            self._state = _TRAILERS

    def _end_chunk(self) -> None:
        if self._signer is not None:
            self._signer.demand_chunk(self._digest.hexdigest(), self._signature)
            self._digest = hashlib.sha256()

    def _on_trailer(self, line: bytes) -> None:
        found = _TRAILER.fullmatch(line)
        if found is None or not self._has_trailer or len(self.trailers) >= TRAILERS_MAX:
            raise Refused("InvalidRequest", "a trailer of the chunked body is not valid")
        name, value = found[1].decode().lower(), found[2].decode().strip()
        if name in self.trailers:
            raise Refused("InvalidRequest", "a trailer comes twice")
        if name != _TRAILER_SIGNATURE:
            if _TRAILER_SIGNATURE in self.trailers:
                raise Refused("InvalidRequest", "a trailer follows the trailers' signature")
            self._signed_trailers += f"{name}:{value}\n".encode()
        self.trailers[name] = value

    def _end_body(self) -> None:
        signature = self.trailers.pop(_TRAILER_SIGNATURE, "")
        if self._signer is not None and self._has_trailer:
            digest = hashlib.sha256(self._signed_trailers).hexdigest()
            self._signer.demand_trailer(digest, signature.lower())
        self._state = _FINISHED
