"""Faults of machines: which of a disk's paths fail, disks that are pulled, clocks that jump."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pinfold.env.api import Env
from pinfold.sim.world import World


def in_a_node(world: World, work: Callable[[Env], Awaitable[Any]], name: str = "n1") -> Any:
    node = world.node(name)
    env = node.env if node.alive else node.boot()

    async def scenario() -> Any:
        async def run() -> Any:
            return await work(env)

        return await node.spawn(run)

    return world.run(scenario())


async def write(env: Env, path: str, content: bytes, *, flush: bool = True) -> None:
    file = env.disk.open(path, create=True)
    file.pwritev([content], 0)
    if flush:
        file.datasync()
        env.disk.sync_dir(path.rsplit("/", 1)[0] or "/")


def test_errors_concern_only_paths_under_the_named_one() -> None:
    with World(1) as world:
        node = world.node("n1")

        async def work(env: Env) -> None:
            env.disk.mkdir("/d1")
            env.disk.mkdir("/d2")
            await write(env, "/d1/a", b"one")
            await write(env, "/d2/a", b"two")
            faults = node.disk.faults
            faults.under = "/d1"
            faults.read_error = faults.write_error = errno.EIO
            faults.lost_flush_chance = 1.0
            assert env.disk.read_file("/d2/a") == b"two"
            await write(env, "/d2/a", b"new")
            with pytest.raises(OSError, match="read"):
                env.disk.read_file("/d1/a")
            with pytest.raises(OSError, match="write"):
                env.disk.unlink("/d1/a")
            faults.read_error = faults.write_error = 0
            with pytest.raises(OSError, match="flush"):
                await write(env, "/d1/a", b"new")

        in_a_node(world, work)


def test_a_slow_disk_takes_longer_for_the_same_call() -> None:
    def flush_takes(slowness: float) -> float:
        with World(1) as world:
            world.node("n1").disk.faults.slowness = slowness

            async def work(env: Env) -> float:
                lane = env.new_offload("lane")
                file = env.disk.open("/f", create=True)
                began = world.loop.now
                await lane(file.datasync)
                return world.loop.now - began

            took: float = in_a_node(world, work)
            return took

    assert flush_takes(100.0) > 20 * flush_takes(1.0)


def test_a_process_that_is_killed_leaves_the_page_cache_and_a_power_loss_does_not() -> None:
    kept: dict[bool, int] = {True: 0, False: 0}
    for power in (True, False):
        for seed in range(20):
            with World(seed) as world:
                in_a_node(world, lambda env: write(env, "/f", b"old" * 2000))
                in_a_node(world, lambda env: write(env, "/f", b"new" * 2000, flush=False))
                world.node("n1").crash(power=power)

                async def read(env: Env) -> bytes:
                    return env.disk.read_file("/f")

                kept[power] += in_a_node(world, read) == b"new" * 2000
    assert kept[False] == 20
    assert kept[True] < 20


def test_a_killed_process_gives_its_locks_back() -> None:
    async def lock(env: Env) -> None:
        env.disk.lock("/lock")

    with World(1) as world:
        in_a_node(world, lock)
        world.node("n1").crash(power=False)
        in_a_node(world, lock)


def test_a_disk_that_is_pulled_shows_nothing_and_all_when_it_is_plugged_again() -> None:
    with World(1) as world:
        node = world.node("n1")

        async def fill(env: Env) -> None:
            env.disk.mkdir("/d1")
            env.disk.mkdir("/d10")
            await write(env, "/d1/a", b"mine")
            await write(env, "/d10/a", b"other")

        in_a_node(world, fill)
        node.crash()
        content = node.disk.pull("/d1")

        async def look(env: Env) -> None:
            assert env.disk.list("/d1") == []
            assert env.disk.read_file("/d10/a") == b"other"
            await write(env, "/d1/b", b"stray")

        in_a_node(world, look)
        node.crash()
        node.disk.plug("/d1", content)
        node.boot()
        node.crash()

        async def look_again(env: Env) -> None:
            assert env.disk.list("/d1") == ["a"]
            assert env.disk.read_file("/d1/a") == b"mine"

        in_a_node(world, look_again)


def test_a_wall_clock_that_jumps_is_seen_at_once_and_time_goes_on() -> None:
    with World(1) as world:
        node = world.node("n1")

        async def work(env: Env) -> None:
            before, steady = env.clock.wall(), env.clock.monotonic()
            node.skew_s += 3600
            assert env.clock.wall() == pytest.approx(before + 3600)
            assert env.clock.monotonic() == steady

        in_a_node(world, work)


class Listening(asyncio.Protocol):
    """Counts what it is connected to."""

    made = 0
    lost = 0

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        Listening.made += 1

    def connection_lost(self, _error: Exception | None) -> None:
        Listening.lost += 1


def test_a_connection_attempt_that_is_repeated_is_one_more_connection_that_dies() -> None:
    Listening.made = Listening.lost = 0
    with World(1) as world:
        world.net.faults.ghost_chance = 1.0

        async def scenario() -> None:
            server, client = world.node("s"), world.node("c")
            env = server.boot()
            await server.spawn(lambda: env.net.listen("tcp://s:1", Listening))
            asking = client.boot()
            await client.spawn(lambda: asking.net.connect("tcp://s:1", asyncio.Protocol))
            await asyncio.sleep(10)

        world.run(scenario())
    assert (Listening.made, Listening.lost) == (2, 1)


def test_a_mended_cut_lets_one_pair_talk_and_no_other() -> None:
    with World(1) as world:
        net = world.net
        net.cut("a", "b")
        net.cut("a", "c")
        net.mend("b", "a")
        assert not net.is_cut("a", "b")
        assert not net.is_cut("b", "a")
        assert net.is_cut("a", "c")
