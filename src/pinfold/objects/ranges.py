"""The ranges that a split moves: which names, which keys, and what a row says as a copy. Pure.

A range is a range of names; its rows lie in every section of the shard.
"""

from collections.abc import Iterator, Sequence

import msgspec

from pinfold.cluster.api import Page, Row
from pinfold.objects import keys
from pinfold.objects.records import (
    ObjectRecord,
    PartRecord,
    SplitRecord,
    UploadRecord,
    decode,
    encode,
)
from pinfold.objects.shards import Shard


def first_of_range(last: Sequence[Page], parent: Shard, split: SplitRecord) -> bytes | None:
    """The first name of the next range, given the last rows of each of the parent's sections.

    The range has of no section more than was read: it begins at the highest name at which one of
    these pages had to end. None when nothing can be given: a shard keeps its first name.
    """
    ends = [
        (keys.object_name(page.items[-1][0]), page.next_start is not None)
        for page in last
        if page.items
    ]
    cut = [name for name, more in ends if more]
    lowest = max(cut) if cut else min((name for name, _ in ends), default=b"")
    first = max(lowest, split.until)
    below = parent.end is None or first < parent.end
    return first if below and first > parent.first else None


def first_place(floor: bytes) -> bytes:
    """Where the copy of a range begins: its first section, at the range's first name."""
    return keys.SECTIONS[0] + keys.prefix_position(floor)


def sealed_behind(parent: Shard, floor: bytes, section: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys of a range in the sections behind one of them."""
    for one in keys.SECTIONS:
        if one > section:
            yield keys.prefix_key(parent.id, one, floor), parent.key_range(one)[1]


def given_away(parent: Shard) -> Iterator[tuple[bytes, bytes]]:
    """The keys of all names at or above the parent's end, section by section."""
    assert parent.end is not None
    for section in keys.SECTIONS:
        _, end = keys.section_range(parent.id, section)
        yield keys.prefix_key(parent.id, section, parent.end), end


def carried(key: bytes, row: Row) -> Row:
    """The row as another group takes it: its record remembers the stamp that it loses."""
    body, section = row.body, keys.section_of(key)
    if section == keys.OBJECTS:
        found = decode(ObjectRecord, body)
        if not found.modified_ms:
            body = encode(msgspec.structs.replace(found, modified_ms=row.stamp_ms))
    elif section == keys.UPLOADS:
        upload = decode(UploadRecord, body)
        if not upload.begun_ms:
            body = encode(msgspec.structs.replace(upload, begun_ms=row.stamp_ms))
    elif body:  # a part; the touch row has none
        part = decode(PartRecord, body)
        if not part.modified_ms:
            body = encode(msgspec.structs.replace(part, modified_ms=row.stamp_ms))
    return Row(body, row.tag, row.size, row.blobs, payload=row.payload)
