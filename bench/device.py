"""One device on this disk: puts, extent writes and reads, beside what the bare disk does.

`python -m bench.device [--profile NAME] [--switch SECONDS]`. Rates are wall-clock; `cpu` is the
processor time of all threads for one operation. The limit beside the writes is one appender that
writes the same bytes and flushes once for each batch in flight.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop

from pinfold.codec.packs import checks_of
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.device import Device
from pinfold.env.api import Buffer
from pinfold.env.real import real_env
from pinfold.model.errors import Busy
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.model.settings import DeviceSettings

BLOCK = 4096
SECONDS = 3.0
IN_FLIGHT = 16
VOLUME = VolumeId(b"v" * 16)
TOKEN = Token(1)


@asynccontextmanager
async def device(directory: str) -> AsyncIterator[Device]:
    env, settings = real_env(), DeviceSettings()
    path = f"{directory}/device"
    uuid = await Device.format(env, path, b"c" * 16, settings)
    opened = await Device.open(env, path, settings, cluster_id=b"c" * 16, uuid=uuid)
    try:
        yield opened
    finally:
        await opened.close()


async def callers(count: int, once: Callable[[], Awaitable[int]]) -> int:
    """Operations done by `count` callers in the time."""
    until = time.perf_counter() + SECONDS
    done = 0

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < until:
            count = await once()
            done += count

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(call())
    return done


async def put_blobs(opened: Device) -> int:
    payload = memoryview(os.urandom(BLOCK))
    checks = checks_of(payload)
    rng = random.Random(1)

    async def once() -> int:
        await opened.blobs.put(BlobId(rng.randbytes(16)), payload, checks)
        return 1

    return await callers(IN_FLIGHT, once)


async def append_entries(opened: Device) -> int:
    await opened.log.create(GroupId(1))
    body, op = os.urandom(400), 0

    async def once() -> int:
        nonlocal op
        op += 1
        mine = op
        await opened.log.append(GroupId(1), [Entry(mine, 1, body)])
        opened.log.apply(
            GroupId(1),
            opened.log.state(GroupId(1)).applied_op + 1,
            [(b"bucket/key-%08d" % (mine * 7919 % 1_000_000), body)],
        )
        return 1

    return await callers(IN_FLIGHT, once)


async def write_extents(opened: Device) -> int:
    await opened.extents.claim(VOLUME, TOKEN)
    payload = memoryview(os.urandom(8 * BLOCK))
    rng = random.Random(1)
    sequence = 0

    async def once() -> int:
        nonlocal sequence
        ops = [
            ExtentOp(0, place >> 10, (place & 1023) * BLOCK, BLOCK)
            for place in (rng.getrandbits(16) for _ in range(8))
        ]
        sequence += 1
        try:
            await opened.extents.write(VOLUME, TOKEN, 0, sequence, ops, payload)
        except Busy:
            await asyncio.sleep(0.002)
            return 0
        if sequence % 32 == 0:
            await opened.extents.flush(VOLUME, TOKEN)
        return len(ops)

    return await callers(4, once)


async def settled(opened: Device) -> None:
    """Wait until the applier has nothing left."""
    while opened.status().journal_bytes:  # noqa: ASYNC110 - a device announces no such event
        await asyncio.sleep(0.05)


async def answered(found: list[Buffer] | asyncio.Future[list[Buffer]]) -> None:
    if not isinstance(found, list):
        await found


async def read_extents(opened: Device) -> int:
    await settled(opened)
    rng = random.Random(1)

    async def once() -> int:
        for _ in range(16):
            place = rng.getrandbits(16)
            span = [(place >> 10, (place & 1023) * BLOCK, BLOCK)]
            await answered(opened.extents.read(VOLUME, TOKEN, span))
        await asyncio.sleep(0)
        return 16

    return await callers(1, once)


async def read_blobs(opened: Device) -> int:
    await settled(opened)
    blobs = [blob for blob, _ in opened.blobs.scan(b"", 10_000)]
    rng = random.Random(1)

    async def once() -> int:
        for _ in range(16):
            await answered(opened.blobs.read(rng.choice(blobs), 0, BLOCK))
        await asyncio.sleep(0)
        return 16

    return await callers(1, once)


PARTS = (put_blobs, read_blobs, append_entries, write_extents, read_extents)


def bare(directory: str, payload_bytes: int) -> float:
    """Batches per second of one appender that writes and flushes."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        size = 32 << 20
        os.pwrite(file.fileno(), bytes(size), 0)
        os.fdatasync(file.fileno())
        payload = os.urandom(payload_bytes)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            os.pwrite(file.fileno(), payload, count * payload_bytes % (size - payload_bytes))
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - began)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(profiled: str) -> None:
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as directory:
        batch = bare(directory, IN_FLIGHT * BLOCK)
        limit = batch * IN_FLIGHT
        print(
            f"bare disk: {batch:,.0f} flushes/s of {IN_FLIGHT} blocks each: {limit:,.0f} blocks/s"
        )
        async with device(directory) as opened:
            for part in PARTS:
                profile = cProfile.Profile()
                if part.__name__ == profiled:
                    profile.enable()
                began, cpu = time.perf_counter(), cpu_s()
                count = await part(opened)
                seconds = time.perf_counter() - began
                await settled(opened)
                cpu = cpu_s() - cpu
                profile.disable()
                rate = count / seconds
                print(
                    f"{part.__name__:15} {rate:10,.0f}/s  cpu {1e6 * cpu / count:6.1f} us  "
                    f"{rate / limit:5.2f} of bare",
                    flush=True,
                )
                if part.__name__ == profiled:
                    pstats.Stats(profile).sort_stats("tottime").print_stats(28)


def report() -> None:
    uvloop.run(measure(""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="", help="the part to profile, by name")
    parser.add_argument("--switch", type=float, default=0.005, help="interpreter's switch interval")
    options = parser.parse_args()
    sys.setswitchinterval(options.switch)
    uvloop.run(measure(options.profile))


if __name__ == "__main__":
    main()
