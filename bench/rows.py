"""Changes and reads per second of one row group: three members in one process, no disk, no socket.

`python -m bench.rows [--profile]`. What it measures is the CPU that the row log takes on one core
for all three members and the client together; flushes take no time.
"""

import argparse
import asyncio
import cProfile
import pstats
from collections.abc import Awaitable, Callable

import uvloop

from pinfold.cluster.api import Change, Row
from pinfold.env.real import OsClock
from pinfold.model.ids import OpId
from tests.cluster.group_cluster import Cluster

WAITING = (1, 16, 128)
SECONDS = 2.0
PLACE = b"p"


async def rate(waiting: int, once: Callable[[int], Awaitable[object]]) -> float:
    """Calls per second with `waiting` callers, each one call at a time."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    done = 0

    async def caller(number: int) -> None:
        nonlocal done
        while loop.time() - began < SECONDS:
            await once(number)
            done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(waiting):
            group.create_task(caller(number))
    return done / (loop.time() - began)


async def measure() -> None:
    cluster = await Cluster(
        groups=1, flush_s=0.0, delay_s=0.0, clock=OsClock(), durable=False
    ).start()
    client, body, numbers = cluster.client, b"v" * 200, iter(range(1, 1 << 60))
    await client.get(PLACE, b"warm")

    async def change(number: int) -> None:
        row = Row(body, size=200)
        key = b"key-%d" % (next(numbers) % 5000)
        op_id = OpId(next(numbers).to_bytes(16, "big"))
        await client.change(PLACE, Change(op_id, puts=((key, row),), counter=b"count"))

    async def get(number: int) -> None:
        await client.get(PLACE, b"key-%d" % (number % 5000))

    for waiting in WAITING:
        print(f"changes/s with {waiting:3d} waiting: {await rate(waiting, change):9,.0f}")
    for waiting in WAITING:
        print(f"gets/s    with {waiting:3d} waiting: {await rate(waiting, get):9,.0f}")
    await cluster.close()


def report() -> None:
    """Print the figures."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    profile = cProfile.Profile()
    if arguments.profile:
        profile.enable()
    report()
    if arguments.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
