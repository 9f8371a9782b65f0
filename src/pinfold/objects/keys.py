"""Where the rows of buckets and objects live: placement keys and row keys, pure.

A row key never starts with byte 00 (the log's own) and holds no 00 01 but the end of a name: shard
ids are free of zero bytes, so whoever finds the first 00 01 in an object's key has its name.
Layout of a shard's rows, in order: all rows of a name are adjacent, the current object first.

    b"o" shard name-00-01 10                      the object
    b"o" shard name-00-01 30 upload               an open multipart upload
    b"o" shard name-00-01 40 upload number        its parts; number 0 is the upload's touch row
    b"c" shard                                    counter: objects and bytes
    b"x" shard                                    bound: where the shard ends for writes
    b"y" shard                                    moved: where the shard ends for reads
    b"r" shard                                    received: what a new shard has been given so far

Beside a bucket's own row, in its group:

    b"b" bucket-00-01                             the bucket
    b"m" life first                               its map: the shard that begins at this name

A *position* is a key of a name without its shard; positions sort as names do, in any shard.
"""

from random import Random
from typing import Final

from pinfold.codec import names

SHARD_ID_BYTES: Final = 16
UPLOAD_ID_BYTES: Final = 16
"""48 bits of time, so that uploads of one name list in the order they began, then 80 random."""

KIND_OBJECT: Final = 0x10
KIND_UPLOAD: Final = 0x30
KIND_PART: Final = 0x40
KIND_END: Final = 0xFF
"""Above every kind: where the rows of a name have ended."""

_NAME_AT: Final = 1 + SHARD_ID_BYTES
_OBJECT: Final = bytes((KIND_OBJECT,))
_UPLOAD: Final = bytes((KIND_UPLOAD,))
_PART: Final = bytes((KIND_PART,))


def new_shard_id(rng: Random) -> bytes:
    """16 random bytes, none of them zero."""
    return bytes(rng.randrange(1, 256) for _ in range(SHARD_ID_BYTES))


def new_upload_id(rng: Random, now_ms: int) -> bytes:
    """An id that sorts by when it was made."""
    return now_ms.to_bytes(6, "big") + rng.randbytes(UPLOAD_ID_BYTES - 6)


def bucket_place(bucket: bytes) -> bytes:
    """Placement of a bucket's row."""
    return b"b/" + bucket


def bucket_key(bucket: bytes) -> bytes:
    """A bucket's row."""
    return b"b" + names.encode(bucket)


def map_key(life: bytes, position: bytes) -> bytes:
    """The map's row of the shard that begins at a position, in a life of a bucket."""
    return b"m" + life + position


def map_range(life: bytes) -> tuple[bytes, bytes]:
    """All rows of a map."""
    return _prefixed(b"m" + life)


def map_first(life: bytes, key: bytes) -> bytes:
    """The name at which the shard of a map's row begins."""
    return key[1 + len(life) :].replace(b"\x00\xff", b"\x00")


def account_place(account: bytes) -> bytes:
    """Placement of an account's list of buckets."""
    return b"a/" + account


def account_bucket_key(account: bytes, bucket: bytes) -> bytes:
    """An account's list row of one bucket."""
    return b"a" + names.encode(account) + names.encode(bucket)


def account_bucket_range(account: bytes, prefix: bytes = b"") -> tuple[bytes, bytes]:
    """The list rows of an account's buckets whose names start with `prefix`."""
    return _prefixed(b"a" + names.encode(account) + names.escape(prefix))


def account_bucket_name(account: bytes, key: bytes) -> bytes:
    """The bucket that a list row is about."""
    return names.decode(key, 1 + len(names.encode(account)))[0]


def shard_place(shard: bytes) -> bytes:
    """Placement of everything in a shard."""
    return b"s/" + shard


def shard_range(shard: bytes) -> tuple[bytes, bytes]:
    """All rows of names: objects, uploads and parts."""
    return _prefixed(b"o" + shard)


def counter_key(shard: bytes) -> bytes:
    """The shard's counter row."""
    return b"c" + shard


def bound_key(shard: bytes) -> bytes:
    """The row whose tag is the first key that the shard takes no writes of; empty: of none."""
    return b"x" + shard


def moved_key(shard: bytes) -> bytes:
    """The row whose tag is the first key that the shard answers no reads of."""
    return b"y" + shard


def received_key(shard: bytes) -> bytes:
    """The row that says how much a new shard has been given by the one it was split from."""
    return b"r" + shard


def prefix_key(shard: bytes, prefix: bytes) -> bytes:
    """The start of the keys of all names that start with `prefix`, or sort after it."""
    return b"o" + shard + names.escape(prefix)


def prefix_position(prefix: bytes) -> bytes:
    """The position of `prefix_key`."""
    return names.escape(prefix)


def behind_position(name: bytes) -> bytes:
    """The position of `behind_name`."""
    return names.encode(name) + bytes((KIND_END,))


def upload_position(name: bytes, upload: bytes) -> bytes:
    """The position of `upload_key`."""
    return names.encode(name) + _UPLOAD + upload


def object_key(shard: bytes, name: bytes) -> bytes:
    """The current object of a name."""
    return b"o" + shard + names.encode(name) + _OBJECT


def behind_name(shard: bytes, name: bytes) -> bytes:
    """Where the rows of a name have ended: the start of a scan that continues after it."""
    return b"o" + shard + names.encode(name) + bytes((KIND_END,))


def upload_key(shard: bytes, name: bytes, upload: bytes) -> bytes:
    """An open upload."""
    return b"o" + shard + names.encode(name) + _UPLOAD + upload


def part_key(shard: bytes, name: bytes, upload: bytes, number: int) -> bytes:
    """A part of an upload."""
    return b"o" + shard + names.encode(name) + _PART + upload + number.to_bytes(2, "big")


def touch_key(shard: bytes, name: bytes, upload: bytes) -> bytes:
    """The row rewritten with every part: its version tells whether any part changed."""
    return part_key(shard, name, upload, 0)


def part_range(shard: bytes, name: bytes, upload: bytes) -> tuple[bytes, bytes]:
    """All parts of an upload and its touch row."""
    return _prefixed(b"o" + shard + names.encode(name) + _PART + upload)


def kind_of(key: bytes) -> int:
    """Which kind of row the key of any row of a name is of: one of the KIND constants."""
    return key[names.decode(key, _NAME_AT)[1]]


def part_number(key: bytes) -> int:
    """The number in a part's key."""
    return int.from_bytes(key[-2:], "big")


def object_name(key: bytes) -> bytes:
    """The name in the key of any row of a name."""
    return names.decode(key, _NAME_AT)[0]


def upload_id(key: bytes) -> bytes:
    """The upload in the key of an upload row."""
    return key[-UPLOAD_ID_BYTES:]


def rolled_up_name(key: bytes) -> bytes:
    """The common prefix that a collapsed item's key stands for."""
    return key[_NAME_AT:].replace(b"\x00\xff", b"\x00")


def position(key: bytes) -> bytes:
    """A key without its shard: a place in a listing that survives a change of shards."""
    return key[_NAME_AT:]


def at_position(shard: bytes, place: bytes) -> bytes:
    """The inverse of `position`."""
    return b"o" + shard + place


def _prefixed(prefix: bytes) -> tuple[bytes, bytes]:
    end = names.successor(prefix)
    assert end is not None, "a prefix starts with a letter"
    return prefix, end
