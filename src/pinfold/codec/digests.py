"""What was applied to a group's rows, summed up in 256 numbers.

A write adds one number to the bucket its key hashes to: a sum over the key, the op that wrote it
and a checksum of the value. Members that applied the same ops to the same rows have equal digests,
in whatever batches; members that did not differ in the buckets where they did not. It is a sum of
the writes and not of the rows, so that keeping it costs no read of what a write replaces.
"""

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

BUCKETS: Final = 256
_ALL: Final = Struct(f">{BUCKETS}Q")
DIGEST_BYTES: Final = _ALL.size
BITMAP_BYTES: Final = BUCKETS // 8

_MASK: Final = (1 << 64) - 1
_OP_FACTOR: Final = 0x9E3779B97F4A7C15
"""Odd, its bits well mixed: ops that follow each other give seeds that have nothing in common."""
_DELETED: Final = 0xD1B54A32D192ED03
"""What is added for a key that is deleted, mixed with its op."""


def bucket_of(seed: int, key: bytes) -> int:
    """The bucket of a key; `seed` is the group's number."""
    return xxh3_64_intdigest(key, seed) & (BUCKETS - 1)


def differing(one: bytes, other: bytes) -> bytes:
    """The buckets in which two digests differ, as a bitmap for `chosen`.

    Empty, which stands for all of them, when one is not known or more than half differ.
    """
    if not one or not other:
        return b""
    pairs = zip(_ALL.unpack(one), _ALL.unpack(other), strict=True)
    found = [bucket for bucket, (mine, its) in enumerate(pairs) if mine != its]
    if len(found) > BUCKETS // 2:
        return b""
    return sum(1 << bucket for bucket in found).to_bytes(BITMAP_BYTES, "big")


def covers(bitmap: bytes, one: bytes, other: bytes) -> bool:
    """Whether two digests differ in no other buckets than those of a bitmap."""
    found = differing(one, other)
    if not bitmap or not found:
        return not bitmap
    return not int.from_bytes(found, "big") & ~int.from_bytes(bitmap, "big")


def chosen(bitmap: bytes, seed: int) -> Callable[[bytes], bool]:
    """Whether a key is in one of the buckets of a bitmap."""
    if not bitmap:
        return lambda _key: True
    buckets = int.from_bytes(bitmap, "big")
    return lambda key: bool(buckets >> bucket_of(seed, key) & 1)


class RowDigest:
    """The digest of one group, as far as it is applied."""

    __slots__ = ("_buckets", "_seed")

    def __init__(self, seed: int, stored: bytes = b"") -> None:
        """Of a group without rows, or as `to_bytes` stored it."""
        self._seed = seed
        self._buckets = [0] * BUCKETS
        if stored:
            assert len(stored) == DIGEST_BYTES, "a digest is stored whole"
            self._buckets = list(_ALL.unpack(stored))

    def add(self, op: int, writes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Entry `op` has put and deleted these."""
        buckets, seed, salt = self._buckets, self._seed, op * _OP_FACTOR
        for key, value in writes:
            at = xxh3_64_intdigest(key, seed)
            mixed = (at ^ salt) & _MASK
            added = mixed ^ _DELETED if value is None else xxh3_64_intdigest(value, mixed)
            bucket = at & (BUCKETS - 1)
            buckets[bucket] = (buckets[bucket] + added) & _MASK

    def to_bytes(self) -> bytes:
        """All buckets."""
        return _ALL.pack(*self._buckets)
