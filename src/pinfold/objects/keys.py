"""Where the rows of buckets and objects live: placement keys and row keys, pure.

A row key never starts with byte 00 (the log's own) and holds no 00 01 but the end of a name: shard
ids are free of zero bytes, so whoever finds the first 00 01 in an object's key has its name.
The rows of a shard, each kind in a *section* of its own, so that whoever lists one kind meets no
row of the others:

    b"o" shard 10 name-00-01                      objects
    b"o" shard 30 name-00-01 upload               open multipart uploads
    b"o" shard 40 name-00-01 upload number        their parts; number 0 is an upload's touch row
    b"c" shard                                    counter: objects and bytes
    b"x" shard                                    bound: where the shard ends for writes
    b"y" shard                                    moved: where the shard ends for reads
    b"r" shard                                    received: what a new shard has been given so far

Beside a bucket's own row, in its group:

    b"b" bucket-00-01                             the bucket
    b"m" life first                               its map: the shard that begins at this name

A *position* is a key of a name without shard and section; positions sort as names do, in any. A
*border* is a position among the names of one shard, as bounds and what they are compared with.
"""

from random import Random
from typing import Final

from pinfold.codec import names

SHARD_ID_BYTES: Final = 16
UPLOAD_ID_BYTES: Final = 16
"""48 bits of time, so that uploads of one name list in the order they began, then 80 random."""

OBJECTS: Final = b"\x10"
UPLOADS: Final = b"\x30"
PARTS: Final = b"\x40"
SECTIONS: Final = (OBJECTS, UPLOADS, PARTS)

_SECTION_AT: Final = 1 + SHARD_ID_BYTES
_NAME_AT: Final = _SECTION_AT + 1
_BEHIND: Final = b"\x00\x02"
"""In the place of a name's end: behind all that starts with the name and its end."""


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


def section_range(shard: bytes, section: bytes) -> tuple[bytes, bytes]:
    """All rows of one kind."""
    return _prefixed(b"o" + shard + section)


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


def prefix_key(shard: bytes, section: bytes, prefix: bytes) -> bytes:
    """The start of the keys of all names that start with `prefix`, or sort after it."""
    return b"o" + shard + section + names.escape(prefix)


def prefix_position(prefix: bytes) -> bytes:
    """The position of `prefix_key`."""
    return names.escape(prefix)


def behind_position(name: bytes) -> bytes:
    """Where the rows of a name have ended: the start of a scan that continues after it."""
    return names.escape(name) + _BEHIND


def upload_position(name: bytes, upload: bytes) -> bytes:
    """The position of `upload_key`."""
    return names.encode(name) + upload


def border(shard: bytes, place: bytes) -> bytes:
    """A position as a border of a shard."""
    return b"o" + shard + place


def border_of(key: bytes) -> bytes:
    """The border below which a scan stays that ends at a key of a name, or at its section's end."""
    if len(key) == _NAME_AT:
        return _prefixed(key[:_SECTION_AT])[1]
    return key[:_SECTION_AT] + key[_NAME_AT:]


def object_key(shard: bytes, name: bytes) -> bytes:
    """The current object of a name."""
    return b"o" + shard + OBJECTS + names.encode(name)


def upload_key(shard: bytes, name: bytes, upload: bytes) -> bytes:
    """An open upload."""
    return b"o" + shard + UPLOADS + names.encode(name) + upload


def part_key(shard: bytes, name: bytes, upload: bytes, number: int) -> bytes:
    """A part of an upload."""
    return b"o" + shard + PARTS + names.encode(name) + upload + number.to_bytes(2, "big")


def touch_key(shard: bytes, name: bytes, upload: bytes) -> bytes:
    """The row rewritten with every part: its version tells whether any part changed."""
    return part_key(shard, name, upload, 0)


def part_range(shard: bytes, name: bytes, upload: bytes) -> tuple[bytes, bytes]:
    """All parts of an upload and its touch row."""
    return _prefixed(b"o" + shard + PARTS + names.encode(name) + upload)


def section_of(key: bytes) -> bytes:
    """Which of `SECTIONS` the key of any row of a name is in."""
    return key[_SECTION_AT:_NAME_AT]


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
    """A key's position: a place in a listing that survives a change of shards."""
    return key[_NAME_AT:]


def at_position(shard: bytes, section: bytes, place: bytes) -> bytes:
    """The inverse of `position`."""
    return b"o" + shard + section + place


def unsharded(key: bytes) -> bytes:
    """A key without its shard: its section and position."""
    return key[_SECTION_AT:]


def in_shard(shard: bytes, rest: bytes) -> bytes:
    """The inverse of `unsharded`."""
    return b"o" + shard + rest


def _prefixed(prefix: bytes) -> tuple[bytes, bytes]:
    end = names.successor(prefix)
    assert end is not None, "a prefix starts with a letter"
    return prefix, end
