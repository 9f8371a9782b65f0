"""Immutable payloads: small ones through the journal, large ones straight into a pack.

A small blob is readable from memory until the applier has written it to a pack and the index
names it; a large one is flushed in its pack first and then named by a journal record and the
index. Every read verifies the 64 KiB units it touches. What fails is moved to the quarantine
table: unreadable from then on, its bytes kept until the blob is deleted or put again.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import xxhash

from pinfold.codec.names import successor
from pinfold.codec.packs import (
    NOWHERE,
    Location,
    checks_of,
    decode_location,
    encode_head,
    encode_location,
    head_bytes,
    record_bytes,
)
from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.api import BlobState
from pinfold.device.blobrecords import (
    COUNTS,
    ID_BYTES,
    decode_counts,
    decode_ids,
    decode_put,
    encode_counts,
    encode_put,
)
from pinfold.device.extentreads import hand_over
from pinfold.device.health import Health, Space
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.packs import Pack, Packs
from pinfold.device.readers import Readers
from pinfold.device.room import room
from pinfold.device.streams import Stream, Streams
from pinfold.env.api import Buffer, File, Offload
from pinfold.model.errors import Corrupt, Invalid, NotFound, PinfoldError
from pinfold.model.ids import BlobId
from pinfold.model.limits import BLOB_CHECK_BYTES, JOURNAL_BLOB_BYTES

_BLOB_TABLE: Final = b"b"
_QUARANTINE_TABLE: Final = b"q"
_DELETES_MAX: Final = 4096
"""Ids in one delete record: 64 KiB."""


class _Pending(NamedTuple):
    """A small blob that no pack holds yet."""

    payload: memoryview
    checks: tuple[int, ...]
    sequence: int


class _Move(NamedTuple):
    """A pending blob on its way to a place in a pack."""

    blob: BlobId
    pending: _Pending
    pack: Pack
    start: int


class Blobs:
    """The device's `BlobStore`."""

    def __init__(
        self,
        journal: Journal,
        index: Index,
        packs: Packs,
        readers: Readers,
        space: Space,
        health: Health,
        stream_lane: Offload,
    ) -> None:
        self._journal = journal
        self._index = index
        self._packs = packs
        self._readers = readers
        self._space = space
        self._health = health
        self._streams = Streams(journal, packs, stream_lane, space, health, self._wants, self._name)
        self._pending: dict[BlobId, _Pending] = {}
        self._moving: list[_Move] = []
        self._unflushed: dict[BlobId, int] = {}
        self._count, self._bytes, self.quarantined = decode_counts(index.get(COUNTS))
        index.watch(_BLOB_TABLE, self._lose_row)
        index.watch(_QUARANTINE_TABLE, self._lose_row)

    @property
    def count(self) -> int:
        """Blobs held, quarantined ones excluded."""
        return self._count + len(self._pending)

    @property
    def payload_bytes(self) -> int:
        """Their payload."""
        return self._bytes + sum(len(item.payload) for item in self._pending.values())

    def put(self, blob: BlobId, payload: memoryview, checks: Sequence[int]) -> asyncio.Future[None]:
        """See `BlobStore.put`. `payload` is kept by reference until it is in a pack."""
        length = len(payload)
        if length > JOURNAL_BLOB_BYTES:
            raise Invalid(f"{length} bytes are too long for the journal: begin a stream")
        sums = tuple(checks)
        if sums != checks_of(payload):
            raise Corrupt(f"blob {blob.hex()} differs from its checks")
        if self.holds(blob):
            return self._journal.flush()
        self._journal.admit(length)
        self._space.take(record_bytes(length, len(sums)))
        head = encode_put(blob, sums)
        sequence = self._journal.append(kinds.BLOB_PUT, (head, payload), len(head) + length)
        self._pending[blob] = _Pending(payload, sums, sequence)
        return self._journal.flush()

    def pending(self) -> list[BlobId]:
        """Blobs that wait for a pack."""
        return list(self._pending)

    def holds(self, blob: BlobId) -> bool:
        """Whether the blob can be read here."""
        return blob in self._pending or self._index.get(_BLOB_TABLE + blob) is not None

    def begin(self, blob: BlobId, length: int, checks: Sequence[int]) -> Stream:
        """See `BlobStore.begin`. Raises Invalid, Full, Unavailable."""
        return self._streams.begin(blob, length, checks)

    def read(
        self, blob: BlobId, offset: int, length: int, *, deadline: float = math.inf
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """See `BlobStore.read`."""
        self._health.check()
        pending = self._pending.get(blob)
        if pending is not None:
            _check_range(blob, offset, length, len(pending.payload))
            return [pending.payload[offset : offset + length]]
        entry = self._index.get(_BLOB_TABLE + blob)
        if entry is None:
            if self.quarantined and self._index.get(_QUARANTINE_TABLE + blob) is not None:
                raise Corrupt(f"blob {blob.hex()} is quarantined")
            raise NotFound(f"no blob {blob.hex()}")
        location = decode_location(entry)
        _check_range(blob, offset, length, location.length)
        if not length:
            return []
        first = offset // BLOB_CHECK_BYTES
        start = first * BLOB_CHECK_BYTES
        end = min(location.length, -(-(offset + length) // BLOB_CHECK_BYTES) * BLOB_CHECK_BYTES)
        try:
            pack = self._packs.get(location.pack)
        except Corrupt as error:
            raise self._quarantine(blob) from error
        if pack.file is not None:
            found = self._read_cached(pack.file, end - start, location.offset + start)
            if found is not None:
                if not _verified(found, location.checks, first):
                    raise self._quarantine(blob)
                return [memoryview(found)[offset - start : offset - start + length]]
        reading = self._readers.read(
            pack.number,
            partial(self._load, pack, location, first, start, end),
            size=end - start,
            deadline=deadline,
        )
        answer: asyncio.Future[list[Buffer]] = asyncio.get_running_loop().create_future()
        again = partial(self.read, blob, offset, length, deadline=deadline)
        wanted = slice(offset - start, offset - start + length)
        reading.add_done_callback(partial(self._loaded, answer, again, blob, location, wanted))
        return answer

    def state(self, blob: BlobId) -> BlobState | None:
        """See `BlobStore.state`."""
        pending = self._pending.get(blob)
        if pending is not None:
            durable = pending.sequence <= self._journal.flushed
            return BlobState(len(pending.payload), durable, pending.checks)
        entry = self._index.get(_BLOB_TABLE + blob)
        if entry is None:
            return None
        durable = self._unflushed.get(blob, 0) <= self._journal.flushed
        location = decode_location(entry)
        return BlobState(location.length, durable, location.checks)

    def delete(self, blobs: Sequence[BlobId]) -> asyncio.Future[None]:
        """See `BlobStore.delete`."""
        self._health.check()
        known = [blob for blob in blobs if self._forget(blob)]
        for start in range(0, len(known), _DELETES_MAX):
            record = b"".join(known[start : start + _DELETES_MAX])
            self._journal.append(kinds.BLOB_DELETE, (record,), len(record))
        return self._journal.flush()

    def scan(self, after: bytes, limit: int) -> list[tuple[BlobId, int]]:
        """See `BlobStore.scan`."""
        start = _BLOB_TABLE + after + (b"\0" if len(after) == ID_BYTES else b"")
        stored = islice(self._index.scan(start, successor(_BLOB_TABLE)), limit)
        found = [(BlobId(key[1:]), decode_location(entry).length) for key, entry in stored]
        found += [(b, len(p.payload)) for b, p in self._pending.items() if b > after]
        found.sort()
        return found[:limit]

    def quarantine(self, blob: BlobId) -> None:
        """Make a blob that fails its checks unreadable, until it is put again or deleted."""
        self._quarantine(blob)

    def scan_quarantined(self, after: bytes, limit: int) -> list[tuple[BlobId, int]]:
        """See `BlobStore.scan_quarantined`."""
        start = _QUARANTINE_TABLE + after + (b"\0" if len(after) == ID_BYTES else b"")
        stored = islice(self._index.scan(start, successor(_QUARANTINE_TABLE)), limit)
        return [(BlobId(key[1:]), decode_location(entry).length) for key, entry in stored]

    def redo(self, record: Record) -> None:
        """Take one record of a blob kind whose effect the index may lack."""
        payload = record.payload
        if record.kind == kinds.BLOB_PUT:
            blob, checks, body = decode_put(payload)
            if not self.holds(blob):
                self._pending[blob] = _Pending(body, checks, record.sequence)
        elif record.kind == kinds.BLOB_PACKED:
            blob = BlobId(bytes(payload[:ID_BYTES]))
            if not (self.holds(blob) or self._newer(blob, record.sequence - 1)):
                location = decode_location(payload[ID_BYTES:])
                self._packs.redo(location)
                self._insert(blob, location._replace(sequence=record.sequence))
        elif record.kind == kinds.BLOB_DELETE:
            for blob in decode_ids(payload):
                if not self._newer(blob, record.sequence):
                    self._forget(blob)
        else:
            assert record.kind == kinds.BLOB_QUARANTINE, "a blob record"
            for blob in decode_ids(payload):
                if not self._newer(blob, record.sequence):
                    self._set_aside(blob)

    def _newer(self, blob: BlobId, sequence: int) -> bool:
        """Whether the index is ahead of the journal's `sequence` about this blob."""
        entries = (self._index.get(table + blob) for table in (_BLOB_TABLE, _QUARANTINE_TABLE))
        return any(entry and decode_location(entry).sequence > sequence for entry in entries)

    def seal(self) -> None:
        """Give every pending blob a place in a pack."""
        assert not self._moving, "one pass at a time"
        reserve = self._packs.reserve
        for blob, pending in self._pending.items():
            size = record_bytes(len(pending.payload), len(pending.checks))
            self._moving.append(_Move(blob, pending, *reserve(size, stream=False)))

    def write(self) -> None:
        """In the applier's lane: write what was sealed and flush it. Raises NoRoom, OSError."""
        moves = self._moving
        start = 0
        while start < len(moves):
            pack = moves[start].pack
            end = start
            buffers: list[Buffer] = []
            while end < len(moves) and moves[end].pack is pack:
                buffers.extend(_record(moves[end]))
                end += 1
            file = self._packs.created(pack)
            with room():
                file.pwritev(buffers, moves[start].start)
            file.datasync()
            start = end

    def unseal(self) -> None:
        """What was sealed could not be written: it waits on."""
        for _, pending, pack, start in self._moving:
            size = record_bytes(len(pending.payload), len(pending.checks))
            self._packs.give_back(pack, start, size)
        self._moving = []

    def settle(self) -> None:
        """Name in the index what was written, just before it is sealed."""
        for blob, pending, pack, start in self._moving:
            size = record_bytes(len(pending.payload), len(pending.checks))
            if self._pending.get(blob) is not pending:
                self._packs.give_back(pack, start, size)
                continue
            del self._pending[blob]
            offset = start + head_bytes(len(pending.checks))
            self._packs.keep(pack, size)
            length = len(pending.payload)
            location = Location(pack.number, offset, length, pending.sequence, pending.checks)
            self._insert(blob, location)
        self._moving = []
        flushed = self._journal.flushed
        self._unflushed = {b: seq for b, seq in self._unflushed.items() if seq > flushed}
        self._index.put(COUNTS, encode_counts(self._count, self._bytes, self.quarantined))

    def move(self, blob: BlobId, old: Location) -> Stream:
        """Begin to give a blob another place; it keeps the old one if it has changed by the end."""
        return self._streams.begin(blob, old.length, old.checks, old)

    def _wants(self, stream: Stream) -> bool:
        """Whether what a stream has flushed is to be named."""
        if stream.moves is not None:
            return self.location(stream.blob) == stream.moves
        return not self.holds(stream.blob)

    def _name(self, stream: Stream) -> None:
        """A stream's flushed range is its blob: visible now; if it is new, durable with a flush."""
        blob, location, moves = stream.blob, stream.location, stream.moves
        if moves is not None:
            self._relocate(blob, moves, location)
            return
        record = blob + encode_location(location)
        sequence = self._journal.append(kinds.BLOB_PACKED, (record,), len(record))
        self._unflushed[blob] = sequence
        self._insert(blob, location._replace(sequence=sequence))

    def _relocate(self, blob: BlobId, old: Location, new: Location) -> None:
        """The index alone tells, in one commit with the old place's being free: a crash before it
        finds the blob there. It is as old as it was, and what deleted it later does so still.
        """
        moved = new._replace(sequence=old.sequence)
        self._index.put(_BLOB_TABLE + blob, encode_location(moved))
        self._packs.drop(old)
        self._journal.activity.set()

    def _insert(self, blob: BlobId, location: Location) -> None:
        self._index.put(_BLOB_TABLE + blob, encode_location(location))
        self._count += 1
        self._bytes += location.length
        self._release_quarantined(blob)

    def _forget(self, blob: BlobId) -> bool:
        """Remove a blob wherever it is; whether there was anything to remove."""
        held = self._pending.pop(blob, None) is not None
        entry = self._index.get(_BLOB_TABLE + blob)
        if entry is not None:
            location = decode_location(entry)
            self._index.put(_BLOB_TABLE + blob, None)
            self._packs.drop(location)
            self._count -= 1
            self._bytes -= location.length
        return self._release_quarantined(blob) or entry is not None or held

    def _release_quarantined(self, blob: BlobId) -> bool:
        entry = self._index.get(_QUARANTINE_TABLE + blob) if self.quarantined else None
        if entry is None:
            return False
        self._index.put(_QUARANTINE_TABLE + blob, None)
        self._packs.drop(decode_location(entry))
        self.quarantined -= 1
        return True

    def _quarantine(self, blob: BlobId) -> Corrupt:
        """Make the blob unreadable, for good; what to tell the reader."""
        if not self._health.reason and self._set_aside(blob):
            self._journal.append(kinds.BLOB_QUARANTINE, (blob,), len(blob))
        return Corrupt(f"blob {blob.hex()} fails its checks and is quarantined")

    def _lose_row(self, key: bytes) -> bool:
        """A row of a blob failed its checksum: it is set aside, and its place forgotten.

        Nothing of it is journalled. A crash brings the row back, to be found again.
        """
        self._index.put(key, None)
        if key[:1] == _BLOB_TABLE:
            self._count -= 1
            self.quarantined += 1
        self._index.put(_QUARANTINE_TABLE + key[1:], encode_location(NOWHERE))
        return True

    def _set_aside(self, blob: BlobId) -> bool:
        entry = self._index.get(_BLOB_TABLE + blob)
        if entry is None:
            return False
        self._index.put(_BLOB_TABLE + blob, None)
        self._index.put(_QUARANTINE_TABLE + blob, entry)
        self._count -= 1
        self._bytes -= decode_location(entry).length
        self.quarantined += 1
        return True

    def _read_cached(self, file: File, length: int, offset: int) -> bytes | None:
        try:
            return file.pread_cached(length, offset)
        except OSError as error:
            self._health.stop(f"pack: {error}")
            raise self._health.error() from error

    def _load(self, pack: Pack, location: Location, first: int, start: int, end: int) -> bytes:
        """In a reader's lane: verified bytes from `start` to `end`."""
        try:
            with self._packs.opened(pack) as file:
                found = file.pread(end - start, location.offset + start)
        except FileNotFoundError:
            raise Corrupt("a pack is missing") from None
        if len(found) != end - start or not _verified(found, location.checks, first):
            raise Corrupt("a blob fails its checks")
        return found

    def _loaded(
        self,
        answer: asyncio.Future[list[Buffer]],
        again: Callable[[], list[Buffer] | asyncio.Future[list[Buffer]]],
        blob: BlobId,
        location: Location,
        wanted: slice,
        reading: asyncio.Future[bytes],
    ) -> None:
        """Hand a read's outcome over, unless the blob has another place by now: then read that."""
        if reading.cancelled():
            answer.cancel()
            return
        error = reading.exception()
        self._packs.limit_open(wanted=True)
        if isinstance(error, Corrupt) and self.location(blob) != location:
            _chain(again, answer)
            return
        if isinstance(error, Corrupt):
            error = self._quarantine(blob)
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result([memoryview(reading.result())[wanted]])

    def location(self, blob: BlobId) -> Location | None:
        """Where a pack holds the blob."""
        entry = self._index.get(_BLOB_TABLE + blob)
        return None if entry is None else decode_location(entry)


def _chain(
    again: Callable[[], list[Buffer] | asyncio.Future[list[Buffer]]],
    answer: asyncio.Future[list[Buffer]],
) -> None:
    """Answer with what a further read brings."""
    try:
        found = again()
    except PinfoldError as error:
        if not answer.done():
            answer.set_exception(error)
        return
    if isinstance(found, asyncio.Future):
        found.add_done_callback(partial(hand_over, answer))
    elif not answer.done():
        answer.set_result(found)


def _record(move: _Move) -> list[Buffer]:
    """The buffers of a whole pack record."""
    pending = move.pending
    head = encode_head(move.blob, len(pending.payload), pending.checks, move.pack.seed)
    size = record_bytes(len(pending.payload), len(pending.checks))
    return [head, pending.payload, bytes(size - len(head) - len(pending.payload))]


def _verified(found: bytes, checks: Sequence[int], first: int) -> bool:
    """Whether bytes that start at unit `first` hash to what they must."""
    if len(found) <= BLOB_CHECK_BYTES:
        return xxhash.xxh3_64_intdigest(found) == checks[first]
    sums = checks_of(found)
    return sums == tuple(checks[first : first + len(sums)])


def _check_range(blob: BlobId, offset: int, length: int, size: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise Invalid(f"blob {blob.hex()} has {size} bytes, not {offset}+{length}")
