"""Clients of objects: put, conditional put, get, copy, delete, uploads, listings, buckets."""

import asyncio
import hashlib
import random
from functools import partial
from typing import Final

from pinfold.model.errors import Invalid, PinfoldError
from pinfold.objects.bucket import NoSuchBucket
from pinfold.objects.conditions import NONE, Conditions
from pinfold.objects.digests import CRC64NVME, MD5
from pinfold.objects.listing import Query
from pinfold.objects.multipart import NamedPart
from pinfold.objects.records import ObjectRecord, UploadRecord, decode
from pinfold.objects.staging import Staged
from pinfold.sim.checkers.history import IF_ABSENT, IF_PRESENT
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads.bench import PATIENCE_S, Bench

OWNER: Final = "owner"

_SIZES: Final = (12, 12, 200, 1500, 6000, 20_000, 80_000)
"""Bytes of contents: inline, in the journal, streamed into a pack."""

_PAUSE_S: Final = 0.12
"""Mean pause between a client's calls."""

_WATCHER_PATIENCE_S: Final = 0.5
"""Seconds after which a watcher gives a read up: far more than an answer takes."""


class Source:
    """Bytes that come from a client at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        """See `ByteSource`."""
        content, self._content = self._content, b""
        return content


async def put(
    gateway: GatewayProcess, bucket: str, name: str, content: bytes, conditions: Conditions = NONE
) -> None:
    """PutObject."""
    found = await gateway.store.buckets.lookup(bucket)
    staged = await gateway.store.staging.stage(Source(content), len(content), (CRC64NVME,))
    await gateway.store.objects.put(found, name.encode(), _record(staged), staged, conditions)


def _record(staged: Staged) -> ObjectRecord:
    return ObjectRecord(staged.sums[MD5].hex(), staged.size, OWNER)


async def get(gateway: GatewayProcess, bucket: str, name: str) -> bytes:
    """GetObject."""
    found = await gateway.store.objects.find(
        await gateway.store.buckets.lookup(bucket), name.encode()
    )
    chunks = gateway.store.objects.chunks(found, 0, found.record.size)
    content = bytearray()
    try:
        async for chunk in chunks:
            for piece in chunk:
                content += piece
    finally:
        await chunks.aclose()
    return bytes(content)


async def head(gateway: GatewayProcess, bucket: str, name: str) -> str:
    """HeadObject: the ETag."""
    found = await gateway.store.objects.find(
        await gateway.store.buckets.lookup(bucket), name.encode()
    )
    return found.record.etag


async def delete(gateway: GatewayProcess, bucket: str, name: str, conditions: Conditions) -> None:
    """DeleteObject."""
    found = await gateway.store.buckets.lookup(bucket)
    await gateway.store.objects.delete(found, name.encode(), conditions)


async def delete_bucket(gateway: GatewayProcess, bucket: str) -> None:
    """DeleteBucket."""
    buckets = gateway.store.buckets
    await buckets.delete(await buckets.get(bucket))


async def copy(gateway: GatewayProcess, source: tuple[str, str], target: tuple[str, str]) -> bytes:
    """CopyObject: what was copied. A NotFound is about the source."""
    content = await get(gateway, *source)
    try:
        await put(gateway, *target, content)
    except NoSuchBucket as error:
        raise Invalid("there is no bucket to copy to") from error
    return content


async def object_client(bench: Bench, client: str) -> None:
    """One user of objects, one call after the other."""
    await _ObjectClient(bench, client).run()


async def watcher(bench: Bench, client: str, gateway: str) -> None:
    """One who only reads, always through the same gateway, and does not wait for long.

    Clients that write wait for their writes; who asks a gateway that is cut off hears this one.
    """
    rng = bench.rng(client)
    while not bench.stopping:
        await asyncio.sleep(rng.expovariate(1 / _PAUSE_S))
        bucket, name = rng.choice(bench.buckets), rng.choice(bench.names)
        whole = rng.random() < 0.5
        await read_object(
            bench, client, gateway, bucket, name, whole=whole, patience_s=_WATCHER_PATIENCE_S
        )


class _ObjectClient:
    def __init__(self, bench: Bench, client: str) -> None:
        self._bench = bench
        self._client = client
        self._rng: random.Random = bench.rng(client)
        self._gateway = self._rng.choice(bench.plan.front)
        self._seen: dict[tuple[str, str], str] = {}
        """What this client last knew to be there: for If-Match."""

    async def run(self) -> None:
        calls = {
            self._put: 5,
            self._get: 6,
            self._delete: 2,
            self._copy: 1,
            self._upload: 1,
            self._list: 2,
            self._life_of_bucket: 0.5,
        }
        while not self._bench.stopping:
            await asyncio.sleep(self._rng.expovariate(1 / _PAUSE_S))
            if self._rng.random() < 0.1:
                self._gateway = self._rng.choice(self._bench.plan.front)
            (call,) = self._rng.choices(list(calls), list(calls.values()))
            await call()

    def _key(self) -> tuple[str, str]:
        return self._rng.choice(self._bench.buckets), self._rng.choice(self._bench.names)

    def _condition(self, key: tuple[str, str]) -> tuple[str | None, Conditions]:
        """A condition as the history and as the product has it."""
        kind = self._rng.random()
        if kind < 0.5:
            return None, NONE
        if kind < 0.7:
            return IF_ABSENT, Conditions(if_none_match=("*",))
        if kind < 0.75:
            return IF_PRESENT, Conditions(if_match=("*",))
        seen = self._seen.get(key)
        if seen is None:
            return None, NONE
        return seen, Conditions(if_match=self._bench.etags_of(seen))

    async def _put(self) -> None:
        bench, (bucket, name) = self._bench, self._key()
        token, content = bench.new_value(self._client, self._rng.choice(_SIZES))
        condition, conditions = self._condition((bucket, name))
        call = bench.recorder.begin(
            self._client, "put", bucket=bucket, name=name, value=token, condition=condition
        )
        work = bench.ask(
            self._client,
            self._gateway,
            f"put {bucket}/{name}",
            lambda gateway: put(gateway, bucket, name, content, conditions),
        )
        await bench.record(call, work)
        if call.operation.outcome == "ok":
            self._seen[bucket, name] = token

    async def _get(self) -> None:
        bucket, name = self._key()
        whole = self._rng.random() < 0.9
        token = await read_object(
            self._bench, self._client, self._gateway, bucket, name, whole=whole
        )
        if token is not None:
            self._seen[bucket, name] = token

    async def _delete(self) -> None:
        bench, (bucket, name) = self._bench, self._key()
        condition, conditions = self._condition((bucket, name))
        if condition in (IF_ABSENT, IF_PRESENT):
            condition, conditions = None, NONE
        call = bench.recorder.begin(
            self._client, "delete", bucket=bucket, name=name, condition=condition
        )
        work = bench.ask(
            self._client,
            self._gateway,
            f"delete {bucket}/{name}",
            lambda gateway: delete(gateway, bucket, name, conditions),
        )
        await bench.record(call, work)

    async def _copy(self) -> None:
        bench, source, target = self._bench, self._key(), self._key()
        if source == target:
            return
        call = bench.recorder.begin(
            self._client, "copy", bucket=target[0], name=target[1], source=source
        )
        work = bench.ask(
            self._client,
            self._gateway,
            f"copy {source} to {target}",
            lambda gateway: copy(gateway, source, target),
        )
        await bench.record(call, work, bench.token_of)

    async def _list(self) -> None:
        bucket = self._rng.choice(self._bench.buckets)
        prefix = self._rng.choice(("", "", "a", "b/"))
        delimiter = self._rng.choice(("", "/"))
        limit = self._rng.choice((1, 2, 1000))
        await list_bucket(
            self._bench,
            self._client,
            self._gateway,
            bucket,
            prefix=prefix,
            delimiter=delimiter,
            limit=limit,
        )

    async def _life_of_bucket(self) -> None:
        bench, rng = self._bench, self._rng
        bucket = rng.choice(bench.buckets)
        if rng.random() < 0.35:
            call = bench.recorder.begin(self._client, "delete-bucket", bucket=bucket)
            work = bench.ask(
                self._client,
                self._gateway,
                f"delete {bucket}",
                partial(delete_bucket, bucket=bucket),
            )
            await bench.record(call, work)
            return
        await create_bucket(bench, self._client, self._gateway, bucket)

    async def _upload(self) -> None:
        bench, rng, (bucket, name) = self._bench, self._rng, self._key()

        async def begin(gateway: GatewayProcess) -> bytes:
            found = await gateway.store.buckets.get(bucket)
            return await gateway.store.multipart.open(found, name.encode(), UploadRecord(OWNER))

        try:
            upload = await bench.ask(self._client, self._gateway, "open an upload", begin)
        except (PinfoldError, Down, ProcessDied, TimeoutError):
            return
        parts: dict[int, bytes] = {}
        for number in range(1, rng.choice((2, 3, 4))):
            content = await self._part(bucket, name, upload, number)
            if content is not None:
                parts[number] = content
        if not parts or rng.random() < 0.25:
            await self._abort(bucket, name, upload)
        else:
            await self._complete(bucket, name, upload, parts)

    async def _part(self, bucket: str, name: str, upload: bytes, number: int) -> bytes | None:
        bench = self._bench
        token, content = bench.new_value(self._client, self._rng.choice(_SIZES))

        async def store(gateway: GatewayProcess) -> None:
            found = await gateway.store.buckets.get(bucket)
            opened = await gateway.store.multipart.find(found, name.encode(), upload)
            staged = await gateway.store.staging.stage(Source(content), len(content), (CRC64NVME,))
            await gateway.store.multipart.put_part(opened, number, staged)

        call = bench.recorder.begin(
            self._client, "part", bucket=bucket, name=name, value=token, upload=upload.hex()
        )
        work = bench.ask(self._client, self._gateway, f"part {number} of {bucket}/{name}", store)
        await bench.record(call, work)
        # A part whose fate is unknown is not named by Complete.
        return content if call.operation.outcome == "ok" else None

    async def _abort(self, bucket: str, name: str, upload: bytes) -> None:
        bench = self._bench

        async def forget(gateway: GatewayProcess) -> None:
            found = await gateway.store.buckets.get(bucket)
            opened = await gateway.store.multipart.find(found, name.encode(), upload)
            await gateway.store.multipart.abort(opened)

        call = bench.recorder.begin(
            self._client, "abort", bucket=bucket, name=name, upload=upload.hex()
        )
        work = bench.ask(self._client, self._gateway, f"abort {bucket}/{name}", forget)
        await bench.record(call, work)

    async def _complete(
        self, bucket: str, name: str, upload: bytes, parts: dict[int, bytes]
    ) -> None:
        bench = self._bench
        sums = [hashlib.md5(part, usedforsecurity=False) for part in parts.values()]
        joined = hashlib.md5(b"".join(one.digest() for one in sums), usedforsecurity=False)
        token = bench.new_token(self._client)
        bench.know(token, b"".join(parts.values()), f"{joined.hexdigest()}-{len(parts)}")
        named = [
            NamedPart(number, one.hexdigest(), {}) for number, one in zip(parts, sums, strict=True)
        ]
        condition, conditions = self._condition((bucket, name))

        async def finish(gateway: GatewayProcess) -> None:
            found = await gateway.store.buckets.get(bucket)
            await gateway.store.multipart.complete(found, name.encode(), upload, named, conditions)

        call = bench.recorder.begin(
            self._client,
            "complete",
            bucket=bucket,
            name=name,
            value=token,
            condition=condition,
            upload=upload.hex(),
        )
        work = bench.ask(self._client, self._gateway, f"complete {bucket}/{name}", finish)
        await bench.record(call, work)


async def create_bucket(bench: Bench, client: str, gateway: str, bucket: str) -> None:
    """CreateBucket, recorded."""

    async def create(process: GatewayProcess) -> None:
        await process.store.buckets.create(bucket, owner=OWNER, acl="", region="")

    call = bench.recorder.begin(client, "create-bucket", bucket=bucket)
    await bench.record(call, bench.ask(client, gateway, f"create {bucket}", create))


async def read_object(
    bench: Bench,
    client: str,
    gateway: str,
    bucket: str,
    name: str,
    *,
    whole: bool = True,
    patience_s: float = PATIENCE_S,
) -> str | None:
    """GetObject, or HeadObject if not the whole is wanted, recorded; the token read."""
    if whole:
        call = bench.recorder.begin(client, "get", bucket=bucket, name=name)
        reading = bench.ask(
            client,
            gateway,
            f"get {bucket}/{name}",
            lambda process: get(process, bucket, name),
            patience_s,
        )
        await bench.record(call, reading, bench.token_of)
    else:
        call = bench.recorder.begin(client, "head", bucket=bucket, name=name)
        looking = bench.ask(
            client,
            gateway,
            f"head {bucket}/{name}",
            lambda process: head(process, bucket, name),
            patience_s,
        )
        await bench.record(call, looking, bench.token_of_etag)
    return call.operation.value if call.operation.outcome == "ok" else None


async def list_bucket(
    bench: Bench,
    client: str,
    gateway: str,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    limit: int = 1000,
) -> bool:
    """All pages of a listing, recorded; whether it came to its end or there is no bucket."""
    after, position = "", b""
    while True:
        query = Query(
            prefix=prefix.encode(), delimiter=delimiter.encode(), position=position, limit=limit
        )
        began = bench.recorder.instant()
        try:
            listing = await bench.ask(
                client,
                gateway,
                f"list {bucket}",
                partial(_page, bucket=bucket, query=query),
            )
        except NoSuchBucket:
            return True
        except (PinfoldError, Down, ProcessDied, TimeoutError):
            bench.account.count("list failed")
            return False
        entries, following = listing
        bench.recorder.page(
            client,
            bucket=bucket,
            began=began,
            names=[(name, bench.token_of_etag(etag)) for name, etag in entries if etag],
            prefixes=[name for name, etag in entries if not etag],
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            limit=limit,
            truncated=following is not None,
        )
        bench.account.count("list ok")
        if following is None:
            return True
        after, position = entries[-1][0], following


async def _page(
    gateway: GatewayProcess, bucket: str, query: Query
) -> tuple[list[tuple[str, str]], bytes | None]:
    """(name and ETag, empty for prefixes) of a page, and where the next one starts."""
    found = await gateway.store.buckets.lookup(bucket)
    listing = await gateway.store.listings.page(found, query)
    entries = [
        (
            entry.name.decode(),
            decode(ObjectRecord, entry.row.body).etag if entry.row is not None else "",
        )
        for entry in listing.entries
    ]
    return entries, listing.next_position
