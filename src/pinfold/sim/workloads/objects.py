"""Clients of objects, through S3: puts, reads, copies, deletes, listings, and buckets' lives."""

import asyncio
import random
from typing import Final

from pinfold.model.errors import PinfoldError
from pinfold.objects.bucket import NoSuchBucket
from pinfold.sim.checkers.history import GARBLED, IF_ABSENT, IF_PRESENT
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads import s3
from pinfold.sim.workloads.bench import DESCRIBED_ANEW, DESCRIPTION, PATIENCE_S, Bench
from pinfold.sim.workloads.s3 import Answer, NotModified, User
from pinfold.sim.workloads.uploads import Uploader

SIZES: Final = (12, 12, 200, 1500, 6000, 20_000, 80_000)
"""Bytes of contents: inline, in the journal, streamed into a pack."""

_PAUSE_S: Final = 0.06
"""Mean pause between a client's calls."""

_FOCUS: Final[dict[str, dict[str, float]]] = {
    "": {},
    "uploads": {"upload": 20},
    "buckets": {"bucket": 3, "hands": 5, "stranger": 0.4},
    "overwrites": {"rewrite": 6, "delete": 3},
}
"""By focus of the plan, what is done more often: weights beside those of all runs."""

_WATCHER_PATIENCE_S: Final = 0.5
"""Seconds after which a watcher gives a read up: far more than an answer takes."""

_KNOWN: Final = 0.7
"""How often what is copied was seen to be there."""

