"""What the layers above see of a device: four stores behind one journal.

Every durable call returns a future that resolves after the flush that covers it; everything
appended before one flush shares that flush. Calls are made on the event loop and return at once.
Errors: `Full` (no room, nothing changed), `Corrupt` (bytes failed verification), `Fenced`,
`Unavailable` (the device has stopped after an I/O error).
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt
from pinfold.model.ids import BlobId, Boot, DeviceUuid, ExtentIndex, GroupId, Token, VolumeId


class IndexDamaged(Corrupt):
    """The index is gone or does not verify; of the rest of the device nothing is said."""


class Entry(NamedTuple):
    """One entry of a group's log: opaque to the device."""

    op: int
    view: int
    body: bytes


class LogState(NamedTuple):
    """What a device holds of a group."""

    view: int
    """Highest view flushed by `set_view` (or seen in an entry)."""
    voted: bytes
    """Opaque to the device: what the group stored with the view."""
    first_op: int
    """First op still readable as an entry (last_op + 1 when none is)."""
    last_op: int
    last_view: int
    """View of the entry at last_op (kept also when that entry is trimmed)."""
    applied_op: int
    """All entries up to this are in the rows (visible now, redone after a crash)."""
    applied_view: int


class Part(NamedTuple):
    """What a page of a copy stands for: these buckets' rows with start <= key < end, and no other.

    `end` is empty on the last page, `buckets` (`codec.digests.differing`) when all are copied. A
    `named` page comes behind all of these and stands for the keys it names alone (None: deleted).
    """

    start: bytes = b""
    end: bytes = b""
    buckets: bytes = b""
    named: bool = False


EVERYTHING: Final = Part()
"""Any page of a copy that began by dropping all rows."""


