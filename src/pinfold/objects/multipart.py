"""Multipart uploads: open, parts in any order, then completed or aborted.

Parts are rows that own their blobs. Complete is one change: it checks that the upload is open and
that no part changed since they were read, puts the object's row naming the parts' blobs, and
deletes upload and parts; so blobs never lose their owner and a part is never in two objects. Every
part also rewrites the upload's *touch row*, whose version stands for all the parts in that check.
Uploads and parts live in the shard of their name: what is read and changed together is so there.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.cluster.api import BlobRef, Change, Changed, Check, Row
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Conflict, Invalid, NotFound, PinfoldError, Unavailable
from pinfold.model.limits import INLINE_BYTES
from pinfold.model.settings import ObjectSettings
from pinfold.objects import digests, keys
from pinfold.objects.bucket import Bucket
from pinfold.objects.buckets import Buckets
from pinfold.objects.conditions import NONE, Conditions, refusal
from pinfold.objects.objects import Found, Objects
from pinfold.objects.records import (
    Checksum,
    ObjectRecord,
    Part,
    PartRecord,
    UploadRecord,
    decode,
    encode,
)
from pinfold.objects.shards import Shard, ShardRefused, ShardRows, failed_check
from pinfold.objects.staging import Staged, Staging

ATTEMPTS: Final = 8
"""Rounds of reading the parts before their changing meanwhile counts as too much."""

SCAN_ROWS: Final = 1000
"""Part rows read at a time."""

OBJECT_BODY_BYTES: Final = 960 << 10
"""What an object's row may take, blobs included: rows end at 1 MiB. Enough for 10,000 parts of
32 MiB each."""


class NoSuchUpload(NotFound):
    """The upload was never opened, or is completed or aborted."""


class PartMissing(Invalid):
    """A part named by Complete is not there or is another."""


class PartTooSmall(Invalid):
    """A part other than the last is below the minimum."""


class PartOrder(Invalid):
    """Part numbers named by Complete descend. Of a number named again the last counts."""


class TooManyBlobs(Invalid):
    """The parts' places do not fit into one row."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An open upload."""

    bucket: Bucket
    """The bucket that it is in."""
    name: bytes
    id: bytes
    record: UploadRecord
    begun_ms: int

    @property
    def algorithm(self) -> str:
        """The checksum that each part has."""
        return self.record.algorithm or digests.DEFAULT_ALGORITHM


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that was uploaded."""

    number: int
    record: PartRecord
    blobs: tuple[BlobRef, ...]
    modified_ms: int

    @property
    def etag(self) -> str:
        """The part's MD5 in hex."""
        return self.record.md5.hex()


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as Complete names it; `checksum` None: not stated."""

    number: int
    etag: str
    checksums: dict[str, bytes]


class Multipart:
    """The multipart uploads of all buckets.

    Buckets given here come from `Buckets.get`: parts are large, so a row read for each is cheap,
    and then nothing need be said about former lives of a bucket's name.
    """

    def __init__(
        self,
        env: Env,
        rows: ShardRows,
        buckets: Buckets,
        objects: Objects,
        staging: Staging,
        settings: ObjectSettings,
    ) -> None:
        self._clock = env.clock
        self._rng = env.rng
        self._rows = rows
        self._buckets = buckets
        self._objects = objects
        self._staging = staging
        self.part_bytes_min = settings.part_bytes_min
        """Parts but the last must have as much."""

    async def open(self, bucket: Bucket, name: bytes, record: UploadRecord) -> bytes:
        """Begin an upload; its id. NoSuchBucket."""
        upload = keys.new_upload_id(self._rng, int(self._clock.wall() * 1000))
        row = Row(encode(record))

        def change(shard: bytes) -> Change:
            return Change(
                self._buckets.op_id(), puts=((keys.upload_key(shard, name, upload), row),)
            )

        await self._objects.change(bucket, name, change)
        return upload

    async def find(self, bucket: Bucket, name: bytes, upload: bytes) -> Upload:
        """The open upload; NoSuchUpload."""
        return await self._buckets.routed(
            bucket, name, lambda current, shard: self._find(current, shard, name, upload)
        )

    async def put_part(self, upload: Upload, number: int, staged: Staged) -> StoredPart:
        """Name staged bytes as a part, in place of a former one. NoSuchUpload when it is closed.

        The staged bytes are given back unless the row names them or may do so (Unavailable).
        """
        algorithm = upload.algorithm
        checksum = Checksum(algorithm, staged.sums[algorithm])
        record = PartRecord(staged.sums[digests.MD5], staged.size, staged.inline, checksum)
        row = Row(encode(record), blobs=staged.blobs)

        async def attempt(_bucket: Bucket, shard: Shard) -> Changed:
            change = Change(
                self._buckets.op_id(),
                checks=(Check("present", keys.upload_key(shard.id, upload.name, upload.id)),),
                puts=(
                    (keys.part_key(shard.id, upload.name, upload.id, number), row),
                    (keys.touch_key(shard.id, upload.name, upload.id), Row(b"")),
                ),
            )
            return await self._change_open(shard, upload.name, change)

        try:
            changed = await self._buckets.routed(upload.bucket, upload.name, attempt)
        except Unavailable:
            raise
        except PinfoldError:
            await self._staging.discard(staged)
            raise
        return StoredPart(number, record, staged.blobs, changed.stamp_ms)

    async def parts(
        self, upload: Upload, *, after: int = 0, limit: int
    ) -> tuple[list[StoredPart], bool]:
        """Up to `limit` parts with numbers above `after`, and whether there are more.

        NoSuchUpload when it was closed meanwhile: then none are left to be seen.
        """

        async def attempt(bucket: Bucket, shard: Shard) -> list[tuple[bytes, Row]]:
            start = keys.part_key(shard.id, upload.name, upload.id, after + 1)
            _, end = keys.part_range(shard.id, upload.name, upload.id)
            found = await self._scan(shard, start, end, limit + 1)
            if not found:
                await self._find(bucket, shard, upload.name, upload.id)
            return found

        found = await self._buckets.routed(upload.bucket, upload.name, attempt)
        return [_part(key, row) for key, row in found[:limit]], len(found) > limit

    async def abort(self, upload: Upload) -> None:
        """Forget an open upload and its parts; NoSuchUpload."""

        async def attempt(_bucket: Bucket, shard: Shard) -> Changed:
            key = keys.upload_key(shard.id, upload.name, upload.id)
            change = Change(
                self._buckets.op_id(),
                checks=(Check("present", key),),
                deletes=(key,),
                delete_ranges=(keys.part_range(shard.id, upload.name, upload.id),),
            )
            return await self._change_open(shard, upload.name, change)

        await self._buckets.routed(upload.bucket, upload.name, attempt)

    async def complete(
        self,
        bucket: Bucket,
        name: bytes,
        upload_id: bytes,
        named: Sequence[NamedPart],
        conditions: Conditions = NONE,
        *,
        authorise: Callable[[Bucket, str], None] = lambda bucket, initiator: None,
        verify: Callable[[ObjectRecord], None] = lambda record: None,
    ) -> ObjectRecord:
        """Make the object of the parts named; its record.

        NoSuchUpload, PartMissing, PartTooSmall, PartOrder, PreconditionFailed. `authorise` raises
        to refuse a caller who is told whose upload it is, `verify` to refuse the object that would
        be. Repeating a Complete that succeeded answers the same for as long as its object is
        current.
        """
        _demand_order(named)

        async def attempt(current: Bucket, shard: Shard) -> ObjectRecord | None:
            upload = await self._find(current, shard, name, upload_id)
            authorise(current, upload.record.owner)
            try:
                touch, parts = await self._all_parts(shard, upload)
                chosen = _choose(named, parts, self.part_bytes_min)
            except PartMissing:
                await self._find(
                    current, shard, name, upload_id
                )  # else others closed it: all are gone
                raise
            record, row = await self._assemble(upload, chosen)
            try:
                verify(record)
                done = await self._complete(shard, upload, touch, row, conditions)
            except Unavailable:
                raise  # the row may name them
            except PinfoldError:
                await self._discard_new(row, chosen)
                raise
            if not done:
                await self._discard_new(row, chosen)
            return record if done else None

        for _ in range(ATTEMPTS):
            try:
                record = await self._buckets.routed(bucket, name, attempt)
            except NoSuchUpload:
                found = await self._completed_before(bucket, name, upload_id)
                authorise(found.bucket, found.record.owner)
                return found.record
            if record is not None:
                return record
        raise Busy("parts keep changing")

    async def _find(self, bucket: Bucket, shard: Shard, name: bytes, upload: bytes) -> Upload:
        row = await self._rows.get(shard, keys.upload_key(shard.id, name, upload))
        if row is None:
            raise NoSuchUpload("no such upload")
        record = decode(UploadRecord, row.body)
        return Upload(bucket, name, upload, record, record.begun_ms or row.stamp_ms)

    async def _change_open(self, shard: Shard, name: bytes, change: Change) -> Changed:
        """Make a change whose only check is that the upload is open; NoSuchUpload."""
        try:
            return await self._rows.change(shard, name, change)
        except ShardRefused:
            raise
        except Conflict:
            raise NoSuchUpload("the upload is no longer open") from None

    async def _discard_new(self, row: Row, chosen: Sequence[StoredPart]) -> None:
        """Give back the blobs that were made of inline parts for a row that is not put."""
        of_parts = {blob.id for part in chosen for blob in part.blobs}
        await self._staging.give_back([blob for blob in row.blobs if blob.id not in of_parts])

    async def _complete(
        self,
        shard: Shard,
        upload: Upload,
        touch: int,
        row: Row,
        conditions: Conditions,
    ) -> bool:
        """The change that makes the object; False when upload or parts are not as they were."""
        key = keys.object_key(shard.id, upload.name)
        upload_key = keys.upload_key(shard.id, upload.name, upload.id)
        of_upload = (
            Check("present", upload_key),
            Check("version", keys.touch_key(shard.id, upload.name, upload.id), number=touch),
        )
        change = Change(
            self._buckets.op_id(),
            checks=(*of_upload, *conditions.checks(key)),
            puts=((key, row),),
            deletes=(upload_key,),
            delete_ranges=(keys.part_range(shard.id, upload.name, upload.id),),
            counter=keys.counter_key(shard.id),
        )
        try:
            await self._rows.change(shard, upload.name, change)
        except ShardRefused:
            raise
        except Conflict as conflict:
            index, current = failed_check(conflict)
            if index >= len(of_upload):
                raise refusal(change.checks[index], current) from None
            return False
        return True

    async def _completed_before(self, bucket: Bucket, name: bytes, upload: bytes) -> Found:
        try:
            found = await self._objects.find(bucket, name)
        except NotFound:
            raise NoSuchUpload("no such upload") from None
        if found.record.upload != upload:
            raise NoSuchUpload("no such upload")
        return found

    async def _scan(
        self, shard: Shard, start: bytes, end: bytes, limit: int
    ) -> list[tuple[bytes, Row]]:
        found: list[tuple[bytes, Row]] = []
        position: bytes | None = start
        while position is not None and len(found) < limit:
            page = await self._rows.scan(shard, position, end, min(limit - len(found), SCAN_ROWS))
            for key, row in page.items:
                assert row is not None
                found.append((key, row))
            position = page.next_start
        return found

    async def _all_parts(self, shard: Shard, upload: Upload) -> tuple[int, dict[int, StoredPart]]:
        """(version of the touch row, parts by number).

        The touch row sorts first, so it is read no later than any part.
        """
        start, end = keys.part_range(shard.id, upload.name, upload.id)
        found = await self._scan(shard, start, end, 1 << 20)
        if not found:
            raise PartMissing("the upload has no parts")
        _, touch = found[0]
        return touch.version, {keys.part_number(key): _part(key, row) for key, row in found[1:]}

    async def _assemble(
        self, upload: Upload, chosen: Sequence[StoredPart]
    ) -> tuple[ObjectRecord, Row]:
        """The object that the parts make, and its row."""
        parts: list[Part] = []
        blobs: list[BlobRef] = []
        for part in chosen:
            of_part = part.blobs or await self._as_blobs(part, alone=len(chosen) == 1)
            checksum = part.record.checksum.value if part.record.checksum else b""
            parts.append(Part(part.number, part.record.size, len(of_part), checksum))
            blobs += of_part
        etag = hashlib.md5(
            b"".join(part.record.md5 for part in chosen), usedforsecurity=False
        ).hexdigest()
        record = ObjectRecord(
            f"{etag}-{len(chosen)}",
            sum(part.size for part in parts),
            upload.record.owner,
            upload.record.headers,
            upload.record.metadata,
            acl=upload.record.acl,
            checksum=_checksum(upload, parts),
            parts=tuple(parts),
            upload=upload.id,
        )
        _demand_room(record, blobs)
        return record, Row(
            encode(record),
            tag=record.etag.encode(),
            size=record.size,
            blobs=tuple(blobs),
            payload=b"" if blobs else b"".join(part.record.inline for part in chosen),
        )

    async def _as_blobs(self, part: StoredPart, *, alone: bool) -> tuple[BlobRef, ...]:
        """A part small enough to be inline is a blob in an object that has others."""
        if alone or not part.record.size:
            return ()
        assert part.record.size <= INLINE_BYTES
        return (await self._staging.store(part.record.inline),)


def _part(key: bytes, row: Row) -> StoredPart:
    record = decode(PartRecord, row.body)
    return StoredPart(keys.part_number(key), record, row.blobs, record.modified_ms or row.stamp_ms)


def _demand_order(named: Sequence[NamedPart]) -> None:
    if not named:
        raise PartMissing("no part is named")
    numbers = [part.number for part in named]
    if any(later < earlier for earlier, later in itertools.pairwise(numbers)):
        raise PartOrder("part numbers must ascend")


def _choose(
    named: Sequence[NamedPart], parts: dict[int, StoredPart], bytes_min: int
) -> list[StoredPart]:
    chosen: list[StoredPart] = []
    for wish in {part.number: part for part in named}.values():
        part = parts.get(wish.number)
        if part is None or part.etag != wish.etag:
            raise PartMissing(f"part {wish.number} is not there or is another")
        stored = part.record.checksum
        for algorithm, value in wish.checksums.items():
            if stored is not None and stored.algorithm == algorithm and stored.value != value:
                raise PartMissing(f"part {wish.number} has another checksum")
        chosen.append(part)
    for part in chosen[:-1]:
        if part.record.size < bytes_min:
            raise PartTooSmall(f"part {part.number} has {part.record.size} bytes")
    return chosen


def _checksum(upload: Upload, parts: Sequence[Part]) -> Checksum | None:
    if any(not part.checksum for part in parts):
        return None
    algorithm = upload.algorithm
    if upload.record.composite:
        return digests.composite_of_parts(algorithm, [part.checksum for part in parts])
    return digests.whole_of_parts(algorithm, [(part.checksum, part.size) for part in parts])


def _demand_room(record: ObjectRecord, blobs: Sequence[BlobRef]) -> None:
    if len(record.parts) + len(blobs) < 1000:
        return  # far below the limit: not worth encoding it twice
    size = len(msgspec.msgpack.encode(record)) + len(msgspec.msgpack.encode(blobs))
    if size > OBJECT_BODY_BYTES:
        raise TooManyBlobs(f"the object's row would take {size} bytes")