_STRANGER: Final = 0.08
"""How often a client asks as anybody, and not as the bucket's owner."""


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
        self._uploader = Uploader(bench, client, self._rng, self.condition)

    async def run(self) -> None:
        bench = self._bench
        more = _FOCUS[bench.plan.focus]
        calls = {
            self._put: 5,
            self._get: 5,
            self._delete: 1.5 + more.get("delete", 0),
            self._delete_some: 0.5,
            self._copy: 1,
            self._rewrite: 0.7 + more.get("rewrite", 0),
            self._upload: 3 + more.get("upload", 0),
            self._list: 2,
            self._list_buckets: 0.3 + more.get("bucket", 0) / 4,
            self._life_of_bucket: 0.5 + more.get("bucket", 0),
            self._change_hands: more.get("hands", 0),
        }
        while not bench.stopping:
            await asyncio.sleep(self._rng.expovariate(1 / _PAUSE_S))
            if self._rng.random() < (0.1 if self._gateway in bench.cluster.gateways else 0.9):
                self._gateway = self._rng.choice(bench.plan.front)
            (call,) = self._rng.choices(list(calls), list(calls.values()))
            await call()

    def _key(self) -> tuple[str, str]:
        return self._rng.choice(self._bench.buckets), self._rng.choice(self._bench.names)

    def _user(self, bucket: str) -> User:
        """Mostly who owns the bucket, as far as anybody knows."""
        if self._rng.random() < _FOCUS[self._bench.plan.focus].get("stranger", _STRANGER):
            return self._rng.choice(self._bench.users)
        return self._bench.owner_of(bucket)

    def condition(self, key: tuple[str, str]) -> tuple[str | None, dict[str, str]]:
        """A condition as the history has it, and the headers that say so."""
        kind = self._rng.random()
        if kind < 0.5:
            return None, {}
        if kind < 0.7:
            return IF_ABSENT, {"if-none-match": "*"}
        if kind < 0.75:
            return IF_PRESENT, {"if-match": "*"}
        seen = self._bench.seen.get(key)
        if seen is None:
            return None, {}
        return seen, {"if-match": self._bench.tags_of(seen)}

    async def _put(self) -> None:
        await self._put_at(*self._key())

    async def _put_at(self, bucket: str, name: str) -> None:
        bench, user = self._bench, self._user(bucket)
        token, content = bench.new_value(self._client, self._rng.choice(SIZES))
        condition, headers = self.condition((bucket, name))
        call = bench.recorder.begin(
            self._client,
            "put",
            bucket=bucket,
            name=name,
            value=token,
            condition=condition,
            user=user.id,
        )

        bench.say(token, token)

        async def request(gateway: GatewayProcess) -> None:
            path, told = f"/{bucket}/{name}", {**headers, DESCRIPTION: token}
            await s3.call(gateway, user, "PUT", path, headers=told, body=content)

        await bench.recorded(call, self._gateway, request)
        if call.operation.outcome == "ok":
            bench.seen[bucket, name] = token

    async def _get(self) -> None:
        bench, (bucket, name) = self._bench, self._key()
        how = self._rng.random()
        if how < 0.25:
            await self._get_range(bucket, name)
            return
        if how < 0.35 and (bucket, name) in bench.seen:
            await self._get_if(bucket, name, bench.seen[bucket, name], changed=how < 0.3)
            return
        token = await read_object(bench, self._client, self._gateway, bucket, name, whole=how < 0.9)
        if token is not None:
            bench.seen[bucket, name] = token

    async def _get_range(self, bucket: str, name: str) -> None:
        bench, user = self._bench, self._user(bucket)
        first = self._rng.choice((0, 1, 11, 1000, 4096, 50_000))
        last = first + self._rng.choice((0, 10, 5000))
        call = bench.recorder.begin(self._client, "get", bucket=bucket, name=name, user=user.id)

        async def request(gateway: GatewayProcess) -> Answer:
            headers = {"range": f"bytes={first}-{last}"}
            return await s3.call(gateway, user, "GET", f"/{bucket}/{name}", headers=headers)

        def token_of(answer: Answer) -> str:
            token = bench.token_of_etag(answer.etag)
            asked = bench.content_of(token)[first : last + 1]
            return token if answer.body == asked else GARBLED

        await bench.recorded(call, self._gateway, request, token_of)

    async def _get_if(self, bucket: str, name: str, seen: str, *, changed: bool) -> None:
        """Read an object if it is another than was seen, or if it is that one."""
        bench, user = self._bench, self._user(bucket)
        condition, header = (None, "if-none-match") if changed else (seen, "if-match")
        call = bench.recorder.begin(
            self._client, "get", bucket=bucket, name=name, condition=condition, user=user.id
        )

        async def request(gateway: GatewayProcess) -> str:
            headers = {header: bench.tags_of(seen)}
            try:
                answer = await s3.call(gateway, user, "GET", f"/{bucket}/{name}", headers=headers)
            except NotModified:
                return seen if changed else GARBLED
            token = bench.token_of_etag(answer.etag)
            return GARBLED if changed == (token == seen) else token

        await bench.recorded(call, self._gateway, request, lambda token: token)

    async def _delete(self) -> None:
        bucket, name = self._key()
        user = self._user(bucket)
        condition, headers = self.condition((bucket, name))
        if condition in (IF_ABSENT, IF_PRESENT):
            condition, headers = None, {}
        await self._delete_name(bucket, name, user, condition, headers)

    async def _delete_name(
        self, bucket: str, name: str, user: User, condition: str | None, headers: dict[str, str]
    ) -> None:
        bench = self._bench
        call = bench.recorder.begin(
            self._client, "delete", bucket=bucket, name=name, condition=condition, user=user.id
        )

        async def request(gateway: GatewayProcess) -> None:
            await s3.call(gateway, user, "DELETE", f"/{bucket}/{name}", headers=headers)

        await bench.recorded(call, self._gateway, request)

    async def _delete_some(self) -> None:
        """DeleteObjects: each name has an outcome of its own."""
        bench, bucket = self._bench, self._rng.choice(self._bench.buckets)
        user = self._user(bucket)
        count = min(len(bench.names), self._rng.choice((1, 2, 3)))
        names = self._rng.sample(bench.names, count)
        calls = {
            name: bench.recorder.begin(
                self._client, "delete", bucket=bucket, name=name, user=user.id
            )
            for name in names
        }

        async def request(gateway: GatewayProcess) -> dict[str, str]:
            body = s3.deletion_document(names)
            answer = await s3.call(gateway, user, "POST", f"/{bucket}", {"delete": ""}, body=body)
            names_and_codes = s3.texts(answer, "Error/Key"), s3.texts(answer, "Error/Code")
            return dict(zip(*names_and_codes, strict=True))

        asked = bench.ask(self._client, self._gateway, f"delete {names} of {bucket}", request)
        failed = await bench.outcome(asked)

        async def outcome_of(name: str) -> None:
            code = (await failed()).get(name)
            if code is not None:
                raise s3.error_of(code)

        for name in names:
            await bench.record(calls[name], outcome_of(name))

    async def _copy(self) -> None:
        bench, target = self._bench, self._key()
        known = list(bench.seen) if self._rng.random() < _KNOWN else []
        source = self._rng.choice(known) if known else self._key()
        if source == target:
            return
        user, wanted = self._user(target[0]), bench.seen.get(source)
        condition, headers = None, {"x-amz-copy-source": s3.copy_source(*source)}
        if self._rng.random() < 0.3:
            condition, demanded = self.condition(target)
            headers |= demanded
            wanted = None
        elif wanted is not None and self._rng.random() < 0.5:
            headers["x-amz-copy-source-if-match"] = bench.tags_of(wanted)
        else:
            wanted = None
        if self._rng.random() < 0.3:
            headers |= {"x-amz-metadata-directive": "REPLACE", DESCRIPTION: DESCRIBED_ANEW[1]}
        call = bench.recorder.begin(
            self._client,
            "copy",
            bucket=target[0],
            name=target[1],
            condition=condition,
            source=source,
            user=user.id,
        )

        async def request(gateway: GatewayProcess) -> str:
            path = f"/{target[0]}/{target[1]}"
            answer = await s3.copied(gateway, user, path, headers=headers)
            token = bench.token_of_etag(answer.document.findtext("ETag", "").strip('"'))
            return token if wanted in (None, token) else GARBLED

        await bench.recorded(call, self._gateway, request, lambda token: token)

    async def _rewrite(self) -> None:
        """Change what is said about an object: its bytes stay."""
        bench, (bucket, name) = self._bench, self._key()
        user, anew = self._user(bucket), self._rng.random() < 0.5
        call = bench.recorder.begin(self._client, "rewrite", bucket=bucket, name=name, user=user.id)

        async def request(gateway: GatewayProcess) -> None:
            path, query = f"/{bucket}/{name}", {} if anew else {"acl": ""}
            headers = {
                "x-amz-copy-source": s3.copy_source(bucket, name),
                "x-amz-metadata-directive": "REPLACE",
                DESCRIPTION: DESCRIBED_ANEW[0],
            }
            headers = headers if anew else {"x-amz-acl": "private"}
            await s3.call(gateway, user, "PUT", path, query, headers=headers)

        await bench.recorded(call, self._gateway, request)

    async def _upload(self) -> None:
        bucket, name = self._key()
        await self._uploader.act(self._gateway, bucket, name, self._user(bucket))

    async def _list(self) -> None:
        rng, bucket = self._rng, self._rng.choice(self._bench.buckets)
        await list_bucket(
            self._bench,
            self._client,
            self._gateway,
            bucket,
            user=self._user(bucket),
            prefix=rng.choice(("", "", "a", "b/")),
            delimiter=rng.choice(("", "/")),
            limit=rng.choice((1, 2, 1000)),
            after=rng.choice(("", "", "a/", "a/1", "b/x/1")),
            listing=s3.LISTINGS[rng.choice(("second", "second", "first", "versions"))],
        )

    async def _list_buckets(self) -> None:
        """ListBuckets, which says of every bucket whether it is the user's."""
        bench, user = self._bench, self._rng.choice(self._bench.users)
        calls = {
            bucket: bench.recorder.begin(self._client, "list-buckets", bucket=bucket, user=user.id)
            for bucket in bench.buckets
        }

        query = {"max-buckets": self._rng.choice(("1", "1000"))}

        async def request(gateway: GatewayProcess) -> list[str]:
            """All pages; no name if one does not come behind those before it."""
            names: list[str] = []
            while True:
                answer = await s3.call(gateway, user, "GET", "/", query)
                shown = s3.texts(answer, "Buckets/Bucket/Name")
                if sorted({*names, *shown}) != names + shown:
                    return [GARBLED]
                names += shown
                token = answer.document.findtext("ContinuationToken", "")
                if not token:
                    return names
                query["continuation-token"] = token

        asked = bench.ask(self._client, self._gateway, f"buckets of {user.id}", request)
        shown = await bench.outcome(asked)
        for bucket, call in calls.items():

            def owner_of(names: list[str], bucket: str = bucket) -> str | None:
                if names == [GARBLED]:
                    return GARBLED
                return user.id if bucket in names else None

            await bench.record(call, shown(), owner_of)

    async def _life_of_bucket(self) -> None:
        bench, rng = self._bench, self._rng
        bucket = rng.choice(bench.buckets)
        if rng.random() < 0.4:
            await self._delete_bucket(bucket, self._user(bucket))
            return
        user = rng.choice(bench.users)
        await create_bucket(bench, self._client, self._gateway, bucket, user)

    async def _delete_bucket(self, bucket: str, user: User) -> bool:
        bench = self._bench
        call = bench.recorder.begin(self._client, "delete-bucket", bucket=bucket, user=user.id)

        async def request(gateway: GatewayProcess) -> None:
            await s3.call(gateway, user, "DELETE", f"/{bucket}")

        await bench.recorded(call, self._gateway, request)
        return call.operation.outcome == "ok"

    async def _change_hands(self) -> None:
        """Empty a bucket, delete it, and have a user make it again, while others are at work.

        What is put there then is looked for through every gateway: some remember the former life.
        """
        bench, bucket = self._bench, self._rng.choice(self._bench.buckets)
        owner = bench.owner_of(bucket)
        for upload in [one for one in bench.uploads if one.bucket == bucket]:
            await self._uploader.abort(self._gateway, upload)
        for name in bench.names:
            await self._delete_name(bucket, name, owner, None, {})
        if await self._delete_bucket(bucket, owner):
            step, name = self._rng.randrange(2), self._rng.choice(bench.names)
            following = bench.users[(bench.users.index(owner) + step) % len(bench.users)]
            await create_bucket(bench, self._client, self._gateway, bucket, following)
            await self._put_at(bucket, name)
            for gateway in bench.plan.front:
                await read_object(bench, self._client, gateway, bucket, name)


