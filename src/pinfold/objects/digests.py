"""Checksums of payloads: the algorithms, running digests, and how part checksums combine.

A digest of much data is updated in a thread lane (hashlib and the CRC library release the
interpreter lock); of little data at once, because a hop to a thread costs more than the hash.
"""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Final, Protocol

from awscrt import checksums

from pinfold.env.api import Buffer, Env, Offload
from pinfold.model.errors import Invalid
from pinfold.objects.records import Checksum

CRC32: Final = "crc32"
CRC32C: Final = "crc32c"
CRC64NVME: Final = "crc64nvme"
SHA1: Final = "sha1"
SHA256: Final = "sha256"
MD5: Final = "md5"

ALGORITHMS: Final = (CRC32, CRC32C, CRC64NVME, SHA1, SHA256)
"""What a client may ask for. MD5 is always computed: it is the ETag."""

DEFAULT_ALGORITHM: Final = CRC64NVME
"""For objects whose client asked for none: as AWS does, and at many GB/s nearly free."""

_CRCS: Final = {
    CRC32: (zlib.crc32, checksums.combine_crc32, 4),
    CRC32C: (checksums.crc32c, checksums.combine_crc32c, 4),
    CRC64NVME: (checksums.crc64nvme, checksums.combine_crc64nvme, 8),
}

_HASHES: Final = {MD5: hashlib.md5, SHA1: hashlib.sha1, SHA256: hashlib.sha256}

DIGEST_BYTES: Final = {CRC32: 4, CRC32C: 4, CRC64NVME: 8, SHA1: 20, SHA256: 32, MD5: 16}

OFFLOAD_FROM_BYTES: Final = 64 * 1024
"""Below this a hash (about 0.1 ms of MD5) takes less than two hops between threads."""

LANES: Final = 2
"""Hashing threads: each fills a core, and the loop needs one too."""


class Digest(Protocol):
    """A running checksum."""

    def update(self, buffer: Buffer, /) -> None: ...  # noqa: D102

    def digest(self) -> bytes: ...  # noqa: D102


class _Crc:
    """A CRC with the interface of hashlib."""

    __slots__ = ("_function", "_length", "_value")

    def __init__(self, algorithm: str) -> None:
        self._function, _, self._length = _CRCS[algorithm]
        self._value = 0

    def update(self, buffer: Buffer, /) -> None:
        self._value = self._function(buffer, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


def new_digest(algorithm: str) -> Digest:
    """A running checksum of one of `ALGORITHMS` or MD5."""
    if algorithm in _CRCS:
        return _Crc(algorithm)
    return _HASHES[algorithm](usedforsecurity=False)


def checksum_of(algorithm: str, payload: bytes) -> bytes:
    """The checksum of some bytes."""
    if algorithm in _CRCS:
        function, _, length = _CRCS[algorithm]
        value: int = function(payload, 0)
        return value.to_bytes(length, "big")
    return _HASHES[algorithm](payload, usedforsecurity=False).digest()


def checksums_of(algorithms: Sequence[str], payload: bytes) -> dict[str, bytes]:
    """Several checksums of a few bytes; Invalid for an algorithm we do not know."""
    _demand_known(algorithms)
    return {algorithm: checksum_of(algorithm, payload) for algorithm in algorithms}


def _demand_known(algorithms: Sequence[str]) -> None:
    for algorithm in algorithms:
        if algorithm not in DIGEST_BYTES:
            raise Invalid(f"unknown checksum algorithm {algorithm}")


def combines(algorithm: str) -> bool:
    """Whether the whole's checksum follows from its parts'."""
    return algorithm in _CRCS


def whole_of_parts(algorithm: str, parts: Sequence[tuple[bytes, int]]) -> Checksum:
    """The checksum of bytes that came in parts of (checksum, size), without reading them."""
    _, combine, length = _CRCS[algorithm]
    value = 0
    for checksum, size in parts:
        value = combine(value, int.from_bytes(checksum, "big"), size)
    return Checksum(algorithm, value.to_bytes(length, "big"))


def composite_of_parts(algorithm: str, parts: Sequence[bytes]) -> Checksum:
    """The checksum of the parts' checksums."""
    return Checksum(algorithm, checksum_of(algorithm, b"".join(parts)), parts=len(parts))


class Digests:
    """Several running checksums of one payload, updated together, off the loop when it pays.

    Updates of one `Digests` keep their order; the next is given only when the last has returned.
    """

    __slots__ = ("_digests", "_lane")

    def __init__(self, algorithms: Sequence[str], lane: Offload) -> None:
        self._digests = {algorithm: new_digest(algorithm) for algorithm in algorithms}
        self._lane = lane

    async def update(self, buffers: Sequence[Buffer], size: int) -> None:
        """Take the next `size` bytes, which nobody may change before this returns."""
        if size < OFFLOAD_FROM_BYTES:
            self._take(buffers)
        else:
            await self._lane(self._take, buffers)

    def _take(self, buffers: Sequence[Buffer]) -> None:
        for digest in self._digests.values():
            for buffer in buffers:
                digest.update(buffer)

    def results(self) -> dict[str, bytes]:
        """Algorithm to checksum of everything taken."""
        return {algorithm: digest.digest() for algorithm, digest in self._digests.items()}


class Hashing:
    """The threads that hash, and which of them the next payload gets."""

    def __init__(self, env: Env) -> None:
        self._lanes = [env.new_offload(f"hash-{index}") for index in range(LANES)]
        self._next = 0

    def digests(self, algorithms: Sequence[str]) -> Digests:
        """Fresh running checksums; Invalid for an algorithm we do not know."""
        _demand_known(algorithms)
        self._next = (self._next + 1) % LANES
        return Digests(algorithms, self._lanes[self._next])

    def close(self) -> None:
        """End the threads."""
        for lane in self._lanes:
            lane.close()