class LogStore(Protocol):
    """The logs of all groups with a replica on this device."""

    def groups(self) -> list[GroupId]:
        """Groups ever created here, sorted."""
        ...

    def create(self, group: GroupId) -> asyncio.Future[None]:
        """Start an empty log at op 0, view 0; durable when done; no change if it exists."""
        ...

    def state(self, group: GroupId) -> LogState: ...  # noqa: D102

    def view_at(self, group: GroupId, op: int) -> int | None:
        """View of the entry at `op`; also known for applied_op; None when not known."""
        ...

    def tail(self, group: GroupId, first_op: int, max_bytes: int) -> list[Entry]:
        """Entries from `first_op` on, in order, at least one if it exists, up to max_bytes.

        Raises NotFound when first_op is trimmed. [] when first_op > last_op.
        """
        ...

    def append(self, group: GroupId, entries: Sequence[Entry]) -> asyncio.Future[None]:
        """Append consecutive entries; readable at once, durable when the future is done.

        If entries[0].op <= last_op, everything from that op on is replaced (in memory now, on
        disk with the same flush). Replacing an applied entry or leaving a gap is a programmer's
        error.
        """
        ...

    def set_view(self, group: GroupId, view: int, voted: bytes = b"") -> asyncio.Future[None]:
        """Remember a view (never a lower one); durable when done."""
        ...

    def apply(self, group: GroupId, op: int, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Make the effect of entry `op` (= applied_op + 1) visible: put (key, value) or delete.

        Becomes durable in the index behind, in one transaction with applied_op. After a crash
        applied_op may be lower than it was; the entries after it are then still in the log.
        """
        ...

    def digest(self, group: GroupId) -> bytes:
        """What was applied, summed up (`codec.digests`): equal for equal ops, whoever applied them.

        As durable as applied_op is. Empty when it is not known: until the next copy after an
        upgrade, or when that came from where it was not known.
        """
        ...

    def full(self) -> bool:
        """Whether only changes that make room should be proposed.

        `append` goes on taking entries for a while, so that those find some.
        """
        ...

    def rotten(self, group: GroupId) -> bool:
        """Whether a row of the group was found to have failed its checksum here, or to be neither
        readable nor provably absent because the row beside it fails.

        Which key it had is not to be relied on either: only a copy of all rows makes it good.
        """
        ...

    def trim(self, group: GroupId, before_op: int) -> None:
        """Entries below `before_op` (<= applied_op + 1) are not needed any more."""
        ...

    def install(
        self,
        group: GroupId,
        applied_op: int,
        applied_view: int,
        rows: Sequence[tuple[bytes, bytes | None]],
        *,
        first: bool,
        last: bool,
        digest: bytes = b"",
        part: Part = EVERYTHING,
    ) -> asyncio.Future[None]:
        """Replace the group's rows and log by a copy, page by page; `digest` is its at applied_op.

        With `first` everything the group has here is dropped, but rows outside the buckets of
        `part`, which stay. Within it the page's rows replace what is here. Until `last` is durable
        the group counts as incomplete and after a crash comes back empty at op 0 (view and vote
        kept).
        Raises Full, and nothing has changed.
        """
        ...


class RowStore(Protocol):
    """Applied rows. Keys up to 4 KiB in byte order; values up to 1 MiB."""

    def get(self, group: GroupId, key: bytes) -> bytes | None:
        """The row's value, verified. Corrupt when it fails, or what proves that it is absent."""
        ...

    def scan(
        self, group: GroupId, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end (None: to the group's end), in order.

        The iterator sees one instant; it must be finished or closed within milliseconds and never
        across an await. `reverse` starts below `end`. Corrupt as for `get`.
        """
        ...


class BlobState(NamedTuple):
    """What a device knows of a blob it holds."""

    length: int
    durable: bool
    checks: tuple[int, ...]
    """As they came with the payload: whoever copies it verifies it by them, end to end."""


class BlobWriter(Protocol):
    """A blob larger than 64 KiB on its way into a pack."""

    def write(self, chunk: Buffer) -> asyncio.Future[None]:
        """Take the next bytes; wait for the future before the next write (back-pressure)."""
        ...

    def commit(self) -> asyncio.Future[None]:
        """Verify length and checksums, flush pack and journal; the blob is readable after it."""
        ...

    def abort(self) -> None:
        """Forget the blob and give the space back."""
        ...


class BlobStore(Protocol):
    """Immutable payloads under unique ids. Putting a blob that is there already changes nothing.

    `checks` are xxh3_64 sums, one for each started 64 KiB of the payload; the device verifies them
    before it stores and whenever it reads.
    """

    def put(self, blob: BlobId, payload: memoryview, checks: Sequence[int]) -> asyncio.Future[None]:
        """Store up to 64 KiB through the journal; readable and durable when done."""
        ...

    def begin(self, blob: BlobId, length: int, checks: Sequence[int]) -> BlobWriter:
        """Start a larger blob."""
        ...

    def read(
        self, blob: BlobId, offset: int, length: int, *, deadline: float = math.inf
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """Verified bytes; at once when they are in memory, else through a thread.

        NotFound, Corrupt (the blob is quarantined first, and stays so until it is put again or
        deleted), Invalid (range outside the blob). Busy when too much waits for the disk,
        DeadlineExceeded when it waited itself until `deadline`.
        """
        ...

    def state(self, blob: BlobId) -> BlobState | None:
        """None for a blob that is not here, and for one that is quarantined."""
        ...

    def delete(self, blobs: Sequence[BlobId]) -> asyncio.Future[None]:
        """Forget blobs (absent ones too); space comes back later. Durable when done."""
        ...

    def scan(self, after: bytes, limit: int) -> list[tuple[BlobId, int]]:
        """(id, length) of blobs with id > after, in order."""
        ...

    def scan_quarantined(self, after: bytes, limit: int) -> list[tuple[BlobId, int]]:
        """(id, length) of blobs that failed verification here, id > after, in order.

        Each stays one of these until it is put again or deleted.
        """
        ...


class ExtentOp(NamedTuple):
    """One change of one extent. `kind`: 0 write (takes `length` bytes of payload), 1 zero, 2 trim.

    Trim and zero both read back as zeroes; trim also gives whole blocks' space back.
    """

    kind: int
    extent: int
    offset: int
    length: int


class Claim(NamedTuple):
    """What a device tells a new holder of a volume."""

    lost: bool = False
    """The device lost extents of this volume and cannot say which: it must be put out of sync and
    given all of them, and then told so (`restored`). Until then it reads none of them."""


class Mark(NamedTuple):
    """What a device remembers of one extent."""

    extent: int
    epoch: int
    """The resync epoch of its last write."""
    token: int
    """The token that wrote it, while no holder has declared that stable; 0 when it is clean."""
    sequence: int
    """The running number of that write under its token; 0 when it is clean."""


class ExtentStore(Protocol):
    """Slices of volumes, written in place behind the journal, in whole blocks; read at any offset.

    Every call but `claim` carries the fencing token: lower than the highest claimed is Fenced,
    higher than that is Fenced too (claim first). Conflict when extents were found to be lost since
    the claim: another one tells it.
    """

    def claim(self, volume: VolumeId, token: Token) -> asyncio.Future[Claim]:
        """Flush a token (>= the highest seen) and tell whether extents were lost."""
        ...

    def write(
        self,
        volume: VolumeId,
        token: Token,
        epoch: int,
        sequence: int,
        ops: Sequence[ExtentOp],
        payload: memoryview,
    ) -> asyncio.Future[None]:
        """Apply ops in order: visible to reads at once, durable after a later `flush`.

        Done when the death of this process cannot lose them: nobody is told of them earlier.

        `epoch` (the volume's resync epoch) and `sequence` (the holder's running number) are kept
        as marks with each extent touched. `payload` is kept by reference until applied.
        """
        ...

    def flush(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """Done when every write taken before this call is durable."""
        ...

    def read(
        self,
        volume: VolumeId,
        token: Token,
        spans: Sequence[tuple[int, int, int]],
        *,
        deadline: float = math.inf,
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """Verified bytes of (extent index, offset, length) spans, one or more buffers in order.

        What was never written reads as zeroes. Corrupt names (index, block) in `detail`; every
        read of a volume that was lost here is Corrupt. Busy and DeadlineExceeded as for blobs.
        """
        ...

    def stable(self, volume: VolumeId, token: Token, sequence: int) -> None:
        """The holder knows all members have flushed writes up to `sequence`: clear their marks.

        Marks of an earlier token stay until the extent is written under this one; an op of
        length 0 is such a write.
        """
        ...

    def marks(
        self, volume: VolumeId, token: Token, after: int, limit: int, *, dirty: bool
    ) -> list[Mark]:
        """At most `limit` marks of extents with an index > after (-1: from the first), ascending.

        `dirty` leaves out the clean ones, and then costs only what it tells.
        """
        ...

    def allocated(
        self, volume: VolumeId, token: Token, index: ExtentIndex
    ) -> list[tuple[int, int]]:
        """(offset, length) runs of an extent that hold data; the rest is zeroes.

        Where extents are lost: Conflict before the holder was told, then Corrupt.
        """
        ...

    def check(self, volume: VolumeId, token: Token) -> None:
        """Nothing but what every call does: raise what the holder has to hear."""
        ...

    def restored(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """The holder has written and flushed every extent here: nothing is lost any more."""
        ...

    def drop(self, volume: VolumeId) -> asyncio.Future[None]:
        """Forget a deleted volume, its extents and marks.

        Its token stays, so that a holder of before cannot claim it again and write.
        """
        ...

    def volumes(self, after: bytes, limit: int) -> list[VolumeId]:
        """At most `limit` volumes with an id > after that have extents here, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A device as operators see it."""

    uuid: DeviceUuid
    boot: Boot
    state: str
    """serving, full (reads and deletes only) or stopped (after an I/O error)."""
    reason: str
    free_bytes: int
    reserve_bytes: int
    """Of `free_bytes`, not for payloads: what deletes and the index go on in."""
    total_bytes: int
    journal_bytes: int
    """Journal not yet applied."""
    blobs: int
    blob_bytes: int
    extent_bytes: int
    quarantined: int

    @property
    def free_share(self) -> float:
        """Which part of the device payloads may still take: its reserve is not for them."""
        return max(0, self.free_bytes - self.reserve_bytes) / max(self.total_bytes, 1)


class Device(Protocol):
    """One open device."""

    @property
    def uuid(self) -> DeviceUuid: ...  # noqa: D102

    @property
    def boot(self) -> Boot: ...  # noqa: D102

    @property
    def log(self) -> LogStore: ...  # noqa: D102

    @property
    def rows(self) -> RowStore: ...  # noqa: D102

    @property
    def blobs(self) -> BlobStore: ...  # noqa: D102

    @property
    def extents(self) -> ExtentStore: ...  # noqa: D102

    def status(self) -> DeviceStatus: ...  # noqa: D102

    async def close(self) -> None:
        """Flush, apply the little that is waiting, and close; the next opening redoes a backlog.

        A crash instead loses nothing acknowledged.
        """
        ...