async def create_bucket(bench: Bench, client: str, gateway: str, bucket: str, user: User) -> None:
    """CreateBucket, recorded."""

    async def create(process: GatewayProcess) -> None:
        await s3.call(process, user, "PUT", f"/{bucket}")

    call = bench.recorder.begin(client, "create-bucket", bucket=bucket, user=user.id)
    await bench.recorded(call, gateway, create)
    if call.operation.outcome == "ok":
        bench.owners[bucket] = user


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
    user = bench.owner_of(bucket)
    call = bench.recorder.begin(
        client, "get" if whole else "head", bucket=bucket, name=name, user=user.id
    )

    async def request(process: GatewayProcess) -> Answer:
        method = "GET" if whole else "HEAD"
        return await s3.call(process, user, method, f"/{bucket}/{name}")

    def token_of(answer: Answer) -> str:
        token = bench.token_of_etag(answer.etag)
        if whole and bench.content_of(token) != answer.body:
            return GARBLED
        return bench.told(token, answer.headers.get(DESCRIPTION, ""), answer.length)

    await bench.recorded(call, gateway, request, token_of, patience_s=patience_s)
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
    after: str = "",
    listing: s3.Listing = s3.LISTINGS["second"],
    user: User | None = None,
) -> bool:
    """All pages of a listing, recorded; whether it came to its end or there is no bucket."""
    user = user or bench.owner_of(bucket)
    query = {
        "encoding-type": "url",
        "prefix": prefix,
        "delimiter": delimiter,
        "max-keys": str(limit),
        listing.after: after,
    }
    query = {name: text for name, text in query.items() if text} | listing.query
    while True:
        began = bench.recorder.instant()

        async def request(process: GatewayProcess) -> s3.Names:
            return s3.names_of(await s3.call(process, user, "GET", f"/{bucket}", query))

        try:
            page = await bench.ask(client, gateway, f"list {bucket}", request)
        except NoSuchBucket:
            return True
        except (PinfoldError, Down, ProcessDied, TimeoutError):
            bench.account.count("list failed")
            return False
        bench.recorder.page(
            client,
            bucket=bucket,
            began=began,
            names=[(name, bench.listed_as(etag, size)) for name, etag, size in page.objects],
            prefixes=page.prefixes,
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            limit=limit,
            truncated=bool(page.token),
            user=user.id,
        )
        bench.account.count("list ok")
        if not page.token:
            return True
        query[listing.token], after = page.token, page.last
