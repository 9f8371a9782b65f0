"""The object use cases on memory, put together for tests."""

from pinfold.model.settings import ObjectSettings
from pinfold.objects.bucket import Bucket
from pinfold.objects.digests import MD5
from pinfold.objects.records import ObjectRecord
from pinfold.objects.shards import Shard
from pinfold.objects.staging import Staged
from pinfold.objects.store import ObjectStore
from tests.twins.cluster import MemoryBlobs, MemoryRows
from tests.twins.env import HandClock, hand_env

SMALL = ObjectSettings(
    segment_bytes=4096,
    write_memory_bytes=3 * 4096,
    read_memory_bytes=2048,
    read_chunk_bytes=1024,
    memory_waiting_max=8,
    memory_timeout_s=0.5,
    write_patience_s=0.02,
    bucket_cache_max=2,
    route_cache_max=8,
    shard_rows_max=4,
    shard_changes_per_s_max=10.0,
    split_range_rows=3,
    split_interval_s=0.1,
)
"""Limits that bite."""


class Bytes:
    """A `ByteSource` of some bytes, in pieces of some size."""

    def __init__(self, content: bytes, piece: int = 1000) -> None:
        self._pieces = [content[at : at + piece] for at in range(0, len(content), piece)]

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


class MemoryStore(ObjectStore):
    """Everything below a front end."""

    def __init__(self, settings: ObjectSettings = SMALL, seed: int = 1) -> None:
        self.clock = HandClock()
        self.env = hand_env(self.clock, seed)
        self.blobs = MemoryBlobs(self.clock, self.env.rng.randbytes)
        self.rows = MemoryRows(self.clock, self.blobs.freed)
        self.attach(settings)

    def attach(self, settings: ObjectSettings = SMALL) -> None:
        """A fresh gateway on the same rows and blobs."""
        super().__init__(self.env, self.rows, self.blobs, settings)

    async def bucket(self, name: str = "bucket", owner: str = "alice") -> Bucket:
        """A new bucket."""
        return await self.buckets.create(name, owner=owner, acl="private", region="here")

    async def delete_bucket(self, name: str = "bucket") -> None:
        """Delete a bucket as it is now."""
        await self.buckets.delete(await self.buckets.get(name))

    async def shards(self, name: str = "bucket") -> list[Shard]:
        """The bucket's shards as its map has them, in order of names."""
        return [shard async for shard in self.buckets.shards(await self.buckets.get(name))]

    async def abort_upload(self, bucket: Bucket, name: bytes, upload: bytes) -> None:
        """Abort an open upload."""
        await self.multipart.abort(await self.multipart.find(bucket, name, upload))

    async def stage(self, content: bytes, algorithms: tuple[str, ...] = ("crc64nvme",)) -> Staged:
        """Bytes stored without a name."""
        return await self.staging.stage(Bytes(content), len(content), algorithms)

    async def put(self, bucket: Bucket, name: str, content: bytes) -> ObjectRecord:
        """An object."""
        staged = await self.stage(content)
        record = record_of(staged)
        await self.objects.put(bucket, name.encode(), record, staged)
        return record

    async def read(
        self, bucket: Bucket, name: str, start: int = 0, stop: int | None = None
    ) -> bytes:
        """An object's bytes."""
        found = await self.objects.find(bucket, name.encode())
        stop = found.record.size if stop is None else stop
        chunks = self.objects.chunks(found, start, stop)
        return b"".join([bytes(piece) async for chunk in chunks for piece in chunk])

    async def names(self, bucket: Bucket) -> list[str]:
        """All objects' names."""
        from pinfold.objects.listing import Query

        listing = await self.listings.page(bucket, Query(limit=1000))
        return [entry.name.decode() for entry in listing.entries]


def record_of(staged: Staged, owner: str = "alice") -> ObjectRecord:
    """The record of staged bytes."""
    return ObjectRecord(staged.sums[MD5].hex(), staged.size, owner)
