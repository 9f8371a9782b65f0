"""What stands before and behind the clients: buckets and volumes made, and everything read."""

import contextlib
from functools import partial
from typing import Final

from pinfold.model.errors import Busy, Conflict, NotFound, PinfoldError
from pinfold.objects.bucket import NoSuchBucket
from pinfold.objects.listing import Query
from pinfold.objects.records import ObjectRecord, decode
from pinfold.sim.cluster import Down, ProcessDied
from pinfold.sim.processes import GatewayProcess
from pinfold.sim.workloads import s3
from pinfold.sim.workloads.bench import Bench, until
from pinfold.sim.workloads.objects import create_bucket, list_bucket, read_object
from pinfold.sim.workloads.s3 import Denied, User
from pinfold.sim.workloads.volumes import create_volume, read_blocks

CLIENT: Final = "founder"

READER: Final = "reader"


async def prepare(bench: Bench) -> None:
    """Make every bucket and volume; repeats what fails while the cluster is starting."""
    gateway = bench.plan.front[0]
    for user in bench.users:
        await until(partial(_make_user, bench, gateway, user))
    for number, bucket in enumerate(bench.buckets):
        owner = bench.users[number % len(bench.users)]

        async def make(bucket: str = bucket, owner: User = owner) -> bool:
            await create_bucket(bench, CLIENT, gateway, bucket, owner)
            return bucket in bench.owners

        await until(make)
    for volume in bench.volumes:

        async def create(volume: str = volume) -> bool:
            size = bench.disks[volume].size
            try:
                await bench.ask(
                    CLIENT,
                    gateway,
                    f"create {volume}",
                    lambda process: create_volume(process, volume, size),
                )
            except (PinfoldError, Down, ProcessDied, TimeoutError):
                return False
            return True

        await until(create)


async def _make_user(bench: Bench, gateway: str, user: User) -> bool:
    async def make(process: GatewayProcess) -> None:
        accounts = process.store.accounts
        with contextlib.suppress(Conflict):
            await accounts.create_user(user.id)
        with contextlib.suppress(Conflict):
            await accounts.create_key(user.id, access_key=user.access_key, secret=user.secret)

    try:
        await bench.ask(CLIENT, gateway, f"make {user.id}", make)
    except (PinfoldError, Down, ProcessDied, TimeoutError):
        return False
    return True


async def _learn_owner(bench: Bench, gateway: str, bucket: str) -> bool:
    """Find out whose a bucket is; False when nobody could say."""
    for user in bench.users:

        async def look(process: GatewayProcess, user: User = user) -> None:
            await s3.call(process, user, "HEAD", f"/{bucket}")

        try:
            await bench.ask(READER, gateway, f"look at {bucket}", look)
        except Denied:
            continue
        except NotFound:
            return True
        except (PinfoldError, Down, ProcessDied, TimeoutError):
            return False
        bench.owners[bucket] = user
        return True
    return False


async def read_everything(bench: Bench) -> None:
    """Read every name, list every bucket and read every block that may have been written."""
    gateways = bench.plan.front
    for bucket in bench.buckets:
        await until(partial(_learn_owner, bench, gateways[-1], bucket))
        for number, name in enumerate(bench.names):
            gateway = gateways[number % len(gateways)]
            await until(partial(_read_object, bench, gateway, bucket, name))
        await until(partial(list_bucket, bench, READER, gateways[-1], bucket, limit=3))
        await until(partial(_count, bench, gateways[-1], bucket))
    for volume in bench.volumes:
        gateway = bench.reading_gateway(volume)
        for first in bench.disks[volume].cells[::4]:
            await until(partial(read_blocks, bench, READER, gateway, volume, first, 4, 10.0))


async def _read_object(bench: Bench, gateway: str, bucket: str, name: str) -> bool:
    await read_object(bench, READER, gateway, bucket, name)
    last = bench.recorder.history().operations[-1]
    return last.outcome == "ok"


async def _count(bench: Bench, gateway: str, bucket: str) -> bool:
    """What a bucket's counters say, and what its listing adds up to, once no shard is splitting."""

    async def look(process: GatewayProcess) -> tuple[tuple[int, int], list[tuple[str, int]]]:
        found = await process.store.buckets.get(bucket)
        if found.split is not None:
            raise Busy("a shard is splitting")
        usage = await process.store.buckets.usage(found)
        listing = await process.store.listings.page(found, Query(limit=1000))
        sizes = [
            (entry.name.decode(), decode(ObjectRecord, entry.row.body).size)
            for entry in listing.entries
            if entry.row is not None
        ]
        if (await process.store.buckets.get(bucket)).version != found.version:
            raise Busy("a shard has begun to split")
        async for shard in process.store.buckets.shards(found):
            if shard.first:
                bench.account.count("shard split off")
        return (usage.rows, usage.size), sizes

    try:
        counted, listed = await bench.ask(READER, gateway, f"count {bucket}", look)
    except NoSuchBucket:
        return True
    except (PinfoldError, Down, ProcessDied, TimeoutError):
        return False
    bench.counted[bucket], bench.listed[bucket] = counted, listed
    return True
