"""What use cases see of the cluster: rows that change under conditions, and immutable blobs.

A row lives in the group that its *placement key* hashes to; rows meant to change together share
one. Everything here is linearizable per group: a read or scan shows every change acknowledged
before it began. Errors: Conflict (a check failed), Unavailable (may or may not have happened
after all retries), Busy, Full.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from pinfold.env.api import Buffer
from pinfold.model.ids import BlobId, OpId


class BlobRef(msgspec.Struct, array_like=True, frozen=True):
    """Where a row's bytes are."""

    id: bytes
    length: int
    devices: tuple[int, ...]
    """Devices that acknowledged it durably (primaries first, then handoffs)."""
    checks: bytes = b""
    """Reserved for an end-to-end check of the whole blob."""


class Row(msgspec.Struct, array_like=True, frozen=True):
    """A row's value. The log fills `version` and `stamp_ms`; callers leave them 0."""

    body: bytes
    """Opaque to the log."""
    tag: bytes = b""
    """What `tag-in` checks compare: an object's ETag."""
    size: int = -1
    """Counted in the change's counter (one row, `size` bytes); -1: not counted."""
    blobs: tuple[BlobRef, ...] = ()
    """Freed when the row is replaced or deleted, unless a row put by the same change names them."""
    version: int = 0
    """Unique and growing within the group: set by the log."""
    stamp_ms: int = 0
    """Unix milliseconds, never decreasing within a group: set by the log."""
    payload: bytes | None = b""
    """Bytes that ride with the row and that scans leave out unless asked: None then. A row whose
    payload was left out cannot be put."""


CheckKind = Literal[
    "absent",
    "present",
    "version",
    "tag-in",
    "tag-not-in",
    "tag-not-below",
    "unmodified-since",
    "modified-since",
    "empty",
]


class Check(msgspec.Struct, array_like=True, frozen=True):
    """A condition on one row (or key range), evaluated in log order.

    absent/present: whether the row exists. version: exists with exactly `number`. tag-in: exists
    with a tag among `tags`. tag-not-in: absent, or its tag is not among them. tag-not-below:
    absent, or its tag sorts before none of them. unmodified-since / modified-since: exists and
    stamp_ms <= / > `number`. empty: no row with key <= k < `end`; reads cannot ask this one.
    """

    kind: CheckKind
    key: bytes
    number: int = 0
    tags: tuple[bytes, ...] = ()
    end: bytes = b""


class Change(msgspec.Struct, array_like=True, frozen=True):
    """Change these rows if: all checks hold, then all puts and deletes happen, or nothing does."""

    op_id: OpId
    checks: tuple[Check, ...] = ()
    puts: tuple[tuple[bytes, Row], ...] = ()
    deletes: tuple[bytes, ...] = ()
    """Deleting an absent row is no error."""
    delete_ranges: tuple[tuple[bytes, bytes], ...] = ()
    """Also delete every row with start <= key < end."""
    counter: bytes = b""
    """Key of the counter row that counted rows of this change add to or take from."""
    carried: bool = False
    """The rows come from another group, which goes on naming their blobs until this is done: only
    then may they name blobs that are older than a day and that no row here names."""
    keep_blobs: bool = False
    """Free nothing: rows of another group have taken over the blobs that this change drops."""


class Changed(msgspec.Struct, array_like=True, frozen=True):
    """The result of a change."""

    version: int
    stamp_ms: int


class Page(msgspec.Struct, array_like=True, frozen=True):
    """Part of a scan. A collapsed item has no row and its key ends with the delimiter."""

    items: tuple[tuple[bytes, Row | None], ...]
    next_start: bytes | None
    """Where the next page starts; None at the end."""


class Collapse(msgspec.Struct, array_like=True, frozen=True):
    """Roll up row keys that share key[:p], where p is just behind the first `delimiter` found at
    or after `prefix_length` and before the name's terminator (00 01). One item, no row.
    """

    prefix_length: int
    delimiter: bytes


class Counter(msgspec.Struct, array_like=True, frozen=True):
    """The body of a counter row."""

    rows: int
    size: int


class Rows(Protocol):
    """The row log, from any node."""

    async def get(self, place: bytes, key: bytes, *, checks: tuple[Check, ...] = ()) -> Row | None:
        """The row, or None.

        `checks` are evaluated at the same instant as the read: Conflict as from `change`.
        """
        ...

    async def scan(
        self,
        place: bytes,
        start: bytes,
        end: bytes | None,
        limit: int,
        *,
        collapse: Collapse | None = None,
        reverse: bool = False,
        payloads: bool = False,
        checks: tuple[Check, ...] = (),
    ) -> Page:
        """Up to `limit` items of start <= key < end in byte order; `checks` as for `get`.

        Without `payloads`, rows that have one come with `payload` None.
        """
        ...

    async def change(self, place: bytes, change: Change) -> Changed:
        """Apply a change exactly once, whatever retries it takes inside.

        Conflict.detail is (index of the failed check, current Row of its key or None), the row
        without its payload. Invalid for a change beyond the limits, and for one that names a blob
        for the first time more than a day after it was stored.
        """
        ...


class Blobs(Protocol):
    """Immutable payloads on W devices."""

    async def put(self, payload: Sequence[Buffer]) -> BlobRef:
        """Store up to 16 MiB durably under a fresh id."""
        ...

    async def read(self, ref: BlobRef, offset: int, length: int) -> list[Buffer]:
        """Verified bytes from whichever device answers; Corrupt or Unavailable if none can."""
        ...

    async def discard(self, refs: Sequence[BlobRef]) -> None:
        """Best effort: give back blobs that no row will ever name."""
        ...


def blob_stamp_ms(blob: BlobId) -> int:
    """When a blob's id was made, Unix milliseconds."""
    return int.from_bytes(blob[:6], "big")
