"""Every named limit that is part of a format or protocol, with its unit and reason.

Limits an operator may tune live in `settings.py`.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

OBJECT_NAME_BYTES: Final = 1024
"""Longest object name, UTF-8 bytes: S3's and Swift's own limit."""

BUCKET_NAME_MIN: Final = 3
BUCKET_NAME_MAX: Final = 63
"""Characters in a bucket name: S3's rule."""

INLINE_BYTES: Final = 4 * KIB
"""Payloads up to this ride in their row: a blob would cost a second round of flushes on as many
devices. With its head such a row takes two pages of the index, as a blob would of a pack."""

JOURNAL_BLOB_BYTES: Final = 64 * KIB
"""Blobs up to this ride in the journal (one flush); larger ones stream straight into a pack."""

SEGMENT_BYTES: Final = 16 * MIB
"""Largest blob an object is cut into: it is held in memory until durable."""

BLOB_CHECK_BYTES: Final = 64 * KIB
"""Unit of a blob's checksum table, so that a range read verifies only what it touches."""

EXTENT_BYTES: Final = 4 * MIB
"""A volume's unit of placement."""

BLOCK_BYTES: Final = 4 * KIB
"""Unit of a volume's checksums; smaller writes read, patch and write a whole block."""

SLOT_BYTES: Final = 64 * KIB
"""Unit of space for volumes on a device: the part of an extent that lies in one piece."""

OBJECT_BYTES: Final = 5 * 1024 * GIB
"""Largest object, S3's own limit (5 TiB)."""

PUT_BYTES: Final = 5 * GIB
"""Largest single PUT or part, S3's own limit."""

BLOB_ID_BYTES: Final = 16
"""A blob's id: when it was made, and randomness."""

PART_NUMBER_MAX: Final = 10_000
PART_BYTES_MIN: Final = 5 * MIB
"""Multipart rules of S3: parts 1 to 10,000, each but the last at least 5 MiB."""

LISTING_PAGE_MAX: Final = 1000
"""Keys in one page of a listing, S3's own limit."""

METADATA_BYTES: Final = 2 * KIB
"""User metadata of one object, names and values together: S3's own limit."""

VOLUME_BYTES_MAX: Final = 64 * 1024 * GIB
"""Largest volume (64 TiB): 16 Mi extents."""

NBD_REQUEST_BYTES: Final = 32 * MIB
"""Largest NBD payload: what the protocol's baseline promises to clients."""

ROW_BYTES: Final = 1 * MIB
"""Largest encoded row: one row must fit a page, a frame and an index value with room to spare."""

CHANGE_BYTES: Final = 4 * MIB
"""Rows put by one change, encoded: a change is evaluated and sent as a whole."""

ROW_KEY_BYTES: Final = 4 * KIB
"""Longest row key: an object name of 1,024 zero bytes, escaped, with room for what surrounds it."""

DELETE_RANGE_ROWS: Final = 20_000
"""Rows one change may delete by range: twice the parts of the largest upload."""

ENTRY_CHANGES: Final = 1_024
"""Changes in one log entry (the format allows 65,536): some 30 ms of evaluation."""

CHANGE_DEADLINE_S: Final = 10.0
"""How long a change of rows is sent again at most, from the first time on: a dead primary is
replaced within 2 s, a cold start takes longer. Primaries remember results for longer than that."""

ENTRY_BYTES: Final = 1 * MIB
"""An entry with this many bytes of rows takes no further change."""
