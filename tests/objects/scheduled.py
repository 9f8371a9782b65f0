"""One bucket under gateways and clients whose steps a seed orders, and what must then hold."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pinfold.cluster.api import Counter
from pinfold.model.errors import Conflict, NotFound
from pinfold.objects import keys
from pinfold.objects.bucket import NoSuchBucket
from pinfold.objects.conditions import Conditions
from pinfold.objects.listing import Query
from pinfold.objects.multipart import NamedPart
from pinfold.objects.records import ObjectRecord, UploadRecord, decode
from pinfold.objects.shards import bound_of
from pinfold.objects.splitting import Overtaken
from pinfold.sim.checkers import linearizable, listings
from pinfold.sim.checkers.history import GARBLED, IF_ABSENT, Call, Recorder
from tests.twins.schedule import Schedule
from tests.twins.store import MemoryStore, record_of
from tests.twins.virtual import run_virtual

BUCKET = "bucket"
NAMES = [f"k/{number}" for number in range(6)]
BLOB_COPIES = 1000
"""Repetitions of a token that make a blob of it."""


class Scheduled:
    """The world of one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = MemoryStore()
        self.store.multipart.part_bytes_min = 1
        self.schedule = Schedule(self.rng)
        self.recorder = Recorder(lambda: asyncio.get_running_loop().time())
        self._token_of_etag: dict[str, str] = {}
        self._etag_of_part: dict[bytes, str] = {}
        self._tokens = 0

    def gateway(self) -> MemoryStore:
        """Another process on the same rows and blobs; what it knows of the bucket never ages."""
        other = MemoryStore(seed=self.rng.randrange(1 << 30))
        other.rows, other.blobs, other.clock = self.store.rows, self.store.blobs, self.store.clock
        other.attach()
        other.multipart.part_bytes_min = 1
        return other

    async def fill(self, names: list[str] = NAMES) -> None:
        """Create the bucket and put some names."""
        await self.store.bucket(BUCKET)
        for name in names:
            await self.put(self.store, name)

    async def play(self, *actors: Callable[[], Awaitable[None]]) -> None:
        """Let the seed order the actors' steps."""

        async def run(actor: Callable[[], Awaitable[None]]) -> None:
            await actor()

        self.store.rows.turn = self.schedule.turn
        try:
            await self.schedule.play(*map(run, actors))
        finally:
            self.store.rows.turn = None

    def token(self) -> str:
        """A value that nobody has written."""
        self._tokens += 1
        return f"v{self._tokens}"

    def content(self, token: str) -> bytes:
        """Bytes that stand for a token: in the row for odd ones, a blob for even ones."""
        copies = BLOB_COPIES if int(token[1:]) % 2 == 0 else 1
        return f"{token};".encode() * copies

    # What clients do.

    async def put(self, gateway: MemoryStore, name: str, *, if_absent: bool = False) -> None:
        token = self.token()
        condition = IF_ABSENT if if_absent else None
        call = self.recorder.begin(
            "c", "put", bucket=BUCKET, name=name, value=token, condition=condition
        )

        async def act() -> None:
            bucket = await gateway.buckets.lookup(BUCKET)
            staged = await gateway.stage(self.content(token))
            record = record_of(staged)
            self._token_of_etag[record.etag] = token
            wish = Conditions(if_none_match=("*",)) if if_absent else Conditions()
            await gateway.objects.put(bucket, name.encode(), record, staged, wish)

        await self._record(call, act)

    async def get(self, gateway: MemoryStore, name: str) -> None:
        call = self.recorder.begin("c", "get", bucket=BUCKET, name=name)
        try:
            bucket = await gateway.buckets.lookup(BUCKET)
            content = await gateway.read(bucket, name)
        except NotFound as error:
            call.raised(error)
            return
        token = content.decode().partition(";")[0]
        call.done(value=token if content == self.content(token) else GARBLED)

    async def delete(self, gateway: MemoryStore, name: str) -> None:
        call = self.recorder.begin("c", "delete", bucket=BUCKET, name=name)

        async def act() -> None:
            await gateway.objects.delete(await gateway.buckets.lookup(BUCKET), name.encode())

        await self._record(call, act)

    async def list_names(
        self, gateway: MemoryStore, *, delimiter: str = "", limit: int = 2
    ) -> None:
        """All pages of the bucket; nothing when there is none."""
        after, position = "", b""
        while True:
            query = Query(delimiter=delimiter.encode(), position=position, limit=limit)
            began = self.recorder.instant()
            try:
                bucket = await gateway.buckets.lookup(BUCKET)
                page = await gateway.listings.page(bucket, query)
            except NoSuchBucket:
                return
            shown = [
                (entry.name.decode(), self._shown(entry.row.body))
                for entry in page.entries
                if entry.row is not None
            ]
            self.recorder.page(
                "c",
                bucket=BUCKET,
                began=began,
                names=shown,
                prefixes=[entry.name.decode() for entry in page.entries if entry.row is None],
                delimiter=delimiter,
                after=after,
                limit=limit,
                truncated=page.next_position is not None,
            )
            if page.next_position is None:
                return
            after, position = page.entries[-1].name.decode(), page.next_position

    def _shown(self, body: bytes) -> str:
        return self._token_of_etag.get(decode(ObjectRecord, body).etag, GARBLED)

    async def open(self, gateway: MemoryStore, name: str) -> tuple[bytes, str]:
        """(an open upload with one part, what it will be when completed)."""
        token = self.token()
        bucket = await gateway.buckets.lookup(BUCKET)
        upload = await gateway.multipart.open(bucket, name.encode(), UploadRecord("alice"))
        found = await gateway.multipart.find(bucket, name.encode(), upload)
        staged = await gateway.stage(self.content(token), (found.algorithm,))
        part = await gateway.multipart.put_part(found, 1, staged)
        self._etag_of_part[upload] = part.etag
        return upload, token

    async def complete(self, gateway: MemoryStore, name: str, upload: bytes, token: str) -> None:
        call = self.recorder.begin(
            "c", "complete", bucket=BUCKET, name=name, value=token, upload=upload.hex()
        )

        async def act() -> None:
            bucket = await gateway.buckets.lookup(BUCKET)
            named = [NamedPart(1, self._etag_of_part[upload], {})]
            record = await gateway.multipart.complete(bucket, name.encode(), upload, named)
            self._token_of_etag[record.etag] = token

        await self._record(call, act)

    async def abort(self, gateway: MemoryStore, name: str, upload: bytes) -> None:
        call = self.recorder.begin("c", "abort", bucket=BUCKET, name=name, upload=upload.hex())

        async def act() -> None:
            bucket = await gateway.buckets.lookup(BUCKET)
            await gateway.abort_upload(bucket, name.encode(), upload)

        await self._record(call, act)

    async def delete_bucket(self, gateway: MemoryStore) -> None:
        call = self.recorder.begin("c", "delete-bucket", bucket=BUCKET)
        await self._record(call, lambda: gateway.delete_bucket(BUCKET))

    async def _record(self, call: Call, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except (NotFound, Conflict) as error:
            call.raised(error)
        else:
            call.done()

    # The splitter, and the end.

    async def split(self, gateway: MemoryStore, *, steps: int = 1000) -> None:
        """Take up to so many steps of the split, however often others take them first."""
        for _ in range(steps):
            try:
                if await gateway.buckets.mover.step(BUCKET) is None:
                    return
            except Overtaken:
                await asyncio.sleep(0.01)

    async def begin_split(self, *, until: str = NAMES[1], rows: int = 1 << 60) -> None:
        last = (await self.store.shards(BUCKET))[-1]
        begun = await self.store.buckets.mover.begin(last, until=until.encode(), rows=rows)
        assert begun

    async def demand_promises(self) -> None:
        """What must hold now that nobody is at work, but perhaps a split lies unfinished."""
        reader = self.gateway()
        await self.split(reader)
        self.store.clock.advance(1000)
        self.store.blobs.freed([])  # what was freed is gone by now
        for name in NAMES:
            await self.get(reader, name)
        await self.list_names(reader)
        await self.list_names(reader, delimiter="/", limit=1000)
        history = self.recorder.history()
        findings = [*linearizable.check(history), *listings.check(history)]
        assert not findings, findings[0].explanation
        self._demand_blobs()
        with suppress(NoSuchBucket):
            await self._demand_shards(reader)

    def _demand_blobs(self) -> None:
        named = {blob for key in self.store.rows for blob in self.store.rows.blobs_of(key)}
        assert self.store.blobs.named() == named, "a blob that no row names, or the other way round"

    async def _demand_shards(self, gateway: MemoryStore) -> None:
        bucket = await gateway.buckets.get(BUCKET)
        assert bucket.split is None
        rows = size = 0
        for shard in await gateway.shards(BUCKET):
            start, end = keys.shard_range(shard.id)
            held = [key for key in self.store.rows if start <= key < end]
            for key in held:
                first, behind = shard.key_range(keys.section_of(key))
                assert first <= key < behind
            objects = [key for key in held if keys.section_of(key) == keys.OBJECTS]
            sizes = [(await self.store.rows.get(b"", key)).size for key in objects]  # type: ignore[union-attr]
            assert await gateway.buckets.count(shard) == Counter(len(sizes), sum(sizes))
            rows, size = rows + len(sizes), size + sum(sizes)
        assert await gateway.buckets.usage(bucket) == Counter(rows, size)

    async def sealed_shards(self) -> list[bytes]:
        """Shards of the living bucket that a deletion has sealed."""
        sealed = []
        for shard in await self.store.shards(BUCKET):
            row = await self.store.rows.get(shard.place, keys.bound_key(shard.id))
            if bound_of(row).deleting:
                sealed.append(shard.id)
        return sealed


def scheduled(seed: int, scenario: Callable[[Scheduled], Awaitable[None]]) -> Scheduled:
    """Run a scenario in the world of a seed and check every promise at its end."""
    world = Scheduled(seed)

    async def run() -> None:
        await scenario(world)
        await world.demand_promises()

    run_virtual(run)
    return world
